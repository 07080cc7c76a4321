"""What sound chips share: a clock of frames, and the output to an audio sink.

A frame is one sample of each channel.  `FrameClock` asks its chip to move frames at the rate programmed, on
the machine's clock, whether anybody listens or not: at least each CHUNK_NS, and to the frame when the chip
has an interrupt due.  What came late because the host was busy is made up for, but never across an
interrupt at once: the guest gets time to react in between, so it loses nothing either.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass

from ring3.audio import AudioSink, AudioStream
from ring3.clock import NS_PER_S, Clock, Timer

CHUNK_NS = 5_000_000
START_NS = 20_000_000
LATE_MAX_NS = 500_000_000               # what is later than that is not made up for


@dataclass(slots=True)
class FrameClockState:
    """Part of a chip's state."""

    rate_hz: int = 0                    # 0: stopped
    base_ns: int = 0                    # when frame 0 was due
    moved: int = 0                      # frames since


class FrameClock:
    def __init__(
        self, clock: Clock, move: Callable[[int], int], until_event: Callable[[], int]
    ) -> None:
        """`move(frames)` moves as many as it can, and says how many; `until_event()`: frames (at least 1)
        until something happens that the guest is told of."""
        self._clock = clock
        self._move = move
        self._until_event = until_event
        self._timer = Timer(clock, self._due)
        self.state = FrameClockState()

    @property
    def running(self) -> bool:
        return self.state.rate_hz > 0

    def start(self, rate_hz: int) -> None:
        """From now on; a clock that runs goes on from this frame at the new rate."""
        s = self.state
        s.rate_hz, s.base_ns, s.moved = rate_hz, self._clock.now(), 0
        self._arm(START_NS)

    def stop(self) -> None:
        self.state.rate_hz = 0
        self._timer.cancel()

    def restore(self, state: FrameClockState) -> None:
        self.state = state
        if self.running:
            self._arm()
        else:
            self._timer.cancel()

    def catch_up(self) -> None:
        """Moves what is due now: for a guest that asks how far it got."""
        if self.running:
            self._due()

    def event_moved(self) -> None:
        """The next event comes earlier or later than it would have."""
        if self.running:
            self._arm()

    def _due(self) -> None:
        s = self.state
        owed = (self._clock.now() - s.base_ns) * s.rate_hz // NS_PER_S - s.moved
        if owed > 0:
            wanted = min(owed, self._until_event())
            moved = self._move(wanted)
            s.moved += moved
            if moved < wanted or owed * NS_PER_S > LATE_MAX_NS * s.rate_hz:
                s.base_ns, s.moved = self._clock.now(), 0
        if self.running:
            self._arm()

    def _arm(self, chunk_ns: int = CHUNK_NS) -> None:
        s = self.state
        event = self._until_event()
        frames = min(event, max(1, chunk_ns * s.rate_hz // NS_PER_S))
        due_ns = s.base_ns - -(s.moved + frames) * NS_PER_S // s.rate_hz
        pause_ns = min(event * NS_PER_S // s.rate_hz // 4, CHUNK_NS)
        self._timer.arm(max(due_ns, self._clock.now() + pause_ns))


class Output:
    """A stream of the sink, opened anew when the format changes."""

    def __init__(self, sink: AudioSink) -> None:
        self._sink = sink
        self._stream: AudioStream | None = None
        self._format = (0, 0, 0)

    def play(self, rate_hz: int, channels: int, sample_bytes: int, frames: bytes) -> None:
        if not frames:
            return
        wanted = (rate_hz, channels, sample_bytes)
        if self._stream is None or wanted != self._format:
            self.close()
            self._stream = self._sink.open(rate_hz, channels, sample_bytes)
            self._format = wanted
        self._stream.write(frames)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


# --- samples ---

FLIPPED = bytes(value ^ 0x80 for value in range(256))


def flip_8(samples: bytes) -> bytes:
    """Between signed and unsigned bytes."""
    return samples.translate(FLIPPED)


def flip_16(samples: bytes) -> bytes:
    """Between signed and unsigned words."""
    mask = int.from_bytes(b"\x00\x80" * (len(samples) // 2), "little")
    return (int.from_bytes(samples, "little") ^ mask).to_bytes(len(samples), "little")


def scaled(samples: bytes, channels: int, sample_bytes: int, gains: tuple[float, float]) -> bytes:
    """Samples as a sink takes them, louder or softer: `gains` of left and right, 1.0 leaves them alone."""
    left, right = gains
    if channels == 1:
        left = right = (left + right) / 2
    if left == right == 1.0:
        return samples
    if sample_bytes == 1:
        wide = array("b", flip_8(samples))
        limit, kind = 0x7F, "b"
    else:
        wide = array("h", samples[: len(samples) & -2])
        limit, kind = 0x7FFF, "h"
    for channel, gain in enumerate((left, right)[:channels]):
        wide[channel::channels] = array(
            kind, [max(-limit - 1, min(limit, round(gain * sample))) for sample in wide[channel::channels]]
        )
    return flip_8(wide.tobytes()) if sample_bytes == 1 else wide.tobytes()
