"""8259A pair.  Interface only so far."""

from collections.abc import Callable

from ring3.devices.face import ByteFace
from ring3.irq import IrqLine


class I8259Pair:
    def __init__(self, intr: Callable[[bool], None]) -> None:
        self.intr = intr
        self.line: list[IrqLine] = []
        self.primary: ByteFace
        self.secondary: ByteFace
        self.elcr: ByteFace

    def acknowledge(self) -> int:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError
