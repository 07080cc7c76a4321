"""VDI images (VirtualBox), read: the layout of version 1.1; numbers little endian.

Not modelled: differencing images, whose parent is known by a UUID only.
"""

import struct
from array import array

from ring3.disk.blocks import BlockImage, Place
from ring3.disk.file import File
from ring3.disk.image import SECTOR
from ring3.disk.qcow2.table import damaged
from ring3.errors import ImageError

MAGIC_AT, MAGIC = 0x40, b"\x7f\x10\xda\xbe"
VERSION_1_1 = 0x0001_0001
DYNAMIC, FIXED = 1, 2
ABSENT, ZERO = 0xFFFF_FFFF, 0xFFFF_FFFE
SIZES = struct.Struct("<QIIII")         # disk, block, extra per block, blocks, blocks taken
BLOCKS_MAX = 0x2000_0000 // 4           # entries of the table
BLOCK_BYTES_MAX = 64 << 20


class Vdi(BlockImage):
    FORMAT = "vdi"

    def __init__(self, file: File) -> None:
        head = file.read(0, 512)
        version, _, kind = struct.unpack_from("<III", head, 0x44)
        if version != VERSION_1_1 or kind not in (DYNAMIC, FIXED):
            raise ImageError(f"is a VDI image of version {version:#x} and type {kind}, not known here")
        self._table_at, self._data_at = struct.unpack_from("<II", head, 0x154)
        size, block, extra, blocks, _ = SIZES.unpack_from(head, 0x170)
        if extra or not SECTOR <= block <= BLOCK_BYTES_MAX or block % SECTOR or size > blocks * block:
            raise ImageError("has a damaged header: its blocks do not fit its size")
        if blocks > BLOCKS_MAX or self._table_at + 4 * blocks > file.size_bytes:
            raise ImageError("is truncated: its table ends behind the file")
        super().__init__(file, -(-size // SECTOR) * SECTOR, block)
        self._table = array("I", file.read(self._table_at, 4 * blocks))

    def _where(self, block: int) -> int:
        entry = self._table[block]
        if entry in (ABSENT, ZERO):
            return Place.ZEROS
        where: int = self._data_at + entry * self.block_bytes
        if where >= self.file.size_bytes:
            raise damaged("a block lies behind the file's end")
        return where
