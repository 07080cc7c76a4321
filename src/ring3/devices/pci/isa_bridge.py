"""82371SB (PIIX3) PCI-to-ISA bridge: PCI function 0 of its device.

Datasheet: Intel, "82371FB (PIIX) and 82371SB (PIIX3) PCI ISA IDE Xcelerator", 290550.  Register names are
the datasheet's.

What it does here is to route PIRQA# to PIRQD# to ISA interrupts by the PIRQRC registers (60h to 63h).  Its
8259s, 8254, ELCR, port 61h and CF9h are chips of their own (pic, pit, reset).  The rest of its registers
are stored: bus timing, chip selects, SMI and clock control.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from ring3.devices.pci.config import MULTIFUNCTION, PciFunction, Reg, image
from ring3.irq import IrqLine

PIRQRC = 0x60
NOT_ROUTED = 0x80
ROUTABLE = 0b1101_1110_1111_1000  # by ISA interrupt; the others are reserved and lead nowhere

RESET = image(
    (Reg.VENDOR, 2, 0x8086),
    (Reg.DEVICE, 2, 0x7000),
    (Reg.COMMAND, 2, 0x0007),
    (Reg.STATUS, 2, 0x0200),
    (Reg.CLASS, 3, 0x06_01_00),
    (Reg.HEADER_TYPE, 1, MULTIFUNCTION),
    (0x4C, 1, 0x4D),  # IORT
    (0x4E, 2, 0x0003),  # XBCS
    (PIRQRC, 4, 0x8080_8080),
    (0x69, 1, 0x02),  # TOM
    (0x70, 1, 0x80),  # MBIRQ0
    (0x76, 2, 0x0404),  # MBDMA
    (0xA0, 1, 0x08),  # SMICNTL
    (0xA8, 1, 0x0F),  # FTMR
)

WRITABLE = image(
    (Reg.COMMAND, 2, 0x0008),
    (0x4C, 1, 0x7F),
    (0x4E, 2, 0x03FF),
    (PIRQRC, 4, 0x8F8F_8F8F),
    (0x69, 3, 0x00_80FE),  # TOM, MSTAT
    (0x70, 1, 0xEF),
    (0x76, 2, 0x8F8F),
    (0x78, 2, 0xFFFF),  # PCSC
    (0xA0, 1, 0x1F),
    (0xA2, 2, 0x01FF),  # SMIEN
    (0xA4, 4, 0xFFFF_FFFF),  # SEE
    (0xA8, 1, 0xFF),
    (0xAC, 1, 0xFF),  # CTLTMR
    (0xAE, 1, 0xFF),  # CTHTMR
)

CLEARABLE = image((Reg.STATUS, 2, 0x7800), (0xAA, 2, 0x01FF))  # SMIREQ


@dataclass(slots=True)
class State:
    """Configuration space at its reset value; also the checkpoint record."""

    config: bytearray = field(default_factory=lambda: bytearray(RESET))


class Piix3(PciFunction):
    state: State

    def __init__(self, isa: Sequence[IrqLine]) -> None:
        """`isa`: the bridge's own ends of ISA interrupts 0 to 15."""
        super().__init__(State(), WRITABLE, clearable=CLEARABLE)
        self._isa = isa
        self._driven = 0  # ISA interrupts we assert, a bit each
        self._asserted = 0  # PIRQs asserted
        self.pirq = [IrqLine(partial(self._pirq_changed, 1 << n)) for n in range(4)]

    def config_written(self, offset: int, size: int) -> None:
        if offset <= PIRQRC + 3 and offset + size > PIRQRC:
            self._route()

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self.restore_config()

    def _pirq_changed(self, bit: int, level: bool) -> None:
        self._asserted = self._asserted | bit if level else self._asserted & ~bit
        self._route()

    def _route(self) -> None:
        wanted = 0
        for n in range(4):
            route = self.state.config[PIRQRC + n]
            if self._asserted >> n & 1 and not route & NOT_ROUTED:
                wanted |= 1 << (route & 15) & ROUTABLE
        changed = wanted ^ self._driven
        self._driven = wanted
        while changed:
            irq = changed.bit_length() - 1
            changed ^= 1 << irq
            self._isa[irq].set(bool(wanted >> irq & 1))
