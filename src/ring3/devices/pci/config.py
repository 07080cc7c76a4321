"""PCI configuration space.  Interface only so far."""

from collections.abc import Callable, Sequence

from ring3.devices.face import ByteFace
from ring3.irq import IrqLine

Moved = Callable[[int, int | None], None]  # BAR number, and its base, or None where it is not decoded


class PciFunction:
    """One function's 256 bytes of configuration space."""

    def read(self, offset: int, size: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int, size: int) -> None:
        raise NotImplementedError


class PciBus:
    """Configuration mechanism #1: a wide face of eight ports (CF8h on a PC)."""

    def __init__(self, pirq: Sequence[IrqLine], reset_control: ByteFace) -> None:
        self.pirq = pirq
        self.reset_control = reset_control

    def add(self, device: int, function: int, chip: PciFunction) -> None:
        raise NotImplementedError

    def intx(self, device: int, pin: int) -> IrqLine:
        raise NotImplementedError

    def read(self, offset: int, size: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int, size: int) -> None:
        raise NotImplementedError
