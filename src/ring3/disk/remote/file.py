"""A remote file as image formats see one: what they read is fetched in blocks, each once, and kept.

Reads in sequence ask for more and more at once; what is ahead of the guest waits in the connection, so it
costs no memory here.
"""

import errno
from collections.abc import Iterator

from ring3.config.places import Url
from ring3.disk.remote.cache import Blocks
from ring3.disk.remote.source import Source
from ring3.disk.remote.version import Version

PIECE_BYTES = 256 << 10                 # fetched before any of it is kept
AHEAD_MIN_BYTES, AHEAD_MAX_BYTES = 256 << 10, 8 << 20


class RemoteFile:
    """It is only read."""

    read_only = True

    def __init__(self, url: Url) -> None:
        """OSError or ImageError: why it cannot be used."""
        self.path = url
        self.identity = url.text
        self.closed = False
        self._source = Source(url)
        try:
            self.size_bytes = self._source.version.size_bytes
            self._blocks = Blocks(url, self._source.version)
        except BaseException:
            self._source.close()
            raise
        self._fetched = -1              # where the last fetch ended
        self._ahead = 0

    def read(self, offset: int, length: int) -> bytes:
        if offset > 1 << 63:
            raise OSError(errno.EIO, f"the image is damaged: it refers to byte {offset}")
        there = max(min(length, self.size_bytes - offset), 0)
        parts = list(self._parts(offset, there)) if there else []
        if there < length:
            parts.append(bytes(length - there))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _parts(self, offset: int, length: int) -> Iterator[bytes]:
        size, end = self._blocks.block_bytes, offset + length
        block, last = offset // size, (end - 1) // size
        while block <= last:
            first, here = block, self._blocks.has(block)
            while block <= last and self._blocks.has(block) == here:
                block += 1
            start, stop = max(offset, first * size), min(end, block * size)
            if here:
                yield self._blocks.read(start, stop - start)
            else:
                yield from self._fetch(first, start, stop)

    def _fetch(self, first: int, start: int, stop: int) -> Iterator[bytes]:
        """Bytes from `start` to `stop`, in missing blocks from `first` on."""
        size = self._blocks.block_bytes
        at, end = first * size, min(-(-stop // size) * size, self.size_bytes)
        step = max(PIECE_BYTES, size)
        while at < end:
            length = min(step, end - at)
            sequential = at == self._fetched
            self._ahead = min(max(2 * self._ahead, AHEAD_MIN_BYTES), AHEAD_MAX_BYTES) if sequential else 0
            data = self._source.read(at, length, max(self._ahead, end - at) - length)
            self._blocks.store(at // size, data)
            self._fetched = at + length
            yield data[max(start - at, 0) : stop - at]
            at += length

    def read_now(self, offset: int, length: int) -> bytes | None:
        """From the host's page cache, if all of it is there."""
        if offset + length > self.size_bytes or not length:
            return None
        size = self._blocks.block_bytes
        blocks = range(offset // size, (offset + length - 1) // size + 1)
        return self._blocks.read_now(offset, length) if all(map(self._blocks.had, blocks)) else None

    @property
    def version(self) -> Version:
        return self._source.version

    @property
    def host_bytes(self) -> int:
        return self._blocks.host_bytes

    def data_at(self, offset: int) -> int | None:
        """All of it may be data: a server does not tell."""
        return offset if offset < self.size_bytes else None

    def hole_at(self, offset: int) -> int:
        return self.size_bytes

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        raise OSError(errno.EROFS, "a remote image is only read")

    def punch(self, offset: int, length: int) -> bool:
        return False

    def flush(self) -> None:
        """Nothing is ever written."""

    def give_up(self) -> None:
        """Nobody waits for the server any more: reads that need it fail at once.  For any thread."""
        self._source.give_up()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._source.close()
            self._blocks.close()

