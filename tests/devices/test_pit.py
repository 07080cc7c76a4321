import pytest

from ring3.devices.pit import I8254, PortB
from ring3.irq import IrqLine

BOTH = 0x30


def ns_of(tick):
    """The first nanosecond of a tick of 105/88 MHz."""
    return -(-tick * 88_000 // 105)


@pytest.fixture
def pit(clock, irq):
    return I8254(clock, irq)


def program(pit, counter, mode, count, *, bcd=0):
    pit.write(3, counter << 6 | BOTH | mode << 1 | bcd)
    pit.write(counter, count & 0xFF)
    pit.write(counter, count >> 8 & 0xFF)


def count_of(pit, counter):
    pit.write(3, counter << 6)
    return pit.read(counter) | pit.read(counter) << 8


def out_of(pit, counter):
    pit.write(3, 0xE0 | 2 << counter)
    return pit.read(counter) >> 7


def outs(pit, clock, counter, ticks):
    """OUT at each tick from now on, after the load's own tick."""
    start = clock.now() * 105 // 88_000 + 1
    levels = ""
    for tick in range(start, start + ticks):
        clock.advance_to(ns_of(tick))
        levels += str(out_of(pit, counter))
    return levels


def test_mode_0_raises_out_at_terminal_count(pit, clock):
    program(pit, 1, 0, 4)
    assert outs(pit, clock, 1, 7) == "0000111"


def test_mode_2_lowers_out_for_the_last_tick_of_each_period(pit, clock):
    program(pit, 1, 2, 4)
    assert outs(pit, clock, 1, 9) == "111011101"


def test_mode_3_is_high_longer_for_odd_counts(pit, clock):
    program(pit, 1, 3, 5)
    assert outs(pit, clock, 1, 10) == "1110011100"


def test_mode_4_strobes_once(pit, clock):
    program(pit, 1, 4, 3)
    assert outs(pit, clock, 1, 7) == "1110111"


def test_mode_1_waits_for_the_gate_and_retriggers(pit, clock):
    program(pit, 2, 1, 3)
    assert outs(pit, clock, 2, 3) == "111"
    pit.port_b.write(0, PortB.GATE2)
    assert outs(pit, clock, 2, 2) == "00"
    pit.port_b.write(0, 0)
    pit.port_b.write(0, PortB.GATE2)
    assert outs(pit, clock, 2, 5) == "00011"


def test_mode_5_strobes_after_the_gate_rises(pit, clock):
    program(pit, 2, 5, 2)
    pit.port_b.write(0, PortB.GATE2)
    assert outs(pit, clock, 2, 5) == "11011"


def test_count_is_exact_at_every_tick(pit, clock):
    program(pit, 1, 2, 1000)
    for tick in (1, 2, 500, 1000, 1001):
        clock.advance_to(ns_of(tick))
        assert count_of(pit, 1) == 1000 - (tick - 1) % 1000


def test_mode_3_counts_by_two(pit, clock):
    program(pit, 1, 3, 6)
    values = []
    for tick in range(1, 8):
        clock.advance_to(ns_of(tick))
        values.append(count_of(pit, 1))
    assert values == [6, 4, 2, 6, 4, 2, 6]


def test_mode_3_counts_odd_counts_from_one_less(pit, clock):
    program(pit, 1, 3, 5)
    values = []
    for tick in range(1, 7):
        clock.advance_to(ns_of(tick))
        values.append(count_of(pit, 1))
    assert values == [4, 2, 0, 4, 2, 4]


def test_mode_0_count_wraps_after_terminal_count(pit, clock):
    program(pit, 1, 0, 2)
    clock.advance_to(ns_of(4))
    assert count_of(pit, 1) == 0xFFFF


def test_bcd_counts_in_decimal(pit, clock):
    program(pit, 1, 0, 0x1000, bcd=1)
    clock.advance_to(ns_of(2))
    assert count_of(pit, 1) == 0x0999


def test_count_zero_is_the_largest(pit, clock, edges):
    program(pit, 0, 2, 0)
    edges.clear()
    clock.advance_to(ns_of(65_536))
    assert edges == []
    clock.advance_to(ns_of(65_537))
    assert edges == [False, True]


def test_latched_count_stands_still_until_read(pit, clock):
    program(pit, 1, 2, 1000)
    clock.advance_to(ns_of(11))
    pit.write(3, 0x40)
    clock.advance_to(ns_of(500))
    assert pit.read(1) | pit.read(1) << 8 == 990
    assert count_of(pit, 1) == 1000 - 499


def test_read_back_gives_status_before_count(pit, clock):
    program(pit, 1, 2, 1000)
    clock.advance_to(ns_of(11))
    pit.write(3, 0xC0 | 0x04)
    assert pit.read(1) == 0x80 | BOTH | 2 << 1
    assert pit.read(1) | pit.read(1) << 8 == 990


def test_status_shows_null_count_until_the_load(pit, clock):
    pit.write(3, 0x40 | BOTH | 4)
    pit.write(3, 0xE0 | 0x04)
    assert pit.read(1) & 0x40
    program(pit, 1, 2, 10)
    clock.advance_to(ns_of(1))
    pit.write(3, 0xE0 | 0x04)
    assert not pit.read(1) & 0x40


def test_single_byte_access_modes(pit, clock):
    pit.write(3, 0x40 | 0x10 | 4)
    pit.write(1, 10)
    clock.advance_to(ns_of(1))
    assert (pit.read(1), pit.read(1)) == (10, 10)
    pit.write(3, 0x40 | 0x20 | 4)
    pit.write(1, 2)
    clock.advance_to(ns_of(2))
    assert pit.read(1) == 2


def test_gate_stops_and_resumes_mode_0(pit, clock):
    program(pit, 2, 0, 10)
    pit.port_b.write(0, PortB.GATE2)
    clock.advance_to(ns_of(5))
    held = count_of(pit, 2)
    pit.port_b.write(0, 0)
    clock.advance_to(ns_of(100))
    assert count_of(pit, 2) == held
    pit.port_b.write(0, PortB.GATE2)
    clock.advance_to(ns_of(101))
    assert count_of(pit, 2) == held - 1


def test_gate_restarts_mode_2(pit, clock):
    pit.port_b.write(0, PortB.GATE2)
    program(pit, 2, 2, 100)
    clock.advance_to(ns_of(50))
    pit.port_b.write(0, 0)
    assert out_of(pit, 2) == 1
    pit.port_b.write(0, PortB.GATE2)
    clock.advance_to(ns_of(52))
    assert count_of(pit, 2) == 99


def test_new_count_in_mode_2_waits_for_the_period_to_end(pit, clock):
    program(pit, 1, 2, 100)
    clock.advance_to(ns_of(51))
    pit.write(1, 10)
    pit.write(1, 0)
    assert count_of(pit, 1) == 50
    clock.advance_to(ns_of(101))
    assert count_of(pit, 1) == 10


def test_new_count_in_mode_3_waits_for_half_a_period(pit, clock):
    program(pit, 1, 3, 100)
    clock.advance_to(ns_of(11))
    pit.write(1, 4)
    pit.write(1, 0)
    clock.advance_to(ns_of(50))
    assert outs(pit, clock, 1, 6) == "001100"


def test_calibration_by_port_61h_sees_out2_after_the_count(pit, clock):
    pit.port_b.write(0, PortB.GATE2)
    program(pit, 2, 0, 11_932)
    clock.advance_to(ns_of(11_932))
    assert not pit.port_b.read(0) & PortB.OUT2
    clock.advance_to(ns_of(11_933))
    assert pit.port_b.read(0) & PortB.OUT2


def test_refresh_bit_toggles(pit, clock):
    first = pit.port_b.read(0) & PortB.REFRESH
    clock.advance(15_085)
    assert pit.port_b.read(0) & PortB.REFRESH != first


def test_port_61h_keeps_its_four_low_bits(pit):
    pit.port_b.write(0, 0xFF)
    assert pit.port_b.read(0) & 0xCF == 0x0F


def test_rate_generator_fires_each_period(pit, clock, edges):
    program(pit, 0, 2, 11_932)  # 10 000 152 ns at 1.193182 MHz
    edges.clear()
    clock.advance(30_002_000)
    assert edges.count(True) == 3


def test_one_shot_interrupts_once(pit, clock, edges):
    program(pit, 0, 0, 1000)
    clock.advance_to(ns_of(1000))
    assert edges == []
    clock.advance_to(ns_of(1001))
    assert edges == [True]
    clock.advance(10_000_000)
    assert edges == [True]


def test_software_strobe_interrupts_after_the_strobe(pit, clock, edges):
    program(pit, 0, 4, 1000)
    edges.clear()
    clock.advance_to(ns_of(1001))
    assert edges == []
    clock.advance_to(ns_of(1002))
    assert edges == [False, True]


def test_late_ticks_are_made_up_for(pit, clock, edges):
    program(pit, 0, 2, 11_932)
    edges.clear()
    clock._now_ns += 50_010_000  # the host slept through five periods
    clock.advance(0)
    assert edges.count(True) == 1
    clock.advance(50_000_000)
    assert edges.count(True) == 10


def test_absurd_rates_are_bounded(pit, clock, edges):
    program(pit, 0, 2, 2)
    edges.clear()
    clock.advance(10_000_000)
    assert 200 <= edges.count(True) <= 260


def test_ticks_that_nobody_hears_take_no_time(pit, clock, edges, irq):
    program(pit, 0, 2, 11_932)
    irq.hear(False)
    edges.clear()
    clock.advance_to(ns_of(3 * 11_932 + 6_000))
    assert edges == [False, True]
    assert clock.next_deadline() is None
    edges.clear()
    irq.hear(True)
    clock.advance_to(ns_of(4 * 11_932))
    assert edges == []
    clock.advance_to(ns_of(6 * 11_932 + 1))
    assert edges == [False, True] * 3


def test_one_shots_come_whoever_hears_them(pit, clock, edges, irq):
    program(pit, 0, 0, 1000)
    irq.hear(False)
    clock.advance_to(ns_of(1001))
    assert edges == [True]


def test_control_word_reads_as_open_bus(pit):
    assert pit.read(3) == 0xFF


def test_restored_timer_keeps_its_deadline(pit, clock, edges, irq):
    program(pit, 0, 2, 11_932)
    clock.advance(25_000_000)
    saved = pit.state
    pit.reset()
    pit.restore(saved)
    edges.clear()
    clock.advance_to(ns_of(3 * 11_932 + 1))
    assert edges == [False, True]


# --- the speaker ---


class Wire:
    def __init__(self):
        self.calls = []

    def drive(self, level, until_ns=None, high_ns=0.0, low_ns=0.0):
        self.calls.append((level, until_ns, round(high_ns), round(low_ns)))


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def beeper(clock, wire):
    pit = I8254(clock, IrqLine(), wire)
    pit.write(3, 0xB6)
    pit.write(2, 1000 & 0xFF)
    pit.write(2, 1000 >> 8)
    return pit


def test_the_speaker_follows_counter_2_while_its_bit_is_on(beeper, wire):
    beeper.port_b.write(0, 3)
    level, until_ns, high_ns, low_ns = wire.calls[-1]
    assert (level, high_ns, low_ns) == (True, 419_048, 419_048)
    assert abs(until_ns - 419_048) < 2000


def test_the_speaker_is_silent_without_its_bit(beeper, wire):
    beeper.port_b.write(0, 3)
    beeper.port_b.write(0, 1)
    assert wire.calls[-1] == (False, None, 0, 0)


def test_a_program_can_move_the_cone_itself(beeper, wire):
    beeper.port_b.write(0, 2)
    beeper.port_b.write(0, 0)
    assert wire.calls[-2:] == [(True, None, 0, 0), (False, None, 0, 0)]


def test_a_new_count_is_heard_from_the_next_half_period(beeper, wire, clock):
    beeper.port_b.write(0, 3)
    first_until_ns = wire.calls[-1][1]
    clock.advance(100_000)
    beeper.write(2, 2000 & 0xFF)
    beeper.write(2, 2000 >> 8)
    assert wire.calls[-1] == (True, first_until_ns, 838_095, 838_095)


def test_one_shot_ends_in_a_high_speaker(clock, wire):
    pit = I8254(clock, IrqLine(), wire)
    pit.write(3, 0xB0)
    pit.port_b.write(0, 3)
    pit.write(2, 120)
    pit.write(2, 0)
    level, until_ns, *times = wire.calls[-1]
    assert (level, times) == (False, [0, 0])
    assert abs(until_ns - 120 * 838) < 2000
