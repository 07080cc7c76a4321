"""Audio sinks: where the sound of the machine's chips goes on the host.

A chip knows only `AudioSink`; which class stands behind it is the board's business.  Each thing that plays
at one rate (a DAC, the speaker) opens a stream of its own; the sink mixes.

Samples are as in a WAV file: of one byte unsigned (128 is silence), of two bytes signed and little-endian;
channels interleaved, left first.  A frame is one sample of each channel.

Chips play by the machine's clock, and would without any sink: `write` is called with what was played since
the last call, some 10 ms worth, under the machine lock.  It never waits; a sink that cannot keep up drops.
"""

from typing import Protocol

from ring3.errors import ConfigError


class AudioStream(Protocol):
    """One source of sound, from `open` to `close`."""

    def write(self, frames: bytes) -> None:
        """Whole frames that follow those written before."""

    def close(self) -> None:
        """Nothing more comes; what was written is still played."""


class AudioSink(Protocol):
    def open(self, rate_hz: int, channels: int, sample_bytes: int) -> AudioStream:
        """A new stream of 1 or 2 channels with samples of 1 or 2 bytes."""

    def close(self) -> None:
        """Gives back what the host lent."""


class NoStream:
    """Nobody listens."""

    def write(self, frames: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class NoAudio:
    """`none`: the machine plays to nobody."""

    def open(self, rate_hz: int, channels: int, sample_bytes: int) -> AudioStream:
        return NoStream()

    def close(self) -> None:
        pass


def open_sink(spec: str) -> AudioSink:
    """The sink that `host`, `wav:PATH` or `none` names."""
    if spec == "host":
        from ring3.audio.host import HostAudio
        return HostAudio()
    kind, _, path = spec.partition(":")
    if kind == "wav" and path:
        from ring3.audio.wav import WavFile
        return WavFile(path)
    if spec == "none":
        return NoAudio()
    raise ConfigError(f"audio: {spec!r} is none of host, wav:PATH, none")
