"""What a disk image is to those who use it."""

from collections.abc import Iterator
from typing import Any, Protocol

SECTOR = 512                            # bytes: sizes of images are whole numbers of it


class Image(Protocol):
    """Bytes at offsets; those and lengths stay within `size_bytes`, the caller's duty.  One thread at a time.

    What goes wrong on the way is an OSError: no space, a host's disk that fails, damaged metadata (EIO).
    One that is made of a host's files may tell where (`in_file`).
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def read_only(self) -> bool: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def read_now(self, offset: int, length: int) -> bytes | None:
        """As `read` if that needs no waiting for the host's disk; None where it might."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def flush(self) -> None:
        """What was written before is on stable storage when this returns."""

    def discard(self, offset: int, length: int) -> None:
        """The bytes are needed no more: they read as zeros from now on, and the host gets the space back."""

    def close(self) -> None: ...


def in_file(image: Any, offset: int, length: int) -> tuple[int, int] | None:
    """Where the bytes are as they stand in a file of the host: its descriptor, and the offset of the first.

    None: nowhere in one piece, too many to read at once, or the image can't tell: those that can have such
    a method.  It holds until the image is next used.
    """
    tell = getattr(image, "in_file", None)
    place: tuple[int, int] | None = tell(offset, length) if tell is not None else None
    return place


def files_of(image: Any) -> Iterator[Any]:
    """The files that an image and those behind it are made of, each once for each image."""
    while image is not None:
        inner = getattr(image, "image", None) or getattr(image, "top", None)    # of a partition, of layers
        if inner is None:
            single = (getattr(image, "file", None), getattr(image, "data", None))
            files = getattr(image, "files", None) or single
            yield from dict.fromkeys(file for file in files if file is not None)
            inner = getattr(image, "backing", None)
        image = inner
