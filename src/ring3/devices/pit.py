"""8254.  Interface only so far."""

from ring3.clock import Clock
from ring3.devices.face import ByteFace
from ring3.irq import IrqLine


class I8254:
    def __init__(self, clock: Clock, irq: IrqLine) -> None:
        self.clock = clock
        self.irq = irq
        self.port_b: ByteFace

    def read(self, offset: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError
