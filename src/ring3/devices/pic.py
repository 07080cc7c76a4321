"""8259A interrupt controllers: the PC's cascaded pair, with PIIX's edge/level registers.

Datasheet: Intel, "8259A Programmable Interrupt Controller", 231468; ELCR: "82371FB (PIIX) and 82371SB
(PIIX3)", 290550, "Edge/Level Control Registers".  Bit names are the datasheets'.

An edge-triggered request is latched when its line rises and forgotten when the line falls before the CPU
asks for it.  The cascade input counts as level-triggered: a real secondary lowers INT for a moment at each
INTA and so makes a new edge for whatever else it has pending, which comes to the same.

Not modelled: 8080 mode (no CALL opcode), buffered mode's pin, a cascade wired otherwise than the PC's (ICW3
is taken and ignored), and ICW1's LTIM, which PIIX replaces by ELCR.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ring3 import trace
from ring3.devices.face import Registers
from ring3.irq import IrqLine

CASCADE = 2  # the primary's input that the secondary drives
SPURIOUS = 7  # the level reported when a request went away before INTA


class Icw1:
    IC4, SNGL, LTIM, ICW1 = 0x01, 0x02, 0x08, 0x10


class Icw4:
    AEOI, SFNM = 0x02, 0x10


class Ocw2:
    LEVEL, EOI, SL, R = 0x07, 0x20, 0x40, 0x80


class Ocw3:
    RIS, RR, P, OCW3, SMM, ESMM = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40


@dataclass(slots=True)
class ChipState:
    """One 8259A at its reset value; bit n belongs to input IRn."""

    lines: int = 0  # levels of the inputs
    latched: int = 0  # rising edges not yet acknowledged
    isr: int = 0
    imr: int = 0
    elcr: int = 0  # 1: level-triggered
    vector_base: int = 0
    lowest: int = 7  # the input of lowest priority
    aeoi: bool = False
    rotate_in_aeoi: bool = False
    sfnm: bool = False
    special_mask: bool = False
    read_isr: bool = False
    poll: bool = False
    next_icw: int = 0  # the ICW expected at offset 1; 0: none, that is OCW1
    single: bool = False
    needs_icw4: bool = False


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    primary: ChipState = field(default_factory=ChipState)
    secondary: ChipState = field(default_factory=ChipState)


class I8259:
    """One of the two; offsets 0 and 1 are its A0 pin."""

    def __init__(self, out: IrqLine, level_only: int, elcr_mask: int) -> None:
        """`level_only`: inputs always treated as level-triggered; `elcr_mask`: ELCR bits that can be set."""
        self.out = out
        self.line = [IrqLine(partial(self._set_input, 1 << n)) for n in range(8)]
        self.state = ChipState()
        self._level_only = level_only
        self._elcr_mask = elcr_mask
        self._deaf = 0  # inputs told so

    # --- the guest's side ---

    def read(self, offset: int) -> int:
        s = self.state
        if s.poll:
            s.poll = False
            level = self.take()
            return 0 if level is None else 0x80 | level
        if offset:
            return s.imr
        return s.isr if s.read_isr else self._requests()

    def write(self, offset: int, value: int) -> None:
        s = self.state
        if offset:
            if s.next_icw:
                self._initialize_further(value)
            else:
                s.imr = value
        elif value & Icw1.ICW1:
            self._initialize(value)
        elif value & Ocw3.OCW3:
            self._ocw3(value)
        else:
            self._ocw2(value)
        self.update()

    def read_elcr(self) -> int:
        return self.state.elcr

    def write_elcr(self, value: int) -> None:
        self.state.elcr = value & self._elcr_mask
        self.update()

    # --- the wires ---

    def _set_input(self, bit: int, level: bool) -> None:
        s = self.state
        if level:
            s.lines |= bit
            s.latched |= bit
        else:
            s.lines &= ~bit
            s.latched &= ~bit
        self.update()

    def take(self) -> int | None:
        """The first half of INTA: the pending level of highest priority goes into service."""
        s = self.state
        pending = self._pending()
        if not pending:
            return None
        level = pending.bit_length() - 1
        s.latched &= ~pending
        if not s.aeoi:
            s.isr |= pending
        elif s.rotate_in_aeoi:
            s.lowest = level
        self.update()
        return level

    def update(self) -> None:
        s = self.state
        deaf = s.imr & (s.latched | s.elcr | self._level_only)
        changed, self._deaf = deaf ^ self._deaf, deaf
        while changed:                  # with each edge of a masked input: that one only
            n = changed.bit_length() - 1
            changed ^= 1 << n
            self.line[n].hear(not deaf >> n & 1)
        self.out.set(self._pending() != 0)

    # --- derived, never stored ---

    def _requests(self) -> int:
        """IRR."""
        s = self.state
        level_triggered = s.elcr | self._level_only
        return (s.latched & ~level_triggered) | (s.lines & level_triggered)

    def _pending(self) -> int:
        """The bit of the request to deliver now; 0 when there is none or one in service outranks it."""
        s = self.state
        requests = self._requests() & ~s.imr
        if not requests:
            return 0
        request = self._first(requests)
        serving = self._first(s.isr & ~s.imr if s.special_mask else s.isr)
        if not serving or self._rank(request) < self._rank(serving):
            return request
        nested = s.sfnm and request == serving and request & self._level_only
        return request if nested else 0

    def _first(self, bits: int) -> int:
        """The bit of highest priority."""
        above = bits >> self.state.lowest + 1 << self.state.lowest + 1
        bits = above or bits
        return bits & -bits

    def _rank(self, bit: int) -> int:
        """0 for the input of highest priority … 7."""
        return (bit.bit_length() - 2 - self.state.lowest) & 7

    # --- initialization and operation command words ---

    def _initialize(self, value: int) -> None:
        """ICW1: everything but the lines' levels and ELCR starts anew."""
        old = self.state
        self.state = s = ChipState(lines=old.lines, elcr=old.elcr, vector_base=old.vector_base)
        s.single = bool(value & Icw1.SNGL)
        s.needs_icw4 = bool(value & Icw1.IC4)
        s.next_icw = 2

    def _initialize_further(self, value: int) -> None:
        s = self.state
        match s.next_icw:
            case 2:
                s.vector_base = value & 0xF8
                s.next_icw = 3 if not s.single else 4 if s.needs_icw4 else 0
            case 3:
                s.next_icw = 4 if s.needs_icw4 else 0
            case _:
                s.aeoi = bool(value & Icw4.AEOI)
                s.sfnm = bool(value & Icw4.SFNM)
                s.next_icw = 0

    def _ocw2(self, value: int) -> None:
        s = self.state
        if not value & Ocw2.EOI:
            if not value & Ocw2.SL:
                s.rotate_in_aeoi = bool(value & Ocw2.R)
            elif value & Ocw2.R:
                s.lowest = value & Ocw2.LEVEL
            return
        if value & Ocw2.SL:
            done = 1 << (value & Ocw2.LEVEL)
        else:  # with the special mask, masked levels are not ended by a nonspecific EOI
            done = self._first(s.isr & ~s.imr if s.special_mask else s.isr)
        s.isr &= ~done
        if value & Ocw2.R and done:
            s.lowest = done.bit_length() - 1

    def _ocw3(self, value: int) -> None:
        s = self.state
        if value & Ocw3.ESMM:
            s.special_mask = bool(value & Ocw3.SMM)
        if value & Ocw3.P:
            s.poll = True
        elif value & Ocw3.RR:
            s.read_isr = bool(value & Ocw3.RIS)


class I8259Pair:
    """IRQ 0 to 7 at `primary`, 8 to 15 at `secondary`; what stands for ISA IRQ 2 is the cascade."""

    def __init__(self, intr: Callable[[bool], None]) -> None:
        """`intr`: the CPU's INTR pin."""
        self.primary = I8259(IrqLine(intr), level_only=1 << CASCADE, elcr_mask=0xF8)
        self.secondary = I8259(self.primary.line[CASCADE], level_only=0, elcr_mask=0xDE)
        self.line = self.primary.line + self.secondary.line
        self.elcr = Registers(self._read_elcr, self._write_elcr)

    @property
    def state(self) -> State:
        return State(self.primary.state, self.secondary.state)

    def acknowledge(self) -> int:
        """The CPU's INTA cycles: the vector to enter."""
        level = self.primary.take()
        if level is None:
            trace.odd("pic", "spurious interrupt of the primary")
            return self.primary.state.vector_base | SPURIOUS
        if level != CASCADE:
            return self.primary.state.vector_base | level
        level = self.secondary.take()
        if level is None:
            trace.odd("pic", "spurious interrupt of the secondary")
            level = SPURIOUS
        return self.secondary.state.vector_base | level

    def reset(self) -> None:
        """Like power-on; the lines keep their levels, their drivers own them."""
        state = State()
        state.primary.lines = self.primary.state.lines & ~(1 << CASCADE)
        state.secondary.lines = self.secondary.state.lines
        self.restore(state)

    def restore(self, state: State) -> None:
        self.primary.state, self.secondary.state = state.primary, state.secondary
        levels = state.primary.lines | state.secondary.lines << 8
        for n, line in enumerate(self.line):
            line.level = bool(levels >> n & 1)
        self.secondary.update()
        self.primary.update()

    def _read_elcr(self, offset: int) -> int:
        return (self.secondary if offset else self.primary).read_elcr()

    def _write_elcr(self, offset: int, value: int) -> None:
        (self.secondary if offset else self.primary).write_elcr(value)
