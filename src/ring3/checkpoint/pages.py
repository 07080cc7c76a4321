"""RAM as a table of extents and the pages they lead to: zero pages are left out, equal ones stored once.

RAM is guest RAM, then video memory.  An extent says that `count` pages from `first` on hold the stored pages
from `stored` on; extents are in order and don't overlap, and what none covers is zero.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import xxhash

from ring3.checkpoint.format import PAGE, Buffer, Reader

EXTENT = struct.Struct("<QQQ")          # first page, pages, first stored page
ZERO = bytes(PAGE)
RUN_MAX = 1024                          # pages in one piece


class Packed:
    """What `write` is to have of RAM; `pieces` are views of it."""

    def __init__(self, memory: memoryview, touched: Iterable[tuple[int, int]]) -> None:
        """`touched`: the parts (offset, bytes) that may be other than zero."""
        self.table = bytearray()
        self.pieces: list[Buffer] = []
        self._memory = memory
        self._count = 0                 # of pages stored
        self._known: dict[bytes, int] = {}
        self._extent = (0, 0, 0)        # first page, pages, first stored page
        self._run = (0, 0)              # bytes of a piece that grows
        for start, length in touched:
            for at in range(start, start + length, PAGE):
                page = memory[at : at + PAGE]
                if page != ZERO:
                    self._add(at, page)
        self._close_run()
        self._close_extent()

    def _add(self, at: int, page: memoryview) -> None:
        digest = xxhash.xxh3_128_digest(page)
        stored = self._known.get(digest)
        if stored is None:
            stored = self._known[digest] = self._count
            self._count += 1
            start, end = self._run
            if end != at or at - start >= RUN_MAX * PAGE:
                self._close_run()
                start = at
            self._run = (start, at + PAGE)
        first, count, place = self._extent
        if count and first + count == at // PAGE and place + count == stored:
            self._extent = (first, count + 1, place)
        else:
            self._close_extent()
            self._extent = (at // PAGE, 1, stored)

    def _close_run(self) -> None:
        start, end = self._run
        if end > start:
            self.pieces.append(self._memory[start:end])
        self._run = (0, 0)

    def _close_extent(self) -> None:
        if self._extent[1]:
            self.table += EXTENT.pack(*self._extent)


class Extents:
    """The table of a checkpoint, checked against the sizes of its pages and of RAM."""

    def __init__(self, reader: Reader, size: int) -> None:
        self.pages = reader.section("pages")
        table = reader.section("extents")
        if len(table) % EXTENT.size or len(self.pages) % PAGE:
            raise reader.damaged("its table of pages is impossible")
        self._extents = list(EXTENT.iter_unpack(table))
        end = 0
        for first, count, stored in self._extents:
            inside = first + count <= size // PAGE and stored + count <= len(self.pages) // PAGE
            if first < end or not count or not inside:
                raise reader.damaged("its table of pages is impossible")
            end = first + count

    def __iter__(self) -> Iterator[tuple[int, memoryview]]:
        """Offsets into RAM, and what is there."""
        for first, count, stored in self._extents:
            yield first * PAGE, self.pages[stored * PAGE : (stored + count) * PAGE]

    def adopted_by(self, vm: Any) -> None:
        """Makes it a machine's RAM (`_native.Vm.adopt`)."""
        with open(os.memfd_create("ring3-checkpoint"), "wb", buffering=0) as file:
            at = 0
            while at < len(self.pages):
                at += file.write(self.pages[at:])
            places = [(first * PAGE, count * PAGE, stored * PAGE) for first, count, stored in self._extents]
            vm.adopt([(start, length, file.fileno(), offset) for start, length, offset in places])
