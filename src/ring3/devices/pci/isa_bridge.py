"""82371SB ISA bridge.  Interface only so far."""

from collections.abc import Sequence

from ring3.devices.pci.config import PciFunction
from ring3.irq import IrqLine


class Piix3(PciFunction):
    def __init__(self, isa: Sequence[IrqLine]) -> None:
        self.pirq: list[IrqLine] = []
