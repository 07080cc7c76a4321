"""PC16550D UART.  Interface only so far."""

from ring3.char import CharBackend
from ring3.irq import IrqLine


class Ns16550:
    def __init__(self, irq: IrqLine, backend: CharBackend) -> None:
        self.irq = irq
        self.backend = backend

    def read(self, offset: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError

    def receive(self, data: bytes) -> int:
        raise NotImplementedError
