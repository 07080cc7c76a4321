"""Blocks of remote files that the host keeps: a directory for each URL, below the user's cache directory.

    disks/HASH/record       JSON: what URL that is, and of which version of the file the blocks are
    disks/HASH/image        the blocks, where they are in the file; the rest are holes
    disks/HASH/hashes       XXH3 of each block, 8 bytes, little endian; 0: the block is not here

A block counts only if its hash is right, which is looked at once in each process.  So no order of writes and
no `fsync` is needed: who dies in the middle, the host too, leaves blocks that are fetched again.  Machines
share a directory: what they write is the same.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import xxhash

from ring3.config.places import Url, cache_directory
from ring3.disk.file import HostFile
from ring3.disk.remote.version import Version
from ring3.errors import ConfigError, ImageError

BLOCK_BYTES = 64 << 10
BLOCKS_MAX = 1 << 24
SIZE_BYTES_MAX = 64 << 40
HASH_BYTES = 8


class Record(msgspec.Struct, frozen=True):
    url: str
    size_bytes: int
    etag: str
    modified: str
    block_bytes: int

    @property
    def version(self) -> Version:
        return Version(self.size_bytes, self.etag, self.modified)


class Blocks:
    """Those of one file; offsets and lengths are whole blocks, but for the last one."""

    def __init__(self, url: Url, version: Version) -> None:
        if version.size_bytes > SIZE_BYTES_MAX:
            raise ImageError(f"is {version.size_bytes} bytes long, says the server, and 64T are the most")
        directory = directory_of(url)
        try:
            self._record = _enter(directory, url, version)
            self._hashes = os.open(directory / "hashes", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._writing = os.open(directory / "image", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                os.ftruncate(self._writing, version.size_bytes)
            except BaseException:
                os.close(self._hashes)
                raise
        except OSError as error:
            remedy = "set XDG_CACHE_HOME to a directory that can be written"
            raise ConfigError(f"{directory}: {error.strerror}: {remedy}") from error
        self._file = HostFile(directory / "image", read_only=True)
        self.block_bytes = self._record.block_bytes
        self._count = -(-version.size_bytes // self.block_bytes)
        self._right = bytearray(-(-self._count // 8))       # a bit for each block whose hash was right

    def has(self, block: int) -> bool:
        if self.had(block):
            return True
        stored = os.pread(self._hashes, HASH_BYTES, block * HASH_BYTES)
        if len(stored) < HASH_BYTES or not any(stored) or digest(self._block(block)) != stored:
            return False
        self._right[block >> 3] |= 1 << (block & 7)
        return True

    def had(self, block: int) -> bool:
        """Whether `has` was true before."""
        return bool(self._right[block >> 3] & 1 << (block & 7))

    def _block(self, block: int) -> bytes:
        offset = block * self.block_bytes
        return self._file.read(offset, min(self.block_bytes, self._record.size_bytes - offset))

    def read(self, offset: int, length: int) -> bytes:
        return self._file.read(offset, length)

    def read_now(self, offset: int, length: int) -> bytes | None:
        return self._file.read_now(offset, length)

    def store(self, first: int, data: bytes) -> None:
        """From a block's start on.  A host without space keeps nothing, which costs only time."""
        view = memoryview(data)
        with contextlib.suppress(OSError):
            for at in range(0, len(view), self.block_bytes):
                block, part = first + at // self.block_bytes, view[at : at + self.block_bytes]
                if os.pwrite(self._writing, part, block * self.block_bytes) < len(part):
                    return
                os.pwrite(self._hashes, digest(part), block * HASH_BYTES)
                self._right[block >> 3] |= 1 << (block & 7)

    @property
    def host_bytes(self) -> int:
        return os.fstat(self._writing).st_blocks * 512

    def close(self) -> None:
        self._file.close()
        os.close(self._writing)
        os.close(self._hashes)


def digest(block: bytes | memoryview) -> bytes:
    return max(xxhash.xxh3_64_intdigest(block), 1).to_bytes(HASH_BYTES, "little")


def disks() -> Path:
    return cache_directory() / "disks"


def directory_of(url: Url) -> Path:
    return disks() / url.key


def _enter(directory: Path, url: Url, version: Version) -> Record:
    """The record of a URL's directory, which is made if it isn't there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = _read(directory)
    if record is None:
        size = version.size_bytes
        block_bytes = max(BLOCK_BYTES, 1 << (-(-size // BLOCKS_MAX) - 1).bit_length())
        record = Record(url.text, size, version.etag, version.modified, block_bytes)
        between = directory / f"record.{secrets.token_hex(8)}"
        between.write_bytes(msgspec.json.encode(record))
        try:
            os.link(between, directory / "record")
        except FileExistsError:         # another process was faster
            record = _read(directory) or record
        finally:
            between.unlink()
    if not version.is_of(record.version):
        raise ImageError(
            "was changed on the server since parts of it were kept here: "
            f"ring3 disk cache --clear {url} takes the new one; overlays on the old one are ruined by that"
        )
    return record


def _read(directory: Path) -> Record | None:
    """None: there is none, or it is torn."""
    try:
        return msgspec.json.decode((directory / "record").read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        (directory / "record").unlink(missing_ok=True)
        return None


# --- for `ring3 disk cache` ---


@dataclass(frozen=True)
class Kept:
    url: str
    size_bytes: int
    host_bytes: int


def kept() -> Iterator[Kept]:
    for directory in sorted(disks().iterdir()) if disks().exists() else ():
        record = _read(directory)
        if record is not None:
            with contextlib.suppress(OSError):
                host_bytes = (directory / "image").stat().st_blocks * 512
                yield Kept(record.url, record.size_bytes, host_bytes)


def clear(url: Url | None = None) -> None:
    """Forgets the blocks of a URL, or all.  Machines that use them have them until they end."""
    every = list(disks().iterdir()) if disks().exists() else []
    for directory in every if url is None else [directory_of(url)]:
        going = directory.with_name(f"{directory.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(FileNotFoundError):
            directory.replace(going)
            shutil.rmtree(going)
