"""The other side of storage chips, for tests: SCSI adapter, IDE driver, controllers to storm."""

from dataclasses import dataclass

from fakes import FakeDrive, Ram
from ring3.devices.storage.ahci import Ahci
from ring3.devices.storage.ahci import State as AhciState
from ring3.devices.storage.ata import AtaDisk
from ring3.devices.storage.ata import State as DiskState
from ring3.devices.storage.atapi import AtapiCd
from ring3.devices.storage.atapi import State as CdState
from ring3.devices.storage.ide import PiixIde
from ring3.devices.storage.ide import State as PiixState
from ring3.devices.storage.scsi import Task
from ring3.irq import IrqLine


class Adapter:
    """Takes and gives all at once, or in PIO's way, when told to `go_on`."""

    def __init__(self, target, *, pio=False):
        self.target = target
        self.pio = pio
        self.data = b""
        self.out = b""
        self.status = self.sense = None
        self.wants = 0

    def run(self, cdb, *, out=b"", **fields):
        """Status, and the data or the sense key with code."""
        self.data, self.out, self.status, self.sense = b"", out, None, None
        self.task = Task(bytes(cdb), **fields)
        self.target.execute(self.task, self)
        return self.answer()

    def answer(self):
        if self.sense:
            return self.status, (self.sense[2], self.sense[12] << 8 | self.sense[13])
        return self.status, self.data

    def go_on(self):
        data, self.out = self.out[: self.wants], self.out[self.wants :]
        self.target.resume(self.task, self, data)

    def data_in(self, task, data):
        self.data += data
        return not self.pio

    def data_out(self, task, length):
        self.wants = length
        if self.pio:
            return None
        data, self.out = self.out[:length], self.out[length:]
        return data

    def complete(self, task, status, sense):
        assert self.status is None, "a task ends once"
        self.status, self.sense = status, sense


TABLE, BUFFER = 0x1000, 0x1_0000        # where IdeDriver has its descriptors and its data


class IdeDriver:
    """The guest's side of one IDE channel."""

    def __init__(self, channel, ram):
        self.channel = channel
        self.ram = ram

    def command(self, code, *, device=0, count=1, lba=0, features=0, ext=False, lba_mode=True):
        port = self.channel.write
        port(6, (0x40 if lba_mode else 0) | device << 4 | (0 if ext else lba >> 24 & 15), 1)
        if ext:
            for offset, value in ((1, 0), (2, count >> 8), (3, lba >> 24), (4, lba >> 32), (5, lba >> 40)):
                port(offset, value & 0xFF, 1)
        for offset, value in ((1, features), (2, count), (3, lba), (4, lba >> 8), (5, lba >> 16)):
            port(offset, value & 0xFF, 1)
        port(7, code, 1)

    @property
    def status(self):
        return self.channel.alternate_status()

    @property
    def error(self):
        return self.channel.read(1, 1)

    def acknowledge(self):
        return self.channel.read(7, 1)

    def read_words(self, length):
        return b"".join(self.channel.read(0, 2).to_bytes(2, "little") for _ in range(length // 2))

    def write_words(self, data):
        for at in range(0, len(data), 2):
            self.channel.write(0, int.from_bytes(data[at : at + 2], "little"), 2)

    def table(self, *regions):
        """Physical region descriptors: (address, bytes)."""
        for n, (address, length) in enumerate(regions):
            last = 0x8000_0000 if n == len(regions) - 1 else 0
            entry = address.to_bytes(4, "little") + (length & 0xFFFF | last).to_bytes(4, "little")
            self.ram.write(TABLE + 8 * n, entry)
        self.channel.bus_master.write(4, TABLE, 4)

    def start_dma(self, *, to_memory):
        self.channel.bus_master.write(0, 8 if to_memory else 0, 1)
        self.channel.bus_master.write(2, 6, 1)
        self.channel.bus_master.write(0, 9 if to_memory else 1, 1)

    def packet(self, cdb, *, limit=0xFFFE, dma=False, device=0):
        self.command(0xA0, device=device, features=int(dma), lba=(limit & 0xFFFF) << 8)
        self.write_words(bytes(cdb).ljust(12, b"\0"))

    def packet_in(self, cdb, **options):
        """Data of a packet command by PIO, block by block."""
        self.packet(cdb, **options)
        data = b""
        while self.status & 8:
            length = self.channel.read(4, 1) | self.channel.read(5, 1) << 8
            data += self.read_words(length + 1 & ~1)[:length]
        return data


@dataclass
class RigState:
    ide: PiixState
    disk: DiskState
    cd: CdState


class IdeRig:
    """A controller with a disk and a CD drive, as one chip for the contract test."""

    def __init__(self):
        self.ram = Ram(1 << 18)
        self.ide = PiixIde((IrqLine(), IrqLine()), self.ram, lambda *_: None, lambda *_: None)
        self.disk = AtaDisk(FakeDrive(size_bytes=4096 * 512))
        self.cd = AtapiCd(FakeDrive(size_bytes=64 * 2048, read_only=True))
        self.ide.channels[0].attach(0, self.disk)
        self.ide.channels[1].attach(0, self.cd)

    @property
    def state(self):
        return RigState(self.ide.state, self.disk.state, self.cd.state)

    def restore(self, state):
        self.disk.restore(state.disk)
        self.cd.restore(state.cd)
        self.ide.restore(state.ide)

    def reset(self):
        self.ide.reset()
        self.cd.target.state.tray_open = False      # kept over a reset, as it should be

    def faces(self):
        blocks = [(channel, 8) for channel in self.ide.channels]
        return [*blocks, (self.ide, 16)]

    def byte_faces(self):
        return [(channel.control, 1) for channel in self.ide.channels]

    def ready(self, rng):
        """So that storms meet more than a closed door: bus mastering on, a table that leads somewhere."""
        self.ide.write_config(4, 5, 2)
        for channel in self.ide.channels:
            channel.control.write(0, 0)
        for at in range(0, 1 << 12, 8):
            entry = rng.randrange(1 << 18) | rng.choice((512, 2048, 0)) << 32
            self.ram.write(at, entry.to_bytes(8, "little"))

    def command(self, rng):
        """A command that does something, now and then, with random registers."""
        channel = rng.choice(self.ide.channels)
        channel.write(6, rng.choice((0x40, 0xE0, 0xA0)), 1)
        for offset in range(1, 6):
            channel.write(offset, rng.choice((0, 1, 2, 0x4F, 0xC2)), 1)
        channel.write(7, rng.choice(sorted({*self.disk._commands, *self.cd._commands})), 1)
        channel.bus_master.write(0, rng.choice((1, 9)), 1)


COMMAND_LIST, RECEIVED, TABLES = 0x2000, 0x3000, 0x4000     # where AhciDriver has its structures


class AhciDriver:
    """The guest's side of one AHCI port."""

    def __init__(self, hba, number=0):
        self.hba = hba
        self.ram = hba.memory
        self.base = 0x100 + 0x80 * number
        hba.write_config(4, 6, 2)
        hba.write(0x04, 2, 4)                       # GHC.IE
        self.set(0x00, COMMAND_LIST)
        self.set(0x08, RECEIVED)
        self.set(0x30, 0xFFFF_FFFF)
        self.set(0x10, 0xFFFF_FFFF)
        self.set(0x14, 0xFDC0_00FF)
        self.set(0x18, 0x11)                        # FRE, ST
        self.acknowledge()

    def get(self, offset):
        return self.hba.read(self.base + offset, 4)

    def set(self, offset, value):
        self.hba.write(self.base + offset, value, 4)

    def acknowledge(self):
        """What interrupts there were."""
        causes = self.get(0x10)
        self.set(0x10, causes)
        self.hba.write(0x08, 0xFFFF_FFFF, 4)
        return causes

    def prepare(self, slot, fis, regions=(), *, write=False, packet=b""):
        table = TABLES + slot * 0x400
        flags = 5 | (0x40 if write else 0) | (0x20 if packet else 0)
        header = flags | len(regions) << 16
        self.ram.write(COMMAND_LIST + 32 * slot, header.to_bytes(8, "little") + table.to_bytes(8, "little"))
        entries = b"".join((at | (size - 1) << 96).to_bytes(16, "little") for at, size in regions)
        self.ram.write(table, fis.ljust(0x40, b"\0") + packet.ljust(0x40, b"\0") + entries)

    def fis(self, code, *, lba=0, count=1, features=0, device=0x40):
        low, high = lba & 0xFF_FFFF, lba >> 24
        return (
            bytes((0x27, 0x80, code, features & 0xFF)) + low.to_bytes(3, "little") + bytes((device,))
            + high.to_bytes(3, "little") + bytes((features >> 8,)) + count.to_bytes(2, "little") + bytes(6)
        )

    def run(self, code, regions=(), *, slot=0, write=False, packet=b"", **registers):
        self.prepare(slot, self.fis(code, **registers), regions, write=write, packet=packet)
        self.set(0x38, 1 << slot)

    def queue(self, slot, regions, *, lba, sectors, write=False, flags=0x40):
        fis = self.fis(0x61 if write else 0x60, lba=lba, count=slot << 3, features=sectors, device=flags)
        self.prepare(slot, fis, regions, write=write)
        self.set(0x34, 1 << slot)
        self.set(0x38, 1 << slot)

    def moved(self, slot=0):
        return int.from_bytes(self.ram.read(COMMAND_LIST + 32 * slot + 4, 4), "little")

    def received(self, offset, length=20):
        return self.ram.read(RECEIVED + offset, length)


@dataclass
class AhciRigState:
    ahci: AhciState
    disk: DiskState
    cd: CdState


class AhciRig:
    """An HBA with a disk and a CD drive, as one chip for the contract test."""

    def __init__(self):
        self.ram = Ram(1 << 18)
        self.ahci = Ahci(IrqLine(), self.ram, lambda *_: None, lambda *_: None)
        self.disk = AtaDisk(FakeDrive(size_bytes=4096 * 512), sata=True)
        self.cd = AtapiCd(FakeDrive(size_bytes=64 * 2048, read_only=True), sata=True)
        self.ahci.ports[0].attach(self.disk)
        self.ahci.ports[1].attach(self.cd)

    @property
    def state(self):
        return AhciRigState(self.ahci.state, self.disk.state, self.cd.state)

    def restore(self, state):
        self.disk.restore(state.disk)
        self.cd.restore(state.cd)
        self.ahci.restore(state.ahci)

    def reset(self):
        self.ahci.reset()
        self.cd.target.state.tray_open = False      # kept over a reset, as it should be

    def command(self, rng):
        """A whole command, in any slot, of either port."""
        number = rng.randrange(2)
        driver = AhciDriver(self.ahci, number)
        codes = sorted({*self.disk._commands, *self.cd._commands, 0x60, 0x61})
        sizes = [rng.choice((2, 512, 4096)) for _ in range(rng.randrange(4))]
        regions = [(rng.randrange(0x8000, 1 << 18), size) for size in sizes]
        packet = bytes((rng.choice((0x00, 0x12, 0x28, 0x43, 0x55)), *bytes(7), rng.randrange(20)))
        driver.run(rng.choice(codes), regions, slot=rng.randrange(32), packet=packet,
                   count=rng.choice((1, 3, 8)), features=rng.choice((0, 1, 3)), lba=rng.randrange(5000))

    def scramble(self, rng):
        at = rng.randrange(0x2000, 0x5000)
        self.ram.write(at, rng.randbytes(16))
