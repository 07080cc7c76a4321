"""Tables of big-endian 64-bit entries: L1, L2 and refcount tables."""

import errno
import sys
from array import array
from typing import TypeAlias

from ring3.disk.file import File

Table: TypeAlias = "array[int]"


def damaged(what: str) -> OSError:
    """Metadata that cannot be right, found while the guest runs: an error of the medium."""
    return OSError(errno.EIO, f"the image is damaged: {what}")


def read_table(file: File, offset: int, entries: int) -> Table:
    return table_from(file.read(offset, 8 * entries))


def table_from(data: bytes) -> Table:
    table = array("Q", data)
    if sys.byteorder == "little":
        table.byteswap()
    return table


def table_bytes(table: Table) -> bytes:
    if sys.byteorder == "little":
        table = table[:]
        table.byteswap()
    return table.tobytes()
