"""The speaker's wire as samples."""

import itertools
from array import array

import pytest

from ring3.devices.speaker import LOUDNESS, Speaker

MS = 1_000_000
RATE = 44_100


class Sink:
    def __init__(self):
        self.samples = array("h")
        self.formats = []

    def open(self, *form):
        self.formats.append(form)
        return self

    def write(self, frames):
        self.samples.frombytes(frames)

    def close(self):
        pass


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def speaker(clock, sink):
    return Speaker(clock, sink)


def changes(samples):
    """Where it crosses the middle."""
    high = [sample > 16_384 * LOUDNESS for sample in samples]
    return sum(a != b for a, b in itertools.pairwise(high))


def test_silence_plays_nothing(clock, speaker, sink):
    speaker.drive(False)
    clock.advance(5_000 * MS)
    assert sink.formats == []
    assert clock.next_deadline() is None


def test_a_tone_has_its_frequency_for_as_long_as_it_is_driven(clock, speaker, sink):
    speaker.drive(True, 500_000, 500_000, 500_000)          # 1000 Hz
    clock.advance(1_000 * MS)
    assert sink.formats == [(RATE, 1, 2)]
    assert abs(len(sink.samples) - RATE) < 500
    assert abs(changes(sink.samples) - 2_000) < 25
    assert max(sink.samples) == round(LOUDNESS * 32767)


def test_the_output_rests_once_the_tone_is_over(clock, speaker, sink):
    speaker.drive(True, 500_000, 500_000, 500_000)
    clock.advance(100 * MS)
    speaker.drive(False)
    clock.advance(1_000 * MS)
    assert clock.next_deadline() is None
    assert sink.samples[-1] == 0


def test_one_shots_are_pulses(clock, speaker, sink):
    """Pulse-width modulation by mode 0: low for a part of each 60 µs."""
    for _ in range(1_000):
        now = clock.now()
        speaker.drive(False, now + 30_000)
        clock.advance(60_000)
    middle = sink.samples[200:2_000]
    assert abs(sum(middle) / len(middle) - LOUDNESS * 32767 / 2) < 600


def test_a_wave_too_high_to_hear_is_its_mean(clock, speaker, sink):
    speaker.drive(True, 1, 3_000, 1_000)
    clock.advance(100 * MS)
    assert sink.samples[-1] == pytest.approx(LOUDNESS * 0.75 * 32767, abs=1)


def test_direct_toggling_sounds(clock, speaker, sink):
    for n in range(200):
        speaker.drive(n % 2 == 0)
        clock.advance(MS)
    assert abs(changes(sink.samples) - 200) < 15
