"""ES1371: what its drivers do with it, sample by sample."""

import pytest

from fakes import AudioSink, Ram
from ring3.devices.pci.config import Reg as Pci
from ring3.devices.sound.es1371 import Es1371

MS = 1_000_000
DAC1, DAC2, ADC = range(3)
CONTROL, STATUS, PAGE, CONVERTER, CODEC, SERIAL, COUNT = 0x00, 0x04, 0x0C, 0x10, 0x14, 0x20, 0x24


@pytest.fixture
def memory():
    return Ram()


@pytest.fixture
def sink():
    return AudioSink()


@pytest.fixture
def chip(clock, memory, irq, sink):
    chip = Es1371(clock, memory, irq, sink, lambda bar, base: None)
    chip.write_config(Pci.COMMAND, 0x0005, 2)
    for register in (0x02, 0x18):       # master and PCM at 0 dB
        chip.write(CODEC, register << 16 | (0x0808 if register == 0x18 else 0), 4)
    for address in range(0x7C, 0x80):
        converter(chip, address, 0x1000)
    return chip


def converter(chip, address, value):
    chip.write(CONVERTER, address << 25 | 1 << 24 | value, 4)


def set_rate(chip, base, rate):
    frequency = ((rate << 15) + 1500) // 3000
    converter(chip, base + 1, frequency >> 5 & 0xFC00)
    converter(chip, base + 3, frequency & 0x7FFF)


def play(chip, number=DAC2, *, address=0x1000, ring=4096, mode=3, period=256, rate=44_100):
    """As Linux's driver."""
    chip.write(PAGE, 0x0C, 4)
    chip.write(0x30 + 8 * number, address, 4)
    chip.write(0x34 + 8 * number, ring // 4 - 1, 4)
    chip.write(SERIAL, 0x100 << number | mode << 2 * number, 4)
    chip.write(COUNT + 4 * number, period - 1, 4)
    set_rate(chip, 0x70 + 4 * number, rate)
    chip.write(CONTROL, 0x40 >> number, 4)


def acknowledge(chip):
    serial = chip.read(SERIAL, 4)
    chip.write(SERIAL, serial & ~0x700, 4)
    chip.write(SERIAL, serial, 4)


def test_samples_arrive_as_they_are(chip, clock, memory, sink):
    memory.data[0x1000:0x2000] = bytes(n * 7 & 0xFF for n in range(4096))
    play(chip)
    for _ in range(100):
        clock.advance(MS)
        acknowledge(chip)
    played = bytes(sink.played[44_100, 2, 2])
    assert abs(len(played) // 4 - 4_410) < 256
    assert played == (bytes(memory.data[0x1000:0x2000]) * 5)[: len(played)]


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000])
def test_the_rate_is_what_the_driver_meant(chip, clock, sink, rate):
    play(chip, rate=rate)
    clock.advance(20 * MS)
    assert list(sink.played) == [(rate, 2, 2)]


def test_each_period_interrupts_until_acknowledged(chip, clock, edges):
    play(chip, period=441)
    clock.advance(9 * MS)
    assert edges == []
    clock.advance(2 * MS)
    assert edges == [True]
    assert chip.read(STATUS, 4) == 0x8000_0002
    acknowledge(chip)
    assert edges == [True, False]
    clock.advance(10 * MS)
    assert edges == [True, False, True]


def test_the_position_can_be_read(chip, clock):
    play(chip, rate=8_000, mode=0, period=4000)
    clock.advance(100 * MS)
    assert chip.read(0x3C, 4) >> 14 & 0x3FFFC == 800
    assert chip.read(0x28, 4) >> 16 == 3999 - 800


def test_both_players_have_modes_of_their_own(chip, clock, memory, sink):
    memory.data[0x1000:0x1010] = bytes(range(16))
    play(chip, DAC1, ring=16, mode=0, rate=8_000)
    clock.advance(20 * MS)
    assert bytes(sink.played[8_000, 1, 1]) == bytes(range(16)) * 10


def test_pause_holds_the_position(chip, clock, sink):
    play(chip)
    clock.advance(20 * MS)
    chip.write(SERIAL, chip.read(SERIAL, 4) | 0x1000, 4)
    played = len(sink.played[44_100, 2, 2])
    clock.advance(100 * MS)
    assert len(sink.played[44_100, 2, 2]) == played


def test_stop_mode_ends_with_the_count(chip, clock, sink, edges):
    play(chip, period=100)
    chip.write(SERIAL, chip.read(SERIAL, 4) | 0x4000, 4)
    clock.advance(100 * MS)
    assert len(sink.played[44_100, 2, 2]) == 400
    assert edges == [True]


def test_the_adc_records_silence(chip, clock, memory, irq):
    memory.data[0x1000:0x2000] = b"\x55" * 4096
    chip.write(PAGE, 0x0D, 4)
    chip.write(0x30, 0x1000, 4)
    chip.write(0x34, 1023, 4)
    chip.write(SERIAL, 0x400 | 3 << 4, 4)
    chip.write(COUNT + 8, 99, 4)
    converter(chip, 0x78, 2 << 4)
    converter(chip, 0x79, (196_608 * 2 >> 15) << 10)          # 8000 Hz: 48000 * 2^15 / 8000, times n
    chip.write(CONTROL, 0x10, 4)
    clock.advance(13 * MS)
    assert irq.level
    assert memory.data[0x1000:0x1190] == bytes(400)


def test_the_mixer_scales_and_mutes(chip, clock, memory, sink):
    memory.data[0x1000:0x2000] = (8000).to_bytes(2, "little") * 2048
    chip.write(CODEC, 0x02 << 16 | 0x0004, 4)                  # right at -6 dB
    play(chip)
    clock.advance(10 * MS)
    played = sink.played[44_100, 2, 2]
    assert int.from_bytes(played[:2], "little") == 8000
    assert int.from_bytes(played[2:4], "little") == 4009
    chip.write(CODEC, 0x02 << 16 | 0x8000, 4)
    clock.advance(10 * MS)
    assert sink.played[44_100, 2, 2][-4:] == bytes(4)


def test_the_codec_tells_who_it_is(chip):
    chip.write(CODEC, 0x7C << 16 | 0x0080_0000, 4)
    value = chip.read(CODEC, 4)
    assert (value >> 31, value & 0xFFFF) == (1, 0x4352)


def test_a_volume_beyond_five_bits_reads_as_the_softest(chip):
    chip.write(CODEC, 0x02 << 16 | 0x2020, 4)
    chip.write(CODEC, 0x02 << 16 | 0x0080_0000, 4)
    assert chip.read(CODEC, 4) & 0xFFFF == 0x1F1F


def test_drivers_see_both_states_of_the_converter(chip):
    chip.write(CONVERTER, 0x70 << 25 | 0x0001_0000, 4)
    assert {chip.read(CONVERTER, 4) & 0x0087_0000 for _ in range(4)} == {0, 0x0001_0000}


def test_without_bus_mastering_nothing_is_fetched(chip, clock, sink):
    chip.write_config(Pci.COMMAND, 0x0001, 2)
    play(chip)
    clock.advance(20 * MS)
    assert sink.played == {}


def test_a_channel_started_and_held_at_once_has_moved_nothing(chip, clock, sink):
    play(chip, period=4096)
    clock.advance(15 * MS)
    chip.write(SERIAL, chip.read(SERIAL, 4) | 0x1000, 4)
    clock.advance(100 * MS)
    assert sink.played == {}
