"""What every chip promises: its state is its checkpoint, and no guest can make it raise."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from fakes import FakeDrive, Ram
from ring3._native import play_fm
from ring3.audio import NoAudio
from ring3.char import NoBackend
from ring3.clock import ManualClock
from ring3.devices.acpi_pm import AcpiPm, PmFunction
from ring3.devices.coprocessor import CoprocessorError
from ring3.devices.debug_exit import DebugExit
from ring3.devices.debugcon import DebugCon, PostCodes
from ring3.devices.dma import I8237Pair
from ring3.devices.face import WideRegisters
from ring3.devices.flash import CfiFlash
from ring3.devices.floppy import I82077AA, FloppyDrive
from ring3.devices.fw_cfg import FwCfg
from ring3.devices.generation_id import GenerationId
from ring3.devices.hpet import Hpet
from ring3.devices.i8042 import I8042
from ring3.devices.ioapic import IoApic
from ring3.devices.parallel import ParallelPort
from ring3.devices.pci.config import ROM, PciBus
from ring3.devices.pci.host import I440Fx
from ring3.devices.pci.isa_bridge import Piix3
from ring3.devices.pic import I8259Pair
from ring3.devices.pit import I8254
from ring3.devices.reset import PortA, ResetControl
from ring3.devices.rtc import Mc146818
from ring3.devices.sound.es1371 import Es1371
from ring3.devices.sound.sb16 import Sb16
from ring3.devices.storage.buslogic import BusLogic
from ring3.devices.storage.scsi_disk import ScsiDisk
from ring3.devices.uart import Ns16550
from ring3.devices.usb.keyboard import UsbKeyboard
from ring3.devices.usb.tablet import UsbTablet
from ring3.devices.usb.uhci import Uhci
from ring3.devices.video.function import VgaFunction
from ring3.devices.video.vga import Vga
from ring3.devices.virtio.blk import VirtioBlk
from ring3.devices.virtio.console import VirtioConsole
from ring3.devices.virtio.rng import VirtioRng
from ring3.devices.vmware import backdoor
from ring3.devices.vmware.pointer import VmMouse
from ring3.irq import IrqLine
from ring3.state import load, record
from storage_fakes import AhciRig, IdeRig
from video_fakes import FakeVideoMemory
from virtio_driver import Wiring, mad

ACCESSES = 4000


def ignore(*values: object) -> None:
    """A callback or wire that nobody looks at."""


@dataclass
class Device:
    """How to build a chip, where a guest reaches it, and what else happens to it."""

    make: Callable[[ManualClock], Any]
    byte_faces: Callable[[Any], list[tuple[Any, int]]] = lambda chip: []  # (face, ports)
    wide_faces: Callable[[Any], list[tuple[Any, int]]] = lambda chip: []  # (face, bytes)
    events: tuple[Callable[[Any, random.Random], object], ...] = ()  # from the host and from other chips


class ConfigFace:
    """A PCI function's configuration space, as the bus reaches it."""

    def __init__(self, function):
        self.read, self.write = function.read_config, function.write_config


def any_line(chip, rng):
    """Interrupt controllers: some driver changes its line; the cascade has its own."""
    line = rng.choice([line for n, line in enumerate(chip.line) if n != 2])
    line.set(not line.level)


def any_key(chip, rng):
    key = rng.choice((0x1E, 0x1D, 0xE04B, 0xE11D, 0xE037, 0xE038, 0x7F, 0xFFFF, 0))
    chip.keyboard.key(key, rng.random() < 0.5)


def any_movement(chip, rng):
    chip.mouse.move(rng.randint(-999, 999), rng.randint(-9, 9), rng.randint(-9, 9), rng.getrandbits(5))


def any_transfer(dma, rng):
    channel = dma.channel(rng.randrange(8))
    channel.to_memory(rng.randbytes(rng.randrange(600)))
    channel.from_memory(rng.randrange(600))


class GuidFace:
    """A generation ID's page, of which the guest can write nothing."""

    def __init__(self, chip):
        self._chip = chip

    def read(self, offset, size):
        return int.from_bytes(self._chip.state.guid[offset : offset + size], "little")

    def write(self, offset, value, size):
        pass


class GatewayFace:
    """VMware's backdoor as a window: offset and value choose a call."""

    def __init__(self, door):
        self._door = door

    def read(self, offset, size):
        registers = self._door.call(backdoor.MAGIC, offset % 7, 38 + offset % 5, 0, 0, 0, 0, offset % 3)
        assert all(0 <= value < 1 << 32 for value in registers)
        return registers[0] & (1 << 8 * size) - 1

    def write(self, offset, value, size):
        request = (0x4541_4552, 0x5342_4152, 0x4C45_5252, 0xF5, value)[offset % 5]
        self._door.call(backdoor.MAGIC, request, 41 + offset % 2 * 45, 0, 0, 0, 0, 0)


def make_vmmouse(clock):
    door = backdoor.Backdoor(10**9)
    chip = VmMouse(door, ignore)
    chip.door = door
    return chip


def any_point(chip, rng):
    chip.point(rng.getrandbits(17), rng.getrandbits(16), rng.randint(-999, 999), rng.getrandbits(5))


def make_sb16(clock):
    """With memory behind its channels, which go round; silent, and random bytes where it records."""
    dma = I8237Pair(Ram())
    for number, port in ((1, dma.primary), (5, dma.secondary)):
        port.write((2 * (number & 3) + 1) << (number > 4), 0xFF)
        port.write(0xB << (number > 4), 0x58 | number & 3)
        port.write(0xA << (number > 4), number & 3)
    return Sb16(clock, {irq: IrqLine() for irq in (5, 7, 9, 10)}, dma.channel, NoAudio(), play_fm)
def any_flash_command(flash, rng):
    command = rng.choice((0x10, 0x20, 0x50, 0x60, 0x70, 0x90, 0x98, 0xD0, 0xE8, 0xFF))
    flash.write(rng.randrange(0x3000), command, 1)


def make_uhci(clock):
    memory = Ram()
    random.Random(3).shuffle(pattern := list(range(0, 0x8000, 16)))
    for n in range(1024):           # a schedule of sorts: queues and descriptors that lead anywhere
        memory.write(4 * n, (pattern[n] | n % 3).to_bytes(4, "little"))
        memory.write(0x4000 + 32 * n, random.Random(n).randbytes(32))
    return Uhci(clock, memory, IrqLine(), (UsbTablet(clock), UsbKeyboard(clock)), ignore)


class UsbFace:
    """A device's endpoints as a window: what is written goes to endpoint 0, SETUP by SETUP."""

    def __init__(self, device):
        self._device = device

    def read(self, offset, size):
        answer = self._device.data_in(offset & 1, 8)
        return int.from_bytes(answer[:size], "little") if isinstance(answer, bytes) else 0

    def write(self, offset, value, size):
        if offset & 8:
            kind = 0x80 >> (offset & 1) * 7 | offset % 3
            self._device.setup(0, bytes((kind, offset, offset & 1, value & 0x23, 0, 0, size, 0)))
        else:
            self._device.data_out(offset & 1, value.to_bytes(size, "little"))


def any_usb_key(chip, rng):
    chip.key(rng.choice((0x1E, 0x1D, 0xE04B, 0xE11D, 0xFFFF)), rng.random() < 0.5)


def itself(ports):
    return lambda chip: [(chip, ports)]


def virtio_regions(chip):
    return [(ConfigFace(chip), 256), *zip(chip.faces, (128, 4096, 0x4000), strict=True)]


def floppy(clock):
    dma = I8237Pair(Ram())
    drives = [FloppyDrive("1.44M", FakeDrive(size_bytes=1_474_560)), FloppyDrive("1.2M", None)]
    return I82077AA(clock, IrqLine(), dma.channel(2), drives)


def any_floppy_command(fdc, rng):
    """Out of reset, with its parameters: mostly one that touches the medium."""
    fdc.write(2, 0x1C)
    fdc.write(7, 0)
    codes = (0xE6, 0xC5, 0x46, 0x45, 0x4D, 0x4A, 0x56, 0x42, 0x07, 0x0F, 0xCF, 0x03, 0x13, 0x08)
    command = [rng.choice(codes), rng.choice((0, 0, 4, 1)), 0, 0, rng.randrange(20), 2, 18, 0x1B, 0xFF]
    for byte in command[: rng.choice((2, 3, 6, 9))]:
        fdc.write(5, byte)
    for _ in range(rng.randrange(600)):
        fdc.write(5, 0x55)
        fdc.read(5)


def buslogic():
    adapter = BusLogic(Ram(), IrqLine(), ignore, ignore, rom=bytes(4096))
    adapter.attach(0, ScsiDisk(FakeDrive(bytes(4096)), "0"))
    return adapter


def mad_mailboxes(adapter, rng):
    """Mailboxes and CCBs full of nonsense; then the driver resets the adapter."""
    ram = adapter._memory
    ram.write(0, rng.randbytes(512) + bytes(len(ram.data) - 512))
    for at in range(0x1000, 0x1800, 0x100):
        block = bytes((rng.choice((0, 2, 3, 4, 0x81, 9)), rng.choice((0, 8, 16, 24)), rng.randrange(20), 0))
        lengths = rng.choice((0, 8, 512, 0xFFFF_FFF8)).to_bytes(4, "little") + rng.randbytes(2) + bytes(2)
        cdb = bytes((rng.choice((0x12, 0x25, 0x28, 0x2A, 0x1A, 0xFF)),)) + bytes(7) + rng.randbytes(4)
        ram.write(at, block + lengths + bytes(4) + bytes((rng.choice((0, 0, 3, 0xFF)), 0)) + cdb)
    for n in range(8):
        ccb, action = 0x1000 + 0x100 * rng.randrange(8), rng.choice((0, 1, 1, 2, 3))
        ram.write(0x2000 + 8 * n, ccb.to_bytes(7, "little") + bytes((action,)))
    adapter.write(0, 0x40)
    for value in (0x81, 8, 0, 0x20, 0, 0, 0x02, 0x02):
        adapter.write(1, value)
    adapter.write(0, 0x80)


def config_space(chip):
    return [(ConfigFace(chip), 256)]


DEVICES = {
    "uart": Device(
        lambda clock: Ns16550(IrqLine(), NoBackend()),
        itself(8),
        events=(
            lambda uart, rng: uart.receive(rng.randbytes(rng.randrange(20))),
            lambda uart, rng: uart.receive_break(),
            lambda uart, rng: uart.set_modem(rng.getrandbits(8)),
        ),
    ),
    "pic": Device(
        lambda clock: I8259Pair(ignore),
        lambda c: [(c.primary, 2), (c.secondary, 2), (c.elcr, 2)],
        events=(any_line, lambda pic, rng: pic.acknowledge()),
    ),
    "pit": Device(lambda clock: I8254(clock, IrqLine()), lambda c: [(c, 4), (c.port_b, 1)]),
    "rtc": Device(lambda clock: Mc146818(clock, IrqLine(), 946_684_799), itself(2)),
    "i8042": Device(
        lambda clock: I8042(clock, IrqLine(), IrqLine(), ignore, ignore),
        lambda c: [(c.data, 1), (c.command, 1)],
        events=(any_key, any_movement),
    ),
    "backdoor": Device(
        lambda clock: backdoor.Backdoor(10**9), wide_faces=lambda c: [(GatewayFace(c), 64)]
    ),
    "vmmouse": Device(
        make_vmmouse, wide_faces=lambda c: [(GatewayFace(c.door), 64)], events=(any_point,)
    ),
    "sb16": Device(make_sb16, lambda c: [(c, 16), (c.fm, 4), (c.mpu, 2)]),
    "es1371": Device(
        lambda clock: Es1371(clock, Ram(), IrqLine(), NoAudio(), ignore),
        wide_faces=lambda c: [(c, 64), (ConfigFace(c), 256)],
    ),
    "uhci": Device(make_uhci, wide_faces=lambda c: [(c, 32), (ConfigFace(c), 256)]),
    "usb_tablet": Device(UsbTablet, wide_faces=lambda c: [(UsbFace(c), 16)], events=(any_point,)),
    "usb_keyboard": Device(UsbKeyboard, wide_faces=lambda c: [(UsbFace(c), 16)], events=(any_usb_key,)),
    "port_a": Device(lambda clock: PortA(ignore, ignore), itself(1)),
    "reset_control": Device(lambda clock: ResetControl(ignore, ignore), itself(1)),
    "post_codes": Device(lambda clock: PostCodes(), itself(1)),
    "debugcon": Device(lambda clock: DebugCon(NoBackend()), itself(1)),
    "debug_exit": Device(lambda clock: DebugExit(ignore), itself(4)),
    "ioapic": Device(
        lambda clock: IoApic(ignore),
        wide_faces=itself(32),
        events=(any_line, lambda ioapic, rng: ioapic.eoi(rng.getrandbits(8))),
    ),
    "dma": Device(
        lambda clock: I8237Pair(Ram()),
        lambda c: [(c.primary, 16), (c.secondary, 32), (c.pages, 15)],
        events=(any_transfer,),
    ),
    "flash": Device(
        lambda clock: CfiFlash(bytes(range(256)) * 48, ignore, ignore, ignore),
        wide_faces=itself(256 * 48),
        events=(any_flash_command,),
    ),
    "fw_cfg": Device(
        lambda clock: FwCfg(Ram(1 << 12), {"etc/e820": bytes(range(100))}, {}), wide_faces=itself(12)
    ),
    "coprocessor": Device(
        lambda clock: CoprocessorError(IrqLine(), ignore),
        itself(2),
        events=(lambda chip, rng: chip.ferr(rng.random() < 0.5),),
    ),
    "generation_id": Device(
        lambda clock: GenerationId(ignore, ignore, bytes),
        wide_faces=lambda c: [(GuidFace(c), 16)],
        events=(lambda chip, rng: chip.renew(),),
    ),
    "hpet": Device(
        lambda clock: Hpet(clock, {n: IrqLine() for n in range(24)}, (IrqLine(),) * 2, (IrqLine(),) * 2),
        wide_faces=itself(0x400),
        events=(lambda hpet, rng: rng.choice(hpet.gates).line.set(rng.random() < 0.5),),
    ),
    "acpi_pm": Device(
        lambda clock: AcpiPm(clock, IrqLine(), ignore),
        lambda c: [(c.smi, 2)],
        itself(64),
        events=(
            lambda pm, rng: pm.press_power_button(),
            lambda pm, rng: pm.raise_gpe(rng.getrandbits(16)),
        ),
    ),
    "pm_function": Device(lambda clock: PmFunction(ignore), wide_faces=config_space),
    "i440fx": Device(lambda clock: I440Fx(), wide_faces=config_space),
    "piix3": Device(lambda clock: Piix3([IrqLine() for _ in range(16)]), wide_faces=config_space),
    "ide": Device(
        lambda clock: IdeRig(),
        lambda rig: rig.byte_faces(),
        lambda rig: [*rig.faces(), (ConfigFace(rig.ide), 256)],
        events=(
            lambda rig, rng: rig.ready(rng),
            lambda rig, rng: rig.command(rng),
            lambda rig, rng: rig.cd.insert(rig.cd.target.drive),
            lambda rig, rng: rig.cd.request_eject(),
        ),
    ),
    "ahci": Device(
        lambda clock: AhciRig(),
        wide_faces=lambda rig: [(rig.ahci, 0x480), (ConfigFace(rig.ahci), 256)],
        events=(
            lambda rig, rng: rig.command(rng),
            lambda rig, rng: rig.scramble(rng),
            lambda rig, rng: rig.cd.request_eject(),
        ),
    ),
    "virtio_blk": Device(
        lambda clock: VirtioBlk(Wiring(clock).wires, FakeDrive(bytes(4096))),
        wide_faces=virtio_regions,
        events=(mad,),
    ),
    "virtio_rng": Device(
        lambda clock: VirtioRng(Wiring(clock).wires, bytes), wide_faces=virtio_regions, events=(mad,)
    ),
    "virtio_console": Device(
        lambda clock: VirtioConsole(Wiring(clock).wires, NoBackend()),
        wide_faces=virtio_regions,
        events=(
            mad,
            lambda console, rng: console.receive(rng.randbytes(rng.randrange(20))),
            lambda console, rng: console.resize(rng.getrandbits(20), rng.getrandbits(20)),
        ),
    ),
    "parallel": Device(lambda clock: ParallelPort(IrqLine(), NoBackend()), itself(3)),
    "floppy": Device(floppy, itself(8), events=(any_floppy_command,)),
    "buslogic": Device(
        lambda clock: buslogic(),
        itself(4),
        lambda chip: [
            (ConfigFace(chip), 256), (chip.faces[0], 32), (chip.faces[1], 4096), (chip.faces[ROM], 4096),
        ],
        events=(mad_mailboxes,),
    ),
    # Functions and CF9h have states of their own; a stateless port stands in for the latter.
    "pci_bus": Device(lambda clock: PciBus([IrqLine()] * 4, DebugCon(NoBackend())), wide_faces=itself(8)),
}
DEVICES |= {
    "vga": Device(
        lambda clock: Vga(clock, FakeVideoMemory()),
        wide_faces=lambda c: [(c.face(0x10), 16), (c.face(0x24), 2), (c.face(0x04), 2), (c.face(0x2A), 1)],
        events=(lambda vga, rng: vga.picture(), lambda vga, rng: vga.watch(rng.random() < 0.5)),
    ),
    "dispi": Device(
        lambda clock: Vga(clock, FakeVideoMemory()).dispi,
        wide_faces=itself(3),
        events=(lambda dispi, rng: dispi.write_register(rng.randrange(12), rng.getrandbits(16)),),
    ),
    "vga_function": Device(
        lambda clock: VgaFunction(Vga(clock, FakeVideoMemory()), ignore),
        wide_faces=lambda c: [(ConfigFace(c), 256), (WideRegisters(c.read, ignore), 0x1000)],
    ),
}


@pytest.fixture(params=DEVICES)
def device(request) -> Device:
    return DEVICES[request.param]


def faces(device, chip):
    """(read, write, number of offsets, sizes) of each face; byte faces take their one size silently."""
    for face, ports in device.byte_faces(chip):
        yield lambda o, size, f=face: f.read(o), lambda o, v, size, f=face: f.write(o, v & 0xFF), ports, (1,)
    for face, length in device.wide_faces(chip):
        yield face.read, face.write, length, (1, 2, 4)


def storm(device, chip, clock, rng, accesses=ACCESSES):
    """What a guest gone wild does; every value read is checked to be one."""
    ports = list(faces(device, chip))
    values = []
    for _ in range(accesses):
        read, write, offsets, sizes = rng.choice(ports)
        size = rng.choice(sizes)
        offset = rng.randrange(0, offsets, size)
        if rng.random() < 0.4:
            value = read(offset, size)
            assert 0 <= value < 1 << 8 * size
            values.append(value)
        else:
            bits = rng.choice((8 * size, 4, 2))
            write(offset, rng.choice((rng.getrandbits(bits), 0, (1 << 8 * size) - 1)), size)
        if device.events and rng.random() < 0.2:
            rng.choice(device.events)(chip, rng)
        if rng.random() < 0.2:
            clock.advance(rng.choice((1, 1000, 1_000_000, 300_000_000)))
    return values


@pytest.mark.parametrize("seed", range(5))
def test_no_access_makes_it_raise(device, seed):
    clock = ManualClock()
    storm(device, device.make(clock), clock, random.Random(seed))


@pytest.mark.parametrize("seed", range(5))
def test_state_survives_a_checkpoint(device, seed):
    clock, later = ManualClock(), ManualClock()
    used, twin = device.make(clock), device.make(later)
    storm(device, used, clock, random.Random(seed), accesses=500)
    later.advance_to(clock.now())
    used.restore(used.state)  # restoring looks at the clock: both do so now
    saved = record(used.state)
    twin.restore(load(type(used.state), saved))
    assert record(twin.state) == saved
    again = random.Random(seed)
    expected = storm(device, used, clock, again, accesses=500)
    again = random.Random(seed)
    assert storm(device, twin, later, again, accesses=500) == expected
    assert record(twin.state) == record(used.state)


def test_reset_returns_to_the_first_state(device):
    clock = ManualClock()
    chip = device.make(clock)
    storm(device, chip, clock, random.Random(1), accesses=500)
    for line in getattr(chip, "line", ()):  # a line's level is its driver's, not the chip's
        line.set(False)
    chip.reset()
    first, now = record(device.make(clock).state), record(chip.state)
    if isinstance(chip, Mc146818):  # its battery keeps the calendar, the memory and the settings
        chip.write(0, 0x0B)
        assert (chip.read(1) & 0x78, chip.state.flags) == (0, 0)
    elif isinstance(chip, CfiFlash):  # its contents stay
        assert now | {"data": first["data"]} == first
    else:
        assert now == first


def test_a_fresh_chip_resets_to_itself(device):
    chip = device.make(ManualClock())
    before = record(chip.state)
    chip.reset()
    assert record(chip.state) == before
