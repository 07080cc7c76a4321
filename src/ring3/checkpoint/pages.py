"""RAM as a table of extents and the pages they lead to: no zero pages, and runs of equal ones once.

RAM is guest RAM, then video memory.  An extent says that `count` pages from `first` on hold the pages from
`stored` on of a file: 0 is the checkpoint's own, n the n-th of its `sources` (ring3.checkpoint.family).
Extents are in order and don't overlap, and what none covers is zero.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ring3.checkpoint.format import PAGE, Buffer, Reader

# By the version of the format: first page, pages, first stored page, and since version 2 the file.
RECORDS = {1: struct.Struct("<QQQ"), 2: struct.Struct("<QQQQ")}
Extent = tuple[int, int, int, int]
OWN = 0


class Packed:
    """What `write` is to have of an image of RAM; `pieces` are views of it."""

    def __init__(
        self, image: Any, changed: list[tuple[int, int]] | None = None, others: Iterable[Extent] = ()
    ) -> None:
        """`changed`: the ranges that aren't in other files already, as `others` say; None: all."""
        ranges = [(start, start + length) for start, length, *_ in image.extents]
        if changed is not None:
            ranges = overlaps(ranges, changed)
        own, pieces = image.pack(ranges)
        memory = memoryview(image)
        self.pieces: list[Buffer] = [memory[start:end] for start, end in pieces]
        kept = others if changed is None else without(others, changed)
        self.extents: list[Extent] = sorted([*kept, *((*extent, OWN) for extent in own)])

    @property
    def sections(self) -> dict[str, list[Buffer]]:
        return {"extents": [table(self.extents)], "pages": self.pieces}


def table(extents: Iterable[Extent]) -> bytes:
    return b"".join(RECORDS[2].pack(*extent) for extent in extents)


def overlaps(ranges: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What both have; each is in order."""
    found, n = [], 0
    for start, end in ranges:
        while n < len(others) and others[n][1] <= start:
            n += 1
        at = n
        while at < len(others) and others[at][0] < end:
            found.append((max(start, others[at][0]), min(end, others[at][1])))
            at += 1
    return found


def without(extents: Iterable[Extent], changed: Sequence[tuple[int, int]]) -> Iterator[Extent]:
    """What of the extents lies outside of ranges (bytes), which are in order."""
    n = 0
    for first, count, stored, file in extents:
        at, end = first, first + count
        while n < len(changed) and changed[n][1] <= at * PAGE:
            n += 1
        for low, high in changed[n:]:
            if low >= end * PAGE:
                break
            if low // PAGE > at:
                yield at, low // PAGE - at, stored + at - first, file
            at = max(at, high // PAGE)
        if at < end:
            yield at, end - at, stored + at - first, file


class Extents:
    """The table of a checkpoint, checked against the sizes of its files' pages and of RAM."""

    def __init__(self, reader: Reader, size: int, sources: Sequence[Reader] = ()) -> None:
        self._files = [reader, *sources]
        self.pages = [each.section("pages") for each in self._files]
        record, data = RECORDS[reader.version], reader.section("extents")
        if len(data) % record.size or any(len(pages) % PAGE for pages in self.pages):
            raise reader.damaged("its table of pages is impossible")
        rows: Iterable[Any] = record.iter_unpack(data)
        self.list: list[Extent] = [(*row, OWN) for row in rows] if reader.version == 1 else list(rows)
        self._check(reader, size // PAGE)

    def _check(self, reader: Reader, ram_pages: int) -> None:
        stored_pages = [len(pages) // PAGE for pages in self.pages]
        end = 0
        for first, count, stored, file in self.list:
            known = file < len(stored_pages) and stored + count <= stored_pages[file]
            if first < end or not count or first + count > ram_pages or not known:
                raise reader.damaged("its table of pages is impossible")
            end = first + count

    def __iter__(self) -> Iterator[tuple[int, memoryview]]:
        """Offsets into RAM, and what is there."""
        for first, count, stored, file in self.list:
            yield first * PAGE, self.pages[file][stored * PAGE : (stored + count) * PAGE]

    def adopted_by(self, vm: Any) -> None:
        """Makes it a machine's RAM (`_native.Vm.adopt`): pages come out of the files as they are touched."""
        places, copies = [], []
        try:
            for reader, pages in zip(self._files, self.pages, strict=True):
                place = reader.place("pages")
                if place is None:       # compressed there
                    copies.append(copied(pages))
                    place = (copies[-1], 0)
                places.append(place)
            vm.adopt([
                (first * PAGE, count * PAGE, places[file][0], places[file][1] + stored * PAGE)
                for first, count, stored, file in self.list
            ])
        finally:
            for fd in copies:
                os.close(fd)


def copied(pages: memoryview) -> int:
    """A descriptor of a nameless file with the pages."""
    fd = os.memfd_create("ring3-checkpoint", os.MFD_CLOEXEC)
    at = 0
    while at < len(pages):
        at += os.write(fd, pages[at:])
    return fd
