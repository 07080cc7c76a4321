from datetime import UTC, datetime

import pytest

from ring3.clock import NS_PER_S
from ring3.devices.rtc import Mc146818, Reg, RegA, RegB, RegC

START = int(datetime(1999, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp())


@pytest.fixture
def rtc(clock, irq):
    return Mc146818(clock, irq, START)


def get(rtc, index):
    rtc.write(0, index)
    return rtc.read(1)


def put(rtc, index, value):
    rtc.write(0, index)
    rtc.write(1, value)


def calendar(rtc):
    """Century, year, month, day, hours, minutes, seconds as stored."""
    registers = (Reg.CENTURY, Reg.YEAR, Reg.MONTH, Reg.DAY, Reg.HOURS, Reg.MINUTES, Reg.SECONDS)
    return [get(rtc, r) for r in registers]


def test_time_is_bcd_at_first(rtc):
    assert calendar(rtc) == [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58]


def test_the_century_turns(rtc, clock):
    clock.advance(2 * NS_PER_S)
    assert calendar(rtc) == [0x20, 0x00, 0x01, 0x01, 0, 0, 0]
    assert get(rtc, Reg.WEEKDAY) == 7  # a Saturday


def test_leap_day(clock, irq):
    rtc = Mc146818(clock, irq, int(datetime(2024, 2, 28, tzinfo=UTC).timestamp()))
    clock.advance(86_400 * NS_PER_S)
    assert (get(rtc, Reg.MONTH), get(rtc, Reg.DAY)) == (0x02, 0x29)
    clock.advance(86_400 * NS_PER_S)
    assert (get(rtc, Reg.MONTH), get(rtc, Reg.DAY)) == (0x03, 0x01)


def test_calendar_agrees_with_the_standard_library(clock, irq):
    for unix_s in range(0, 2**32, 98_765_432):
        rtc = Mc146818(clock, irq, unix_s)
        put(rtc, Reg.B, RegB.DM | RegB.H24)
        t = datetime.fromtimestamp(unix_s, UTC)
        assert calendar(rtc) == [t.year // 100, t.year % 100, t.month, t.day, t.hour, t.minute, t.second]
        assert get(rtc, Reg.WEEKDAY) == t.isoweekday() % 7 + 1


def test_binary_and_twelve_hour_formats(rtc, clock):
    put(rtc, Reg.B, RegB.DM)
    assert get(rtc, Reg.HOURS) == 0x80 | 11
    clock.advance(2 * NS_PER_S)
    assert get(rtc, Reg.HOURS) == 12
    put(rtc, Reg.HOURS, 0x80 | 12)
    put(rtc, Reg.B, RegB.H24)
    assert get(rtc, Reg.HOURS) == 0x12


def test_set_holds_the_calendar_until_released(rtc, clock):
    put(rtc, Reg.B, RegB.SET | RegB.H24)
    put(rtc, Reg.SECONDS, 0x30)
    clock.advance(10 * NS_PER_S)
    assert get(rtc, Reg.SECONDS) == 0x30
    put(rtc, Reg.B, RegB.H24)
    clock.advance(NS_PER_S)
    assert get(rtc, Reg.SECONDS) == 0x31


def test_fields_written_in_any_order_do_not_disturb_each_other(rtc):
    put(rtc, Reg.B, RegB.SET | RegB.H24)
    for register, value in ((Reg.DAY, 0x31), (Reg.MONTH, 0x02), (Reg.MONTH, 0x03)):
        put(rtc, register, value)
    put(rtc, Reg.B, RegB.H24)
    assert (get(rtc, Reg.MONTH), get(rtc, Reg.DAY)) == (0x03, 0x31)


def test_divider_release_starts_half_a_second_before_an_update(rtc, clock):
    put(rtc, Reg.A, RegA.DV_RESET)
    put(rtc, Reg.A, RegA.DV_RUN)
    clock.advance(NS_PER_S // 2 - 1)
    assert get(rtc, Reg.SECONDS) == 0x58
    clock.advance(1)
    assert get(rtc, Reg.SECONDS) == 0x59


def test_uip_announces_the_update(rtc, clock):
    clock.advance(NS_PER_S - 2_228_001)
    assert not get(rtc, Reg.A) & RegA.UIP
    clock.advance(1)
    assert get(rtc, Reg.A) & RegA.UIP
    clock.advance(2_228_000)
    assert not get(rtc, Reg.A) & RegA.UIP


def test_update_interrupt_comes_each_second_once_acknowledged(rtc, clock, edges):
    put(rtc, Reg.B, RegB.UIE | RegB.H24)
    clock.advance(NS_PER_S)
    assert edges == [True]
    assert get(rtc, Reg.C) == RegC.IRQF | RegC.UF | RegC.PF
    clock.advance(NS_PER_S)
    assert edges == [True, False, True]


def test_periodic_interrupt_at_1024_hz(rtc, clock, edges):
    put(rtc, Reg.B, RegB.PIE | RegB.H24)
    clock.advance(976_562)
    assert edges == []
    clock.advance(1)
    assert edges == [True]
    get(rtc, Reg.C)
    clock.advance(976_562)
    assert edges == [True, False, True]


def test_unacknowledged_periodic_interrupt_stays_one(rtc, clock, edges):
    put(rtc, Reg.B, RegB.PIE | RegB.H24)
    clock.advance(NS_PER_S)
    assert edges == [True]


def test_flags_show_without_interrupts_enabled(rtc, clock, edges):
    clock.advance(NS_PER_S)
    assert get(rtc, Reg.C) == RegC.UF | RegC.PF
    assert get(rtc, Reg.C) == 0
    assert edges == []


def test_alarm_matches_its_time(rtc, clock, edges):
    for register, value in ((Reg.SECONDS_ALARM, 0x01), (Reg.MINUTES_ALARM, 0), (Reg.HOURS_ALARM, 0)):
        put(rtc, register, value)
    put(rtc, Reg.B, RegB.AIE | RegB.H24)
    clock.advance(3 * NS_PER_S - 1)
    assert edges == []
    clock.advance(1)
    assert edges == [True]
    assert get(rtc, Reg.C) & RegC.AF


@pytest.mark.parametrize(
    ("alarm", "seconds"),
    [
        ((0xC0, 0xC0, 0xC0), 1),
        ((0x59, 0xFF, 0xFF), 1),
        ((0x00, 0xFF, 0xFF), 2),
        ((0x58, 0xFF, 0xFF), 60),
        ((0xFF, 0x05, 0xFF), 2 + 300),
        ((0xFF, 0x30, 0x04), 2 + 4 * 3600 + 1800),
        ((0x58, 0x59, 0x23), 86_400),
    ],
)
def test_alarm_bytes_with_both_high_bits_match_anything(rtc, clock, edges, alarm, seconds):
    for register, value in zip((Reg.SECONDS_ALARM, Reg.MINUTES_ALARM, Reg.HOURS_ALARM), alarm, strict=True):
        put(rtc, register, value)
    put(rtc, Reg.B, RegB.AIE | RegB.H24)
    clock.advance(seconds * NS_PER_S - 1)
    assert edges == []
    clock.advance(1)
    assert edges == [True]


def test_an_impossible_alarm_never_comes(rtc, clock, edges):
    put(rtc, Reg.SECONDS_ALARM, 0x77)
    put(rtc, Reg.B, RegB.AIE | RegB.H24)
    clock.advance(2 * 86_400 * NS_PER_S)
    assert edges == []


def test_late_periodic_interrupts_are_made_up_for(rtc, clock, edges):
    put(rtc, Reg.A, RegA.DV_RUN | 15)  # 2 Hz
    put(rtc, Reg.B, RegB.PIE | RegB.H24)
    clock._now_ns += 1_500_000_000  # the host slept through three of them
    for _ in range(20):
        clock.advance(NS_PER_S // 20)
        get(rtc, Reg.C)
    assert edges.count(True) == 3 + 2


def test_memory_keeps_bytes_and_ignores_the_nmi_mask(rtc):
    put(rtc, 0x80 | 0x40, 0xA5)
    assert get(rtc, 0x40) == 0xA5
    rtc.set_cmos(0x10, 0x40)
    assert get(rtc, 0x10) == 0x40


def test_register_d_says_the_battery_is_good(rtc):
    put(rtc, Reg.D, 0)
    assert get(rtc, Reg.D) == 0x80


def test_reset_stops_interrupts_but_not_time(rtc, clock, irq):
    put(rtc, 0x40, 0xA5)
    put(rtc, Reg.B, RegB.UIE | RegB.H24)
    clock.advance(NS_PER_S)
    rtc.reset()
    assert not irq.level
    assert get(rtc, Reg.B) == RegB.H24
    assert (get(rtc, 0x40), get(rtc, Reg.SECONDS)) == (0xA5, 0x59)


def test_restored_alarm_still_comes(rtc, clock, edges):
    put(rtc, Reg.B, RegB.UIE | RegB.H24)
    saved = rtc.state
    twin = Mc146818(clock, rtc.irq, 0)
    rtc.reset()
    twin.restore(saved)
    twin.write(0, Reg.B)
    twin.write(1, RegB.UIE | RegB.H24)
    clock.advance(NS_PER_S)
    assert edges == [True]
