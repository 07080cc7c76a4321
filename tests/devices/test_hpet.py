"""High precision event timers."""

import pytest

from ring3.clock import ManualClock
from ring3.devices.hpet import Hpet
from ring3.irq import IrqLine

CONFIGURATION, STATUS, COUNTER = 0x10, 0x20, 0xF0
ENABLE, LEGACY = 1, 2
LEVEL, INT_ENABLE, PERIODIC, VAL_SET, MODE_32 = 0x02, 0x04, 0x08, 0x40, 0x100


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def edges():
    """By line: I/O APIC inputs, "irq0" and "irq8", and what goes on from the chips that are replaced."""
    return {20: [], 21: [], "irq0": [], "irq8": [], "pit": [], "rtc": []}


@pytest.fixture
def hpet(clock, edges):
    line = {name: IrqLine(heard.append) for name, heard in edges.items()}
    lines = {number: line[number] for number in (20, 21)}
    return Hpet(clock, lines, (line["irq0"], line["irq8"]), (line["pit"], line["rtc"]))


def timer(n, register=0):
    return 0x100 + 0x20 * n + register


def start(hpet, n, configuration, *values, general=ENABLE):
    hpet.write(timer(n), configuration | 20 + n << 9, 4)
    for value in values:
        hpet.write(timer(n, 8), value, 8)
    hpet.write(CONFIGURATION, general, 4)


def test_capabilities_tell_three_timers_of_100_mhz(hpet):
    low, period_fs = hpet.read(0, 4), hpet.read(4, 4)
    assert (low, period_fs) == (0x8086A201, 10_000_000)
    assert hpet.read(0, 8) == period_fs << 32 | low


def test_the_counter_runs_while_enabled(hpet, clock):
    clock.advance(1000)
    assert hpet.read(COUNTER, 8) == 0
    hpet.write(CONFIGURATION, ENABLE, 4)
    clock.advance(1000)
    hpet.write(CONFIGURATION, 0, 4)
    clock.advance(1000)
    assert hpet.read(COUNTER, 8) == 100


def test_the_counter_can_be_set_by_halves(hpet):
    hpet.write(COUNTER + 4, 0x12345678, 4)
    hpet.write(COUNTER, 0x9ABCDEF0, 4)
    assert hpet.read(COUNTER, 8) == 0x123456789ABCDEF0


def test_a_one_shot_interrupts_once_at_its_comparator(hpet, clock, edges):
    start(hpet, 0, INT_ENABLE, 100)
    clock.advance(999)
    assert edges[20] == []
    clock.advance(1)
    assert edges[20] == [True]
    clock.advance(1_000_000)
    assert edges[20] == [True]


def test_a_periodic_timer_interrupts_each_period(hpet, clock, edges):
    start(hpet, 0, INT_ENABLE | PERIODIC | VAL_SET, 10_000, 5000)
    clock.advance(100_000)
    assert edges[20].count(True) == 1
    clock.advance(150_000)
    assert edges[20].count(True) == 4
    assert hpet.read(timer(0, 8), 8) == 30_000


def test_late_edges_are_made_up_for(hpet, clock, edges):
    start(hpet, 0, INT_ENABLE | PERIODIC | VAL_SET, 100_000, 100_000)
    clock._now_ns += 5_001_000              # the host slept through five periods of a millisecond
    clock.advance(0)
    assert edges[20].count(True) == 1
    clock.advance(4_999_000)
    assert edges[20].count(True) == 10


def test_late_edges_end_with_the_timer(hpet, clock, edges):
    start(hpet, 0, INT_ENABLE | PERIODIC | VAL_SET, 100_000, 100_000)
    clock._now_ns += 5_001_000
    clock.advance(0)
    hpet.write(CONFIGURATION, 0, 4)
    clock.advance(10_000_000)
    assert edges[20].count(True) == 1


def test_periods_too_short_are_merged(hpet, clock, edges):
    start(hpet, 0, INT_ENABLE | PERIODIC | VAL_SET, 1, 1)
    clock.advance(1_000_000)
    assert edges[20].count(True) in (25, 26)
    assert hpet.read(timer(0, 8), 8) == 100_001


def test_val_set_is_gone_after_the_comparator_was_written(hpet):
    start(hpet, 0, INT_ENABLE | PERIODIC | VAL_SET, 100)
    assert hpet.read(timer(0), 4) & VAL_SET == 0


def test_level_interrupts_stay_until_cleared(hpet, clock, edges):
    start(hpet, 0, INT_ENABLE | LEVEL, 100)
    clock.advance(5000)
    assert (edges[20], hpet.read(STATUS, 4)) == ([True], 1)
    hpet.write(STATUS, 1, 4)
    assert (edges[20], hpet.read(STATUS, 4)) == ([True, False], 0)


def test_legacy_replacement_takes_irq_0_and_8_from_their_chips(hpet, clock, edges):
    start(hpet, 0, INT_ENABLE, 100, general=ENABLE | LEGACY)
    start(hpet, 1, INT_ENABLE, 100, general=ENABLE | LEGACY)
    hpet.gates[0].line.set(True)
    clock.advance(2000)
    assert (edges["irq0"], edges["irq8"], edges["pit"]) == ([True], [True], [])


def test_legacy_replacement_tells_those_chips_that_they_are_not_heard(hpet):
    start(hpet, 0, INT_ENABLE, 100, general=ENABLE | LEGACY)
    assert not hpet.gates[0].line.heard
    start(hpet, 0, INT_ENABLE, 100)
    assert hpet.gates[0].line.heard


def test_without_it_they_pass_through(hpet, edges):
    hpet.gates[0].line.set(True)
    hpet.gates[1].line.set(True)
    assert (edges["pit"], edges["rtc"]) == ([True], [True])


def test_a_32_bit_timer_ignores_the_counters_upper_half(hpet, clock, edges):
    hpet.write(COUNTER, 5 << 32, 8)
    start(hpet, 1, INT_ENABLE | MODE_32, 100)
    clock.advance(1000)
    assert edges[21] == [True]


def test_a_timer_that_is_off_matches_silently(hpet, clock, edges):
    start(hpet, 0, 0, 100)
    clock.advance(2000)
    assert (edges[20], clock.next_deadline()) == ([], None)


def test_inputs_that_are_not_allowed_lead_nowhere(hpet, clock):
    hpet.write(timer(0), INT_ENABLE | 3 << 9, 4)
    hpet.write(timer(0, 8), 100, 8)
    hpet.write(CONFIGURATION, ENABLE, 4)
    clock.advance(5000)
