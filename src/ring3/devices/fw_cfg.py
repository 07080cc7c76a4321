"""Firmware configuration: what SeaBIOS and OVMF ask their machine about, through ports 510h–51Bh.

Interface: QEMU, "QEMU Firmware Configuration (fw_cfg) Device" (docs/specs/fw_cfg), which these firmwares are
written to.  A 16-bit selector chooses an item; its bytes come one by one from the data port, or by DMA as a
descriptor in memory says.  Named items are files, listed in the directory item.  Numbers in items are
little-endian but for the directory's; the DMA registers and descriptor are big-endian.

Items cannot be written: this machine has none that a firmware may change.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ring3.devices.face import Memory

SELECTOR, DATA, DMA_ADDRESS = 0, 1, 4               # offsets from 510h; the DMA address is 8 bytes
PORTS = 12
DMA_SIGNATURE = b"QEMU CFG"                         # what the DMA address register reads as
COPY_LIMIT = 1 << 20                                # bytes handed to memory at once


class Key:  # items with fixed selectors
    SIGNATURE, INTERFACES, MEMORY, CPUS, BOOT_MENU, MAX_CPUS = 0x00, 0x01, 0x03, 0x05, 0x0E, 0x0F
    DIRECTORY, FIRST_FILE = 0x19, 0x20
    NUMBER = 0xBFFF                                 # bits of a selector that choose; 4000h is for writing


class Interface:
    TRADITIONAL, DMA = 1, 2


class Control:  # of a DMA descriptor; the high half is a selector
    ERROR, READ, SKIP, SELECT, WRITE = 0x01, 0x02, 0x04, 0x08, 0x10


FILE_NAME = 56                                      # bytes, with its NUL


@dataclass(slots=True)
class State:
    """Selector, position and DMA address at their reset values; also the checkpoint record."""

    selector: int = 0
    offset: int = 0                                 # bytes into the selected item
    dma_address: int = 0


class FwCfg:
    """A wide face of 12 ports."""

    def __init__(self, memory: Memory, files: Mapping[str, bytes], items: Mapping[int, bytes]) -> None:
        """`items` by Key; files get the keys from 20h on in the order of their names, as readers expect."""
        self._memory = memory
        self.state = State()
        self.items = {
            Key.SIGNATURE: b"QEMU",
            Key.INTERFACES: struct.pack("<I", Interface.TRADITIONAL | Interface.DMA),
            **items,
        }
        directory = struct.pack(">I", len(files))
        for key, (name, data) in enumerate(sorted(files.items()), start=Key.FIRST_FILE):
            encoded = name.encode("ascii")
            if len(encoded) >= FILE_NAME:
                raise ValueError(f"{name}: a file's name has at most {FILE_NAME - 1} bytes")
            directory += struct.pack(">IHxx56s", len(data), key, encoded)
            self.items[key] = data
        self.items[Key.DIRECTORY] = directory

    # --- registers ---

    def read(self, offset: int, size: int) -> int:
        if offset == DATA and size == 1:
            return self._next_byte()
        if offset >= DMA_ADDRESS:
            at = offset - DMA_ADDRESS
            return int.from_bytes(DMA_SIGNATURE[at : at + size].ljust(size, b"\xff"), "little")
        return (1 << 8 * size) - 1 if offset != SELECTOR else 0

    def write(self, offset: int, value: int, size: int) -> None:
        if offset == SELECTOR and size == 2:
            self._select(value)
        elif offset == DMA_ADDRESS and size == 4:
            self.state.dma_address = int.from_bytes(value.to_bytes(4, "little"), "big") << 32
        elif offset == DMA_ADDRESS + 4 and size == 4:
            address = self.state.dma_address | int.from_bytes(value.to_bytes(4, "little"), "big")
            self.state.dma_address = 0
            self._transfer(address)

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state

    # --- items ---

    def _select(self, key: int) -> None:
        self.state.selector, self.state.offset = key & 0xFFFF, 0

    def _item(self) -> bytes:
        return self.items.get(self.state.selector & Key.NUMBER, b"")

    def _next_byte(self) -> int:
        """Past the end, zeros."""
        item, at = self._item(), self.state.offset
        if at >= len(item):
            return 0
        self.state.offset += 1
        return item[at]

    def _transfer(self, descriptor: int) -> None:
        """Does what the descriptor says and clears its control word, or sets nothing but its error bit."""
        control, length, address = struct.unpack(">IIQ", self._memory.read(descriptor, 16))
        if control & Control.SELECT:
            self._select(control >> 16)
        error = 0
        if control & Control.READ:
            self._copy(address, length)
        elif control & Control.WRITE:
            error = Control.ERROR
        elif control & Control.SKIP:
            self.state.offset = min(self.state.offset + length, len(self._item()))
        self._memory.write(descriptor, struct.pack(">I", error))

    def _copy(self, address: int, length: int) -> None:
        """The item from here on; zeros where it has ended, as far as one piece reaches."""
        item = self._item()
        first = self.state.offset
        data = item[first : first + length]
        self.state.offset += len(data)
        for at in range(0, len(data), COPY_LIMIT):
            self._memory.write(address + at, data[at : at + COPY_LIMIT])
        zeros = min(length - len(data), COPY_LIMIT)
        if zeros:
            self._memory.write(address + len(data), bytes(zeros))
