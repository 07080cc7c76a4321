"""82371SB (PIIX3) IDE controller: two channels of two devices, and their bus masters.

Intel, "82371FB (PIIX) and 82371SB (PIIX3) PCI ISA IDE Xcelerator", 290550; SFF-8038i for the bus masters;
ATA/ATAPI-7 volume 2 for how two devices share a channel.  Register names are the documents'.

IDETIM's enable bits open the legacy ports of each channel, which the board places.  Timing bits are stored.
Registers reach both devices of a channel, the selected one answers; device 0 answers for an absent device 1
with a status of 0.  A channel without devices reads 7Fh: pulled up, but for D7.

Not modelled: time on the cable (a command ends as soon as the drive has answered), the shadow of DMA that a
guest changes while it runs.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ring3.devices.face import InFile, Memory
from ring3.devices.pci.config import Bar, Command, Moved, PciFunction, Reg, image
from ring3.devices.storage import ata
from ring3.irq import IrqLine

NO_DEVICE = 0x7F
STATUS, DEVICE, DATA = 7, 6, 0          # offsets in the command block
IDETIM = 0x40                           # of the primary channel; the secondary's is at 42h
IDE_DECODE = 0x8000
BUS_MASTER_PORTS = 16
ENTRY = struct.Struct("<II")            # a descriptor
ENTRY_BYTES = ENTRY.size
TABLE_BYTES = 64 * ENTRY_BYTES          # of the table that are read at once
LAST_ENTRY = 0x8000_0000                # in a descriptor's size


class Control:  # device control register
    NIEN, SRST, HOB = 0x02, 0x04, 0x80


class Bmic:  # bus master command
    START, TO_MEMORY = 0x01, 0x08


class Bmis:  # bus master status
    ACTIVE, ERROR, INTERRUPT, DMA_0, DMA_1 = 0x01, 0x02, 0x04, 0x20, 0x40


@dataclass(slots=True)
class ChannelState:
    """One channel at its reset value; part of the checkpoint record."""

    device: int = 0                     # which one answers
    control: int = 0
    intrq: bool = False                 # the line as the bus master saw it last
    bm_command: int = 0
    bm_status: int = 0
    bm_table: int = 0                   # BMIDTP
    next_entry: int = 0                 # address of the next descriptor
    address: int = 0                    # what the present one still describes …
    left: int = 0                       # … bytes
    last: bool = False                  # it is the table's last


class Channel:
    """One cable with its bus master: a wide face of eight ports for the command block.

    `control` is the face of the control block's one port, `bus_master` of eight ports.
    """

    def __init__(self, irq: IrqLine, memory: Memory, may_master: Callable[[], bool]) -> None:
        self.irq = irq
        self.memory = memory
        self.may_master = may_master
        self.devices: list[Any] = [None, None]
        self.attached: list[Any] = []
        self.selected: Any = None
        self.state = ChannelState()
        self._ahead: Iterator[tuple[int, int]] = iter(())       # descriptors read in advance
        self.control = ControlFace(self)
        self.bus_master = BusMasterFace(self)

    def attach(self, number: int, device: ata.AtaDevice) -> None:
        device.host = self
        self.devices[number] = device
        self.attached.append(device)
        self._select()

    # --- the command block ---

    def read(self, offset: int, size: int) -> int:
        device = self.selected
        if offset == DATA:
            return self._read_data(size)
        if device is None:
            return NO_DEVICE if self._empty() else 0
        if offset == STATUS:
            value = int(device.state.status)
            if device.state.interrupt:
                device.state.interrupt = False
                self._update_irq()
            return value
        return int(device.register(offset, bool(self.state.control & Control.HOB)))

    def write(self, offset: int, value: int, size: int) -> None:
        if offset == DATA:
            self.write_block(DATA, size, value.to_bytes(size, "little"))
            return
        value &= 0xFF
        s = self.state
        if offset == STATUS:
            s.control &= ~Control.HOB
            self._command(value)
            return
        s.control &= ~Control.HOB
        for device in self.attached:
            device.set_register(offset, value)
        if offset == DEVICE and s.device != value >> 4 & 1:
            s.device = value >> 4 & 1
            self._select()

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        """What INS with a count reads: the data register again and again."""
        length = size * count
        device = self.selected
        if offset != DATA or device is None:
            return bytes(self.read(offset, size) & 0xFF for _ in range(length))
        parts = []
        while length:
            part = min(length, device.block_left) or length
            parts.append(device.pio_read(part))
            length -= part
        self._update_irq()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        device = self.selected
        if offset != DATA or device is None:
            return
        while data:
            part = min(len(data), device.block_left) or len(data)
            device.pio_write(data[:part])
            data = data[part:]
        self._update_irq()

    def _read_data(self, size: int) -> int:
        device = self.selected
        if device is None:
            return (1 << 8 * size) - 1
        value = int.from_bytes(device.pio_read(size), "little")
        self._update_irq()
        return value

    def alternate_status(self) -> int:
        device = self.selected
        if device is None:
            return NO_DEVICE if self._empty() else 0
        return int(device.state.status)

    def set_control(self, value: int) -> None:
        s = self.state
        before, s.control = s.control, value
        if before & ~value & Control.SRST:
            for device in self.attached:
                device.soft_reset()
            s.device = 0
            self._select()
        elif value & ~before & Control.SRST:
            for device in self.attached:
                device.soft_reset()
                device.state.status = ata.Status.BSY
        self._update_irq()

    def _command(self, command: int) -> None:
        """EXECUTE DEVICE DIAGNOSTIC is for both devices, the rest for the selected one."""
        if command == 0x90:
            for device in self.attached:
                device.execute(command)
                device.state.interrupt &= device is self.devices[0]
            self.state.device = 0
            self._select()
        elif self.selected is not None:
            self.selected.execute(command)
        self._update_irq()

    def _select(self) -> None:
        self.selected = self.devices[self.state.device]
        self._update_irq()

    def _empty(self) -> bool:
        return self.devices[0] is None and self.devices[1] is None

    # --- the devices' host ---

    def data_request(self, device: Any, interrupt: bool) -> None:
        if interrupt:
            self._update_irq()

    def dma_request(self, device: Any) -> None:
        if self.dma_ready(device):
            device.dma_start()

    def dma_ready(self, device: Any) -> bool:
        s = self.state
        running = s.bm_command & Bmic.START and s.bm_status & Bmis.ACTIVE
        return bool(running and device is self.selected and self.may_master())

    def dma_in(self, device: Any, tag: int, data: bytes) -> bool:
        if not self.state.bm_command & Bmic.TO_MEMORY:
            return False
        regions = self._regions(len(data))
        self.memory.scatter(regions, data)
        return sum(length for _, length in regions) == len(data)

    def dma_fill(self, device: Any, tag: int, length: int, place: InFile) -> bool:
        s = self.state
        if not s.bm_command & Bmic.TO_MEMORY:
            return False
        before = s.address, s.left, s.next_entry, s.last, s.bm_status
        regions = self._regions(length)
        if sum(part for _, part in regions) == length and self.memory.fill(regions, place):
            return True
        s.address, s.left, s.next_entry, s.last, s.bm_status = before
        self._ahead = iter(())
        return False

    def dma_out(self, device: Any, tag: int, length: int) -> bytes | None:
        if self.state.bm_command & Bmic.TO_MEMORY:
            return None
        data = self.memory.gather(self._regions(length))
        return data if len(data) == length else None

    def finished(self, device: Any) -> None:
        """The last entry used up: the bus master is done too; else it stays active (SFF-8038i §3.1)."""
        s = self.state
        if s.last and not s.left:
            s.bm_status &= ~Bmis.ACTIVE
        self._update_irq()

    def queued_finished(self, device: Any, tag: int, failed: bool) -> None:
        """There are no queued commands on this cable."""

    def update(self, device: Any) -> None:
        self._update_irq()

    # --- the bus master ---

    def _regions(self, length: int) -> list[tuple[int, int]]:
        """Where the next so many bytes of the transfer are in memory; fewer, if the table ends before.

        A physical region descriptor: address, bytes (0 is 64 KiB), and in the last the top bit.  Long tables
        have hundreds: all in one loop.
        """
        s = self.state
        address, left, next_entry, last = s.address, s.left, s.next_entry, s.last
        regions = []
        while length:
            if not left:
                if last or not s.bm_command & Bmic.START:
                    s.bm_status &= ~Bmis.ACTIVE
                    break
                entry = next(self._ahead, None)
                if entry is None:
                    self._ahead = ENTRY.iter_unpack(self.memory.read(next_entry, TABLE_BYTES))
                    continue
                next_entry = next_entry + ENTRY_BYTES & 0xFFFF_FFFF
                address, size = entry
                address &= 0xFFFF_FFFE
                left = size & 0xFFFE or 0x1_0000
                last = size >= LAST_ENTRY
            part = left if left < length else length
            regions.append((address, part))
            address = address + part & 0xFFFF_FFFF
            left -= part
            length -= part
        s.address, s.left, s.next_entry, s.last = address, left, next_entry, last
        return regions

    def start_bus_master(self) -> None:
        s = self.state
        s.next_entry, s.left, s.last = s.bm_table, 0, False
        self._ahead = iter(())
        s.bm_status |= Bmis.ACTIVE
        device = self.selected
        if device is not None and device.wants_dma and self.dma_ready(device):
            device.dma_start()

    # --- derived ---

    def _update_irq(self) -> None:
        s = self.state
        device = self.selected
        level = device is not None and device.state.interrupt and not s.control & Control.NIEN
        if level and not s.intrq:
            s.bm_status |= Bmis.INTERRUPT
        s.intrq = level
        self.irq.set(level)

    def restore(self, state: ChannelState) -> None:
        self.state = state
        self._ahead = iter(())
        self._select()


class ControlFace:
    """Alternate status and device control: the control block's port 2."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def read(self, offset: int) -> int:
        return self._channel.alternate_status()

    def write(self, offset: int, value: int) -> None:
        self._channel.set_control(value)


class BusMasterFace:
    """BMIC, BMIS and BMIDTP of one channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def read(self, offset: int, size: int) -> int:
        s = self._channel.state
        if offset == 2 and size == 1:
            return s.bm_status
        if offset == 0 and size == 1:
            return s.bm_command
        registers = s.bm_command | s.bm_status << 16 | s.bm_table << 32
        return registers >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        if offset == 4 and size == 4:
            self._channel.state.bm_table = value & 0xFFFF_FFFC
            return
        if size == 1:
            self._write_byte(offset, value)
            return
        for at in range(offset, offset + size):
            self._write_byte(at, value & 0xFF)
            value >>= 8

    def _write_byte(self, offset: int, value: int) -> None:
        channel = self._channel
        s = channel.state
        match offset:
            case 0:
                before, s.bm_command = s.bm_command, value & (Bmic.START | Bmic.TO_MEMORY)
                if value & ~before & Bmic.START:
                    channel.start_bus_master()
                elif before & ~value & Bmic.START:
                    s.bm_status &= ~Bmis.ACTIVE
            case 2:
                keep = Bmis.ACTIVE | (Bmis.ERROR | Bmis.INTERRUPT) & ~value
                drives = Bmis.DMA_0 | Bmis.DMA_1
                s.bm_status = s.bm_status & keep | value & drives
            case 4 | 5 | 6 | 7:
                shift = 8 * (offset - 4)
                s.bm_table = (s.bm_table & ~(0xFF << shift) | value << shift) & 0xFFFF_FFFC


RESET = image(
    (Reg.VENDOR, 2, 0x8086),
    (Reg.DEVICE, 2, 0x7010),
    (Reg.STATUS, 2, 0x0280),
    (Reg.CLASS, 3, 0x01_01_80),
    (Reg.BAR0 + 16, 4, 1),
)

WRITABLE = image(
    (Reg.COMMAND, 2, Command.IO | Command.MASTER),
    (Reg.LATENCY, 1, 0xF0),
    (IDETIM, 2, 0xF3FF),
    (IDETIM + 2, 2, 0xF3FF),
    (IDETIM + 4, 1, 0xFF),              # SIDETIM
)

CLEARABLE = image((Reg.STATUS, 2, 0x3800))
NO_BAR = Bar(1 << 32, io=True)          # PIIX3 has BAR 4 only: these have no bit that can be written


@dataclass(slots=True)
class State:
    """The function and its channels with their devices; also the checkpoint record."""

    config: bytearray = field(default_factory=lambda: bytearray(RESET))
    channels: list[ChannelState] = field(default_factory=lambda: [ChannelState(), ChannelState()])


Decoded = Callable[[int, bool], None]
"""(channel, whether its legacy ports are open)"""


class PiixIde(PciFunction):
    """PCI function 1 of the PIIX3.  Devices are chips of their own: they keep and restore their states."""

    state: State

    def __init__(self, irqs: tuple[IrqLine, IrqLine], memory: Memory, decoded: Decoded, moved: Moved) -> None:
        """`irqs`: ISA 14 and 15.  `moved`: where the bus masters' 16 ports are, as BAR 4."""
        super().__init__(
            State(), WRITABLE, clearable=CLEARABLE, bars=(NO_BAR,) * 4 + (Bar(BUS_MASTER_PORTS, io=True),),
            moved=lambda bar, base: moved(bar, base) if bar == 4 else None,
        )
        self._decoded = decoded
        self._open = [False, False]
        self.channels = [Channel(irq, memory, self._may_master) for irq in irqs]
        self._bus_masters = [channel.bus_master for channel in self.channels]
        for channel, state in zip(self.channels, self.state.channels, strict=True):
            channel.state = state

    def config_written(self, offset: int, size: int) -> None:
        config = self.state.config
        for n in range(2):
            timing = int.from_bytes(config[IDETIM + 2 * n : IDETIM + 2 * n + 2], "little")
            is_open = bool(timing & IDE_DECODE and config[Reg.COMMAND] & Command.IO)
            if is_open != self._open[n]:
                self._open[n] = is_open
                self._decoded(n, is_open)

    def _may_master(self) -> bool:
        return bool(self.state.config[Reg.COMMAND] & Command.MASTER)

    # --- the bus masters' ports ---

    def read(self, offset: int, size: int) -> int:
        return self._bus_masters[offset >> 3].read(offset & 7, size)

    def write(self, offset: int, value: int, size: int) -> None:
        self._bus_masters[offset >> 3].write(offset & 7, value, size)

    # --- power ---

    def reset(self) -> None:
        for channel in self.channels:
            for device in channel.attached:
                device.reset()
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        for channel, channel_state in zip(self.channels, state.channels, strict=True):
            channel.restore(channel_state)
        self.restore_config()
