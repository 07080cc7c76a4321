"""MC146818.  Interface only so far."""

from ring3.clock import Clock
from ring3.irq import IrqLine


class Mc146818:
    def __init__(self, clock: Clock, irq: IrqLine, start_unix_s: int) -> None:
        self.clock = clock
        self.irq = irq
        self.start_unix_s = start_unix_s

    def read(self, offset: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError

    def set_cmos(self, index: int, value: int) -> None:
        raise NotImplementedError
