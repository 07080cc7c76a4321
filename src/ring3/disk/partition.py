"""One partition of a disk, shown as a disk of its own that protects the others.

The partition lies where it lies on the whole disk, because boot records hold that place.  In sector 0 is a
made-up master boot record with this partition only, which boots it; all else reads as zeros.  Writes outside
of the partition are refused (EROFS), which the drive reports as its error.

Partition tables: MBR with extended partitions, numbered as Linux does, and GPT (UEFI 2.10, 5.3).
"""

import errno
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ring3.disk.extents import Extent, Kind, own
from ring3.disk.image import SECTOR, Image
from ring3.errors import ImageError

ENTRY = struct.Struct("<B3sB3sII")      # status, CHS, type, CHS, first sector, sectors
TABLE_AT, SIGNATURE = 446, b"\x55\xaa"
BOOTABLE, CHS_TOO_FAR = 0x80, b"\xfe\xff\xff"
EXTENDED, PROTECTIVE, LINUX = (0x05, 0x0F, 0x85), 0xEE, 0x83
LOGICAL_FIRST, LOGICAL_MAX = 5, 128
GPT_MAGIC, GPT_ENTRIES_MAX = b"EFI PART", 1024
BY_BOOT_RECORD = ((3, b"NTFS", 0x07), (3, b"EXFAT", 0x07), (82, b"FAT32", 0x0C), (54, b"FAT", 0x06))

# Moves itself to 600h and reads the partition's first sector (its LBA is patched in) to 7C00h by INT 13h
# function 42h; INT 18h if that fails.
#   xor ax,ax / mov ss,ax / mov sp,7C00h / mov ds,ax / mov es,ax / mov si,sp / mov di,600h / mov cx,100h
#   cld / rep movsw / jmp 0:next / next: mov si,packet / mov ah,42h / int 13h / jc fail / mov si,7BEh
#   jmp 0:7C00h / fail: int 18h / packet: words 16, 1, 7C00h, 0, and the LBA
BOOT = bytes.fromhex(
    "31c08ed0bc007c8ed88ec089e6bf0006b90001fcf3a5ea1b060000be2e06"
    "b442cd137208bebe07ea007c0000cd1810000100007c0000"
)
LBA_AT = 0x36


class Entry(NamedTuple):
    number: int
    first: int                          # sectors
    sectors: int
    type: int                           # MBR's; LINUX if the table has another idea of types


def partitions(image: Image) -> Iterator[Entry]:
    mbr = image.read(0, SECTOR)
    if mbr[510:] != SIGNATURE:
        return
    primary = [ENTRY.unpack_from(mbr, TABLE_AT + 16 * n) for n in range(4)]
    if any(entry[2] == PROTECTIVE for entry in primary):
        yield from gpt_partitions(image)
        return
    for number, (_, _, kind, _, first, sectors) in enumerate(primary, 1):
        if kind in EXTENDED:
            continue
        if kind and sectors:
            yield Entry(number, first, sectors, kind)
    for _, _, kind, _, first, _ in primary:
        if kind in EXTENDED:
            yield from logical_partitions(image, first)
            return


def logical_partitions(image: Image, extended: int) -> Iterator[Entry]:
    """A chain of records, each with a partition and the next record."""
    at = extended
    for number in range(LOGICAL_FIRST, LOGICAL_FIRST + LOGICAL_MAX):
        if (at + 1) * SECTOR > image.size_bytes:
            return
        record = image.read(at * SECTOR, SECTOR)
        (_, _, kind, _, first, sectors), (_, _, linked, _, following, _) = (
            ENTRY.unpack_from(record, TABLE_AT + 16 * n) for n in range(2)
        )
        if record[510:] != SIGNATURE or not sectors:
            return
        yield Entry(number, at + first, sectors, kind)
        if linked not in EXTENDED or not following:
            return
        at = extended + following


def gpt_partitions(image: Image) -> Iterator[Entry]:
    header = image.read(SECTOR, SECTOR)
    if header[:8] != GPT_MAGIC:
        return
    table, count, size = struct.unpack_from("<QII", header, 72)
    there = table * SECTOR + count * size <= image.size_bytes
    if not 128 <= size <= 4096 or count > GPT_ENTRIES_MAX or not there:
        return
    data = image.read(table * SECTOR, count * size)
    for number in range(count):
        kind, _, first, last = struct.unpack_from("<16s16sQQ", data, number * size)
        if any(kind) and last >= first:
            yield Entry(number + 1, first, last - first + 1, LINUX)


class Partition:
    FORMAT = "raw"

    def __init__(self, image: Image, number: int) -> None:
        found = {entry.number: entry for entry in partitions(image)}
        entry = found.get(number)
        if entry is None:
            there = ", ".join(map(str, found)) or "none"
            raise ImageError(f"has no partition {number}; there are: {there}")
        self.image = image
        self.start = entry.first * SECTOR
        self.end = (entry.first + entry.sectors) * SECTOR
        if not SECTOR <= self.start < self.end <= image.size_bytes or self.end > SECTOR << 32:
            raise ImageError(f"has partition {number} where it cannot be shown")
        self.size_bytes = self.end
        self.read_only = image.read_only
        self.flush = image.flush
        self.close = image.close
        self._record = made_up_record(entry, image.read(self.start, SECTOR))

    def read(self, offset: int, length: int) -> bytes:
        before = max(min(length, self.start - offset), 0)
        head = self._record[offset : offset + before] if before else b""
        data = self.image.read(offset + before, length - before) if length > before else b""
        return b"".join((head, bytes(before - len(head)), data))

    def read_now(self, offset: int, length: int) -> bytes | None:
        return self.image.read_now(offset, length) if offset >= self.start else self.read(offset, length)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        before = max(min(length, self.start - offset), 0)
        if before:
            yield Extent(offset, before, Kind.DATA)
        if length > before:
            yield from own(self.image, offset + before, length - before)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._protect(offset)
        self.image.write(offset, data)

    def discard(self, offset: int, length: int) -> None:
        self._protect(offset)
        self.image.discard(offset, length)

    def _protect(self, offset: int) -> None:
        if offset < self.start:
            raise OSError(errno.EROFS, "outside of the partition")


def made_up_record(entry: Entry, boot_record: bytes) -> bytes:
    kind = entry.type
    if kind == LINUX:
        named = (code for at, name, code in BY_BOOT_RECORD if boot_record[at : at + len(name)] == name)
        kind = next(named, LINUX)
    code = bytearray(BOOT.ljust(TABLE_AT, b"\0"))
    struct.pack_into("<Q", code, LBA_AT, entry.first)
    table = ENTRY.pack(BOOTABLE, CHS_TOO_FAR, kind, CHS_TOO_FAR, entry.first, entry.sectors)
    return bytes(code) + table + bytes(48) + SIGNATURE
