"""82441FX host bridge.  Interface only so far."""

from ring3.devices.pci.config import PciFunction


class I440Fx(PciFunction):
    pass
