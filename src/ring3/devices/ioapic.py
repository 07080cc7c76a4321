"""82093AA I/O APIC: 24 interrupt lines to messages for local APICs.

Datasheet: Intel, "82093AA I/O Advanced Programmable Interrupt Controller (IOAPIC)", 290566.  Register and
bit names are the datasheet's.

Lines are asserted or not, whatever their voltage, so the polarity bit is stored and not applied.  An edge
on a masked input is lost.  Writing an entry as edge-triggered clears its Remote IRR, by which systems end
an interrupt without an EOI message.

Not modelled: the APIC bus with its arbitration (IOAPICARB reads as the ID), a message delayed (delivery
status always reads idle), and accesses other than 32 bits wide to IOWIN, which are traced and ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ring3 import trace
from ring3.irq import IrqLine

# vector, delivery mode, destination, logical destination mode, level-triggered
Deliver = Callable[[int, int, int, bool, bool], None]

INPUTS = 24
WINDOW = 0x20  # bytes that the registers take
VERSION = 0x11
IOREGSEL, IOWIN = 0x00, 0x10  # offsets


class Reg:  # by IOREGSEL
    IOAPICID, IOAPICVER, IOAPICARB, IOREDTBL = 0x00, 0x01, 0x02, 0x10


class Redirection:  # bits of the 64
    VECTOR, LOGICAL, DELIVS, POLARITY = 0xFF, 1 << 11, 1 << 12, 1 << 13
    REMOTE_IRR, LEVEL, MASKED = 1 << 14, 1 << 15, 1 << 16
    DELIVERY_MODE_SHIFT, DESTINATION_SHIFT = 8, 56
    WRITABLE_LOW = 0x1_AFFF & ~DELIVS
    WRITABLE_HIGH = 0xFF00_0000


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    id: int = 0
    select: int = 0
    redirection: list[int] = field(default_factory=lambda: [Redirection.MASKED] * INPUTS)
    lines: int = 0  # levels of the inputs


class IoApic:
    def __init__(self, deliver: Deliver) -> None:
        """`deliver` takes each message; a level-triggered one is over when `eoi` is told its vector."""
        self._deliver = deliver
        self.state = State()
        self.line = [IrqLine(partial(self._set_input, n)) for n in range(INPUTS)]

    # --- the guest's side ---

    def read(self, offset: int, size: int) -> int:
        if offset == IOREGSEL:
            return self.state.select
        if offset == IOWIN and size == 4:
            return self._read_register(self.state.select)
        trace.odd("ioapic", "read of %d bytes at %02Xh", size, offset)
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        if offset == IOREGSEL:
            self.state.select = value & 0xFF
        elif offset == IOWIN and size == 4:
            self._write_register(self.state.select, value)
        else:
            trace.odd("ioapic", "write of %d bytes at %02Xh", size, offset)

    # --- the wires ---

    def eoi(self, vector: int) -> None:
        """A local APIC broadcasts the end of a level-triggered interrupt."""
        table = self.state.redirection
        for n, entry in enumerate(table):
            if entry & Redirection.REMOTE_IRR and entry & Redirection.VECTOR == vector:
                table[n] = entry & ~Redirection.REMOTE_IRR
                self._serve_level(n)

    def reset(self) -> None:
        """Like power-on; the lines keep their levels, their drivers own them."""
        self.restore(State(lines=self.state.lines))

    def restore(self, state: State) -> None:
        self.state = state
        for n, line in enumerate(self.line):
            line.level = bool(state.lines >> n & 1)
            line.hear(not state.redirection[n] & Redirection.MASKED)

    def _set_input(self, n: int, level: bool) -> None:
        s = self.state
        if not level:
            s.lines &= ~(1 << n)
            return
        s.lines |= 1 << n
        entry = s.redirection[n]
        if entry & Redirection.LEVEL:
            self._serve_level(n)
        elif not entry & Redirection.MASKED:
            self._send(entry)

    def _serve_level(self, n: int) -> None:
        """A level-triggered input interrupts while it is asserted and no message of it awaits its EOI."""
        s = self.state
        entry = s.redirection[n]
        blocked = entry & (Redirection.MASKED | Redirection.REMOTE_IRR)
        if entry & Redirection.LEVEL and not blocked and s.lines >> n & 1:
            s.redirection[n] = entry | Redirection.REMOTE_IRR
            self._send(entry)

    def _send(self, entry: int) -> None:
        self._deliver(
            entry & Redirection.VECTOR,
            entry >> Redirection.DELIVERY_MODE_SHIFT & 7,
            entry >> Redirection.DESTINATION_SHIFT,
            bool(entry & Redirection.LOGICAL),
            bool(entry & Redirection.LEVEL),
        )

    # --- registers ---

    def _read_register(self, index: int) -> int:
        s = self.state
        match index:
            case Reg.IOAPICID | Reg.IOAPICARB:
                return s.id << 24
            case Reg.IOAPICVER:
                return (INPUTS - 1) << 16 | VERSION
        n, high = divmod(index - Reg.IOREDTBL, 2)
        if 0 <= n < INPUTS:
            return s.redirection[n] >> 32 * high & 0xFFFF_FFFF
        trace.odd("ioapic", "read of register %02Xh", index)
        return 0

    def _write_register(self, index: int, value: int) -> None:
        s = self.state
        n, high = divmod(index - Reg.IOREDTBL, 2)
        if index == Reg.IOAPICID:
            s.id = value >> 24 & 15
        elif not 0 <= n < INPUTS:
            trace.odd("ioapic", "write of %08Xh to register %02Xh", value, index)
        elif high:
            s.redirection[n] = s.redirection[n] & 0xFFFF_FFFF | (value & Redirection.WRITABLE_HIGH) << 32
        else:
            kept = s.redirection[n] & (0xFFFF_FFFF << 32 | Redirection.REMOTE_IRR)
            if not value & Redirection.LEVEL:
                kept &= ~Redirection.REMOTE_IRR
            s.redirection[n] = kept | value & Redirection.WRITABLE_LOW
            self.line[n].hear(not value & Redirection.MASKED)
            self._serve_level(n)
