"""What a disk image is made of: data, zeros, and what it leaves to the image behind it.

An image tells it by a method `extents(offset, length)` for itself alone; one without is all data.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

from ring3.disk.image import Image


class Kind(Enum):
    DATA = "data"
    ZERO = "zero"
    BEHIND = "behind"                   # the backing image shows through


class Extent(NamedTuple):
    offset: int
    length: int
    kind: Kind
    depth: int = 0                      # how many images behind the first one it comes from


def own(image: Image, offset: int, length: int) -> Iterator[Extent]:
    """The image's own extents, neighbours of a kind not joined."""
    tell = getattr(image, "extents", None)
    if tell is None:
        yield Extent(offset, length, Kind.DATA)
    else:
        yield from tell(offset, length)


def above(image: Image, base: Image | None, offset: int, length: int, depth: int = 0) -> Iterator[Extent]:
    """Extents of the images in front of `base`; None: of all of them.  BEHIND is what `base` shows."""
    for extent in own(image, offset, length):
        backing: Any = getattr(image, "backing", None)
        if extent.kind is not Kind.BEHIND or backing is base:
            nothing = base is None and extent.kind is Kind.BEHIND
            yield extent._replace(depth=depth, kind=Kind.ZERO if nothing else extent.kind)
            continue
        there = max(min(extent.length, backing.size_bytes - extent.offset), 0)
        if there:
            yield from above(backing, base, extent.offset, there, depth + 1)
        if there < extent.length:       # zeros follow a smaller image
            yield Extent(extent.offset + there, extent.length - there, Kind.ZERO, depth)


def seen(image: Image) -> Iterator[Extent]:
    """All of the disk, as data or zeros, neighbours joined."""
    last: Extent | None = None
    for extent in above(image, None, 0, image.size_bytes):
        if last is not None and (last.kind, last.depth) == (extent.kind, extent.depth):
            last = last._replace(length=last.length + extent.length)
            continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last
