"""A level that is set now and then, as samples: a speaker's wire, a converter fed by a program.

Between two settings the level stays.  A sample is the mean of the level over its time, so what is faster
than the sampling rate (pulse-width modulation) still sounds.  While nothing changes nothing runs: after
QUIET_NS without a change the output stops, until the next one.
"""

from array import array
from collections.abc import Callable

from ring3.audio import AudioSink
from ring3.clock import NS_PER_S, Clock, Timer
from ring3.devices.sound.frames import Output

RATE_HZ = 44_100
CHUNK_NS = 10_000_000
QUIET_NS = 300_000_000


class Steps:
    """16-bit mono; levels from -1 to 1."""

    def __init__(self, clock: Clock, sink: AudioSink, on_chunk: Callable[[], None] = lambda: None) -> None:
        """`on_chunk` is called before samples are made, for who computes levels ahead of time."""
        self._clock = clock
        self._on_chunk = on_chunk
        self._output = Output(sink)
        self._timer = Timer(clock, self._due)
        self._playing = False
        self._level = 0.0
        self._rest = 0.0                # the level that silence is
        self._start_ns = 0              # of sample 0
        self._made = 0                  # samples since
        self._at_ns = 0                 # up to where the level is accounted for
        self._sum = 0.0                 # of the sample begun: level times ns
        self._changed_ns = 0
        self._samples: list[int] = []

    def set(self, level: float, at_ns: int | None = None, *, playing: bool = False) -> None:
        """The level from now, or from `at_ns`, on; times don't go back.

        `playing`: it will change by itself, which `on_chunk` brings up.
        """
        now_ns = self._clock.now() if at_ns is None else max(at_ns, self._at_ns)
        if level == self._level and (self._playing or not playing):
            return
        if not self._playing:
            self._begin(now_ns)
        self._advance(now_ns)
        self._level, self._changed_ns = level, now_ns

    def stop(self) -> None:
        """Silence at once: reset."""
        self._playing = False
        self._level = self._rest = 0.0
        self._samples.clear()
        self._timer.cancel()
        self._output.close()

    def _begin(self, now_ns: int) -> None:
        self._playing = True
        self._start_ns = self._at_ns = now_ns
        self._made, self._sum, self._rest = 0, 0.0, self._level
        self._timer.arm(now_ns + CHUNK_NS)

    def _due(self) -> None:
        self._on_chunk()
        now_ns = self._clock.now()
        self._advance(now_ns)
        samples, self._samples = self._samples, []
        self._output.play(RATE_HZ, 1, 2, array("h", samples).tobytes())
        if now_ns - self._changed_ns > QUIET_NS:
            self._playing = False
        else:
            self._timer.arm(now_ns + CHUNK_NS)

    def _advance(self, to_ns: int) -> None:
        """Accounts for the level up to `to_ns`."""
        while self._at_ns < to_ns:
            begin_ns, end_ns = self._sample_ns(self._made), self._sample_ns(self._made + 1)
            until_ns = min(end_ns, to_ns)
            level = self._level - self._rest
            self._sum += level * (until_ns - self._at_ns)
            self._at_ns = until_ns
            if until_ns < end_ns:
                return
            self._samples.append(_sample(self._sum / (end_ns - begin_ns)))
            self._made, self._sum = self._made + 1, 0.0
            whole = (to_ns - self._start_ns) * RATE_HZ // NS_PER_S - self._made
            if whole > 0:               # samples of one level
                self._samples += [_sample(level)] * whole
                self._made += whole
                self._at_ns = self._sample_ns(self._made)

    def _sample_ns(self, number: int) -> int:
        """When a sample begins, rounded up, so that a time is never in a sample that it is before."""
        return self._start_ns - -number * NS_PER_S // RATE_HZ


def _sample(level: float) -> int:
    return max(-32768, min(32767, round(level * 32767)))
