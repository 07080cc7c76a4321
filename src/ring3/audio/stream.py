"""Sound for those who come and go: consoles that play it in a browser.

A listener gets `Chunk`s: which stream, its format, and samples.  It is called under the machine lock and
must only pass them on.  Without listeners nothing is done.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from ring3.audio import AudioSink, AudioStream


@dataclass(frozen=True, slots=True)
class Chunk:
    stream: int                         # a number for each stream there ever was
    rate_hz: int
    channels: int
    sample_bytes: int                   # 1: unsigned; 2: signed, little-endian
    frames: bytes                       # empty: the stream has ended


Listener = Callable[[Chunk], None]


class Broadcast:
    """A sink with any number of listeners."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._numbers = itertools.count(1)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Starts listening; call what it returns to stop."""
        self._listeners = [*self._listeners, listener]

        def stop() -> None:
            self._listeners = [other for other in self._listeners if other is not listener]

        return stop

    def open(self, rate_hz: int, channels: int, sample_bytes: int) -> "BroadcastStream":
        return BroadcastStream(self, next(self._numbers), rate_hz, channels, sample_bytes)

    def close(self) -> None:
        self._listeners = []

    def send(self, chunk: Chunk) -> None:
        for listener in self._listeners:
            listener(chunk)


class BroadcastStream:
    def __init__(self, owner: Broadcast, number: int, rate_hz: int, channels: int, sample_bytes: int) -> None:
        self._owner = owner
        self._number = number
        self._format = (rate_hz, channels, sample_bytes)

    def write(self, frames: bytes) -> None:
        self._owner.send(Chunk(self._number, *self._format, frames))

    def close(self) -> None:
        self._owner.send(Chunk(self._number, *self._format, b""))


class Tee:
    """Several sinks as one."""

    def __init__(self, *sinks: AudioSink) -> None:
        self._sinks = sinks

    def open(self, rate_hz: int, channels: int, sample_bytes: int) -> "TeeStream":
        return TeeStream([sink.open(rate_hz, channels, sample_bytes) for sink in self._sinks])

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


class TeeStream:
    def __init__(self, streams: list[AudioStream]) -> None:
        self._streams = streams

    def write(self, frames: bytes) -> None:
        for stream in self._streams:
            stream.write(frames)

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
