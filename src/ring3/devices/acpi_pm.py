"""PIIX4 power management.  Interface only so far."""

from collections.abc import Callable

from ring3.clock import Clock
from ring3.devices.face import ByteFace
from ring3.devices.pci.config import Moved, PciFunction
from ring3.irq import IrqLine


class AcpiPm:
    def __init__(self, clock: Clock, sci: IrqLine, power_off: Callable[[], None]) -> None:
        self.clock = clock
        self.sci = sci
        self.power_off = power_off
        self.smi: ByteFace

    def read(self, offset: int, size: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int, size: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError

    def press_power_button(self) -> None:
        raise NotImplementedError


class PmFunction(PciFunction):
    """The PCI function (8086h:7113h) whose PMBASE says where AcpiPm's registers are."""

    def __init__(self, moved: Moved) -> None:
        raise NotImplementedError
