"""Images that are only read, made of blocks of one size that a table leads to: VDI, VHD, VHDX."""

import errno
from collections.abc import Iterator
from enum import IntEnum

from ring3.disk.extents import Extent, Kind
from ring3.disk.file import File


class Place(IntEnum):
    """What a block's offset is where it is none."""

    ZEROS = -1


class BlockImage:
    """Subclasses say where a block is."""

    FORMAT: str
    read_only = True

    def __init__(self, file: File, size_bytes: int, block_bytes: int) -> None:
        self.file = file
        self.size_bytes = size_bytes
        self.block_bytes = block_bytes

    def _where(self, block: int) -> int:
        """Offset of a block in the file, or a Place.  OSError: it cannot be right."""
        raise NotImplementedError

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(offset in the file or a Place, length)."""
        end = offset + length
        while offset < end:
            block, within = divmod(offset, self.block_bytes)
            part = min(self.block_bytes - within, end - offset)
            where = self._where(block)
            yield (where + within if where >= 0 else where), part
            offset += part

    def read(self, offset: int, length: int) -> bytes:
        pieces = self._pieces(offset, length)
        return b"".join(self.file.read(where, part) if where >= 0 else bytes(part) for where, part in pieces)

    def read_now(self, offset: int, length: int) -> bytes | None:
        """None: their tables may have to be read."""
        return None

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        for where, part in self._pieces(offset, length):
            yield Extent(offset, part, Kind.DATA if where >= 0 else Kind.ZERO)
            offset += part

    def write(self, offset: int, data: bytes | memoryview) -> None:
        raise OSError(errno.EROFS, "the image is only read")

    def discard(self, offset: int, length: int) -> None:
        raise OSError(errno.EROFS, "the image is only read")

    def flush(self) -> None:
        """Nothing is ever written."""

    def close(self) -> None:
        self.file.close()
