"""The PC's speaker: a paper cone behind one bit, played through an audio sink.

What drives the bit (counter 2 of the 8254 and port 61h) tells `drive` each time the wave changes; between
two such calls the wave is computed.  It becomes samples each CHUNK_NS while there is anything to hear.

Not modelled: the cone's own frequency response.
"""

from typing import Protocol


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
