"""8254 interval timer, with the PC's port 61h that gates its counter 2.

Datasheet: Intel, "8254 Programmable Interval Timer", 231164; port 61h: "82371FB (PIIX) and 82371SB
(PIIX3)", 290550, "NMI Status and Control Register".  CE, CR, GATE and OUT are the datasheet's.

Inside, time is in ticks of the 14.31818 MHz / 12 clock, exactly 105/88 MHz.  Nothing counts: the count and
OUT are computed from the tick of the last load whenever somebody looks.

Counter 0's OUT is IRQ 0.  In modes 2 to 5 its line stays asserted until just before the next rising edge,
rather than for OUT's exact low time; edges closer than IRQ_INTERVAL_NS are merged.  Edges that came late
because the host was busy are made up for, at twice their rate and at most a second's worth, so that guests
which count ticks keep time.

Counter 2's OUT and port 61h's SPEAKER bit meet at the AND gate before the speaker, which is told how the
wave goes on whenever one of them is programmed.

Not modelled: what CE does before the first count after a control word (it reads as 0).
"""

from dataclasses import dataclass, field

from ring3 import trace
from ring3.clock import Clock, Timer
from ring3.devices.face import Registers
from ring3.devices.speaker import NoSpeaker, SpeakerWire
from ring3.irq import IrqLine

TICKS_PER_S = 1_193_182  # rounded; exactly 105/88 million
IRQ_INTERVAL_NS = 40_000
REFRESH_NS = 15_085  # DRAM refresh: 18 ticks


class Control:  # control word, and read-back command where SC is 3
    BCD, MODE, RW, SC = 0x01, 0x0E, 0x30, 0xC0
    RB_NO_STATUS, RB_NO_COUNT = 0x10, 0x20


class Rw:
    LATCH, LSB, MSB, BOTH = range(4)


class Status:
    NULL_COUNT, OUT = 0x40, 0x80


class PortB:
    GATE2, SPEAKER, PARITY, IOCHK, REFRESH, OUT2 = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
    STORED = 0x0F


@dataclass(slots=True)
class CounterState:
    """One counter at its reset value; times are in ticks."""

    mode: int = 0
    bcd: bool = False
    rw: int = Rw.BOTH
    gate: bool = True
    reload: int = 0  # CR: 1 to 65536; 0: no count written since the control word
    count: int = 0  # what was last loaded into CE; 0: nothing yet
    start: int = 0  # tick at which it was loaded
    reload_at: int | None = None  # modes 2 and 3: tick at which a new CR takes effect
    paused: int | None = None  # ticks counted when GATE stopped it
    low_byte: int | None = None  # first half of a count being written
    read_high: bool = False  # next read is of a count's second half
    latched_count: int | None = None
    latched_status: int | None = None


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    counters: list[CounterState] = field(
        default_factory=lambda: [CounterState(), CounterState(), CounterState(gate=False)]
    )
    port_b: int = 0
    edge: int | None = None  # tick of IRQ 0's next rising edge; None: there's none, or none that is heard
    backlog: int = 0  # edges that came too late, still to be made up for


class Counter:
    """One of the three.  `now` is always the current tick."""

    def __init__(self, state: CounterState) -> None:
        self.state = state

    # --- the guest's side ---

    def program(self, word: int) -> None:
        """A control word: OUT goes to the mode's initial level, and counting waits for a count."""
        mode = (word & Control.MODE) >> 1
        self.state = CounterState(
            mode=mode & 3 if mode > 5 else mode,
            bcd=bool(word & Control.BCD),
            rw=(word & Control.RW) >> 4,
            gate=self.state.gate,
        )

    def write(self, value: int, now: int) -> None:
        s = self.state
        if s.rw == Rw.LSB:
            self._write_count(value, now)
        elif s.rw == Rw.MSB:
            self._write_count(value << 8, now)
        elif s.low_byte is None:
            s.low_byte = value
            if s.mode == 0:  # the first byte already stops the count
                s.count = 0
        else:
            self._write_count(s.low_byte | value << 8, now)
            s.low_byte = None

    def read(self, now: int) -> int:
        s = self.state
        if s.latched_status is not None:
            value, s.latched_status = s.latched_status, None
            return value
        count = self.value(now) if s.latched_count is None else s.latched_count
        if s.rw == Rw.BOTH:
            s.read_high = not s.read_high
            if s.read_high:
                return count & 0xFF
        s.latched_count = None
        return count & 0xFF if s.rw == Rw.LSB else count >> 8

    def latch_count(self, now: int) -> None:
        if self.state.latched_count is None:
            self.state.latched_count = self.value(now)

    def latch_status(self, now: int) -> None:
        s = self.state
        if s.latched_status is None:
            waiting = not s.count or now < s.start or s.reload_at is not None
            s.latched_status = (
                (Status.OUT if self.out(now) else 0)
                | (Status.NULL_COUNT if waiting else 0)
                | s.rw << 4
                | s.mode << 1
                | s.bcd
            )

    # --- the pins ---

    def set_gate(self, level: bool, now: int) -> None:
        s = self.state
        if level == s.gate:
            return
        self._settle(now)
        s.gate = level
        if s.mode in (1, 5):
            if level and s.reload:
                s.count, s.start = s.reload, now + 1
        elif not level:
            s.paused = self._elapsed(now)
        elif s.paused is not None:
            restarts = s.mode in (2, 3) and s.count
            s.start = now + 1 if restarts else now - s.paused
            s.count = s.reload if restarts else s.count
            s.paused = s.reload_at = None

    def out(self, now: int) -> bool:
        s = self.state
        self._settle(now)
        n, elapsed = s.count, self._elapsed(now)
        match s.mode:
            case 0:
                return n > 0 and elapsed >= n
            case 1:
                return not 0 <= elapsed < n
            case 2:
                return not (n and s.gate and elapsed >= 0 and elapsed % n == n - 1)
            case 3:
                return not (n and s.gate and elapsed >= 0 and elapsed % n >= (n + 1) // 2)
        return not (n and elapsed == n)

    def next_rise(self, now: int) -> int | None:
        """The first tick after `now` at which OUT rises."""
        s = self.state
        self._settle(now)
        n = s.count
        if not n or s.paused is not None:
            return None
        if s.mode in (2, 3):
            if s.reload_at is not None:
                return s.reload_at if s.mode == 2 or not self.out(now) else s.reload_at + s.reload // 2
            return s.start + max((now - s.start) // n + 1, 1) * n
        rise = s.start + n + (s.mode >= 4)
        return rise if rise > now else None

    def wave(self, now: int) -> tuple[bool, int | None, int, int]:
        """OUT's level, the tick until which it stays (None: for good), and then its high and low times.

        Where OUT changes once and stays, those times are 0.  The strobes of modes 4 and 5 are left out.
        """
        s = self.state
        level = self.out(now)
        if not s.count or s.paused is not None or s.mode >= 4:
            return level, None, 0, 0
        if s.mode < 2:
            return level, None if level else s.start + s.count, 0, 0
        high, period = self._high_time(s.count), s.count
        begin = max(now, s.start) - max(now - s.start, 0) % period
        until = begin + (high if now < begin + high else period)
        if s.reload_at is not None:
            until, high, period = s.reload_at, self._high_time(s.reload), s.reload
        return level, until, high, period - high

    def _high_time(self, count: int) -> int:
        """Of a period of modes 2 and 3."""
        return count - 1 if self.state.mode == 2 else (count + 1) // 2

    # --- derived, never stored ---

    def value(self, now: int) -> int:
        """CE as the guest reads it."""
        s = self.state
        self._settle(now)
        n, elapsed = s.count, max(self._elapsed(now), 0)
        if s.mode in (2, 3) and n:
            elapsed %= n
        if s.mode == 3 and n:
            high = (n + 1) // 2
            elapsed = 2 * (elapsed - high if elapsed >= high else elapsed) + (n & 1)
        if s.bcd:
            return _to_bcd((n - elapsed) % 10_000)
        return (n - elapsed) & 0xFFFF

    def _elapsed(self, now: int) -> int:
        s = self.state
        return now - s.start if s.paused is None else s.paused

    def _settle(self, now: int) -> None:
        """Modes 2 and 3: a count written while counting takes effect when its period, or half of it, ends."""
        s = self.state
        if s.reload_at is not None and now >= s.reload_at and s.paused is None:
            rises = s.mode == 2 or (s.reload_at - s.start) % s.count == 0
            s.start = s.reload_at - (0 if rises else (s.reload + 1) // 2)
            s.count = s.reload
            s.reload_at = None

    def _write_count(self, value: int, now: int) -> None:
        s = self.state
        self._settle(now)
        s.reload = (_from_bcd(value) or 10_000) if s.bcd else (value or 0x10000)
        if s.mode in (1, 5):  # loaded by the next rise of GATE
            return
        if s.mode in (2, 3) and s.count:
            s.reload_at = self._period_end(now)
        else:
            s.count, s.start = s.reload, now + 1
            s.paused = None if s.gate else 0

    def _period_end(self, now: int) -> int:
        """Mode 2: the end of this period; mode 3: of this half of it."""
        s = self.state
        n, elapsed = s.count, max(self._elapsed(now), 0)
        rise = s.start + (elapsed // n + 1) * n
        if s.mode == 3 and elapsed % n < (n + 1) // 2:
            return rise - n // 2
        return rise


class I8254:
    """Offsets 0 to 2 are the counters, 3 the control word; `port_b` is port 61h."""

    def __init__(self, clock: Clock, irq: IrqLine, speaker: SpeakerWire | None = None) -> None:
        self.clock = clock
        self.irq = irq
        self._speaker = speaker if speaker is not None else NoSpeaker()
        self._timer = Timer(clock, self._edge_due)
        self._counters = [Counter(s) for s in State().counters]
        self._port_b = self._backlog = 0
        self._edge: int | None = None
        irq.on_heard = self._heard
        self.port_b = Registers(self._read_port_b, self._write_port_b)

    @property
    def state(self) -> State:
        return State([c.state for c in self._counters], self._port_b, self._edge, self._backlog)

    # --- the guest's side ---

    def read(self, offset: int) -> int:
        if offset == 3:
            trace.odd("pit", "read of the write-only control word")
            return 0xFF
        return self._counters[offset & 3].read(self._now())

    def write(self, offset: int, value: int) -> None:
        now = self._now()
        if offset < 3:
            self._counters[offset].write(value, now)
            if offset == 0:
                self._drive_irq(now)
            elif offset == 2:
                self._drive_speaker(now)
        elif value & Control.SC == Control.SC:
            self._read_back(value, now)
        elif value & Control.RW == 0:
            self._counters[value >> 6].latch_count(now)
        else:
            self._counters[value >> 6].program(value)
            if value >> 6 == 0:
                self._stop_irq()
            elif value >> 6 == 2:
                self._drive_speaker(now)

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self._counters = [Counter(s) for s in state.counters]
        self._port_b, self._edge, self._backlog = state.port_b, state.edge, state.backlog
        self.irq.set(self._irq_level(self._now()))
        self._arm()
        self._drive_speaker(self._now())

    def _read_back(self, value: int, now: int) -> None:
        for n, counter in enumerate(self._counters):
            if value & 2 << n:
                if not value & Control.RB_NO_COUNT:
                    counter.latch_count(now)
                if not value & Control.RB_NO_STATUS:
                    counter.latch_status(now)

    def _read_port_b(self, offset: int) -> int:
        value = self._port_b
        if self.clock.now() // REFRESH_NS & 1:
            value |= PortB.REFRESH
        if self._counters[2].out(self._now()):
            value |= PortB.OUT2
        return value

    def _write_port_b(self, offset: int, value: int) -> None:
        now = self._now()
        heard = (self._port_b | value) & PortB.SPEAKER
        self._port_b = value & PortB.STORED
        self._counters[2].set_gate(bool(value & PortB.GATE2), now)
        if heard:
            self._drive_speaker(now)

    def _drive_speaker(self, now: int) -> None:
        if not self._port_b & PortB.SPEAKER:
            self._speaker.drive(False)
            return
        level, until, high, low = self._counters[2].wave(now)
        until_ns = None if until is None else -(-until * 88_000 // 105)
        self._speaker.drive(level, until_ns, high * 88_000 / 105, low * 88_000 / 105)

    # --- time and IRQ 0 ---

    def _now(self) -> int:
        return self.clock.now() * 105 // 88_000

    def _irq_level(self, now: int) -> bool:
        counter = self._counters[0]
        return counter.out(now) if counter.state.mode < 2 else True

    def _stop_irq(self) -> None:
        """Counter 0 has a new mode and no count: OUT is low in mode 0 and high in the others."""
        self._backlog = 0
        self._edge = None
        self._timer.cancel()
        self.irq.set(self._counters[0].state.mode != 0)

    def _drive_irq(self, now: int) -> None:
        """Counter 0 has a new count."""
        self._backlog = 0
        self._edge = self._counters[0].next_rise(now)
        self.irq.set(self._irq_level(now))
        self._arm()

    def _arm(self) -> None:
        if self._edge is None:
            self._timer.cancel()
            return
        deadline_ns = -(-self._edge * 88_000 // 105)  # the first nanosecond of that tick
        if self._backlog:
            half_period_ns = self._counters[0].state.count * 88_000 // 210
            deadline_ns = min(deadline_ns, self.clock.now() + half_period_ns)
        self._timer.arm(deadline_ns)

    def _edge_due(self) -> None:
        now = self._now()
        if self._edge is not None and now >= self._edge:
            self._count_edges(self._edge, now)
        elif self._backlog:
            self._backlog -= 1
        self.irq.set(False)
        self.irq.set(True)
        if self._counters[0].state.mode in (2, 3) and not self.irq.heard:
            self._edge = None
            self._backlog = 0
        self._arm()

    def _heard(self) -> None:
        """Interrupts that recur count again, from here on."""
        if self.irq.heard and self._edge is None and self._counters[0].state.mode in (2, 3):
            self._edge = self._counters[0].next_rise(self._now())
            self._arm()

    def _count_edges(self, edge: int, now: int) -> None:
        """OUT rose at `edge`: find the next rise worth a timer, and count those that were missed."""
        counter = self._counters[0]
        counter.out(now)
        if counter.state.mode not in (2, 3):
            self._edge = None
            return
        period = counter.state.count
        interval = IRQ_INTERVAL_NS * 105 // 88_000
        if period >= interval:
            missed = (now - edge) // period
            self._backlog = min(self._backlog + missed, TICKS_PER_S // period)
        self._edge = counter.next_rise(now)
        if period < interval and self._edge is not None:
            self._edge += interval // period * period


def _from_bcd(value: int) -> int:
    return (value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 + (value & 15)


def _to_bcd(value: int) -> int:
    return value // 1000 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10
