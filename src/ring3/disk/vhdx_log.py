"""The log of a VHDX image, replayed in memory: [MS-VHDX] 2.3; §: its sections.

A crash can leave metadata that is in the log and not, or half, in its place.  The file is only read, so what
the log holds is laid over it here.  Numbers little endian; the log's sectors have 4 KiB.
"""

import struct
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

from ring3.config.places import Place
from ring3.disk.file import File
from ring3.errors import ImageError

SECTOR_BYTES = 4096
LOG_BYTES_MAX = 16 << 20
SECTORS_MAX = 1 << 18                   # that a log may change: 1 GiB, nearly all of it zeros
LOG = struct.Struct("<HHIQ")            # log version, version, length and offset in the header (§2.2.2)
LOG_AT = 64
ENTRY = struct.Struct("<4sIIIQII16sQQ")         # §2.3.1.1
DESCRIPTOR = struct.Struct("<4sIQQQ")           # §2.3.1.2, §2.3.1.3
SECTOR = struct.Struct("<4sI4084sI")            # §2.3.1.4


class Entry(NamedTuple):
    data: bytes
    start: int                          # in the log
    tail: int                           # where the oldest entry of its sequence starts
    sequence: int
    descriptors: int
    flushed_bytes: int                  # the file is at least that long
    last_bytes: int                     # … or will be, once all is in its place


class Replayed:
    """The file as it will be once the log is replayed."""

    read_only = True

    def __init__(self, file: File, sectors: dict[int, bytes], size_bytes: int) -> None:
        self._file = file
        self._sectors = sectors
        self.size_bytes = size_bytes

    def read(self, offset: int, length: int) -> bytes:
        data = self._file.read(offset, length)
        first, last = offset // SECTOR_BYTES, (offset + length - 1) // SECTOR_BYTES
        changed = [sector for sector in range(first, last + 1) if sector in self._sectors]
        if not changed:
            return data
        padded = bytearray(self._file.read(first * SECTOR_BYTES, (last - first + 1) * SECTOR_BYTES))
        for sector in changed:
            at = (sector - first) * SECTOR_BYTES
            padded[at : at + SECTOR_BYTES] = self._sectors[sector]
        return bytes(padded[offset - first * SECTOR_BYTES :][:length])

    @property
    def path(self) -> Place:
        return self._file.path

    @property
    def identity(self) -> Hashable:
        return self._file.identity

    @property
    def host_bytes(self) -> int:
        return self._file.host_bytes

    @property
    def closed(self) -> bool:
        return self._file.closed

    def read_now(self, offset: int, length: int) -> bytes | None:
        return None

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._file.write(offset, data)

    def flush(self) -> None:
        self._file.flush()

    def punch(self, offset: int, length: int) -> bool:
        return False

    def data_at(self, offset: int) -> int | None:
        return offset

    def hole_at(self, offset: int) -> int:
        return self.size_bytes

    def close(self) -> None:
        self._file.close()


def replay(file: File, header: bytes, guid: bytes, intact: Callable[[bytes], bool]) -> Replayed:
    """`header`: the one that holds; `guid`: of its log.  `intact`: whether an entry's checksum is right."""
    version, _, length, offset = LOG.unpack_from(header, LOG_AT)
    if version or not length or length % SECTOR_BYTES or length > LOG_BYTES_MAX:
        raise ImageError(f"has a log of version {version} and {length} bytes, which is not known here")
    if offset + length > file.size_bytes:
        raise ImageError("is truncated: its log lies behind the file's end")
    log = Log(file.read(offset, length), guid, intact)
    sequence = log.active()
    newest = sequence[-1]
    if newest.flushed_bytes > file.size_bytes:
        raise ImageError(f"is truncated: it had {newest.flushed_bytes} bytes, and has {file.size_bytes}")
    sectors: dict[int, bytes] = {}
    for entry in sequence:
        for sector, data in changes(entry):
            sectors[sector] = data
            if len(sectors) > SECTORS_MAX:
                raise ImageError("has a log that changes more than one can")
    return Replayed(file, sectors, max(file.size_bytes, newest.last_bytes))


class Log:
    """A circular buffer of entries (§2.3)."""

    def __init__(self, data: bytes, guid: bytes, intact: Callable[[bytes], bool]) -> None:
        self._data = data
        self._guid = guid
        self._intact = intact
        self._unchecked = 4 * len(data)         # bytes whose checksums may still be looked at

    def active(self) -> list[Entry]:
        """The valid sequence of entries with the highest number, from its oldest on (§2.3.2)."""
        best: list[Entry] = []
        at = 0
        while at < len(self._data):
            found = self._from(at)
            whole = self._whole(found)
            if whole and (not best or whole[-1].sequence > best[-1].sequence):
                best = whole
            at += sum(len(entry.data) for entry in found) or SECTOR_BYTES
        if not best:
            raise ImageError("was not closed cleanly, and its log is damaged")
        return best

    def _from(self, at: int) -> list[Entry]:
        """Valid entries one behind the other, each with the next number."""
        found: list[Entry] = []
        length = 0
        while length < len(self._data):
            entry = self._entry((at + length) % len(self._data))
            if entry is None or (found and entry.sequence != found[-1].sequence + 1):
                break
            found.append(entry)
            length += len(entry.data)
        return found

    def _whole(self, found: list[Entry]) -> list[Entry]:
        """From the entry on that the newest calls the oldest; nothing if that is not among them."""
        for n, entry in enumerate(found):
            if entry.start == found[-1].tail:
                return found[n:]
        return []

    def _entry(self, start: int) -> Entry | None:
        data = self._data[start : start + ENTRY.size]
        signature, _, length, tail, sequence, descriptors, _, guid, flushed, last = ENTRY.unpack(data)
        if signature != b"loge" or guid != self._guid or not sequence:
            return None
        if not length or length % SECTOR_BYTES or length > len(self._data) or tail % SECTOR_BYTES:
            return None
        if ENTRY.size + descriptors * DESCRIPTOR.size > length:
            return None
        self._unchecked -= length
        if self._unchecked < 0:
            raise ImageError("has a log that leads in circles")
        data = self._data[start : start + length]
        data += self._data[: length - len(data)]
        return Entry(data, start, tail, sequence, descriptors, flushed, last) if self._intact(data) else None


def changes(entry: Entry) -> Iterator[tuple[int, bytes]]:
    """(sector of the file, what it has to be)."""
    at = -(-(ENTRY.size + entry.descriptors * DESCRIPTOR.size) // SECTOR_BYTES) * SECTOR_BYTES
    for n in range(entry.descriptors):
        kind, trailing, leading, offset, sequence = DESCRIPTOR.unpack_from(
            entry.data, ENTRY.size + n * DESCRIPTOR.size
        )
        if sequence != entry.sequence or offset % SECTOR_BYTES:
            raise ImageError("has a damaged log")
        if kind == b"zero" and leading % SECTOR_BYTES == 0 and leading <= SECTORS_MAX * SECTOR_BYTES:
            for sector in range(offset // SECTOR_BYTES, (offset + leading) // SECTOR_BYTES):
                yield sector, bytes(SECTOR_BYTES)
        elif kind == b"desc" and at + SECTOR_BYTES <= len(entry.data):
            mark, high, body, low = SECTOR.unpack_from(entry.data, at)
            if mark != b"data" or high << 32 | low != entry.sequence:
                raise ImageError("has a damaged log")
            yield offset // SECTOR_BYTES, struct.pack("<Q", leading) + body + struct.pack("<I", trailing)
            at += SECTOR_BYTES
        else:
            raise ImageError("has a damaged log")
