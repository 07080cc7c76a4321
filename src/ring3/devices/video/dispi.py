"""Bochs display interface (DISPI), version B0C5h: modes beyond the VGA's in one frame buffer.

Specification: the comments and constants of the Bochs VBE extension, "VBE DISPI interface", as the stdvga VGA
BIOS and Linux's bochs driver use it: an index register, a data register, sixteen bits each.

Widths are multiples of 8 pixels, at most MAX_WIDTH × MAX_HEIGHT, and what doesn't fit into video memory
goes around its end.  Not modelled: versions' differences (every version behaves as B0C5h).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ring3 import trace

MAX_WIDTH, MAX_HEIGHT = 2560, 1600
BANK = 0x1_0000                         # bytes
DEPTHS = (4, 8, 15, 16, 24, 32)         # bits of a pixel


class Reg:
    ID, XRES, YRES, BPP, ENABLE, BANK, VIRT_WIDTH, VIRT_HEIGHT, X_OFFSET, Y_OFFSET, MEMORY_64K = range(11)


class Enable:
    ENABLED, GETCAPS, DAC_8BIT, LFB, NO_CLEAR = 0x01, 0x02, 0x20, 0x40, 0x80


ID_FIRST, ID_LAST = 0xB0C0, 0xB0C5
CAPABILITIES = {Reg.XRES: MAX_WIDTH, Reg.YRES: MAX_HEIGHT, Reg.BPP: max(DEPTHS)}


@dataclass(slots=True)
class State:
    """The registers as written, at their reset values; also the checkpoint record."""

    index: int = 0
    registers: list[int] = field(default_factory=lambda: [ID_LAST, 640, 480, 8, 0, 0, 640, 0, 0, 0])


class Dispi:
    """A wide face of three ports: the index at offset 0, the data at 1 and, for 16-bit machines, at 2."""

    def __init__(self, memory_bytes: int, changed: Callable[[bool], None]) -> None:
        """`changed`: called after each change; True: video memory is to be cleared (`visible_bytes`)."""
        self.state = State()
        self._memory_bytes = memory_bytes
        self._changed = changed

    # --- ports ---

    def read(self, offset: int, size: int) -> int:
        if size != 2:
            return (1 << 8 * size) - 1
        return self.state.index if offset == 0 else self.read_register(self.state.index)

    def write(self, offset: int, value: int, size: int) -> None:
        if size != 2:
            trace.odd("dispi", "write of %d bytes: registers have 2", size)
        elif offset == 0:
            self.state.index = value
        else:
            self.write_register(self.state.index, value)

    # --- registers ---

    def read_register(self, index: int) -> int:
        registers = self.state.registers
        if registers[Reg.ENABLE] & Enable.GETCAPS and index in CAPABILITIES:
            return CAPABILITIES[index]
        match index:
            case Reg.VIRT_WIDTH:
                return self.virtual_width
            case Reg.VIRT_HEIGHT:
                return min(self._memory_bytes // max(self.pitch_bytes, 1), 0xFFFF)
            case Reg.MEMORY_64K:
                return self._memory_bytes // BANK
        return registers[index] if index < len(registers) else 0

    def write_register(self, index: int, value: int) -> None:
        registers = self.state.registers
        match index:
            case Reg.ID:
                if not ID_FIRST <= value <= ID_LAST:
                    return
            case Reg.XRES:
                value = min(max(value & ~7, 8), MAX_WIDTH)
            case Reg.YRES:
                value = min(max(value, 1), MAX_HEIGHT)
            case Reg.BPP:
                value = value if value in DEPTHS else 8
            case Reg.BANK:
                value %= self._memory_bytes // BANK
            case Reg.VIRT_HEIGHT | Reg.MEMORY_64K:
                return
            case Reg.ENABLE:
                self._enable(value)
                return
            case _ if index >= len(registers):
                trace.odd("dispi", "write of %Xh to register %Xh, which does not exist", value, index)
                return
        registers[index] = value
        self._changed(False)

    def _enable(self, value: int) -> None:
        registers = self.state.registers
        starts = bool(value & Enable.ENABLED and not registers[Reg.ENABLE] & Enable.ENABLED)
        registers[Reg.ENABLE] = value & 0xFF
        if starts:
            registers[Reg.VIRT_WIDTH] = registers[Reg.X_OFFSET] = registers[Reg.Y_OFFSET] = 0
        if starts or not value & Enable.ENABLED:
            registers[Reg.BANK] = 0
        self._changed(starts and not value & Enable.NO_CLEAR)

    # --- what they say ---

    @property
    def enabled(self) -> bool:
        return bool(self.state.registers[Reg.ENABLE] & Enable.ENABLED)

    @property
    def dac_8bit(self) -> bool:
        return bool(self.state.registers[Reg.ENABLE] & Enable.DAC_8BIT)

    @property
    def depth(self) -> int:
        """Bits of a pixel."""
        return self.state.registers[Reg.BPP]

    @property
    def size(self) -> tuple[int, int]:
        return self.state.registers[Reg.XRES], self.state.registers[Reg.YRES]

    @property
    def offset(self) -> tuple[int, int]:
        """Pixels."""
        return self.state.registers[Reg.X_OFFSET], self.state.registers[Reg.Y_OFFSET]

    @property
    def bank_bytes(self) -> int:
        return self.state.registers[Reg.BANK] * BANK

    @property
    def virtual_width(self) -> int:
        """Pixels from row to row."""
        registers = self.state.registers
        return max(registers[Reg.VIRT_WIDTH] & ~7, registers[Reg.XRES])

    @property
    def pitch_bytes(self) -> int:
        """With 4 bits a pixel: of all four planes."""
        return self.virtual_width * self.depth_bits_stored // 8

    @property
    def depth_bits_stored(self) -> int:
        return 16 if self.depth == 15 else self.depth

    @property
    def visible_bytes(self) -> int:
        return min(self.pitch_bytes * self.size[1], self._memory_bytes)

    # --- the board's side ---

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self._changed(False)
