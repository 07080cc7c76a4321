"""Sound on the host's loudspeakers: `host`, through miniaudio.

Each stream is a playback device of its own at its own rate, which the host's sound system mixes.  The
device's thread takes samples from a buffer of at most BUFFER_S; what doesn't fit is dropped, what is
missing is silence.  Playing begins when LEAD_S are there, so that small delays aren't heard.  A device that
had nothing to play for IDLE_S is stopped until there is something again.
"""

import importlib
import threading
from collections.abc import Generator
from typing import Any

from ring3.errors import ConfigError, HostError

LEAD_S, BUFFER_S, IDLE_S = 0.06, 0.5, 2.0
DEVICE_BUFFER_MS = 40


class HostAudio:
    def __init__(self) -> None:
        try:
            self._miniaudio: Any = importlib.import_module("miniaudio")
        except ImportError as error:
            remedy = "install ring3[sound], or give wav:PATH"
            raise ConfigError(f"audio: host needs the package miniaudio: {remedy}") from error
        self._streams: list[HostStream] = []
        self._open_device(44_100, 2, 2).close()     # says at the start whether there is any

    def open(self, rate_hz: int, channels: int, sample_bytes: int) -> "HostStream":
        self._streams = [stream for stream in self._streams if not stream.ended]
        stream = HostStream(self._open_device, rate_hz, channels, sample_bytes)
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        for stream in self._streams:
            stream.shut()

    def _open_device(self, rate_hz: int, channels: int, sample_bytes: int) -> Any:
        formats = self._miniaudio.SampleFormat
        try:
            return self._miniaudio.PlaybackDevice(
                output_format=formats.UNSIGNED8 if sample_bytes == 1 else formats.SIGNED16,
                nchannels=channels,
                sample_rate=rate_hz,
                buffersize_msec=DEVICE_BUFFER_MS,
                app_name="ring3",
            )
        except self._miniaudio.MiniaudioError as error:
            remedy = "give wav:PATH or none"
            raise HostError(f"audio: this host has no sound output ({error}): {remedy}") from error


class HostStream:
    """`write` comes from the machine, `_samples` runs on the device's thread."""

    def __init__(self, open_device: Any, rate_hz: int, channels: int, sample_bytes: int) -> None:
        self._open_device = open_device
        self._format = (rate_hz, channels, sample_bytes)
        self._frame = channels * sample_bytes
        self._rate = rate_hz
        self._silence = b"\x80" if sample_bytes == 1 else b"\0"
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._device: Any = None
        self._started = False
        self._idle_frames = 0
        self.ended = False

    def write(self, frames: bytes) -> None:
        with self._lock:
            room = int(BUFFER_S * self._rate) * self._frame - len(self._buffer)
            self._buffer += frames[:room]
            start = not self._started and len(self._buffer) >= int(LEAD_S * self._rate) * self._frame
        if start and not self.ended:
            self._start()

    def close(self) -> None:
        """Ends once what is buffered has been played."""
        self.ended = True
        if not self._started:
            self.shut()

    def shut(self) -> None:
        self.ended = True
        device, self._device = self._device, None
        if device is not None:
            device.close()

    def _idle(self) -> None:
        """A device can be stopped from any thread but its own."""
        self.shut() if self.ended else self._device.stop()
        self._started = False

    def _start(self) -> None:
        try:
            if self._device is None:
                self._device = self._open_device(*self._format)
            samples = self._samples()
            next(samples)
            self._started, self._idle_frames = True, 0
            self._device.start(samples)
        except Exception:               # the sound system went away: the machine plays on, unheard
            self.ended = True

    def _samples(self) -> Generator[bytes, int, None]:
        """What the device plays next; the end of it stops the device."""
        wanted = yield b""
        while self._idle_frames < (0 if self.ended else IDLE_S) * self._rate or self._buffer:
            length = wanted * self._frame
            with self._lock:
                part = bytes(self._buffer[:length])
                del self._buffer[:length]
            self._idle_frames = 0 if part else self._idle_frames + wanted
            wanted = yield part + self._silence * (length - len(part))
        threading.Thread(target=self._idle, name="audio", daemon=True).start()
