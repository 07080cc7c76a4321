"""A VMDK: its extents one behind the other."""

import errno
from bisect import bisect_right
from collections.abc import Iterator
from typing import Protocol

from ring3.disk.extents import Extent, Kind
from ring3.disk.file import File
from ring3.disk.image import Image
from ring3.disk.vmdk.sparse import Sparse


class Part(Protocol):
    size_bytes: int

    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes | memoryview) -> None: ...
    def discard(self, offset: int, length: int) -> None: ...
    def extents(self, offset: int, length: int) -> Iterator[Extent]: ...
    def flush(self) -> None: ...


class Flat:
    """Bytes of a file, as they are."""

    def __init__(self, file: File, offset: int, size_bytes: int) -> None:
        self.file = file
        self.offset = offset
        self.size_bytes = size_bytes

    def read(self, offset: int, length: int) -> bytes:
        return self.file.read(self.offset + offset, length)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.file.write(self.offset + offset, data)

    def discard(self, offset: int, length: int) -> None:
        if not self.file.punch(self.offset + offset, length):
            self.write(offset, bytes(length))

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield Extent(offset, length, Kind.DATA)

    def flush(self) -> None:
        self.file.flush()


class Nothing:
    """Zeros that no file has."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        raise OSError(errno.EROFS, "this part of the image has no place")

    def discard(self, offset: int, length: int) -> None:
        """They are zeros already."""

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield Extent(offset, length, Kind.ZERO)

    def flush(self) -> None:
        """Nothing is ever written."""


class Vmdk:
    FORMAT = "vmdk"

    def __init__(self, file: File, parts: list[Part], backing: Image | None = None) -> None:
        """`file`: the one that was opened; it may be a part's as well."""
        self.file = file
        self.parts = parts
        self.backing = backing
        self.read_only = file.read_only
        own = [part.file for part in parts if isinstance(part, Flat | Sparse) and part.file is not file]
        self.files = [file, *own]
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + part.size_bytes)
        self.size_bytes = self._starts.pop()

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[Part, int, int]]:
        """(part, offset in it, length)."""
        end = offset + length
        while offset < end:
            n = bisect_right(self._starts, offset) - 1
            within = offset - self._starts[n]
            size = min(self.parts[n].size_bytes - within, end - offset)
            yield self.parts[n], within, size
            offset += size

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(part.read(within, size) for part, within, size in self._pieces(offset, length))

    def read_now(self, offset: int, length: int) -> bytes | None:
        """None: tables may have to be read."""
        return None

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        for part, within, size in self._pieces(offset, len(view)):
            part.write(within, view[:size])
            view = view[size:]

    def discard(self, offset: int, length: int) -> None:
        for part, within, size in self._pieces(offset, length):
            part.discard(within, size)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        for part, within, size in self._pieces(offset, length):
            for extent in part.extents(within, size):
                yield extent._replace(offset=extent.offset - within + offset)
            offset += size

    def flush(self) -> None:
        for part in self.parts:
            part.flush()

    def close(self) -> None:
        try:
            if not self.read_only and not self.file.closed:
                self.flush()
        finally:
            for file in self.files:
                file.close()
            if self.backing is not None:
                self.backing.close()
