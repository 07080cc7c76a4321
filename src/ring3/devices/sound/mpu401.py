"""MPU-401 in UART mode: two ports, data at offset 0, status and commands at 1.

Roland, "MPU-401 Technical Reference Manual", 1985.  Sound cards have its dumb mode only: after the command
UART, data goes to the MIDI cable as it is.  Here nothing is connected to the cable.

Not modelled: intelligent mode (its commands are acknowledged), MIDI input.
"""

from dataclasses import dataclass, field

from ring3.irq import IrqLine

NO_DATA, NOT_READY, OPEN = 0x80, 0x40, 0x3F         # status
ACK = 0xFE
RESET, UART = 0xFF, 0x3F                            # commands
FIFO_DEPTH = 16


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    uart: bool = False
    replies: bytearray = field(default_factory=bytearray)


class Mpu401:
    def __init__(self, irq: IrqLine) -> None:
        self.irq = irq
        self.state = State()

    def read(self, offset: int) -> int:
        s = self.state
        if offset == 1:
            return OPEN | (0 if s.replies else NO_DATA)
        value = s.replies.pop(0) if s.replies else ACK
        self._update_irq()
        return value

    def write(self, offset: int, value: int) -> None:
        s = self.state
        if offset == 0:
            return                                  # to the cable
        if s.uart and value != RESET:
            return
        acknowledged = not s.uart
        s.uart = value == UART
        if acknowledged and len(s.replies) < FIFO_DEPTH:
            s.replies.append(ACK)
        self._update_irq()

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self._update_irq()

    def _update_irq(self) -> None:
        self.irq.set(bool(self.state.replies))
