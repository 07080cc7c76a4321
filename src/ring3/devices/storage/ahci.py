"""82801IR (ICH9R) SATA controller in AHCI mode: six ports, each with a disk or a CD drive.

Serial ATA AHCI 1.3.1 (section signs, §), Serial ATA 3.0 chapter 10 for the FISes; Intel 316972 (ICH9) for the
PCI function.  Register names are the documents'.

Each port fetches command headers and tables from the guest's memory, plays SATA's transport to a device of
`ata.py` or `atapi.py`, and posts received FISes.  Queued commands run beside each other; others wait until
the device is free.  The task file is the device's own, never stored twice.

1. What is under way lives in `Port._running` and is no state: before a checkpoint the drives are drained.
2. Data that a descriptor table has no room for is thrown away, as OFS says (§6.1.1).

Not modelled: port multipliers, power management of the link, hot plug, command completion coalescing,
staggered spin-up, enclosure management, the legacy IDE face of the chip.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ring3 import trace
from ring3.devices.face import InFile, Memory
from ring3.devices.pci import msi
from ring3.devices.pci.config import Bar, Command, Moved, PciFunction, Reg, image
from ring3.devices.pci.msi import Msi
from ring3.devices.pci.msix import Message
from ring3.devices.storage import ata
from ring3.devices.storage.ata import Job
from ring3.irq import IrqLine

PORTS = 6
SLOTS = 32
REGISTERS_BYTES = 0x1000
PORT_BASE, PORT_BYTES = 0x100, 0x80
HEADER_BYTES, TABLE_BYTES, ENTRY_BYTES = 32, 0x80, 16
ENTRIES_AT_ONCE = 168                   # of a descriptor table, read ahead
FIS_BYTES = 64


class Hba:  # generic host control (§3.1)
    CAP, GHC, IS, PI, VS = 0x00, 0x04, 0x08, 0x0C, 0x10


class Ghc:
    HR, IE, AE = 0x0000_0001, 0x0000_0002, 0x8000_0000


# 64 bit, queued commands, command list override, 6 Gb/s, AHCI only, PIO multiple, 32 slots.
CAPABILITIES = 0x8000_0000 | 0x4000_0000 | 0x0100_0000 | 3 << 20 | 1 << 18 | 1 << 15 | 31 << 8 | PORTS - 1
VERSION = 0x0001_0300


class Px:  # port registers (§3.3)
    CLB, CLBU, FB, FBU, IS, IE, CMD = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18
    TFD, SIG, SSTS, SCTL, SERR, SACT, CI = 0x20, 0x24, 0x28, 0x2C, 0x30, 0x34, 0x38


QUIET = (Px.CI, Px.SACT)                # what they start tells of its own interrupts


class Is:  # port interrupts
    DHRS, PSS, SDBS, PCS, PRCS = 0x0000_0001, 0x0000_0002, 0x0000_0008, 0x0000_0040, 0x0040_0000
    OFS, HBFS, TFES = 0x0100_0000, 0x2000_0000, 0x4000_0000


class Cmd:
    ST, SUD, POD, CLO, FRE, FR, CR = 0x0001, 0x0002, 0x0004, 0x0008, 0x0010, 0x4000, 0x8000
    ATAPI = 0x0100_0000
    WRITABLE = 0x0F00_0000 | ST | FRE   # ICC takes no effect and reads 0: always active


class Serr:
    PHY_READY_CHANGE, EXCHANGED = 0x0001_0000, 0x0400_0000


class Header:  # bits of a command header's first word (§4.2.2)
    WRITE, RESET, CLEAR = 0x40, 0x100, 0x400


class Received:  # offsets in the received FIS area (§4.2.1)
    PIO_SETUP, REGISTER, DEVICE_BITS = 0x20, 0x40, 0x58


REGISTER_H2D, REGISTER_D2H, PIO_SETUP, SET_DEVICE_BITS = 0x27, 0x34, 0x5F, 0xA1
FIS_COMMAND, FIS_INTERRUPT = 0x80, 0x40
SRST = 0x04
READ_QUEUED, WRITE_QUEUED = 0x60, 0x61
NO_DEVICE = 0x7F
LINK_UP = 0x133                         # SSTS: active, 6 Gb/s, device present


@dataclass(slots=True)
class PortState:
    """One port's registers at their reset values; part of the checkpoint record."""

    clb: int = 0                        # 64 bits
    fb: int = 0                         # 64 bits
    interrupts: int = 0                 # PxIS, less what SERR tells
    enabled: int = 0
    command: int = 0
    control: int = 0                    # SCTL
    errors: int = Serr.EXCHANGED        # SERR: a device has appeared
    active: int = 0                     # SACT
    issued: int = 0                     # CI
    current: int = 0                    # CCS
    halted: bool = False                # after an error, until ST is cleared


class Transfer:
    """One command's way into the guest's memory: its descriptor table, read as far as it is needed."""

    def __init__(self, memory: Memory, header: int, table: int, entries: int, head: bytes) -> None:
        """`head`: the table's fixed part and its first descriptors, already read."""
        self.memory = memory
        self.header = header
        self.packet = head[0x40:0x4C]
        self.moved = 0                  # bytes
        self.overflow = False
        self._next = table + TABLE_BYTES
        self._entries = entries
        self._regions: list[tuple[int, int]] = []       # in reverse
        self._parse(head[TABLE_BYTES:])

    def write(self, data: bytes) -> None:
        regions = self._take(len(data))
        if len(regions) == 1 and regions[0][1] == len(data):
            self.memory.write(regions[0][0], data)
        else:
            self.memory.scatter(regions, data)
        self.overflow |= sum(length for _, length in regions) < len(data)

    def fill(self, length: int, place: InFile) -> bool:
        regions = self._take(length)
        described = sum(part for _, part in regions)
        if described == length and self.memory.fill(regions, place):
            return True
        self._regions.extend(reversed(regions))
        self.moved -= described
        return False

    def read(self, length: int) -> bytes | None:
        data = self.memory.gather(self._take(length))
        return data if len(data) == length else None

    def _take(self, length: int) -> list[tuple[int, int]]:
        """The memory of the next so many bytes; of fewer, where the table ends before."""
        regions = []
        while length:
            region = self._region(length)
            if region is None:
                break
            regions.append(region)
            self.moved += region[1]
            length -= region[1]
        return regions

    def _region(self, wanted: int) -> tuple[int, int] | None:
        """The next piece of memory, at most so long."""
        if not self._regions:
            if not self._entries:
                return None
            count = min(self._entries, ENTRIES_AT_ONCE)
            self._parse(self.memory.read(self._next, count * ENTRY_BYTES))
        address, length = self._regions.pop()
        if length > wanted:
            self._regions.append((address + wanted, length - wanted))
            length = wanted
        return address, length

    def _parse(self, data: bytes) -> None:
        """Descriptors (§4.2.3.3); neighbours in memory become one region."""
        regions: list[tuple[int, int]] = []
        count = min(self._entries, len(data) // ENTRY_BYTES)
        for address, _, flags in struct.iter_unpack("<QII", data[: count * ENTRY_BYTES]):
            length = (flags & 0x3F_FFFF) + 1
            if regions and regions[-1][0] + regions[-1][1] == address:
                regions[-1] = (regions[-1][0], regions[-1][1] + length)
            else:
                regions.append((address, length))
        self._next += count * ENTRY_BYTES
        self._entries -= count
        self._regions = regions[::-1]


class Port:
    """One port, and the host of its device."""

    def __init__(self, hba: "Ahci", number: int) -> None:
        self.hba = hba
        self.number = number
        self.device: Any = None
        self.state = PortState()
        self._running: dict[int, Transfer] = {}         # by slot, or tag, which is the same
        self._current: int | None = None                # slot of the command that is not queued
        self._processing = False
        self._moving = False

    def attach(self, device: ata.AtaDevice) -> None:
        device.host = self
        self.device = device
        self.hba.attached.append(self)

    # --- registers ---

    def read(self, offset: int) -> int:
        s = self.state
        match offset:
            case Px.CI:
                return s.issued
            case Px.SACT:
                return s.active
            case Px.IS:
                return s.interrupts | self._error_interrupts()
            case Px.IE:
                return s.enabled
            case Px.CMD:
                return self._command()
            case Px.TFD:
                return self._task_file()
            case Px.SIG:
                return self._signature()
            case Px.SSTS:
                return LINK_UP if self.device is not None and s.control & 0xF == 0 else 0
            case Px.SCTL:
                return s.control
            case Px.SERR:
                return self._errors()
            case Px.CLB | Px.CLBU:
                return s.clb >> 8 * (offset - Px.CLB) & 0xFFFF_FFFF
            case Px.FB | Px.FBU:
                return s.fb >> 8 * (offset - Px.FB) & 0xFFFF_FFFF
        return 0

    def write(self, offset: int, value: int) -> None:
        s = self.state
        match offset:
            case Px.CI:
                if s.command & Cmd.ST:
                    s.issued |= value
                    self._process()
            case Px.SACT:
                if s.command & Cmd.ST:
                    s.active |= value
            case Px.IS:
                s.interrupts &= ~value
            case Px.IE:
                s.enabled = value & 0xFDC0_00FF
            case Px.CMD:
                self._set_command(value)
            case Px.SCTL:
                self._set_control(value & 0xFFF)
            case Px.SERR:
                s.errors &= ~value
            case Px.CLB:
                s.clb = s.clb & ~0xFFFF_FFFF | value & 0xFFFF_FC00
            case Px.CLBU:
                s.clb = s.clb & 0xFFFF_FFFF | value << 32
            case Px.FB:
                s.fb = s.fb & ~0xFFFF_FFFF | value & 0xFFFF_FF00
            case Px.FBU:
                s.fb = s.fb & 0xFFFF_FFFF | value << 32

    def interrupt(self) -> bool:
        s = self.state
        causes = s.interrupts | self._error_interrupts() if s.errors else s.interrupts
        return bool(causes & s.enabled)

    def _errors(self) -> int:
        return self.state.errors if self.device is not None else 0

    def _error_interrupts(self) -> int:
        """PCS and PRCS mirror SERR (§3.3.5)."""
        errors = self._errors()
        if not errors:
            return 0
        connected = Is.PCS if errors & Serr.EXCHANGED else 0
        return connected | (Is.PRCS if errors & Serr.PHY_READY_CHANGE else 0)

    def _command(self) -> int:
        s = self.state
        value = s.command | Cmd.SUD | Cmd.POD | s.current << 8
        value |= Cmd.FR if s.command & Cmd.FRE else 0
        return value | Cmd.CR if s.command & Cmd.ST else value

    def _task_file(self) -> int:
        if self.device is None or self.state.control & 0xF:
            return NO_DEVICE
        s = self.device.state
        return int(s.status) | int(s.error) << 8

    def _signature(self) -> int:
        if self.device is None:
            return 0xFFFF_FFFF
        mid, high = self.device.SIGNATURE
        return int(high << 24 | mid << 16 | 0x0101)

    def _set_command(self, value: int) -> None:
        s = self.state
        before = s.command
        s.command = value & (Cmd.ST | Cmd.FRE | Cmd.ATAPI)
        if value & Cmd.CLO and not s.command & before & Cmd.ST:
            self.reset_device()
        if s.command & ~before & Cmd.FRE:
            self._post_register(0)
        if before & ~s.command & Cmd.ST:
            self._stop()
        elif s.command & ~before & Cmd.ST:
            s.current = 0

    def _stop(self) -> None:
        """ST cleared: what was issued is forgotten (§10.3.1)."""
        s = self.state
        s.issued = s.active = 0
        s.halted = False
        if self._running or self._current is not None:
            self.reset_device()

    def _set_control(self, value: int) -> None:
        """DET: 1 resets the interface until it is 0 again (COMRESET), 4 takes it off line."""
        s = self.state
        before, s.control = s.control, value
        if self.device is None:
            return
        if value & 0xF and not before & 0xF:
            self.reset_device()
        elif before & 0xF and not value & 0xF:
            s.errors |= Serr.EXCHANGED | Serr.PHY_READY_CHANGE
            self._post_register(0)

    def reset_device(self) -> None:
        if self.device is not None:
            self.device.soft_reset()
        self._forget()

    def _forget(self) -> None:
        self._running.clear()
        self._current = None

    # --- commands ---

    def _process(self) -> None:
        """Starts what is issued, as far as the device can take it; not again while it is at it."""
        if self._processing:
            return
        self._processing = True
        try:
            s = self.state
            while s.command & Cmd.ST and not s.halted and self._current is None:
                waiting = s.issued
                if not waiting or self.device is None or not self.hba.may_master():
                    break
                self._start((waiting & -waiting).bit_length() - 1)
        finally:
            self._processing = False

    def _start(self, slot: int) -> None:
        s = self.state
        memory = self.hba.memory
        s.current = slot
        at = s.clb + slot * HEADER_BYTES
        _, entries, _, table = struct.unpack("<HHIQ", memory.read(at, 16))
        table &= ~0x7F
        head = memory.read(table, TABLE_BYTES + min(entries, 16) * ENTRY_BYTES)
        transfer = Transfer(memory, at, table, entries, head)
        fis = head[:20]
        if fis[0] != REGISTER_H2D:
            trace.odd("ahci", "FIS of type %02Xh in a command table", fis[0])
            s.interrupts |= Is.HBFS
            s.halted = True
            self.hba.update()
        elif not fis[1] & FIS_COMMAND:
            self._control(slot, fis[15])
        elif fis[2] in (READ_QUEUED, WRITE_QUEUED) and getattr(self.device, "sata", False):
            self._start_queued(slot, transfer, fis)
        elif self._running:
            self._fail_mixed(slot)
        else:
            self._current = slot
            self._running[slot] = transfer
            self._fill_registers(fis)
            self.device.execute(fis[2])

    def _control(self, slot: int, control: int) -> None:
        """A FIS for the control register: SRST set resets the device, SRST cleared lets it answer."""
        self.state.issued &= ~(1 << slot)
        self.reset_device()
        if not control & SRST:
            self._post_register(0)

    def _fill_registers(self, fis: bytes) -> None:
        s = self.device.state
        s.features = fis[3] | fis[11] << 8
        s.lba_low, s.lba_mid, s.lba_high = (fis[4 + n] | fis[8 + n] << 8 for n in range(3))
        s.device = fis[7]
        s.count = fis[12] | fis[13] << 8

    def _start_queued(self, slot: int, transfer: Transfer, fis: bytes) -> None:
        tag = fis[12] >> 3
        if not hasattr(self.device, "queued") or tag in self._running:
            self._fail_mixed(slot)
            return
        self.state.issued &= ~(1 << slot)
        self._running[tag] = transfer
        low, high = int.from_bytes(fis[4:7], "little"), int.from_bytes(fis[8:11], "little")
        sectors = fis[3] | fis[11] << 8 or 0x1_0000
        write = fis[2] == WRITE_QUEUED
        fua = write and bool(fis[7] & 0x80)
        first = (high << 24 | low) * ata.SECTOR
        self.device.queued(Job(write, first, sectors * ata.SECTOR, fua, tag))

    def _fail_mixed(self, slot: int) -> None:
        """Queued and other commands mixed: all that is queued ends in error (ACS §4.16)."""
        trace.odd("ahci", "slot %d: a command between queued ones", slot)
        device = self.device
        device.state.status = ata.Status.READY | ata.Status.ERR
        device.state.error = ata.Error.ABRT
        self._post_register(FIS_INTERRUPT)
        self._halt()

    def _halt(self) -> None:
        s = self.state
        s.interrupts |= Is.TFES
        s.halted = True
        self.hba.update()

    # --- the device's host ---

    def data_request(self, device: Any, interrupt: bool) -> None:
        """PIO: the HBA moves the blocks, one after the other, as long as the device has any."""
        if self._moving or self._current is None:
            return
        self._moving = True
        try:
            while device.block_left and self._current is not None:
                device.state.interrupt = False      # of the block; `finished` looks at the end's
                transfer = self._running[self._current]
                match device.state.phase:
                    case ata.Phase.PACKET:
                        device.pio_write(transfer.packet)
                    case ata.Phase.PIO_IN:
                        transfer.write(device.block())      # first: taking it may end the command
                        device.pio_read(device.block_left)
                    case _:
                        data = transfer.read(device.block_left)
                        if data is None:
                            return
                        device.pio_write(data)
        finally:
            self._moving = False

    def dma_request(self, device: Any) -> None:
        device.dma_start()

    def dma_ready(self, device: Any) -> bool:
        return True

    def dma_in(self, device: Any, tag: int, data: bytes) -> bool:
        transfer = self._transfer(tag)
        if transfer is None:
            return False
        transfer.write(data)
        return True

    def dma_fill(self, device: Any, tag: int, length: int, place: InFile) -> bool:
        transfer = self._transfer(tag)
        return transfer is not None and transfer.fill(length, place)

    def dma_out(self, device: Any, tag: int, length: int) -> bytes | None:
        transfer = self._transfer(tag)
        return None if transfer is None else transfer.read(length)

    def _transfer(self, tag: int) -> Transfer | None:
        slot = self._current if tag < 0 else tag
        return None if slot is None else self._running.get(slot)

    def finished(self, device: Any) -> None:
        """The command that is not queued is over: a register FIS, or the last PIO set-up says so."""
        slot, self._current = self._current, None
        if slot is None:
            return
        s = self.state
        self._count(self._running.pop(slot))
        failed = device.state.status & ata.Status.ERR
        if device.state.interrupt or failed:
            device.state.interrupt = False
            self._post_register(FIS_INTERRUPT)
        else:
            self._post_pio_setup()
        if failed:
            self._halt()
        else:
            s.issued &= ~(1 << slot)
            self._process()
        self.hba.update()

    def queued_finished(self, device: Any, tag: int, failed: bool) -> None:
        s = self.state
        transfer = self._running.pop(tag, None)
        if transfer is not None and transfer.overflow:
            s.interrupts |= Is.OFS      # PRDBC means nothing for queued commands (§5.4.1)
        done = 0 if failed else 1 << tag
        s.active &= ~done
        status = device.state.status & 0x77
        self._post(Received.DEVICE_BITS, struct.pack("<BBBBI", SET_DEVICE_BITS, 0x40, status,
                                                     device.state.error if failed else 0, done))
        s.interrupts |= Is.SDBS
        if failed:
            self._halt()
        else:
            self._process()
        self.hba.update()

    def update(self, device: Any) -> None:
        """A reset of the device ends what is under way."""
        self._forget()

    def _count(self, transfer: Transfer) -> None:
        """PRDBC, the bytes that were moved."""
        self.hba.memory.write(transfer.header + 4, transfer.moved.to_bytes(4, "little"))
        if transfer.overflow:
            self.state.interrupts |= Is.OFS

    # --- received FISes ---

    def _registers(self) -> bytes:
        """Bytes 2 to 13 of a register FIS."""
        s = self.device.state
        return bytes((
            s.status, s.error, s.lba_low & 0xFF, s.lba_mid & 0xFF, s.lba_high & 0xFF, s.device,
            s.lba_low >> 8, s.lba_mid >> 8, s.lba_high >> 8, 0, s.count & 0xFF, s.count >> 8,
        ))

    def _post_register(self, flags: int) -> None:
        if self.device is None:
            return
        self._post(Received.REGISTER, bytes((REGISTER_D2H, flags)) + self._registers() + bytes(6))
        if flags & FIS_INTERRUPT:
            self.state.interrupts |= Is.DHRS

    def _post_pio_setup(self) -> None:
        registers = self._registers()
        head = bytes((PIO_SETUP, 0x20 | FIS_INTERRUPT)) + registers
        self._post(Received.PIO_SETUP, head + bytes((0, registers[0])) + bytes(4))
        self.state.interrupts |= Is.PSS

    def _post(self, offset: int, fis: bytes) -> None:
        s = self.state
        if s.command & Cmd.FRE:
            self.hba.memory.write(s.fb + offset, fis)

    # --- power ---

    def restore(self, state: PortState) -> None:
        self._forget()
        self.state = state
        self._process()


CAPABILITIES_POINTER, MSI_CAPABILITY = 0x34, 0x80       # offsets in configuration space
RESET = image(
    (Reg.VENDOR, 2, 0x8086),
    (Reg.DEVICE, 2, 0x2922),
    (Reg.STATUS, 2, 0x0290),            # with a list of capabilities
    (Reg.REVISION, 1, 0x02),
    (Reg.CLASS, 3, 0x01_06_01),
    (Reg.INTERRUPT_PIN, 1, 1),
    (CAPABILITIES_POINTER, 1, MSI_CAPABILITY),
    (MSI_CAPABILITY, msi.CAPABILITY_BYTES, int.from_bytes(msi.capability(0), "little")),
)
WRITABLE = image(
    (Reg.COMMAND, 2, Command.MEMORY | Command.MASTER | Command.INTX_OFF),
    (Reg.CACHE_LINE, 1, 0xFF),
    (Reg.LATENCY, 1, 0xF8),
    (Reg.INTERRUPT_LINE, 1, 0xFF),
    (MSI_CAPABILITY, msi.CAPABILITY_BYTES, int.from_bytes(msi.writable(), "little")),
)
CLEARABLE = image((Reg.STATUS, 2, 0xF900))
ABAR = 5
NO_BAR = Bar(1 << 32)                   # the legacy face's: they have no bit that can be written


@dataclass(slots=True)
class State:
    """The function and its ports; also the checkpoint record.  Devices keep theirs."""

    config: bytearray = field(default_factory=lambda: bytearray(RESET))
    control: int = Ghc.AE
    interrupts: int = 0                 # IS
    ports: list[PortState] = field(default_factory=lambda: [PortState() for _ in range(PORTS)])


class Ahci(PciFunction):
    """A PCI function with its registers as a wide face of 4 KiB, where BAR 5 places them."""

    state: State

    def __init__(self, irq: IrqLine, memory: Memory, message: Message, moved: Moved) -> None:
        """`message`: how an MSI reaches the local APICs."""
        super().__init__(
            State(), WRITABLE, clearable=CLEARABLE, bars=(NO_BAR,) * 5 + (Bar(REGISTERS_BYTES),),
            moved=lambda bar, base: moved(bar, base) if bar == ABAR else None,
        )
        self.irq = irq
        self.memory = memory
        self.msi = Msi(MSI_CAPABILITY, memory, message)
        self._told = 0                  # bits of IS that a message went out for
        self.attached: list[Port] = []
        self.ports: Sequence[Port] = [Port(self, n) for n in range(PORTS)]
        self._attach_states()

    def config_written(self, offset: int, size: int) -> None:
        self.update()

    def may_master(self) -> bool:
        return bool(self.state.config[Reg.COMMAND] & Command.MASTER)

    # --- registers ---

    def read(self, offset: int, size: int) -> int:
        value = self._read(offset & ~3)
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        """Parts of a register that are not written count as 0 where ones act, else as they stand."""
        at, shift = offset & ~3, 8 * (offset & 3)
        value <<= shift
        acts = at == Hba.IS or (at >= PORT_BASE and at % PORT_BYTES in (Px.IS, Px.SERR, Px.SACT, Px.CI))
        if size < 4 and not acts:
            mask = (1 << 8 * size) - 1 << shift
            value |= self._read(at) & ~mask
        self._write(at, value & 0xFFFF_FFFF)

    def _read(self, offset: int) -> int:
        s = self.state
        if offset >= PORT_BASE:
            port, register = divmod(offset - PORT_BASE, PORT_BYTES)
            return self.ports[port].read(register) if port < PORTS else 0
        match offset:
            case Hba.CAP:
                return CAPABILITIES
            case Hba.GHC:
                return s.control
            case Hba.IS:
                return s.interrupts
            case Hba.PI:
                return (1 << PORTS) - 1
            case Hba.VS:
                return VERSION
        return 0

    def _write(self, offset: int, value: int) -> None:
        s = self.state
        if offset >= PORT_BASE:
            port, register = divmod(offset - PORT_BASE, PORT_BYTES)
            if port < PORTS:
                self.ports[port].write(register, value)
            if register in QUIET:
                return
        elif offset == Hba.GHC:
            if value & Ghc.HR:
                self._reset_hba()
            else:
                s.control = Ghc.AE | value & Ghc.IE
        elif offset == Hba.IS:
            s.interrupts &= ~value
            self._told &= s.interrupts
        self.update()

    def _reset_hba(self) -> None:
        for port in self.ports:
            port.reset_device()
        self.state.control, self.state.interrupts = Ghc.AE, 0
        self.state.ports = [PortState() for _ in range(PORTS)]
        self._attach_states()

    def update(self) -> None:
        """IS has a bit for each port that wants an interrupt, until it is cleared and the port content.

        Each bit that appears is a message, where the guest wants messages, and a level where it does not.
        """
        s = self.state
        for port in self.attached:
            if port.interrupt():
                s.interrupts |= 1 << port.number
        wanted = s.interrupts if s.control & Ghc.IE else 0
        new, self._told = wanted & ~self._told, wanted
        if self.msi.enabled(s.config):
            self.irq.set(False)
            if new:
                self.msi.fire(s.config)
        else:
            off = s.config[Reg.COMMAND + 1] << 8 & Command.INTX_OFF
            self.irq.set(bool(wanted and not off))

    # --- power ---

    def reset(self) -> None:
        for port in self.ports:
            if port.device is not None:
                port.device.reset()
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self._attach_states()
        self.restore_config()
        self.update()

    def _attach_states(self) -> None:
        for port, port_state in zip(self.ports, self.state.ports, strict=True):
            port.restore(port_state)
