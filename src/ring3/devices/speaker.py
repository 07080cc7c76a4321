"""The PC's speaker: a paper cone behind one bit, played through an audio sink.

What drives the bit (counter 2 of the 8254 and port 61h) tells `drive` each time the wave changes; between
two such calls the wave is computed, and only while there is anything to hear.  The speaker has no state that
a guest could see: after a restore the 8254 drives it anew.

Not modelled: the cone's own frequency response.
"""

from typing import Protocol

from ring3.audio import AudioSink
from ring3.clock import Clock
from ring3.devices.sound.steps import Steps

LOUDNESS = 0.25                         # of full scale: a square wave is loud
INAUDIBLE_NS = 40_000                   # a wave with a shorter period sounds like its mean: 25 kHz


class SpeakerWire(Protocol):
    """The wire from port 61h's AND gate to the speaker, as what drives it sees it."""

    def drive(
        self, level: bool, until_ns: int | None = None, high_ns: float = 0.0, low_ns: float = 0.0
    ) -> None:
        """From now on the wire is at `level`, always (None) or until `until_ns` on the machine's clock.

        Then it changes, and goes on changing: high for `high_ns` and low for `low_ns` in turn; where they
        are 0 it stays as it is after that one change.  So all modes of an 8254 can be said in one call.
        """


class NoSpeaker:
    """Nobody listens."""

    def drive(
        self, level: bool, until_ns: int | None = None, high_ns: float = 0.0, low_ns: float = 0.0
    ) -> None:
        pass


class Speaker:
    def __init__(self, clock: Clock, sink: AudioSink) -> None:
        self._clock = clock
        self._steps = Steps(clock, sink, self._advance)
        self._level = False
        self._until_ns: float | None = None
        self._high_ns = self._low_ns = 0.0

    def drive(
        self, level: bool, until_ns: int | None = None, high_ns: float = 0.0, low_ns: float = 0.0
    ) -> None:
        self._advance()
        if high_ns + low_ns and high_ns + low_ns < INAUDIBLE_NS:
            self._until_ns = None
            self._steps.set(LOUDNESS * high_ns / (high_ns + low_ns))
            return
        self._level, self._until_ns, self._high_ns, self._low_ns = level, until_ns, high_ns, low_ns
        self._steps.set(LOUDNESS * level, playing=until_ns is not None)

    def _advance(self) -> None:
        """The changes of the wave up to now."""
        now_ns = self._clock.now()
        while self._until_ns is not None and self._until_ns <= now_ns:
            self._level = not self._level
            self._steps.set(LOUDNESS * self._level, int(self._until_ns))
            length_ns = self._high_ns if self._level else self._low_ns
            self._until_ns = self._until_ns + length_ns if length_ns else None
