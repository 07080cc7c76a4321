"""MC146818 real-time clock with 128 bytes of CMOS memory: ports 70h and 71h.

Datasheet: Motorola, "MC146818A Real-Time Clock plus RAM", 1984; the PC adds 64 bytes and a century at 32h,
which here belongs to the calendar as on the DS12887A.  Register and bit names are the datasheet's.

The calendar is computed: `fields` were right at `base_ns`, the start of a second, and time goes on from
there while neither SET nor the divider's reset holds it.  Events since `seen_ns` become flags when somebody
looks, and a timer exists only for one that would raise the interrupt line.  Periodic interrupts that the
host was too late for are made up for, at twice their rate and at most a second's worth.

Not modelled: daylight saving (DSE is stored), square-wave output, other crystals than 32 768 Hz (such
dividers stop the clock), and port 70h's NMI mask, which is ignored: nothing here raises NMI.
"""

from dataclasses import dataclass, field

from ring3 import trace
from ring3.clock import NS_PER_S, Clock, Timer
from ring3.irq import IrqLine

TICKS_PER_S = 32_768
UPDATE_NS = 2_228_000  # UIP rises 244 µs before an update cycle of 1984 µs
SECONDS_PER_DAY = 86_400
UNIX_EPOCH_DAYS = 719_468  # days from 1 March of year 0 to 1 January 1970


class Reg:
    SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
    WEEKDAY, DAY, MONTH, YEAR, A, B, C, D = range(6, 14)
    CENTURY = 0x32


class RegA:
    UIP, DV, RS = 0x80, 0x70, 0x0F
    DV_RUN, DV_RESET = 0x20, 0x60


class RegB:
    SET, PIE, AIE, UIE, SQWE, DM, H24, DSE = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class RegC:
    IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10


VRT = 0x80  # register D: the battery is good
PM = 0x80
ANY = 0xC0  # an alarm byte with both bits set matches every time

ALARMS = {Reg.SECONDS_ALARM: 0, Reg.MINUTES_ALARM: 1, Reg.HOURS_ALARM: 2}
FIELDS = {
    Reg.SECONDS: 0,
    Reg.MINUTES: 1,
    Reg.HOURS: 2,
    Reg.WEEKDAY: 3,
    Reg.DAY: 4,
    Reg.MONTH: 5,
    Reg.YEAR: 6,
    Reg.CENTURY: 7,
}


@dataclass(slots=True)
class State:
    """All that the guest can observe, as with a fresh battery; this is also the checkpoint record."""

    index: int = 0
    a: int = RegA.DV_RUN | 6  # 1024 Hz
    b: int = RegB.H24
    flags: int = 0  # PF, AF and UF of register C
    alarm: bytearray = field(default_factory=lambda: bytearray(3))  # as written: seconds, minutes, hours
    fields: list[int] = field(default_factory=lambda: [0, 0, 0, 3, 1, 1, 80, 19])  # in binary, hours of 24
    base_ns: int = 0
    seen_ns: int = 0
    backlog: int = 0  # periodic interrupts that came too late
    cmos: bytearray = field(default_factory=lambda: bytearray(128))


class Mc146818:
    """Offset 0 is the index port, 1 the data port."""

    def __init__(self, clock: Clock, irq: IrqLine, start_unix_s: int) -> None:
        """`start_unix_s`: the calendar now, in seconds since 1970 of whatever zone the guest expects."""
        self.clock = clock
        self.irq = irq
        self._timer = Timer(clock, self._event_due)
        now_ns = clock.now()
        days = start_unix_s // SECONDS_PER_DAY
        fields = _fields(start_unix_s, (days + 4) % 7 + 1)  # 1 January 1970 was a Thursday, day 5
        self.state = State(fields=fields, base_ns=now_ns, seen_ns=now_ns)

    # --- the guest's side ---

    def read(self, offset: int) -> int:
        if offset == 0:
            trace.odd("rtc", "read of the write-only index port")
            return 0xFF
        s = self.state
        index = s.index
        if index in FIELDS:
            return self._encode(FIELDS[index], self._calendar()[FIELDS[index]])
        if index in ALARMS:
            return s.alarm[ALARMS[index]]
        match index:
            case Reg.A:
                return s.a | (RegA.UIP if self._updating() else 0)
            case Reg.B:
                return s.b
            case Reg.C:
                return self._take_flags()
            case Reg.D:
                return VRT
        return s.cmos[index]

    def write(self, offset: int, value: int) -> None:
        s = self.state
        if offset == 0:
            s.index = value & 0x7F
            return
        index = s.index
        if index in FIELDS:
            self._set_field(FIELDS[index], value)
        elif index in ALARMS:
            self._catch_up()
            s.alarm[ALARMS[index]] = value
            self._update()
        elif index == Reg.A:
            self._set_a(value & 0x7F)
        elif index == Reg.B:
            self._set_b(value)
        elif index in (Reg.C, Reg.D):
            trace.odd("rtc", "write of %02Xh to read-only register %d", value, index)
        else:
            s.cmos[index] = value

    # --- the board's side ---

    def set_cmos(self, index: int, value: int) -> None:
        """What the board's set-up program would have stored at 0Eh to 7Fh."""
        self.state.cmos[index] = value

    def advance(self, seconds: int) -> None:
        """Somebody set the calendar forward: what lay between does not happen."""
        self._catch_up()
        self._rebase()
        self.state.fields = self._calendar_after(seconds)
        self._update()

    def reset(self) -> None:
        """The RESET pin: interrupts off; the battery keeps calendar and memory."""
        s = self.state
        s.b &= ~(RegB.PIE | RegB.AIE | RegB.UIE | RegB.SQWE)
        s.flags = s.index = 0
        self._update()

    def restore(self, state: State) -> None:
        self.state = state
        self._update()

    # --- registers ---

    def _set_field(self, number: int, value: int) -> None:
        self._catch_up()
        self._rebase()
        self.state.fields[number] = self._decode(number, value)
        self._update()

    def _set_a(self, value: int) -> None:
        self._catch_up()
        s = self.state
        held = self._divider_held()
        self._rebase()
        s.a = value
        s.backlog = 0
        if held and not self._divider_held():  # the first update comes half a second later
            s.base_ns = self.clock.now() - NS_PER_S // 2
        self._update()

    def _set_b(self, value: int) -> None:
        self._catch_up()
        s = self.state
        self._rebase()
        s.b = value & ~RegB.UIE if value & RegB.SET else value
        s.backlog = 0
        self._update()

    def _take_flags(self) -> int:
        """Reading C clears it and so releases the line."""
        self._catch_up()
        s = self.state
        value = s.flags | (RegC.IRQF if s.flags & s.b else 0)
        s.flags = 0
        self._update()
        return value

    def _decode(self, number: int, value: int) -> int:
        """A calendar or alarm byte as binary; number 2 is the hours."""
        b = self.state.b
        afternoon = 0
        if number == 2 and not b & RegB.H24:
            afternoon = 12 if value & PM else 0
            value &= ~PM
        if not b & RegB.DM:
            value = (value >> 4) * 10 + (value & 15)
        return value % 12 + afternoon if number == 2 and not b & RegB.H24 else value

    def _encode(self, number: int, value: int) -> int:
        b = self.state.b
        afternoon = 0
        if number == 2 and not b & RegB.H24:
            afternoon = PM if value >= 12 else 0
            value = value % 12 or 12
        if not b & RegB.DM:
            value = value // 10 % 10 << 4 | value % 10
        return value & 0xFF | afternoon

    # --- the calendar ---

    def _divider_held(self) -> bool:
        return self.state.a & RegA.DV != RegA.DV_RUN

    def _running(self) -> bool:
        return not self.state.b & RegB.SET and not self._divider_held()

    def _updating(self) -> bool:
        return self._running() and (self.clock.now() - self.state.base_ns) % NS_PER_S >= NS_PER_S - UPDATE_NS

    def _calendar(self) -> list[int]:
        """The fields now."""
        s = self.state
        seconds = (self.clock.now() - s.base_ns) // NS_PER_S if self._running() else 0
        if seconds == 0:
            return s.fields
        return self._calendar_after(seconds)

    def _calendar_after(self, seconds: int) -> list[int]:
        fields = self.state.fields
        before = _unix_s(fields)
        days = (before + seconds) // SECONDS_PER_DAY - before // SECONDS_PER_DAY
        return _fields(before + seconds, (fields[3] - 1 + days) % 7 + 1)

    def _rebase(self) -> None:
        """Make the second that began last the one `fields` describe; seconds keep their phase."""
        s = self.state
        s.fields = list(self._calendar())
        s.base_ns += (self.clock.now() - s.base_ns) // NS_PER_S * NS_PER_S

    # --- events and the interrupt line ---

    def _catch_up(self) -> None:
        """Turn what happened since `seen_ns` into flags."""
        s = self.state
        now_ns = self.clock.now()
        seen_ns, s.seen_ns = max(s.seen_ns, s.base_ns), now_ns
        if self._divider_held() or now_ns <= seen_ns:
            return
        period = self._period()
        if period and self._ticks(now_ns) // period > self._ticks(seen_ns) // period:
            s.flags |= RegC.PF
        if s.b & RegB.SET or self._second(now_ns) == self._second(seen_ns):
            return
        s.flags |= RegC.UF
        alarm = self._next_alarm(self._second(seen_ns))
        if alarm is not None and alarm <= self._second(now_ns):
            s.flags |= RegC.AF

    def _update(self) -> None:
        """Drive the line, and have a timer for the next event that would raise it."""
        s = self.state
        raised = bool(s.flags & s.b & (RegC.PF | RegC.AF | RegC.UF))
        self.irq.set(raised)
        deadline_ns = None if raised else self._next_interrupt_ns()
        if deadline_ns is None:
            self._timer.cancel()
        else:
            self._timer.arm(deadline_ns)

    def _next_interrupt_ns(self) -> int | None:
        s = self.state
        if self._divider_held() or not s.b & (RegB.PIE | RegB.AIE | RegB.UIE):
            return None
        now_ns = self.clock.now()
        deadlines = []
        period = self._period()
        if s.b & RegB.PIE and period:
            step = period // 2 if s.backlog else period
            deadlines.append(self._tick_ns((self._ticks(now_ns) // step + 1) * step))
        if s.b & RegB.UIE and self._running():
            deadlines.append(s.base_ns + (self._second(now_ns) + 1) * NS_PER_S)
        if s.b & RegB.AIE and self._running():
            alarm = self._next_alarm(self._second(now_ns))
            if alarm is not None:
                deadlines.append(s.base_ns + alarm * NS_PER_S)
        return min(deadlines, default=None)

    def _event_due(self) -> None:
        s = self.state
        period = self._period()
        if s.b & RegB.PIE and period:
            seen = self._ticks(max(s.seen_ns, s.base_ns)) // period
            passed = self._ticks(self.clock.now()) // period - seen
            if passed:
                s.backlog = min(s.backlog + passed - 1, TICKS_PER_S // period)
            elif s.backlog:
                s.backlog -= 1
                s.flags |= RegC.PF
        self._catch_up()
        self._update()

    def _period(self) -> int:
        """Ticks between periodic interrupts; 0: none (table 5)."""
        rs = self.state.a & RegA.RS
        return 1 << (rs + 6 if rs in (1, 2) else rs - 1) if rs else 0

    def _ticks(self, at_ns: int) -> int:
        return (at_ns - self.state.base_ns) * TICKS_PER_S // NS_PER_S

    def _tick_ns(self, tick: int) -> int:
        return self.state.base_ns - (-tick * NS_PER_S // TICKS_PER_S)

    def _second(self, at_ns: int) -> int:
        return (at_ns - self.state.base_ns) // NS_PER_S

    def _next_alarm(self, second: int) -> int | None:
        """The first second after `second`, both counted from `base_ns`, that the alarm matches."""
        wanted = [None if v & ANY == ANY else self._decode(n, v) for n, v in enumerate(self.state.alarm)]
        for value, limit in zip(wanted, (60, 60, 24), strict=True):
            if value is not None and value >= limit:
                return None
        origin = _unix_s(self.state.fields)
        first = (origin + second + 1) % SECONDS_PER_DAY
        time_of_day = _next_match(first, wanted)
        if time_of_day is None:  # tomorrow
            time_of_day = (_next_match(0, wanted) or 0) + SECONDS_PER_DAY
        return second + 1 + time_of_day - first


def _next_match(first: int, wanted: list[int | None]) -> int | None:
    """The first second of the day from `first` on with the seconds, minutes and hours wanted (None: any)."""
    second, minute, hour = wanted
    for h in range(first // 3600, 24) if hour is None else (hour,):
        for m in range(60) if minute is None else (minute,):
            at = h * 3600 + m * 60 + (second or 0)
            if second is None and at < first < at + 60:
                return first
            if at >= first:
                return at
    return None


def _unix_s(fields: list[int]) -> int:
    """Seconds since 1970; days and months beyond their ends run over into the next."""
    second, minute, hour, _, day, month, year, century = fields
    year += century * 100 + (month - 1) // 12
    month = (month - 1) % 12 + 1
    year -= month <= 2  # years begin in March, so that leap days come last
    days = year * 365 + year // 4 - year // 100 + year // 400
    days += (153 * ((month + 9) % 12) + 2) // 5 + day - 1 - UNIX_EPOCH_DAYS
    return days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second


def _fields(unix_s: int, weekday: int) -> list[int]:
    days, time = divmod(unix_s, SECONDS_PER_DAY)
    era, day_of_era = divmod(days + UNIX_EPOCH_DAYS, 146_097)  # 400 years
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    march_month = (5 * day_of_year + 2) // 153
    month = march_month + 3 if march_month < 10 else march_month - 9
    year += era * 400 + (month <= 2)
    day = day_of_year - (153 * march_month + 2) // 5 + 1
    return [time % 60, time // 60 % 60, time // 3600, weekday, day, month, year % 100, year // 100 % 100]
