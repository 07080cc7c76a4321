"""Sound into a WAV file: `wav:PATH`.

The file has the format of the first stream that plays; that stream's samples are stored as they are, one
after the other, without the silence in between.  Streams of another format are converted to it, and what
several streams play at the same time is added up.

The file is right after each write but for the lengths in its header, which are set at the end (programs
that read WAV files make do with lengths of 0 or too small).
"""

import struct
from array import array
from pathlib import Path
from typing import BinaryIO

from ring3.errors import HostError

HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
LENGTH_MAX = 0xFFFF_FFFF - HEADER.size
LAG_MAX_S = 1.0                         # how long a stream that plays nothing is waited for

Format = tuple[int, int, int]           # Hz, channels, bytes of a sample


class WavFile:
    def __init__(self, path: str | Path) -> None:
        try:
            self._file: BinaryIO = Path(path).open("wb")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise HostError(f"audio: {path}: {error.strerror or error}: give a path to write to") from error
        self._format: Format | None = None
        self._length = 0                # bytes of samples written
        self._streams: list[WavStream] = []

    def open(self, rate_hz: int, channels: int, sample_bytes: int) -> "WavStream":
        stream = WavStream(self, (rate_hz, channels, sample_bytes))
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        for stream in tuple(self._streams):
            stream.close()
        if not self._file.closed:
            self._header()
            self._file.close()

    def changed(self, stream: "WavStream") -> None:
        """`stream` has more, or has ended: writes what all streams have, or what waited long enough."""
        if self._format is None:
            self._format = stream.format
            self._header()
        length = min(len(other.waiting) for other in self._streams if not other.ended or other.waiting)
        lag = int(LAG_MAX_S * self._format[0]) * frame_bytes(self._format)
        length = max(length, max(len(other.waiting) for other in self._streams) - lag)
        parts = [other.take(length) for other in self._streams if other.waiting]
        self._streams = [other for other in self._streams if not other.ended or other.waiting]
        if parts:
            self._write(mixed(parts, self._format[2]))

    def convert(self, frames: bytes, source: Format) -> bytes:
        return converted(frames, source, self._format or source)

    def _write(self, samples: bytes) -> None:
        samples = samples[: LENGTH_MAX - self._length]
        try:
            self._file.write(samples)
            self._file.flush()
            self._length += len(samples)
        except (OSError, ValueError):   # the disk is full, or we are closed: the machine plays on
            pass

    def _header(self) -> None:
        rate, channels, sample_bytes = self._format or (44_100, 2, 2)
        frame = channels * sample_bytes
        header = HEADER.pack(
            b"RIFF", HEADER.size - 8 + self._length, b"WAVE", b"fmt ", 16, 1, channels, rate, rate * frame,
            frame, 8 * sample_bytes, b"data", self._length,
        )  # fmt: skip
        try:
            self._file.seek(0)
            self._file.write(header)
            self._file.flush()
            self._file.seek(0, 2)
        except OSError:
            pass


class WavStream:
    def __init__(self, file: WavFile, form: Format) -> None:
        self._wav = file
        self.format = form
        self.waiting = bytearray()      # in the file's format
        self.ended = False

    def write(self, frames: bytes) -> None:
        if not self.ended:
            self.waiting += self._wav.convert(frames, self.format)
            self._wav.changed(self)

    def close(self) -> None:
        if not self.ended:
            self.ended = True
            if self.waiting:
                self._wav.changed(self)

    def take(self, length: int) -> bytes:
        part = bytes(self.waiting[:length])
        del self.waiting[:length]
        return part


# --- samples ---


def frame_bytes(form: Format) -> int:
    return form[1] * form[2]


def converted(frames: bytes, source: Format, target: Format) -> bytes:
    """To another rate (by the nearest sample), number of channels and width."""
    if source == target:
        return frames
    channels = [array("h", words(frames, source[2])[n :: source[1]]) for n in range(source[1])]
    if source[1] > target[1]:
        channels = [array("h", [(left + right) // 2 for left, right in zip(*channels, strict=True)])]
    count = len(channels[0]) * target[0] // source[0]
    out = array("h", bytes(2 * count * target[1]))
    for n in range(target[1]):
        samples = channels[n % len(channels)]
        out[n :: target[1]] = array("h", [samples[at * source[0] // target[0]] for at in range(count)])
    return narrowed(out, target[2])


def mixed(parts: list[bytes], sample_bytes: int) -> bytes:
    """The sum of streams of one format; shorter ones are silent at their ends."""
    if len(parts) == 1:
        return parts[0]
    longest = max(map(len, parts)) // sample_bytes
    total = [0] * longest
    for part in parts:
        for at, sample in enumerate(words(part, sample_bytes)):
            total[at] += sample
    return narrowed(array("h", [max(-32768, min(32767, sample)) for sample in total]), sample_bytes)


def words(samples: bytes, sample_bytes: int) -> "array[int]":
    """As 16-bit samples."""
    if sample_bytes == 2:
        return array("h", samples[: len(samples) & -2])
    return array("h", [(sample - 128) << 8 for sample in samples])


def narrowed(samples: "array[int]", sample_bytes: int) -> bytes:
    return samples.tobytes() if sample_bytes == 2 else bytes((sample >> 8) + 128 for sample in samples)
