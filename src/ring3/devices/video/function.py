"""The VGA as a PCI function: frame buffer in region 0, registers in region 2 (1234h:1111h, revision 2).

QEMU's documentation, "VGA and other graphics: standard-vga" (docs/specs/standard-vga), which Linux's bochs
driver and UEFI's GOP driver follow; PCI Local Bus 2.1, appendix D (class code).

Region 2, 4 KiB: EDID at 0, ports 3C0h–3DFh at 400h, DISPI registers by index at 500h (two bytes each), and at
600h the size of the extension and the byte order, which here is little-endian for good.

Not modelled: big-endian frame buffers.
"""

from dataclasses import dataclass, field

from ring3 import trace
from ring3.devices.pci.config import Bar, Moved, PciFunction, Reg, image
from ring3.devices.video.dispi import Reg as DispiReg
from ring3.devices.video.edid import edid
from ring3.devices.video.vga import Vga

FRAME_BUFFER, REGISTERS = 0, 2          # region numbers
REGISTER_BYTES = 0x1000
NO_BAR = Bar(0)
PREFETCHABLE = 0x08

VGA_PORTS, DISPI, EXTENSION = 0x400, 0x500, 0x600
EXTENSION_BYTES = 8
LITTLE_ENDIAN = 0x1E1E_1E1E

RESET = image(
    (Reg.VENDOR, 2, 0x1234),
    (Reg.DEVICE, 2, 0x1111),
    (Reg.REVISION, 1, 0x02),
    (Reg.CLASS, 3, 0x03_00_00),
    (Reg.BAR0, 4, PREFETCHABLE),
    (Reg.SUBSYSTEM_VENDOR, 2, 0x1AF4),
    (Reg.SUBSYSTEM, 2, 0x1100),
)
WRITABLE = image((Reg.COMMAND, 2, 0x0103), (Reg.INTERRUPT_LINE, 1, 0xFF))


@dataclass(slots=True)
class State:
    """Configuration space at its reset value; also the checkpoint record."""

    config: bytearray = field(default_factory=lambda: bytearray(RESET))


class VgaFunction(PciFunction):
    """Itself the wide face of region 2."""

    state: State

    def __init__(self, vga: Vga, moved: Moved) -> None:
        """`moved` maps video memory (region 0) and this (region 2)."""
        bars = (Bar(vga.memory.size_bytes, prefetchable=True), NO_BAR, Bar(REGISTER_BYTES))
        super().__init__(State(), WRITABLE, bars=bars, moved=self._region_moved)
        self._tell = moved
        self._vga = vga
        self._edid = edid()

    def _region_moved(self, bar: int, base: int | None) -> None:
        if self.bars[bar] is not NO_BAR:
            self._tell(bar, base)

    # --- region 2 ---

    def read(self, offset: int, size: int) -> int:
        if offset < len(self._edid):
            return int.from_bytes(self._edid[offset : offset + size].ljust(size, b"\0"), "little")
        if VGA_PORTS <= offset < VGA_PORTS + 0x20:
            return self._vga.read(0x10 + offset - VGA_PORTS, size)
        if DISPI <= offset < DISPI + 2 * (DispiReg.MEMORY_64K + 1) and size == 2:
            return self._vga.dispi.read_register((offset - DISPI) // 2)
        if offset == EXTENSION:
            return EXTENSION_BYTES
        if offset == EXTENSION + 4:
            return LITTLE_ENDIAN & (1 << 8 * size) - 1
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        if VGA_PORTS <= offset < VGA_PORTS + 0x20:
            self._vga.write(0x10 + offset - VGA_PORTS, value, size)
        elif DISPI <= offset < DISPI + 2 * (DispiReg.MEMORY_64K + 1) and size == 2:
            self._vga.dispi.write_register((offset - DISPI) // 2, value)
        else:
            trace.odd("vga", "write of %Xh to offset %Xh of region 2, where no register is", value, offset)

    # --- the board's side ---

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self.restore_config()
