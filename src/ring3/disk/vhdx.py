"""VHDX images (Hyper-V), read: Microsoft, "[MS-VHDX]: Virtual Hard Disk v2 File Format"; §: its sections.

Numbers little endian.  A log that a crash has left is replayed in memory.  Not modelled: differencing images.
"""

import struct
import uuid
from array import array

from ring3.disk import vhdx_log
from ring3.disk.blocks import BlockImage, Place
from ring3.disk.file import File
from ring3.disk.image import SECTOR
from ring3.disk.qcow2.table import damaged
from ring3.errors import ImageError

MAGIC = b"vhdxfile"
LOG_GUID_AT = 48
HEADERS_AT, HEADER_BYTES = (64 << 10, 128 << 10), 4 << 10           # §2.2.2
REGIONS_AT, REGIONS_BYTES = (192 << 10, 256 << 10), 64 << 10        # §2.2.3
BAT = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
FILE_PARAMETERS = uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
DISK_SIZE = uuid.UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
SECTOR_SIZE = uuid.UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F").bytes_le
HAS_PARENT = 0x02                       # in the file parameters' flags
FULLY_PRESENT, PARTIALLY_PRESENT = 6, 7         # §2.5.1.1
MEGABYTE = 1 << 20
ENTRIES_MAX = 1 << 23
POLYNOMIAL = 0x82F6_3B78                # CRC-32C, reflected


def crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


CRC = crc_table()


def checksum(data: bytes) -> int:
    """CRC-32C of all but bytes 4 to 7, where it stands."""
    crc = 0xFFFF_FFFF
    for byte in data[:4] + bytes(4) + data[8:]:
        crc = CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFF_FFFF


def intact(data: bytes) -> bool:
    return checksum(data) == int.from_bytes(data[4:8], "little")


class Vhdx(BlockImage):
    FORMAT = "vhdx"

    def __init__(self, file: File) -> None:
        file = self._settled(file)
        regions = self._regions(file)
        if BAT not in regions or METADATA not in regions:
            raise ImageError("has a damaged region table")
        items = self._items(file, *regions[METADATA])
        try:
            block, flags = struct.unpack_from("<II", items[FILE_PARAMETERS])
            size = int.from_bytes(items[DISK_SIZE][:8], "little")
            sector = int.from_bytes(items[SECTOR_SIZE][:4], "little")
        except (KeyError, struct.error):
            raise ImageError("has damaged metadata") from None
        if flags & HAS_PARENT:
            raise ImageError("is a differencing VHDX image, which is not known here")
        whole = MEGABYTE <= block <= 256 * MEGABYTE and not block & block - 1 and sector in (512, 4096)
        if not whole or size % SECTOR or size > 64 << 40:
            raise ImageError("has damaged metadata: sizes that cannot be")
        super().__init__(file, size, block)
        self._ratio = (1 << 23) * sector // block       # payload blocks to a sector bitmap (§2.5)
        blocks = -(-size // block)
        entries = blocks + max(blocks - 1, 0) // self._ratio
        at, length = regions[BAT]
        if entries > ENTRIES_MAX or entries * 8 > length or at + entries * 8 > file.size_bytes:
            raise ImageError("has a damaged block table")
        self._table = array("Q", file.read(at, 8 * entries))

    def _settled(self, file: File) -> File:
        """With its log replayed; the newer of two headers holds (§2.2.2)."""
        found = [file.read(at, HEADER_BYTES) for at in HEADERS_AT]
        found = [each for each in found if each[:4] == b"head" and intact(each)]
        if not found:
            raise ImageError("has no whole header")
        header = max(found, key=lambda each: int.from_bytes(each[8:16], "little"))
        guid = header[LOG_GUID_AT : LOG_GUID_AT + 16]
        return vhdx_log.replay(file, header, guid, intact) if any(guid) else file

    def _regions(self, file: File) -> dict[bytes, tuple[int, int]]:
        for at in REGIONS_AT:
            table = file.read(at, REGIONS_BYTES)
            count = int.from_bytes(table[8:12], "little")
            if table[:4] == b"regi" and count <= 2047 and intact(table):
                entries = [struct.unpack_from("<16sQI", table, 16 + 32 * n) for n in range(count)]
                return {kind: (offset, length) for kind, offset, length in entries}
        raise ImageError("has no whole region table")

    def _items(self, file: File, at: int, length: int) -> dict[bytes, bytes]:
        if at + length > file.size_bytes or length > 16 * MEGABYTE:
            raise ImageError("has a damaged region table: its metadata lies behind the file")
        data = file.read(at, length)
        count = int.from_bytes(data[10:12], "little")
        if data[:8] != b"metadata" or 32 + 32 * count > len(data):
            raise ImageError("has damaged metadata")
        entries = [struct.unpack_from("<16sII", data, 32 + 32 * n) for n in range(count)]
        return {kind: data[offset : offset + size] for kind, offset, size in entries}

    def _where(self, block: int) -> int:
        entry = self._table[block + block // self._ratio]
        state, where = entry & 7, int(entry >> 20 << 20)
        if state == PARTIALLY_PRESENT:
            raise damaged("a block is partially there in an image without a parent")
        if state != FULLY_PRESENT:
            return Place.ZEROS
        if where >= self.file.size_bytes:
            raise damaged("a block lies behind the file's end")
        return where
