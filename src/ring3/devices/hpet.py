"""High precision event timers: a counter of 100 MHz and three comparators.

Specification: Intel, "IA-PC HPET (High Precision Event Timers) Specification", 1.0a (2004), whose names are
used.  In legacy replacement mode comparator 0 drives IRQ 0 instead of the 8254, and comparator 1 IRQ 8
instead of the real-time clock: both of these are wired through this chip.

Edges of a periodic comparator that were missed because the host was late follow at half its period, as
guests that count them keep time by: up to a second's.  Periods below IRQ_INTERVAL_NS are merged.

Not modelled: interrupts as messages (FSB_INT_DEL_CAP says so).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from ring3.clock import NS_PER_S, Clock, Timer
from ring3.irq import IrqLine

SIZE = 0x400                            # bytes of registers
PERIOD_NS = 10
IRQ_INTERVAL_NS = 40_000                # the shortest of a periodic timer
TICKS_PER_S = NS_PER_S // PERIOD_NS
PERIOD_FS = PERIOD_NS * 1_000_000
TIMERS = 3
LEGACY_TIMERS = 2
COUNTER_BITS = (1 << 64) - 1


class Reg:
    CAPABILITIES, CONFIGURATION, STATUS, COUNTER = 0x00, 0x10, 0x20, 0xF0
    TIMER0, STRIDE = 0x100, 0x20
    TIMER_CONFIGURATION, COMPARATOR = 0x00, 0x08    # in a timer's block


class Capability:
    """Low half of the capabilities: revision 1, the last timer, 64 bits, legacy replacement, Intel."""

    LOW = 0x01 | (TIMERS - 1) << 8 | 1 << 13 | 1 << 15 | 0x8086 << 16


class Conf:  # general configuration
    ENABLE, LEGACY = 0x01, 0x02


class Tn:  # timer configuration
    LEVEL, ENABLE, PERIODIC, VAL_SET, MODE_32, ROUTE = 0x02, 0x04, 0x08, 0x40, 0x100, 0x3E00
    CAPABLE = 0x30                      # periodic, 64 bits
    WRITABLE = LEVEL | ENABLE | PERIODIC | VAL_SET | MODE_32 | ROUTE


ROUTES = (0x00F0_0000, 0x00F0_0000, 0x00F0_0800)    # I/O APIC inputs that each timer may use, a bit each


@dataclass(slots=True)
class TimerState:
    configuration: int = 0
    comparator: int = COUNTER_BITS
    period: int = 0                     # ticks
    owed: int = 0                       # edges that were missed


@dataclass(slots=True)
class State:
    """Registers at their reset values; also the checkpoint record."""

    configuration: int = 0
    status: int = 0
    count: int = 0                      # ticks, as of `since_ns` while the counter runs
    since_ns: int = 0
    seen: int = 0                       # the count up to which comparators were looked at
    timers: list[TimerState] = field(default_factory=lambda: [TimerState() for _ in range(TIMERS)])


class Gate:
    """A line that passes through while legacy replacement is off."""

    def __init__(self, target: IrqLine) -> None:
        self._target = target
        self._open = True
        self.line = IrqLine(self._changed)
        target.on_heard = self._heard

    def set_open(self, is_open: bool) -> None:
        self._open = is_open
        self._changed(self.line.level)
        self._heard()

    def _heard(self) -> None:
        self.line.hear(self._open and self._target.heard)

    def _changed(self, level: bool) -> None:
        self._target.set(level and self._open)


class Hpet:
    """A wide face of 1 KiB, for accesses of up to 8 bytes."""

    def __init__(
        self,
        clock: Clock,
        lines: Mapping[int, IrqLine],
        legacy: tuple[IrqLine, IrqLine],
        replaced: tuple[IrqLine, IrqLine],
    ) -> None:
        """`lines` by I/O APIC input; `legacy`: our ends of IRQ 0 and 8; `replaced`: their drivers' ends.

        The 8254 and the clock drive `gates[0].line` and `gates[1].line`, which lead there.
        """
        self._clock = clock
        self._lines = lines
        self._legacy = legacy
        self.gates = tuple(Gate(line) for line in replaced)
        self._timers = [Timer(clock, partial(self._due, n)) for n in range(TIMERS)]
        self._driven: list[IrqLine | None] = [None] * TIMERS
        self.state = State()

    # --- registers ---

    def read(self, offset: int, size: int) -> int:
        self._catch_up()
        shift = 8 * (offset & 7)
        return self._read(offset & ~7) >> shift & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        """A part of a register: the rest of it stays."""
        self._catch_up()
        shift = 8 * (offset & 7)
        mask = (1 << 8 * size) - 1 << shift & COUNTER_BITS
        self._write(offset & ~7, value << shift & mask, mask)
        self._update()

    def _read(self, register: int) -> int:
        s = self.state
        match register:
            case Reg.CAPABILITIES:
                return PERIOD_FS << 32 | Capability.LOW
            case Reg.CONFIGURATION:
                return s.configuration
            case Reg.STATUS:
                return s.status
            case Reg.COUNTER:
                return self._count()
        n, part = divmod(register - Reg.TIMER0, Reg.STRIDE)
        if 0 <= n < TIMERS and part == Reg.TIMER_CONFIGURATION:
            return ROUTES[n] << 32 | Tn.CAPABLE | s.timers[n].configuration
        if 0 <= n < TIMERS and part == Reg.COMPARATOR:
            return s.timers[n].comparator
        return 0

    def _write(self, register: int, value: int, mask: int) -> None:
        s = self.state
        match register:
            case Reg.CONFIGURATION:
                self._configure((s.configuration & ~mask | value) & (Conf.ENABLE | Conf.LEGACY))
            case Reg.STATUS:
                s.status &= ~value
            case Reg.COUNTER:
                s.count = s.seen = self._count() & ~mask | value
                s.since_ns = self._clock.now()
        n, part = divmod(register - Reg.TIMER0, Reg.STRIDE)
        if 0 <= n < TIMERS and part == Reg.TIMER_CONFIGURATION:
            self._configure_timer(n, (s.timers[n].configuration & ~mask | value) & Tn.WRITABLE)
        elif 0 <= n < TIMERS and part == Reg.COMPARATOR:
            self._set_comparator(s.timers[n], value, mask)

    def _configure(self, value: int) -> None:
        s = self.state
        s.count = s.seen = self._count()
        s.since_ns = self._clock.now()
        s.configuration = value
        for timer in s.timers:
            timer.owed = 0

    def _configure_timer(self, n: int, value: int) -> None:
        timer = self.state.timers[n]
        timer.configuration = value
        timer.owed = 0
        if value & Tn.MODE_32:
            timer.comparator &= 0xFFFF_FFFF
            timer.period &= 0xFFFF_FFFF
        if not value & Tn.LEVEL:
            self.state.status &= ~(1 << n)

    def _set_comparator(self, timer: TimerState, value: int, mask: int) -> None:
        """A periodic timer's period; with VAL_SET also where it goes on from (§2.3.9.2.2)."""
        width = self._width(timer)
        timer.owed = 0
        periodic = timer.configuration & Tn.PERIODIC
        if periodic:
            timer.period = (timer.period & ~mask | value) & width
        if not periodic or timer.configuration & Tn.VAL_SET:
            timer.comparator = (timer.comparator & ~mask | value) & width
        timer.configuration &= ~Tn.VAL_SET

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self._catch_up()
        self._update()

    # --- time ---

    def _count(self) -> int:
        s = self.state
        if not s.configuration & Conf.ENABLE:
            return s.count
        return s.count + (self._clock.now() - s.since_ns) // PERIOD_NS & COUNTER_BITS

    @staticmethod
    def _width(timer: TimerState) -> int:
        return 0xFFFF_FFFF if timer.configuration & Tn.MODE_32 else COUNTER_BITS

    def _ticks_left(self, timer: TimerState) -> int:
        """From the count last seen to the next match: at least 1."""
        return (timer.comparator - self.state.seen - 1 & self._width(timer)) + 1

    def _catch_up(self) -> set[int]:
        """Comparators that matched since the last look."""
        s = self.state
        matched = set()
        now = self._count()
        elapsed = now - s.seen & COUNTER_BITS
        for n, timer in enumerate(s.timers):
            left = self._ticks_left(timer)
            if left > elapsed:
                continue
            if timer.configuration & Tn.PERIODIC and timer.period:
                periods = (elapsed - left) // timer.period + 1
                timer.comparator = timer.comparator + periods * timer.period & self._width(timer)
                if not timer.configuration & Tn.LEVEL and timer.period * PERIOD_NS >= IRQ_INTERVAL_NS:
                    timer.owed = min(timer.owed + periods - 1, TICKS_PER_S // timer.period)
            self._matched(n)
            matched.add(n)
        s.seen = now
        return matched

    def _due(self, n: int) -> None:
        timer = self.state.timers[n]
        if n not in self._catch_up() and timer.owed:
            timer.owed -= 1
            self._matched(n)
        self._update()

    # --- interrupts ---

    def _matched(self, n: int) -> None:
        configuration = self.state.timers[n].configuration
        if configuration & Tn.LEVEL:
            self.state.status |= 1 << n
        elif (line := self._route(n)) is not None:
            line.set(False)             # each match is an edge; the line stays up in between
            line.set(True)
            self._driven[n] = line

    def _route(self, n: int) -> IrqLine | None:
        """Where timer `n` interrupts; None while it doesn't."""
        s = self.state
        configuration = s.timers[n].configuration
        if not configuration & Tn.ENABLE or not s.configuration & Conf.ENABLE:
            return None
        if s.configuration & Conf.LEGACY and n < LEGACY_TIMERS:
            return self._legacy[n]
        chosen = (configuration & Tn.ROUTE) >> 9
        return self._lines.get(chosen) if ROUTES[n] >> chosen & 1 else None

    def _update(self) -> None:
        """Drives lines and gates, and sets timers for the next matches that anybody hears of."""
        s = self.state
        for gate in self.gates:
            gate.set_open(not s.configuration & Conf.LEGACY)
        for n, timer in enumerate(s.timers):
            line, driven = self._route(n), self._driven[n]
            if driven is not None and driven is not line:
                driven.set(False)
                self._driven[n] = None
            if line is not None and timer.configuration & Tn.LEVEL:
                line.set(bool(s.status >> n & 1))
                self._driven[n] = line
            if line is not None:
                self._arm(n, timer)
            else:
                self._timers[n].cancel()

    def _arm(self, n: int, timer: TimerState) -> None:
        """Short periods are merged, so that a guest cannot keep us busy."""
        s = self.state
        ticks = (s.seen - s.count & COUNTER_BITS) + self._ticks_left(timer)
        deadline_ns = s.since_ns + ticks * PERIOD_NS
        if timer.configuration & Tn.PERIODIC:
            if timer.owed:
                deadline_ns = min(deadline_ns, self._clock.now() + timer.period * PERIOD_NS // 2)
            deadline_ns = max(deadline_ns, self._clock.now() + IRQ_INTERVAL_NS)
        self._timers[n].arm(deadline_ns)
