"""PCI configuration space: headers, base address registers, and the way to them through CF8h and CFCh.

PCI Local Bus Specification 2.1, chapters 6 (configuration space; §6.2.5.1 base address registers, §6.2.5.2
expansion ROMs) and 3.7.4 (configuration mechanism #1).  Offsets and bits are the specification's.

A function is described by two images of 256 bytes, its reset values and which bits can be written, plus the
bits that a 1 clears.  Everything else reads as it stands.

Not modelled: buses behind bridges (every bus but 0 is empty), special cycles and PERR/SERR.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ring3.devices.face import ByteFace
from ring3.irq import IrqLine, SharedLine

Moved = Callable[[int, int | None], None]
"""(BAR number or `ROM`, base): where the region is decoded now; None: nowhere.  A guest may choose any base,
also one where something else is: the one who maps it must bear that."""


ROM = 6  # the expansion ROM's number among the regions: behind those of the six BARs
ROM_ENABLE = 0x0000_0001  # in Reg.ROM


class Reg:  # offsets (§6.1)
    VENDOR, DEVICE, COMMAND, STATUS, REVISION, CLASS = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09
    CACHE_LINE, LATENCY, HEADER_TYPE, BAR0 = 0x0C, 0x0D, 0x0E, 0x10
    SUBSYSTEM_VENDOR, SUBSYSTEM, ROM, INTERRUPT_LINE, INTERRUPT_PIN = 0x2C, 0x2E, 0x30, 0x3C, 0x3D


class Command:
    IO, MEMORY, MASTER, SERR, INTX_OFF = 0x0001, 0x0002, 0x0004, 0x0100, 0x0400


MULTIFUNCTION = 0x80  # in HEADER_TYPE


@dataclass(frozen=True, slots=True)
class Bar:
    """One base address register: a power of two of bytes."""

    size: int
    io: bool = False
    prefetchable: bool = False

    @property
    def type_bits(self) -> int:
        return 1 if self.io else 8 if self.prefetchable else 0

    @property
    def address_mask(self) -> int:
        return -self.size & (0xFFFF_FFFC if self.io else 0xFFFF_FFF0)


def image(*fields: tuple[int, int, int], fill: int = 0) -> bytes:
    """256 bytes with little-endian fields: (offset, size, value)."""
    data = bytearray([fill]) * 256
    for offset, size, value in fields:
        data[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(data)


def _nowhere(bar: int, base: int | None) -> None:
    """The `moved` of a function that maps nothing."""


class HasConfig(Protocol):
    config: bytearray


class PciFunction:
    """One function's 256 bytes of configuration space; chips derive from it and call its `__init__`."""

    state: HasConfig

    def __init__(
        self,
        state: HasConfig,
        writable: bytes,
        *,
        clearable: bytes = bytes(256),
        bars: Sequence[Bar] = (),
        rom_bytes: int = 0,
        moved: Moved = _nowhere,
    ) -> None:
        """`state.config` holds the reset values; `bars` are numbered from 10h on.

        `rom_bytes`: of the expansion ROM, a power of two; 0: there is none.
        """
        self.state = state
        self.bars = bars
        self._moved = moved
        self._clearable = clearable
        self._writable = bytearray(writable)
        for n, bar in enumerate(bars):
            at = Reg.BAR0 + 4 * n
            self._writable[at : at + 4] = bar.address_mask.to_bytes(4, "little")
        self._rom_mask = -rom_bytes & 0xFFFF_F800
        rom_writable = self._rom_mask | ROM_ENABLE if rom_bytes else 0
        self._writable[Reg.ROM : Reg.ROM + 4] = rom_writable.to_bytes(4, "little")
        self._bases: dict[int, int | None] = {}  # as `moved` was told; those it was not told of are nowhere

    def read_config(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state.config[offset : offset + size], "little")

    def write_config(self, offset: int, value: int, size: int) -> None:
        config = self.state.config
        for at in range(offset, min(offset + size, 256)):
            byte = value & 0xFF
            value >>= 8
            mask = self._writable[at]
            config[at] = (config[at] & ~mask | byte & mask) & ~(byte & self._clearable[at])
        self.config_written(offset, size)
        self._move_bars()

    def config_written(self, offset: int, size: int) -> None:
        """For chips whose own registers do more than store: called after each write."""

    def restore_config(self) -> None:
        """To be called by `restore` once `state` is in place."""
        self.config_written(0, 256)
        self._move_bars()

    def bar_base(self, number: int) -> int | None:
        """Where a region is decoded; None while the command register turns its kind off."""
        bar = self.bars[number]
        config = self.state.config
        if not config[Reg.COMMAND] & (Command.IO if bar.io else Command.MEMORY):
            return None
        at = Reg.BAR0 + 4 * number
        return int.from_bytes(config[at : at + 4], "little") & bar.address_mask

    def rom_base(self) -> int | None:
        """Where the expansion ROM is decoded; its own enable bit and the command register must let it."""
        at = int.from_bytes(self.state.config[Reg.ROM : Reg.ROM + 4], "little")
        enabled = at & ROM_ENABLE and self.state.config[Reg.COMMAND] & Command.MEMORY
        return at & self._rom_mask if enabled and self._rom_mask else None

    def _move_bars(self) -> None:
        for n in range(len(self.bars)):
            self._move_region(n, self.bar_base(n))
        self._move_region(ROM, self.rom_base())

    def _move_region(self, region: int, base: int | None) -> None:
        if base != self._bases.get(region):
            self._bases[region] = base
            self._moved(region, base)


@dataclass(slots=True)
class State:
    """Mechanism #1's address register at its reset value; also the checkpoint record."""

    address: int = field(default=0)


class PciBus:
    """Bus 0, as a wide face of eight ports: the address at offset 0 (CF8h), the data at 4 (CFCh)."""

    ENABLE = 0x8000_0000
    ADDRESS_BITS = 0x80FF_FFFC

    def __init__(self, pirq: Sequence[IrqLine], reset_control: ByteFace) -> None:
        """`pirq`: PIRQA# to PIRQD#.  `reset_control`: what is at CF9h for accesses narrower than 32 bits."""
        self.state = State()
        self._functions: dict[int, PciFunction] = {}
        self._pirq = [SharedLine(line) for line in pirq]
        self._reset_control = reset_control

    def add(self, device: int, function: int, chip: PciFunction) -> None:
        self._functions[device << 3 | function] = chip

    def free_slot(self, first: int) -> int:
        """The lowest device number from `first` on that nothing is at."""
        taken = {number >> 3 for number in self._functions}
        return next(slot for slot in range(first, 32) if slot not in taken)

    def intx(self, device: int, pin: int) -> IrqLine:
        """A driver's end of INTA# (`pin` 1, as the interrupt pin register says) to INTD# of a device.

        Boards rotate the pins from slot to slot, so that devices with one interrupt don't meet on one line.
        """
        return self._pirq[(device - 1 + pin - 1) & 3].input()

    def read(self, offset: int, size: int) -> int:
        if offset >= 4:
            return self._read_data(offset - 4, size)
        if offset == 0 and size == 4:
            return self.state.address
        lanes = (self._reset_control.read(0) if at == 1 else 0xFF for at in range(offset, offset + size))
        return int.from_bytes(bytes(lanes), "little")

    def write(self, offset: int, value: int, size: int) -> None:
        if offset >= 4:
            self._write_data(offset - 4, value, size)
        elif offset == 0 and size == 4:
            self.state.address = value & self.ADDRESS_BITS
        elif offset <= 1 < offset + size:
            self._reset_control.write(0, value >> 8 * (1 - offset) & 0xFF)

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state

    def _selected(self) -> PciFunction | None:
        address = self.state.address
        if not address & self.ENABLE or address & 0x00FF_0000:
            return None
        return self._functions.get(address >> 8 & 0xFF)

    def _read_data(self, byte: int, size: int) -> int:
        chip = self._selected()
        if chip is None:
            return (1 << 8 * size) - 1
        return chip.read_config((self.state.address & 0xFC) + byte, size)

    def _write_data(self, byte: int, value: int, size: int) -> None:
        chip = self._selected()
        if chip is not None:
            chip.write_config((self.state.address & 0xFC) + byte, value, size)
