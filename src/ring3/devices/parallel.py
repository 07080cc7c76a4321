"""The PC's parallel port in its standard (SPP) and bidirectional (PS/2) form, with a printer at it.

IBM, "Personal System/2 Hardware Interface Technical Reference", 1991, parallel port; IEEE 1284-2000, 5.1
(compatibility mode) for the handshake.  Signal names are the latter's, as the bits have them: some inverted.

A byte is the printer's at the fall of nStrobe, which is a 1 written to STROBE; it is acknowledged at once,
with the interrupt that comes of nAck's end where the host enabled it.  The printer is always on line, has
paper, and is never busy; whoever prints faster than the backend takes it is slowed down there.

Not modelled: ECP and EPP, and devices other than printers (nibble and byte mode find nobody that answers).
"""

from dataclasses import dataclass

from ring3 import trace
from ring3.char import CharBackend
from ring3.irq import IrqLine


class Reg:                              # offsets from the port's base
    DATA, STATUS, CONTROL = range(3)


class Status:
    RESERVED, ERROR, SELECT, PAPER_END, ACK, BUSY = 0x07, 0x08, 0x10, 0x20, 0x40, 0x80


class Control:
    STROBE, AUTO_FEED, INIT, SELECT_IN, INTERRUPT, INPUT = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
    RESERVED = 0xC0


# nFault high, selected, paper there, nAck high, and BUSY, which is inverted, low on its wire.
ON_LINE = Status.RESERVED | Status.ERROR | Status.SELECT | Status.ACK | Status.BUSY


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    data: int = 0
    control: int = 0


class ParallelPort:
    def __init__(self, irq: IrqLine, backend: CharBackend) -> None:
        self.irq = irq
        self.backend = backend
        self.state = State()

    def read(self, offset: int) -> int:
        s = self.state
        match offset:
            case Reg.DATA:
                return 0xFF if s.control & Control.INPUT else s.data    # nobody drives the lines inward
            case Reg.STATUS:
                return ON_LINE
            case Reg.CONTROL:
                return s.control | Control.RESERVED
        return 0xFF

    def write(self, offset: int, value: int) -> None:
        s = self.state
        match offset:
            case Reg.DATA:
                s.data = value
            case Reg.CONTROL:
                self._control(value & ~Control.RESERVED)
            case _:
                trace.odd("parallel", "write of %02Xh to register %d", value, offset)

    def _control(self, value: int) -> None:
        before, self.state.control = self.state.control, value
        if value & ~before & Control.STROBE and not value & Control.INPUT:
            self.backend.write(bytes((self.state.data,)))
        elif before & ~value & Control.STROBE and value & Control.INTERRUPT:
            self.irq.set(True)          # nAck's pulse, as the interrupt controller sees its end
            self.irq.set(False)

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
