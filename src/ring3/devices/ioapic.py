"""82093AA.  Interface only so far."""

from collections.abc import Callable

from ring3.irq import IrqLine

Deliver = Callable[[int, int, int, bool, bool], None]  # vector, delivery mode, destination, logical, level


class IoApic:
    def __init__(self, deliver: Deliver) -> None:
        self.deliver = deliver
        self.line: list[IrqLine] = []

    def read(self, offset: int, size: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int, size: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError

    def eoi(self, vector: int) -> None:
        raise NotImplementedError
