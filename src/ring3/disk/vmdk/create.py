"""New VMDK images: what VMware calls monolithicSparse, monolithicFlat, twoGbMaxExtentSparse and -Flat, and
streamOptimized, which is written from its start to its end."""

import os
import secrets
import zlib
from array import array

from ring3.disk.image import SECTOR
from ring3.disk.vmdk import descriptor
from ring3.disk.vmdk.sparse import (
    AT_END,
    COMPRESSED,
    HEADER,
    MAGIC,
    MARKER,
    MARKERS,
    NEWLINES,
    REDUNDANT,
    VALID,
)

KINDS = ("sparse", "flat", "split", "split-flat", "stream")
NAMES = {"flat": "monolithicFlat", "split": "twoGbMaxExtentSparse", "split-flat": "twoGbMaxExtentFlat"}
GRAIN, TABLE_ENTRIES = 128, 512         # sectors; entries
TABLE_SECTORS = TABLE_ENTRIES * 4 // SECTOR
DESCRIPTOR_AT, DESCRIPTOR_SECTORS = 1, 20
SPLIT_BYTES = 2047 << 20                # of a part
DEFLATE = 1
END_OF_STREAM, TABLE, DIRECTORY, FOOTER = range(4)      # markers' types


def pack(sectors: int, flags: int, *, version: int = 1, descriptor_at: int = 0, redundant_at: int = 0,
         directory_at: int = 0, overhead: int = 0, compression: int = 0) -> bytes:
    return HEADER.pack(
        MAGIC, version, flags, sectors, GRAIN, descriptor_at, DESCRIPTOR_SECTORS if descriptor_at else 0,
        TABLE_ENTRIES, redundant_at, directory_at, overhead, 0, NEWLINES, compression,
    )


def create(size_bytes: int, name: str = "") -> list[tuple[int, bytes]]:
    """(offset, bytes) of an empty sparse extent.  `name`: the file's, where it is the whole disk."""
    sectors = size_bytes // SECTOR
    tables = -(-sectors // (GRAIN * TABLE_ENTRIES))
    directory_sectors = -(-tables * 4 // SECTOR)
    redundant_at = DESCRIPTOR_AT + DESCRIPTOR_SECTORS
    directory_at = redundant_at + directory_sectors + tables * TABLE_SECTORS
    end = directory_at + directory_sectors + tables * TABLE_SECTORS
    overhead = -(-end // GRAIN) * GRAIN
    header = pack(sectors, VALID | REDUNDANT, descriptor_at=DESCRIPTOR_AT if name else 0,
                  redundant_at=redundant_at, directory_at=directory_at, overhead=overhead)
    parts = [(0, header)]
    if name:
        text = text_of("monolithicSparse", [f'RW {sectors} SPARSE "{name}"'], sectors)
        parts.append((DESCRIPTOR_AT * SECTOR, text))
    for at in (redundant_at, directory_at):
        first = at + directory_sectors
        directory = array("I", (first + n * TABLE_SECTORS for n in range(tables)))
        parts.append((at * SECTOR, directory.tobytes()))
    return [*parts, (overhead * SECTOR - 1, b"\0")]     # the tables are zeros, which need no space


def text_of(kind: str, extents: list[str], sectors: int) -> bytes:
    return descriptor.write(kind, secrets.randbits(32) & 0xFFFF_FFFE, extents, sectors)


def create_flat(kind: str, size_bytes: int, stem: str) -> tuple[bytes, list[tuple[str, int]]]:
    """The descriptor of a disk in several files, and their names and sizes.  `kind`: one of KINDS."""
    if kind == "flat":
        parts = [(f"{stem}-flat.vmdk", size_bytes)]
    else:
        letter = "s" if kind == "split" else "f"
        sizes = [min(SPLIT_BYTES, size_bytes - at) for at in range(0, size_bytes, SPLIT_BYTES)]
        parts = [(f"{stem}-{letter}{n:03}.vmdk", size) for n, size in enumerate(sizes, 1)]
    name = NAMES[kind]
    flat = kind != "split"
    extents = [f'RW {size // SECTOR} {"FLAT" if flat else "SPARSE"} "{each}"{" 0" if flat else ""}'
               for each, size in parts]
    return text_of(name, extents, size_bytes // SECTOR), parts


class Stream:
    """Writes a stream-optimized image; offsets only grow, and `finish` ends it."""

    def __init__(self, fd: int, size_bytes: int, name: str) -> None:
        self._fd = fd
        self._sectors = size_bytes // SECTOR
        self._grain = -1                # the one that is being gathered
        self._data = bytearray(GRAIN * SECTOR)
        self._directory = array("I", bytes(4 * -(-self._sectors // (GRAIN * TABLE_ENTRIES))))
        self._table_index = 0
        self._table = array("I", bytes(4 * TABLE_ENTRIES))
        self._at = GRAIN                # sectors
        text = text_of("streamOptimized", [f'RW {self._sectors} SPARSE "{name}"'], self._sectors)
        self._put(0, self._header(AT_END))
        self._put(DESCRIPTOR_AT, text)

    def _header(self, directory_at: int) -> bytes:
        return pack(self._sectors, VALID | COMPRESSED | MARKERS, version=3, descriptor_at=DESCRIPTOR_AT,
                    directory_at=directory_at, overhead=GRAIN, compression=DEFLATE)

    def _put(self, sector: int, data: bytes) -> None:
        view, at = memoryview(data), sector * SECTOR
        while view:
            count = os.pwrite(self._fd, view, at)
            view, at = view[count:], at + count

    def _append(self, data: bytes) -> int:
        """Where it went, in sectors."""
        at = self._at
        self._put(at, data + bytes(-len(data) % SECTOR))
        self._at += -(-len(data) // SECTOR)
        return at

    def _mark(self, kind: int, sectors: int) -> None:
        self._append(sectors.to_bytes(8, "little") + bytes(4) + kind.to_bytes(4, "little") + bytes(496))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        size = len(self._data)
        while view:
            grain, within = divmod(offset, size)
            if grain != self._grain:
                self._end_grain()
                self._grain = grain
            part = min(size - within, len(view))
            self._data[within : within + part] = view[:part]
            offset, view = offset + part, view[part:]

    def _end_grain(self) -> None:
        grain, self._grain = self._grain, -1
        if grain < 0:
            return
        index, n = divmod(grain, TABLE_ENTRIES)
        if index != self._table_index:
            self._end_table()
            self._table_index = index
        packed = zlib.compress(self._data, 6)
        self._table[n] = self._append(MARKER.pack(grain * GRAIN, len(packed)) + packed)
        self._data = bytearray(len(self._data))

    def _end_table(self) -> None:
        if any(self._table):
            self._mark(TABLE, TABLE_SECTORS)
            self._directory[self._table_index] = self._append(self._table.tobytes())
            self._table = array("I", bytes(4 * TABLE_ENTRIES))

    def finish(self) -> None:
        self._end_grain()
        self._end_table()
        data = self._directory.tobytes()
        self._mark(DIRECTORY, -(-len(data) // SECTOR))
        at = self._append(data)
        self._mark(FOOTER, 1)
        self._append(self._header(at))
        self._mark(END_OF_STREAM, 0)


