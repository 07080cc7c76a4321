"""The checkpoint file: a header, then sections, each with its XXH3-128 (docs/checkpoint-format.md).

1. A file that has its name is complete: it is written under another, synced, and renamed.
2. A Reader that could be made has checked every byte; who gets one need not doubt it.  A file that this
   process has checked or written before, and that nobody has touched since, counts as checked.
3. What the file says of sizes is believed only as far as the file and RAM_MAX go.

Sizes and offsets are in bytes, numbers little-endian, sections start at a page.
"""

import contextlib
import mmap
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import xxhash
from backports import zstd

from ring3.errors import CheckpointError, HostError

SUFFIX = ".ring3"                       # of a checkpoint's file name
MAGIC = b"R3CHECK\n"
VERSION = 2
PAGE = 4096
RAM_MAX = 65 << 30                      # with video memory
HEADER = struct.Struct("<8sIIQ")        # magic, version, number of sections, size of the file
# Name, compression, 0, offset, stored size, plain size, hash as stored.
SECTION = struct.Struct("<8sIIQQQ16s")
HASH_BYTES = 16
SECTIONS_MAX = (PAGE - HEADER.size - HASH_BYTES) // SECTION.size
RAW, ZSTD = 0, 1
ZSTD_LEVEL = 1
CHUNK = 1 << 20

KNOWN_MAX = 256
TICK_NS = 100_000_000                   # longer than the host's file times stand still

Buffer = bytes | bytearray | memoryview
# Files that this process has checked or written, by device and inode: size, and times of data and status.
_known: dict[tuple[int, int], tuple[int, int, int]] = {}


class Section(NamedTuple):
    compression: int
    offset: int
    stored: int
    plain: int
    digest: bytes


# --- writing ---


def write(path: Path, sections: Mapping[str, list[Buffer]], *, compress: bool = False) -> None:
    """Writes the file; sections are given as pieces.  `compress`: those of whole pages by Zstandard."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with new.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)     # it holds all that was in the guest's memory
                _write(file, sections, compress)
                file.flush()
                os.fdatasync(file.fileno())
                # Of its own: who writes to it later leaves a time of the kernel's coarse clock.
                os.utime(file.fileno(), ns=(time.time_ns(), time.time_ns()))
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        _sync_directory(path.parent)
        _remember(path.stat())
    except OSError as error:
        raise cannot_write(path, error) from error


def _remember(status: os.stat_result) -> None:
    if len(_known) >= KNOWN_MAX:
        _known.clear()
    _known[status.st_dev, status.st_ino] = _touched(status)


def _touched(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def cannot_write(path: Path, error: OSError) -> HostError:
    return HostError(f"{path}: the checkpoint cannot be written: {error.strerror or error}")


def _write(file: Any, sections: Mapping[str, list[Buffer]], compress: bool) -> None:
    entries = []
    file.seek(PAGE)
    for name, pieces in sections.items():
        offset = file.seek(-file.tell() % PAGE, os.SEEK_CUR)
        kind = ZSTD if compress and name == "pages" else RAW
        stored, plain, digest = _write_section(file, pieces, kind)
        entries.append(SECTION.pack(name.encode(), kind, 0, offset, stored, plain, digest))
    size = file.tell() + -file.tell() % PAGE
    file.truncate(size)
    header = HEADER.pack(MAGIC, VERSION, len(entries), size) + b"".join(entries)
    header = header.ljust(PAGE - HASH_BYTES, b"\0")
    file.seek(0)
    file.write(header + xxhash.xxh3_128_digest(header))


def _write_section(file: Any, pieces: list[Buffer], kind: int) -> tuple[int, int, bytes]:
    """Size as stored and plain, and the hash as stored."""
    digest, stored, plain = xxhash.xxh3_128(), 0, 0
    compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL) if kind == ZSTD else None
    for piece in pieces:
        plain += len(piece)
        data = piece if compressor is None else compressor.compress(piece)
        digest.update(data)
        stored += file.write(data)
    if compressor is not None:
        data = compressor.flush()
        digest.update(data)
        stored += file.write(data)
    return stored, plain, digest.digest()


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- reading ---


class Reader:
    """An open checkpoint, checked from end to end.  A mistake of any kind is one line."""

    def __init__(self, path: Path, only: str | None = None) -> None:
        """`only`: the one section that is checked, and may be used."""
        self.path = path
        try:
            self._file = path.open("rb")
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: there is no such checkpoint") from error
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from error
        try:
            self.status = os.fstat(self._file.fileno())
            self.size_bytes = self.status.st_size
            if self.size_bytes < PAGE:
                raise self.damaged("it is too short")
            self._map = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            self._file.close()
            raise CheckpointError(f"{path}: {error}") from error
        except BaseException:
            self._file.close()
            raise
        self._view = memoryview(self._map)
        try:
            self._sections = self._read_header()
            self.names = frozenset(self._sections)
            if only is not None:
                self._sections = {name: each for name, each in self._sections.items() if name == only}
            key = (self.status.st_dev, self.status.st_ino)
            if _known.get(key) != _touched(self.status):
                self._check_sections()
                if only is None and time.time_ns() - self.status.st_ctime_ns > TICK_NS:
                    _remember(self.status)
        except BaseException:
            self.close()
            raise

    def _check_sections(self) -> None:
        for name, section in self._sections.items():
            if xxhash.xxh3_128_digest(self._stored(section)) != section.digest:
                raise self.damaged(f"section {name} has another hash than when it was written")
            if any(self._view[section.offset + section.stored : self._end_of(section)]):
                raise self.damaged(f"there is something behind section {name}")

    def _read_header(self) -> dict[str, Section]:
        header = self._view[: PAGE - HASH_BYTES]
        magic, version, count, size = HEADER.unpack_from(header)
        if magic != MAGIC:
            raise CheckpointError(f"{self.path}: this is no checkpoint of Ring3")
        if xxhash.xxh3_128_digest(header) != bytes(self._view[PAGE - HASH_BYTES : PAGE]):
            raise self.damaged("its header has another hash than when it was written")
        self.version = version
        if not 1 <= version <= VERSION:
            raise CheckpointError(f"{self.path}: its format is version {version}; this Ring3 knows {VERSION}")
        if size != self.size_bytes:
            raise self.damaged(f"it has {self.size_bytes} bytes of {size}")
        if count > SECTIONS_MAX:
            raise self.damaged("its header is impossible")
        return dict(self._read_section(header, HEADER.size + n * SECTION.size) for n in range(count))

    def _read_section(self, header: memoryview, at: int) -> tuple[str, Section]:
        name, compression, _, *numbers, digest = SECTION.unpack_from(header, at)
        offset, stored, plain = numbers
        section = Section(compression, offset, stored, plain, digest)
        inside = PAGE <= section.offset <= self.size_bytes - section.stored and not section.offset % PAGE
        known = compression in (RAW, ZSTD) and (compression == ZSTD or section.plain == section.stored)
        if not (inside and known and section.plain <= RAM_MAX):
            raise self.damaged("its header is impossible")
        return name.rstrip(b"\0").decode("ascii", "replace"), section

    def _stored(self, section: Section) -> memoryview:
        return self._view[section.offset : section.offset + section.stored]

    @staticmethod
    def _end_of(section: Section) -> int:
        """Of its last page."""
        end = section.offset + section.stored
        return end + -end % PAGE

    def section(self, name: str) -> memoryview:
        """A section's plain bytes; good until `close`."""
        section = self._sections.get(name)
        if section is None:
            raise self.damaged(f"section {name} is missing")
        if section.compression == RAW:
            return self._stored(section)
        return self._decompress(section)

    def place(self, name: str) -> tuple[int, int] | None:
        """Descriptor (good until `close`) and offset of a section that is stored as it is."""
        section = self._sections[name]
        return (self._file.fileno(), section.offset) if section.compression == RAW else None

    def _decompress(self, section: Section) -> memoryview:
        plain = bytearray(section.plain)
        decompressor, at = zstd.ZstdDecompressor(), 0
        try:
            data: Buffer = self._stored(section)
            while not decompressor.eof:
                piece = decompressor.decompress(data, CHUNK)
                data = b""
                if at + len(piece) > section.plain or (not piece and decompressor.needs_input):
                    break
                plain[at : at + len(piece)] = piece
                at += len(piece)
        except zstd.ZstdError as error:
            raise self.damaged(str(error)) from error
        if at != section.plain or not decompressor.eof:
            raise self.damaged("a section has another size than its header says")
        return memoryview(plain)

    def record(self, name: str, kind: type[Any]) -> Any:
        """A section that is a msgpack record."""
        try:
            return msgspec.msgpack.decode(self.section(name), type=kind)
        except msgspec.DecodeError as error:
            raise self.damaged(str(error)) from error

    def has(self, name: str) -> bool:
        return name in self._sections

    def damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: the checkpoint is damaged: {why}")

    def close(self) -> None:
        self._file.close()
        self._view.release()
        with contextlib.suppress(BufferError):      # a section is still in use: it goes with that
            self._map.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
