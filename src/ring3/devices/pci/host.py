"""82441FX host bridge and memory controller (i440FX): PCI function 0:0.0.

Datasheet: Intel, "440FX PCIset: 82441FX PCI and Memory Controller (PMC)", 290549.  Register names are the
datasheet's.

The subsystem IDs are QEMU's: by them SeaBIOS knows that the machine has firmware configuration.

PAM (59h to 5Fh) decides whether reads and writes of the area from C0000h to FFFFFh reach RAM or the ROM
behind it; every change is told to the board by `shadow`.  The DRAM registers, SMRAM and the error registers
are stored and do nothing: RAM is where the board put it and there is no system management mode.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ring3.devices.pci.config import PciFunction, Reg, image

Shadow = Callable[[int, int, bool, bool], None]  # base, size, reads reach RAM, writes reach RAM

PAM0 = 0x59
PAM_READ, PAM_WRITE = 0x1, 0x2  # of each half of a PAM register

# Areas by PAM register and half: PAM0's low half is reserved, its high half is the BIOS.
AREAS = (
    (0xF_0000, 0x1_0000, PAM0, 4),
    *((0xC_0000 + 0x4000 * n, 0x4000, PAM0 + 1 + n // 2, 4 * (n % 2)) for n in range(12)),
)

RESET = image(
    (Reg.VENDOR, 2, 0x8086),
    (Reg.DEVICE, 2, 0x1237),
    (Reg.COMMAND, 2, 0x0006),
    (Reg.STATUS, 2, 0x0280),
    (Reg.REVISION, 1, 0x02),
    (Reg.CLASS, 3, 0x06_00_00),
    (Reg.SUBSYSTEM_VENDOR, 4, 0x1100_1AF4),
    (0x57, 1, 0x01),  # DRAMC
    (0x72, 1, 0x02),  # SMRAM
)

WRITABLE = image(
    (Reg.COMMAND, 2, 0x0140),
    (Reg.LATENCY, 1, 0xF8),
    (0x50, 2, 0xFFFF),  # PMCCFG
    (0x52, 5, 0xFF_FFFF_FFFF),  # DETURBO, DBC, AXC, DRT
    (0x57, 2, 0xFFFF),  # DRAMC, DRAMT
    (PAM0, 7, 0x33_3333_3333_3330),
    (0x60, 9, (1 << 72) - 1),  # DRB, FDHC
    (0x70, 3, 0x7F_FFFF),  # MTT, CLT, SMRAM
    (0x90, 1, 0xFF),  # ERRCMD
)

CLEARABLE = image((Reg.STATUS, 2, 0xF100), (0x91, 1, 0x11))  # ERRSTS


@dataclass(slots=True)
class State:
    """Configuration space at its reset value; also the checkpoint record."""

    config: bytearray = field(default_factory=lambda: bytearray(RESET))


def _no_shadow(base: int, size: int, read: bool, write: bool) -> None:
    """The board has nothing to switch."""


class I440Fx(PciFunction):
    state: State

    def __init__(self, shadow: Shadow = _no_shadow) -> None:
        super().__init__(State(), WRITABLE, clearable=CLEARABLE)
        self._shadow = shadow
        self._pam = [0] * len(AREAS)

    def config_written(self, offset: int, size: int) -> None:
        if offset + size <= PAM0 or offset > PAM0 + 6:
            return
        for n, (base, length, register, shift) in enumerate(AREAS):
            pam = self.state.config[register] >> shift & (PAM_READ | PAM_WRITE)
            if pam != self._pam[n]:
                self._pam[n] = pam
                self._shadow(base, length, bool(pam & PAM_READ), bool(pam & PAM_WRITE))

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self.restore_config()
