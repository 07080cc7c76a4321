"""Sound Blaster 16: what programs do with it, sample by sample."""

import pytest

from fakes import AudioSink
from ring3.devices.sound.opl3 import play_nothing
from ring3.devices.sound.sb16 import Sb16
from ring3.irq import IrqLine

RESET, READ, WRITE, STATUS, ACK_16 = 6, 0xA, 0xC, 0xE, 0xF
MS = 1_000_000


class Channel:
    """A DMA channel over a bytearray; `auto` goes round."""

    def __init__(self, memory=b"", auto=False):
        self.memory, self.auto, self.at, self.stored = bytes(memory), auto, 0, bytearray()

    def from_memory(self, limit):
        part = self.memory[self.at : self.at + limit]
        self.at += len(part)
        done = self.at == len(self.memory)
        if done and self.auto:
            self.at = 0
        return part, done

    def to_memory(self, data):
        self.stored += data
        return len(data), False


@pytest.fixture
def channels():
    return {1: Channel(), 5: Channel()}


@pytest.fixture
def sink():
    return AudioSink()


@pytest.fixture
def lines():
    return {irq: IrqLine() for irq in (5, 7, 9, 10)}


@pytest.fixture
def card(clock, lines, channels, sink):
    return Sb16(clock, lines, channels.__getitem__, sink, play_nothing)


def command(card, *values):
    for value in values:
        card.write(WRITE, value)


def mixer(card, index, value=None):
    card.write(4, index)
    if value is None:
        return card.read(5)
    return card.write(5, value)


def test_reset_answers_aa(card):
    card.write(RESET, 1)
    card.write(RESET, 0)
    assert card.read(STATUS) & 0x80
    assert card.read(READ) == 0xAA
    assert not card.read(STATUS) & 0x80


def test_version_is_4_5(card):
    command(card, 0xE1)
    assert (card.read(READ), card.read(READ)) == (4, 5)


def test_identification_is_the_complement(card):
    command(card, 0xE0, 0x5A)
    assert card.read(READ) == 0xA5


def test_8_bit_single_cycle_plays_every_sample_and_interrupts_once(card, clock, channels, sink, lines):
    channels[1].memory = bytes(range(200))
    command(card, 0x40, 256 - 125)              # 8000 Hz
    command(card, 0x14, 199, 0)
    clock.advance(24 * MS)
    assert not lines[5].level
    clock.advance(2 * MS)
    assert lines[5].level
    assert bytes(sink.played[8_000, 1, 1]) == bytes(range(200))
    card.read(STATUS)
    assert not lines[5].level
    clock.advance(100 * MS)
    assert not lines[5].level


def test_16_bit_auto_init_goes_on_with_an_interrupt_for_each_block(card, clock, channels, sink, lines):
    samples = bytes(range(256)) * 16            # 1024 frames
    channels[5].memory, channels[5].auto = samples, True
    command(card, 0x41, 0xAC, 0x44)             # 44100 Hz
    command(card, 0xB6, 0x30, 0xFF, 0x03)       # signed stereo, blocks of 1024 samples
    interrupts = 0
    for _ in range(300):
        clock.advance(MS // 4)
        if lines[5].level:
            assert mixer(card, 0x82) == 0x02
            card.read(ACK_16)
            interrupts += 1
    assert interrupts == 75 * 44_100 // 512_000
    played = bytes(sink.played[44_100, 2, 2])
    assert len(played) // 4 in range(75 * 44 - 250, 75 * 45)
    assert played == (samples * 10)[: len(played)]


def test_unsigned_words_and_signed_bytes_arrive_as_sinks_want_them(card, clock, channels, sink):
    channels[5].memory = b"\x00\x80\x01\x80" * 50
    command(card, 0x41, 0x1F, 0x40)             # 8000 Hz
    command(card, 0xB0, 0x00, 99, 0)
    clock.advance(20 * MS)
    assert sink.played[8_000, 1, 2] == b"\x00\x00\x01\x00" * 50
    channels[1].memory = b"\x00\xff" * 50
    command(card, 0xC0, 0x10, 99, 0)
    clock.advance(20 * MS)
    assert sink.played[8_000, 1, 1] == b"\x80\x7f" * 50


def test_pause_holds_and_continue_goes_on(card, clock, channels, sink):
    channels[1].memory = bytes(800)
    command(card, 0x40, 256 - 125, 0x14, 0x1F, 0x03)
    clock.advance(50 * MS)
    command(card, 0xD0)
    clock.advance(500 * MS)
    assert len(sink.played[8_000, 1, 1]) == 400
    command(card, 0xD4)
    clock.advance(51 * MS)
    assert len(sink.played[8_000, 1, 1]) == 800


def test_exit_auto_init_ends_after_the_block(card, clock, channels, sink):
    channels[1].memory, channels[1].auto = bytes(100), True
    command(card, 0x40, 256 - 125, 0x48, 99, 0, 0x1C)
    clock.advance(20 * MS)
    command(card, 0xDA)
    clock.advance(500 * MS)
    assert len(sink.played[8_000, 1, 1]) == 200


def test_without_dma_set_up_it_waits(card, clock, lines):
    command(card, 0x14, 9, 0)
    clock.advance(500 * MS)
    assert not lines[5].level


def test_input_is_silence(card, clock, channels, lines):
    command(card, 0x40, 256 - 125, 0x24, 79, 0)
    clock.advance(11 * MS)
    assert channels[1].stored == b"\x80" * 80
    assert lines[5].level


def test_the_mixer_selects_the_interrupt(card, lines):
    assert mixer(card, 0x80) == 0xF2
    mixer(card, 0x80, 0x04)
    command(card, 0xF2)
    assert [irq for irq, line in lines.items() if line.level] == [7]


def test_the_mixer_makes_it_softer(card, clock, channels, sink):
    mixer(card, 0x30, 0xF8)
    mixer(card, 0x31, 25 << 3)                  # -12 dB: about a quarter
    channels[5].memory = (8000).to_bytes(2, "little") * 160
    command(card, 0x41, 0x1F, 0x40, 0xB0, 0x30, 159, 0)
    clock.advance(20 * MS)
    left, right = sink.played[8_000, 2, 2][:2], sink.played[8_000, 2, 2][2:4]
    assert int.from_bytes(left, "little") == 8000
    assert int.from_bytes(right, "little") == 2010


def test_older_mixer_registers_are_views_of_newer_ones(card):
    mixer(card, 0x22, 0x5A)
    assert (mixer(card, 0x30) >> 4, mixer(card, 0x31) >> 4, mixer(card, 0x22)) == (5, 10, 0x5A)


def test_adpcm_of_4_bits_begins_with_its_reference(card, clock, channels, sink):
    channels[1].memory = bytes((0x80, 0x19, 0x70))
    command(card, 0x40, 256 - 125, 0x75, 2, 0)
    clock.advance(20 * MS)
    assert list(sink.played[8_000, 1, 1]) == [0x81, 0x80, 0x87, 0x88]


def test_direct_output_sounds(card, clock, sink):
    for value in (0x80, 0xFF, 0x80, 0x00, 0x80):
        command(card, 0x10, value)
        clock.advance(MS)
    clock.advance(20 * MS)
    samples = sink.played[44_100, 1, 2]
    levels = {int.from_bytes(samples[at : at + 2], "little", signed=True) for at in range(0, len(samples), 2)}
    assert {-32767, 0, 32511} <= levels


def test_opl_timers_are_how_programs_find_it(card, clock):
    def write(register, value):
        card.write(0, register)
        card.write(1, value)

    write(4, 0x60)
    write(4, 0x80)
    assert card.fm.read(0) & 0xE0 == 0
    write(2, 0xFF)
    write(4, 0x21)
    clock.advance(81_000)
    assert card.read(8) & 0xE0 == 0xC0
    write(4, 0x60)
    write(4, 0x80)
    assert card.read(0) & 0xE0 == 0


def test_mpu_401_acknowledges_reset_and_uart(card, lines):
    for value in (0xFF, 0x3F):
        card.mpu.write(1, value)
        assert not card.mpu.read(1) & 0x80
        assert card.mpu.read(0) == 0xFE
    card.mpu.write(0, 0x90)
    assert card.mpu.read(1) & 0xC0 == 0x80
    assert not lines[5].level


def test_dma_identification_stores_a_number(card, channels):
    command(card, 0xE2, 0x00)
    assert channels[1].stored == bytes(((0xAA - 106) & 0xFF,))
