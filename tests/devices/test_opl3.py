"""OPL3: what programs that write its registers hear; levels, pitches and times against the manual's."""

import cmath
import math
from array import array

import pytest

from ring3._native import play_fm
from ring3.clock import ManualClock
from ring3.devices.sound.opl3 import RATE_HZ, Opl3, State
from ring3.state import load, record

MS = 1_000_000
PEAK = 4084                             # of one operator
FREQUENCY, BLOCK = 0x2AE, 4             # of the manual's A: 440 Hz, almost


class Sink:
    def __init__(self):
        self.samples = array("h")
        self.formats = set()

    def open(self, *form):
        self.formats.add(form)
        return self

    def write(self, frames):
        self.samples.frombytes(frames)

    def close(self):
        pass


class Chip:
    """A chip, its clock and its sound."""

    def __init__(self, gains=(1.0, 1.0)):
        self.clock, self.sink = ManualClock(), Sink()
        self.fm = Opl3(self.clock, self.sink, play_fm, lambda: gains)

    def set(self, *pairs):
        """Registers and values, in turn."""
        for register, value in zip(pairs[::2], pairs[1::2], strict=True):
            self.fm.write(register >> 8 << 1, register & 0xFF)
            self.fm.write((register >> 8 << 1) + 1, value)

    def operator(self, at, flags=0x21, level=0, attack=0xF0, sustain=0x0F, wave=0):
        """At once at full level, held, and gone at once when its key is up."""
        self.set(0x20 + at, flags, 0x40 + at, level, 0x60 + at, attack, 0x80 + at, sustain, 0xE0 + at, wave)

    def key(self, channel=0, on=True, frequency=FREQUENCY, block=BLOCK):
        self.set(0xA0 + channel, frequency & 0xFF, 0xB0 + channel, on << 5 | block << 2 | frequency >> 8)

    def run(self, ms):
        """What is played within that time, left and right."""
        before = len(self.sink.samples)
        self.clock.advance(ms * MS)
        new = self.sink.samples[before:]
        return new[::2], new[1::2]


@pytest.fixture
def chip():
    """A sine on channel 0, when its key goes down: its modulator is off."""
    chip = Chip()
    chip.set(0x105, 1, 0xC0, 0x31)
    chip.operator(0x00, level=0x3F, attack=0)
    chip.operator(0x03)
    return chip


def pitch_hz(samples):
    """By the times between its first and its last rise through zero, found between samples."""
    rises = [n - samples[n] / (samples[n] - samples[n - 1])
             for n in range(1, len(samples)) if samples[n - 1] < 0 <= samples[n]]
    return RATE_HZ * (len(rises) - 1) / (rises[-1] - rises[0])


def strength(samples, frequency_hz):
    """Of one frequency among others; 1.0: a sine of full size."""
    turn = -2j * math.pi * frequency_hz / RATE_HZ
    return 2 / len(samples) / PEAK * abs(sum(s * cmath.exp(turn * n) for n, s in enumerate(samples)))


def loudness_db(samples):
    return 20 * math.log10(max(samples) / PEAK)


def note_hz(frequency=FREQUENCY, block=BLOCK):
    return frequency * 2 ** (block - 20) * RATE_HZ


# --- pitch ---


@pytest.mark.parametrize(("frequency", "block"), [(0x2AE, 4), (0x157, 5), (0x3FF, 2), (0x200, 6)])
def test_pitch_is_the_frequency_number_times_a_power_of_two(chip, frequency, block):
    chip.key(frequency=frequency, block=block)
    assert pitch_hz(chip.run(200)[0]) == pytest.approx(note_hz(frequency, block), rel=1e-3)


@pytest.mark.parametrize(("mult", "factor"), [(0, 0.5), (1, 1), (2, 2), (9, 9), (11, 10), (13, 12), (14, 15)])
def test_mult_multiplies_the_pitch(chip, mult, factor):
    chip.operator(0x03, flags=0x20 | mult)
    chip.key(block=3)
    assert pitch_hz(chip.run(200)[0]) == pytest.approx(factor * note_hz(block=3), rel=1e-3)


def test_vibrato_swings_by_14_cents_six_times_a_second(chip):
    chip.operator(0x03, flags=0x61)
    chip.set(0xBD, 0x40)
    chip.key(frequency=0x3FF, block=5)
    period = 8192
    left = chip.run(400)[0]
    pitches = [pitch_hz(left[n : n + 900]) for n in range(0, 2 * period, 1024)]
    cents = [1200 * math.log2(pitch / note_hz(0x3FF, 5)) for pitch in pitches]
    assert max(cents) == pytest.approx(12, abs=1.5)         # 7 of 1023
    assert min(cents) == pytest.approx(-12, abs=1.5)
    assert cents[:8] == pytest.approx(cents[8:], abs=0.6)


# --- level ---


@pytest.mark.parametrize("steps", [0, 1, 2, 8, 16, 32, 48])
def test_total_level_goes_by_three_quarters_of_a_decibel(chip, steps):
    chip.operator(0x03, level=steps)
    chip.key()
    assert loudness_db(chip.run(20)[0]) == pytest.approx(-0.75 * steps, abs=0.02 * steps + 0.05)


@pytest.mark.parametrize(("bits", "db"), [(0, 0), (2, 1.5), (1, 3), (3, 6)])
def test_key_scale_level_is_so_many_decibels_an_octave(chip, bits, db):
    chip.operator(0x03, level=bits << 6)
    levels = []
    for block in (6, 7):
        chip.key(on=False)
        chip.run(20)
        chip.key(frequency=0x200, block=block)
        levels.append(loudness_db(chip.run(20)[0]))
    assert levels[0] - levels[1] == pytest.approx(db, abs=0.1)


@pytest.mark.parametrize(("depth", "db"), [(0x80, 4.8), (0, 1.0)])
def test_tremolo_swings_3_7_times_a_second(chip, depth, db):
    chip.operator(0x03, flags=0xA1, wave=6)
    chip.set(0xBD, depth)
    chip.key(frequency=0)               # a level
    period = 210 * 64
    left = chip.run(600)[0]
    assert 20 * math.log10(max(left) / min(left)) == pytest.approx(db, abs=0.2)
    assert left[:period] == left[period : 2 * period]


def test_the_mixer_makes_it_softer():
    chip = Chip(gains=(0.5, 0.25))
    chip.operator(0x03, wave=2)
    chip.key()
    left, right = chip.run(20)
    assert (max(left), max(right)) == (PEAK // 2, PEAK // 4)


def test_many_voices_are_clipped():
    chip = Chip()
    chip.set(0x105, 1)
    for channel, at in enumerate((0x03, 0x04, 0x05, 0x0B, 0x0C, 0x0D, 0x13, 0x14, 0x15)):
        chip.set(0xC0 + channel, 0x30)
        chip.operator(at, wave=6)
        chip.key(channel)
    left, _ = chip.run(20)
    assert (max(left), min(left)) == (32767, -32768)


# --- envelopes ---


def held_until(samples, db):
    """When the size of a square wave has first fallen below, ms."""
    limit = PEAK * 10 ** (-db / 20)
    return next(n for n, sample in enumerate(samples) if abs(sample) < limit) * 1000 / RATE_HZ


def risen_after(samples, db):
    limit = PEAK * 10 ** (-db / 20)
    return next(n for n, sample in enumerate(samples) if abs(sample) >= limit) * 1000 / RATE_HZ


# The manual's tables are for 50 kHz, and its 0 to 100 % are 96 dB and 0 dB.
@pytest.mark.parametrize(("rate", "ms"), [(3, 706.56), (4, 353.28), (5, 176.76), (7, 44.16), (9, 11.04)])
def test_attack_takes_the_manuals_time(chip, rate, ms):
    chip.operator(0x03, attack=rate << 4, wave=6)
    chip.key(frequency=0x100, block=0)
    assert risen_after(chip.run(800)[0], 0.1) == pytest.approx(ms * 50_000 / RATE_HZ, rel=0.03)


# 10 to 90 % of an amplitude are 19 dB.
@pytest.mark.parametrize(("rate", "ms"), [(5, 513.28), (6, 256.64), (8, 64.16), (10, 16.04)])
def test_decay_takes_the_manuals_time(chip, rate, ms):
    chip.operator(0x03, attack=0xF0 | rate, sustain=0xFF, wave=6)
    chip.key(frequency=0x100, block=0)
    samples = chip.run(900)[0]
    taken_ms = held_until(samples, 20) - held_until(samples, 0.92)
    assert taken_ms == pytest.approx(ms * 50_000 / RATE_HZ, rel=0.05)


@pytest.mark.parametrize("level", [1, 5, 10])
def test_sustain_stays_at_its_level_of_3_decibels_each(chip, level):
    chip.operator(0x03, attack=0xFF, sustain=level << 4, wave=6)
    chip.key()
    chip.run(100)
    left = chip.run(100)[0]
    assert loudness_db(left) == pytest.approx(-3 * level, abs=0.3)
    assert len(left) > 4000


def test_without_egt_a_note_fades_while_its_key_is_down(chip):
    chip.operator(0x03, flags=0x01, attack=0xFF, sustain=0x1A)
    chip.key()
    assert max(chip.run(20)[0]) > PEAK // 3
    chip.run(200)
    assert not chip.run(100)[0]


@pytest.mark.parametrize(("flags", "block", "ratio"), [(0x31, 6, 2), (0x31, 2, 2), (0x21, 7, 2 ** 0.25)])
def test_key_scaling_makes_higher_notes_shorter(chip, flags, block, ratio):
    """KSR: twice as fast with two blocks more; without it, a quarter of that."""
    chip.operator(0x03, flags=flags, attack=0xF4, sustain=0xFF, wave=6)
    times = []
    for higher in (0, 2):
        chip.key(frequency=0x100, block=block - 2 + higher)
        times.append(held_until(chip.run(2000)[0], 20))
        chip.key(on=False)
        chip.run(10)
    assert times[0] / times[1] == pytest.approx(ratio if flags & 0x10 else 1.25, rel=0.1)


def test_release_takes_its_time_and_then_nothing_is_played_any_more(chip):
    chip.operator(0x03, sustain=0x08, wave=6)
    chip.key(frequency=0x100, block=0)
    chip.run(50)
    chip.key(frequency=0x100, block=0, on=False)
    samples = chip.run(600)[0]
    assert held_until(samples, 20) == pytest.approx(72, rel=0.05)
    assert len(samples) < RATE_HZ // 2
    assert chip.clock.next_deadline() is None


def test_a_chip_that_plays_nothing_costs_nothing(chip):
    chip.key(on=False)
    chip.set(0xBD, 0xC0, 0x104, 0x3F, 0x08, 0x40)
    assert chip.clock.next_deadline() is None
    assert not chip.run(1000)[0]


def test_a_key_that_is_up_for_a_moment_starts_its_note_anew(chip):
    chip.operator(0x03, attack=0xFA, sustain=0xFF)
    chip.key()
    chip.run(100)
    assert max(chip.run(20)[0], default=0) < PEAK // 10
    chip.key(on=False)
    chip.key()
    assert max(chip.run(20)[0]) > PEAK * 9 // 10


# --- channels ---


def test_without_new_only_four_waveforms_both_sides_and_two_operators():
    chip = Chip()
    chip.set(0x104, 0x3F, 0xC0, 0x00)
    chip.operator(0x03, wave=6)         # as waveform 2: never negative
    chip.key()
    left, right = chip.run(20)
    assert left == right
    assert min(left) >= 0
    assert max(left) == PEAK


SIDES = [(0x10, (True, False)), (0x20, (False, True)), (0, (False, False))]


@pytest.mark.parametrize(("bits", "sides"), SIDES)
def test_a_channel_plays_on_the_sides_its_bits_say(chip, bits, sides):
    chip.set(0xC0, 1 | bits)
    chip.key()
    left, right = chip.run(30)
    assert (any(left), any(right)) == sides


def test_the_second_register_set_has_nine_channels_more():
    chip = Chip()
    chip.set(0x105, 1, 0x1C8, 0x30)
    chip.operator(0x115)
    chip.key(0x108)
    assert pitch_hz(chip.run(100)[0]) == pytest.approx(note_hz(), rel=1e-3)


def test_a_modulator_adds_sidebands_as_bessel_says(chip):
    """Carrier and modulator at the note's pitch; the modulation's index follows from the modulator's size."""
    chip.set(0xC0, 0x30)
    chip.operator(0x00, flags=0x22, level=0x10)             # -12 dB: twice the pitch
    chip.key()
    left = chip.run(200)[0]
    index = PEAK / 1024 * 2 * math.pi * 10 ** (-12.04 / 20)
    bessel = [sum((-1) ** k / math.factorial(k) / math.factorial(k + n) * (index / 2) ** (2 * k + n)
                  for k in range(40)) for n in range(6)]
    note = note_hz()
    # Side bands below zero fold back onto those above it.
    wanted = [abs(bessel[0] + bessel[1]), abs(bessel[1] - bessel[2]), abs(bessel[2] + bessel[3])]
    heard = [strength(left, note * n) for n in (1, 3, 5)]
    assert heard == pytest.approx(wanted, abs=0.06)


def test_feedback_makes_overtones_and_its_depth_says_how_many(chip):
    chip.operator(0x00)
    chip.operator(0x03, level=0x3F, attack=0)
    heard = []
    for depth in (0, 2, 4):
        chip.set(0xC0, 0x31 | depth << 1)
        chip.key()
        left = chip.run(100)[0]
        chip.key(on=False)
        chip.run(10)
        heard.append(sum(strength(left, note_hz() * n) for n in range(2, 8)))
    assert heard[0] < 0.01
    assert heard[0] + 0.05 < heard[1] < heard[2] - 0.1


FOUR = (0x00, 0x03, 0x08, 0x0B)


ALGORITHMS = [(0, 0, {3}), (0, 1, {1, 3}), (1, 0, {0, 3}), (1, 1, {0, 2, 3})]


@pytest.mark.parametrize(("first", "second", "heard"), ALGORITHMS)
def test_four_operators_are_heard_as_their_algorithm_says(first, second, heard):
    """Each alone, by leaving the others silent."""
    for alone in range(4):
        chip = Chip()
        chip.set(0x105, 1, 0x104, 1, 0xC0, 0x30 | first, 0xC3, 0x30 | second)
        for number, at in enumerate(FOUR):
            chip.operator(at, attack=0xF0 if number == alone else 0)
        chip.key()
        left = chip.run(50)[0]
        assert any(left) == (alone in heard)
        if alone in heard:
            assert pitch_hz(left) == pytest.approx(note_hz(), rel=1e-2)


def test_the_second_half_of_four_operators_has_no_key_of_its_own():
    chip = Chip()
    chip.set(0x105, 1, 0x104, 1, 0xC3, 0x30)
    chip.operator(0x0B)
    chip.key(3)
    assert not any(chip.run(50)[0])


# --- rhythm ---

DRUMS = {"bass drum": (0x10, 0x13, 6), "snare drum": (0x08, 0x14, 7), "tom-tom": (0x04, 0x12, 8),
         "cymbal": (0x02, 0x15, 8), "hi-hat": (0x01, 0x11, 7)}


@pytest.fixture
def drums():
    chip = Chip()
    for channel in (6, 7, 8):
        chip.key(channel, on=False)
    for _, at, _ in DRUMS.values():
        chip.operator(at)
    chip.set(0xBD, 0x20)
    return chip


@pytest.mark.parametrize("name", DRUMS)
def test_a_drum_sounds_while_its_bit_is_set_and_twice_as_loud(drums, name):
    bit, _, _ = DRUMS[name]
    drums.set(0xBD, 0x20 | bit)
    left = drums.run(100)[0]
    assert 1.2 * PEAK < max(left) <= 2 * PEAK
    drums.set(0xBD, 0x20)
    drums.run(20)
    assert not drums.run(50)[0]


def test_bass_drum_and_tom_tom_have_a_pitch_and_the_others_are_noisy(drums):
    def share(name):
        """Of the loudest of the note's overtones' power, in all of it."""
        drums.set(0xBD, 0x20)
        drums.run(20)
        drums.set(0xBD, 0x20 | DRUMS[name][0])
        left = drums.run(100)[0]
        power = sum(sample * sample for sample in left) / len(left) / PEAK**2
        return strength(left, note_hz()) ** 2 / 2 / power

    assert share("bass drum") > 0.95
    assert share("tom-tom") > 0.95
    assert max(map(share, ("snare drum", "cymbal", "hi-hat"))) < 0.75


# --- state ---


def test_a_checkpoint_in_mid_note_goes_on_sample_for_sample(chip):
    chip.set(0xC0, 0x3C, 0xBD, 0xE8)
    chip.operator(0x00, flags=0xE1, level=8)
    chip.operator(0x03, attack=0x85, sustain=0x35)
    chip.key()
    chip.run(123)
    saved = record(chip.fm.state)
    twin = Chip()
    twin.clock.advance_to(chip.clock.now())
    twin.fm.restore(load(State, saved))
    for one in (chip, twin):
        one.run(300)
        one.key(on=False)
        one.run(3000)
        assert one.clock.next_deadline() is None
    length = len(twin.sink.samples)
    assert length > RATE_HZ // 2
    assert twin.sink.samples == chip.sink.samples[-length:]


def test_two_runs_sound_alike_however_often_registers_are_written(chip):
    other = Chip()
    other.fm.restore(load(State, record(chip.fm.state)))
    chip.key()
    other.key()
    chip.run(100)
    for _ in range(100):
        other.run(1)
        other.set(0x2F, 0)              # nothing that is used
    length = min(len(chip.sink.samples), len(other.sink.samples))
    assert length > RATE_HZ // 10
    assert other.sink.samples[:length] == chip.sink.samples[:length]


def test_it_plays_stereo_at_its_own_rate(chip):
    chip.key()
    chip.run(50)
    assert chip.sink.formats == {(RATE_HZ, 2, 2)}


def test_a_program_finds_the_chip_by_its_timer():
    chip = Chip()
    chip.set(0x04, 0x60, 0x04, 0x80)
    assert chip.fm.read(0) & 0xE0 == 0
    chip.set(0x02, 0xFF, 0x04, 0x21)
    chip.clock.advance(80_000)
    assert chip.fm.read(0) == 0xC0      # an OPL2 would have 06h besides
    chip.set(0x04, 0x60, 0x04, 0x80)
    assert chip.fm.read(0) == 0
