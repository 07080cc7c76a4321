"""VHD images (Virtual PC, Hyper-V), read: Microsoft, "Virtual Hard Disk Image Format Specification", 2006.

Numbers big endian.  A fixed image is a raw disk with a footer behind it, which a guest could write into a raw
disk, too: so it is taken for one only where its name ends in .vhd or the user says so.

Not modelled: differencing images.
"""

import struct
from array import array

from ring3.disk.blocks import BlockImage, Place
from ring3.disk.file import File
from ring3.disk.image import SECTOR
from ring3.disk.qcow2.table import damaged
from ring3.errors import ImageError

MAGIC = b"conectix"
FOOTER_BYTES = 512
FIXED, DYNAMIC = 2, 3
ABSENT = 0xFFFF_FFFF
GEOMETRY_MAX = 65_535 * 16 * 255        # sectors: a larger disk's geometry says nothing
BY_GEOMETRY = (b"vpc ", b"vs  ", b"qemu")       # creators whose disks are as large as their geometry
BLOCK_BYTES_MAX, ENTRIES_MAX = 256 << 20, 1 << 22


def footer_of(file: File) -> bytes | None:
    """At the file's end, or its copy at the start."""
    for at in (file.size_bytes - FOOTER_BYTES, 0):
        footer = file.read(max(at, 0), FOOTER_BYTES)
        if footer.startswith(MAGIC) and checksum(footer, 64) == int.from_bytes(footer[64:68], "big"):
            return footer
    return None


def checksum(data: bytes, at: int) -> int:
    """The one's complement of the sum of all bytes but the checksum's own."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFF_FFFF


class Vhd(BlockImage):
    FORMAT = "vpc"                      # as qcow2 headers name it

    def __init__(self, file: File) -> None:
        footer = footer_of(file)
        if footer is None:
            raise ImageError("is no VHD image, or its footer is damaged")
        creator = footer[28:32]
        size = int.from_bytes(footer[48:56], "big")
        cylinders, heads, sectors = struct.unpack_from(">HBB", footer, 56)
        geometry = cylinders * heads * sectors
        if creator in BY_GEOMETRY and 0 < geometry < GEOMETRY_MAX:
            size = geometry * SECTOR
        kind = int.from_bytes(footer[60:64], "big")
        if kind == FIXED:
            size = min(size, file.size_bytes - FOOTER_BYTES) // SECTOR * SECTOR
            super().__init__(file, size, max(size, SECTOR))
            self._table: array[int] | None = None
            return
        if kind != DYNAMIC:
            raise ImageError(f"is a VHD image of type {kind}, which is not known here: fixed and dynamic are")
        self._open_dynamic(file, size, int.from_bytes(footer[16:24], "big"))

    def _open_dynamic(self, file: File, size: int, at: int) -> None:
        if at + 1024 > file.size_bytes:
            raise ImageError("is truncated: its header lies behind the file")
        header = file.read(at, 1024)
        if header[:8] != b"cxsparse" or checksum(header, 36) != int.from_bytes(header[36:40], "big"):
            raise ImageError("has a damaged header")
        table_at, _, entries, block = struct.unpack_from(">QIII", header, 16)
        if not SECTOR <= block <= BLOCK_BYTES_MAX or block & block - 1 or entries > ENTRIES_MAX:
            raise ImageError(f"has a damaged header: {entries} blocks of {block} bytes")
        if size > entries * block or table_at + 4 * entries > file.size_bytes:
            raise ImageError("has a damaged header: its table does not fit its size")
        super().__init__(file, size // SECTOR * SECTOR, block)
        table = array("I", file.read(table_at, 4 * entries))
        table.byteswap()
        self._table = table
        self._bitmap_bytes = -(-(block // SECTOR // 8) // SECTOR) * SECTOR

    def _where(self, block: int) -> int:
        if self._table is None:
            return 0
        entry = self._table[block]
        if entry == ABSENT:
            return Place.ZEROS
        if entry * SECTOR >= self.file.size_bytes:
            raise damaged("a block lies behind the file's end")
        where: int = entry * SECTOR + self._bitmap_bytes
        return where
