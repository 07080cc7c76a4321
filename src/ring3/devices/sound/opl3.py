"""YMF262 (OPL3) FM synthesizer: its registers and timers.

Yamaha, "YMF262 Application Manual", 1990.  Two sets of 256 registers, an address and a data port each; the
first set's address port reads as the status.

Modelled: the timers with their flags, by which programs recognize the chip.  Not modelled: its sound.
"""

from dataclasses import dataclass, field

from ring3.clock import Clock

TIMER_NS = (80_000, 320_000)            # a count of timer 1 and of timer 2


class Reg:
    TIMER_1, TIMER_2, CONTROL = 0x02, 0x03, 0x04


class Control:
    RESET_FLAGS, START_1, START_2 = 0x80, 0x01, 0x02
    MASK = (0x40, 0x20)


IRQ_FLAG = 0x80
FLAG = (0x40, 0x20)                     # of timers 1 and 2


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    index: list[int] = field(default_factory=lambda: [0, 0])
    registers: bytearray = field(default_factory=lambda: bytearray(512))
    started_ns: list[int] = field(default_factory=lambda: [0, 0])
    cleared_ns: int = 0                 # when the flags were reset last


class Opl3:
    """Offsets 0 and 1: the first set's address and data; 2 and 3: the second's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.state = State()

    def read(self, offset: int) -> int:
        return self._status() if offset & 3 == 0 else 0xFF

    def write(self, offset: int, value: int) -> None:
        s = self.state
        bank = offset >> 1 & 1
        if not offset & 1:
            s.index[bank] = value
        elif bank == 0 and s.index[0] == Reg.CONTROL:
            self._control(value)
        else:
            s.registers[bank << 8 | s.index[bank]] = value

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state

    def _control(self, value: int) -> None:
        s = self.state
        now_ns = self._clock.now()
        if value & Control.RESET_FLAGS:             # the other bits don't count then
            s.cleared_ns = now_ns
            return
        before = s.registers[Reg.CONTROL]
        s.registers[Reg.CONTROL] = value
        for timer, start in enumerate((Control.START_1, Control.START_2)):
            if value & start and not before & start:
                s.started_ns[timer] = now_ns

    def _status(self) -> int:
        """A timer counts up from its register and sets its flag each time it overflows, unless masked."""
        s = self.state
        control = s.registers[Reg.CONTROL]
        now_ns = self._clock.now()
        flags = 0
        for timer, start in enumerate((Control.START_1, Control.START_2)):
            if not control & start or control & Control.MASK[timer]:
                continue
            period_ns = (256 - s.registers[Reg.TIMER_1 + timer]) * TIMER_NS[timer]
            overflows = (now_ns - s.started_ns[timer]) // period_ns
            if overflows and s.started_ns[timer] + overflows * period_ns > s.cleared_ns:
                flags |= FLAG[timer]
        return flags | IRQ_FLAG if flags else 0
