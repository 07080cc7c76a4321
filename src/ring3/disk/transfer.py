"""Moving what is on one disk to another: copying, comparing, committing.  Zeros are never moved."""

import heapq
from collections.abc import Callable, Iterator
from typing import Protocol

from ring3.disk.extents import Kind, above, seen
from ring3.disk.image import Image

STEP_BYTES = 1 << 20
GRAIN_BYTES = 64 << 10                  # zeros are looked for in pieces of this size
ZEROS = bytes(GRAIN_BYTES)
Progress = Callable[[int, int], None]   # bytes done, of how many


class Target(Protocol):
    """What a disk is copied to: reads as zeros where nothing is written.  Offsets only grow."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...


def nothing(done: int, total: int) -> None:
    """No progress is shown."""


def copy(source: Image, target: Target, progress: Progress = nothing) -> None:
    """All of a disk to an empty one at least as large."""
    total = source.size_bytes
    for extent in seen(source):
        if extent.kind is Kind.DATA:
            end = extent.offset + extent.length
            for offset in range(extent.offset, end, STEP_BYTES):
                progress(offset, total)
                _write_data(target, offset, source.read(offset, min(STEP_BYTES, end - offset)))
        progress(extent.offset + extent.length, total)


def _write_data(target: Target, offset: int, data: bytes) -> None:
    """What isn't zeros, in pieces as long as can be."""
    start = None
    for at in range(0, len(data), GRAIN_BYTES):
        piece = data[at : at + GRAIN_BYTES]
        if piece == ZEROS[: len(piece)]:
            if start is not None:
                target.write(offset + start, data[start:at])
            start = None
        elif start is None:
            start = at
    if start is not None:
        target.write(offset + start, data[start:])


def copy_up(top: Image, base: Image, progress: Progress = nothing) -> None:
    """What the images in front of `base` have goes into it; it is on stable storage when this returns.

    They still read the same whenever this is stopped: what has come over is what they show anyway.
    """
    total = min(top.size_bytes, base.size_bytes)
    for extent in above(top, base, 0, total):
        end = extent.offset + extent.length
        if extent.kind is Kind.ZERO:
            base.discard(extent.offset, extent.length)
        elif extent.kind is Kind.DATA:
            for offset in range(extent.offset, end, STEP_BYTES):
                progress(offset, total)
                base.write(offset, top.read(offset, min(STEP_BYTES, end - offset)))
        progress(end, total)
    base.flush()


def difference(first: Image, second: Image, progress: Progress = nothing) -> int | None:
    """The first byte that differs; None if nothing does.  Behind the smaller one's end are zeros."""
    total = max(first.size_bytes, second.size_bytes)
    for start, end in _data_of(first, second):
        for offset in range(start, end, STEP_BYTES):
            progress(offset, total)
            length = min(STEP_BYTES, end - offset)
            one, other = _padded(first, offset, length), _padded(second, offset, length)
            if one != other:
                return offset + next(n for n in range(length) if one[n] != other[n])
    progress(total, total)
    return None


def _data_of(*images: Image) -> Iterator[tuple[int, int]]:
    """Where any of them has data, in order: start and end."""
    start = end = 0
    for first, last in heapq.merge(*map(_data_in, images)):
        if first > end:
            if end > start:
                yield start, end
            start = first
        end = max(end, last)
    if end > start:
        yield start, end


def _data_in(image: Image) -> Iterator[tuple[int, int]]:
    for extent in seen(image):
        if extent.kind is Kind.DATA:
            yield extent.offset, extent.offset + extent.length


def _padded(image: Image, offset: int, length: int) -> bytes:
    there = max(min(length, image.size_bytes - offset), 0)
    return (image.read(offset, there) if there else b"") + bytes(length - there)
