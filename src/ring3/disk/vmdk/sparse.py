"""A sparse extent of a VMDK: grains that a directory and its tables lead to.

Data is written where it belongs at once, new grains at the file's end.  What refers to new ones waits in
memory until `flush`, which waits for the data first: so a crash loses unflushed writes and leaks grains at
worst.  A compressed ("stream-optimized") extent is only read.
"""

import errno
import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from ring3.disk.extents import Extent, Kind
from ring3.disk.file import File
from ring3.disk.image import SECTOR, Image
from ring3.disk.qcow2.table import damaged
from ring3.errors import ImageError

MAGIC = b"KDMV"
HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
NEWLINES = b"\n \r\n"
VALID, REDUNDANT, ZERO_GRAINS, COMPRESSED, MARKERS = 0x1, 0x2, 0x4, 0x10000, 0x20000     # flags
AT_END = (1 << 64) - 1                  # the directory's offset is in the footer
FOOTER_FROM_END = 1024
ABSENT, ZERO = 0, 1                     # entries that are no offset
DIRECTORY_MAX = 1 << 20                 # entries
TABLES_CACHED = 4096
MARKER = struct.Struct("<QI")           # a compressed grain's: sector of the disk, bytes


@dataclass(frozen=True)
class Header:
    magic: bytes
    version: int
    flags: int
    sectors: int
    grain: int                          # sectors
    descriptor_at: int                  # sectors, as all places
    descriptor_sectors: int
    table_entries: int
    redundant_at: int
    directory_at: int
    overhead: int
    unclean: int
    newlines: bytes
    compression: int


def parse(data: bytes) -> Header:
    if len(data) < HEADER.size:
        raise ImageError("is cut off in its header")
    header = Header(*HEADER.unpack_from(data))
    if header.magic != MAGIC or header.version not in (1, 2, 3):
        raise ImageError(f"is a VMDK image of version {header.version}, which is not known here")
    if header.flags & VALID and header.newlines != NEWLINES:
        raise ImageError("was copied as text, which ruins it: get it again")
    per_table = header.grain * header.table_entries
    if header.grain not in (1 << n for n in range(3, 14)) or header.table_entries != 512:
        raise ImageError("has a damaged header: its grains make no sense")
    if not header.sectors or -(-header.sectors // per_table) > DIRECTORY_MAX:
        raise ImageError(f"has a damaged header: {header.sectors} sectors")
    return header


class Sparse:
    def __init__(self, file: File, backing: Image | None = None, start: int = 0) -> None:
        """`start`: where the extent begins on the disk, for `backing`."""
        self.file = file
        self.backing = backing
        self._start = start
        self.header = header = parse(file.read(0, HEADER.size))
        if header.directory_at == AT_END:
            self.header = header = parse(file.read(max(file.size_bytes - FOOTER_FROM_END, 0), HEADER.size))
        self.compressed = bool(header.flags & COMPRESSED)
        self.size_bytes = header.sectors * SECTOR
        self.grain_bytes = header.grain * SECTOR
        self._per_table = header.table_entries
        count = -(-header.sectors // (header.grain * self._per_table))
        self._directory = self._read_directory(header.directory_at, count)
        redundant = header.flags & REDUNDANT and not file.read_only
        self._redundant = self._read_directory(header.redundant_at, count) if redundant else None
        self._tables: dict[int, array[int]] = {}
        self._dirty: dict[int, set[int]] = {}           # table → its changed entries
        self._end = -(-file.size_bytes // self.grain_bytes) * self.grain_bytes

    def _read_directory(self, at: int, count: int) -> "array[int]":
        if at * SECTOR + 4 * count > self.file.size_bytes:
            raise ImageError("is truncated: its grain directory lies behind the file's end")
        return array("I", self.file.read(at * SECTOR, 4 * count))

    def _table(self, index: int) -> "array[int]":
        table = self._tables.get(index)
        if table is None:
            at = self._directory[index] * SECTOR
            if at and at + 4 * self._per_table > self.file.size_bytes:
                raise damaged("a grain table lies behind the file's end")
            if len(self._tables) >= TABLES_CACHED:
                for other in [each for each in self._tables if each not in self._dirty][: TABLES_CACHED // 4]:
                    del self._tables[other]
            data = self.file.read(at, 4 * self._per_table) if at else bytes(4 * self._per_table)
            table = self._tables[index] = array("I", data)
        return table

    def _entry(self, grain: int) -> int:
        index, n = divmod(grain, self._per_table)
        entry = self._table(index)[n]
        if entry == ZERO and not self.header.flags & ZERO_GRAINS:
            raise damaged("a grain lies in the header")
        if entry > ZERO and entry * SECTOR >= self.file.size_bytes:
            raise damaged("a grain lies behind the file's end")
        return entry

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """(offset, within its grain, length, entry)."""
        end = offset + length
        while offset < end:
            grain, within = divmod(offset, self.grain_bytes)
            part = min(self.grain_bytes - within, end - offset)
            yield offset, within, part, self._entry(grain)
            offset += part

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(self._read_piece(*piece) for piece in self._pieces(offset, length))

    def _read_piece(self, offset: int, within: int, length: int, entry: int) -> bytes:
        if entry == ABSENT and self.backing is not None:
            at = self._start + offset
            there = max(min(length, self.backing.size_bytes - at), 0)
            return (self.backing.read(at, there) if there else b"") + bytes(length - there)
        if entry in (ABSENT, ZERO):
            return bytes(length)
        if self.compressed:
            return self._inflate(entry)[within : within + length]
        return self.file.read(entry * SECTOR + within, length)

    def _inflate(self, entry: int) -> bytes:
        _, length = MARKER.unpack(self.file.read(entry * SECTOR, MARKER.size))
        if length > 2 * self.grain_bytes + 1024:
            raise damaged("a compressed grain is too long")
        try:
            data = zlib.decompressobj().decompress(
                self.file.read(entry * SECTOR + MARKER.size, length), self.grain_bytes
            )
        except zlib.error as error:
            raise damaged(f"a compressed grain: {error}") from error
        return data + bytes(self.grain_bytes - len(data))       # the last one may be shorter

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        absent = Kind.BEHIND if self.backing is not None else Kind.ZERO
        kinds = {ABSENT: absent, ZERO: Kind.ZERO}
        for at, _, part, entry in self._pieces(offset, length):
            yield Extent(at, part, kinds.get(entry, Kind.DATA))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        if self.compressed:
            raise OSError(errno.EROFS, "a stream-optimized image is only read")
        view = memoryview(data)
        for at, within, part, entry in self._pieces(offset, len(view)):
            piece, view = view[:part], view[part:]
            if entry > ZERO:
                self.file.write(entry * SECTOR + within, piece)
            else:
                self._write_new(at // self.grain_bytes, within, piece, entry)

    def _write_new(self, grain: int, within: int, piece: memoryview, entry: int) -> None:
        index, n = divmod(grain, self._per_table)
        if not self._directory[index]:
            raise OSError(errno.EROFS, "the image has no room for a grain table there")
        start = grain * self.grain_bytes
        head = self._read_piece(start, 0, within, entry) if within else b""
        behind = self.grain_bytes - within - len(piece)
        tail = self._read_piece(start + within + len(piece), 0, behind, entry) if behind else b""
        where = self._end
        if where // SECTOR > 0xFFFF_FFFF:
            raise OSError(errno.EFBIG, "the image cannot grow further")
        self.file.write(where, b"".join((head, piece, tail)))
        self._end = where + self.grain_bytes
        self._table(index)[n] = where // SECTOR
        self._dirty.setdefault(index, set()).add(n)

    def discard(self, offset: int, length: int) -> None:
        """The host gets the space of grains that are there; they stay this extent's."""
        for at, within, part, entry in list(self._pieces(offset, length)):
            if entry > ZERO and not self.compressed and self.file.punch(entry * SECTOR + within, part):
                continue
            if entry > ZERO or (entry == ABSENT and self.backing is not None):
                self.write(at, bytes(part))

    def flush(self) -> None:
        self.file.flush()
        if not self._dirty:
            return
        for index, entries in self._dirty.items():
            table = self._tables[index]
            for directory in (self._redundant, self._directory):
                if directory is not None and directory[index]:
                    for n in entries:
                        at = directory[index] * SECTOR + 4 * n
                        self.file.write(at, table[n].to_bytes(4, "little"))
        self._dirty.clear()
        self.file.flush()
