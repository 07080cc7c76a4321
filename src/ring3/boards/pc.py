"""The PC: 82441FX (i440FX) host bridge, PIIX3 ISA bridge, PIIX4 power management, and an I/O APIC.

Intel 290549 (440FX), 290550 (PIIX3), 290562 (PIIX4), 290566 (82093AA).  `build` is the schematic, `post` what
the BIOS would have set up; `acpi_platform` tells the same numbers to the ACPI tables.

Not there yet: diskette.
"""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ring3.audio import AudioSink, NoAudio
from ring3.bus import Bus, OpenBus
from ring3.char import CharBackend, NoBackend
from ring3.devices import acpi_pm, fw_cfg, hpet
from ring3.devices.acpi_pm import AcpiPm, PmFunction
from ring3.devices.coprocessor import CoprocessorError
from ring3.devices.debug_exit import DebugExit
from ring3.devices.debugcon import DebugCon, PostCodes
from ring3.devices.dma import I8237Pair
from ring3.devices.face import Drive, Registers
from ring3.devices.flash import CfiFlash
from ring3.devices.floppy import DRIVE_TYPES, I82077AA, FloppyDrive, drive_type_for
from ring3.devices.fw_cfg import FwCfg
from ring3.devices.generation_id import PAGE_BYTES, GenerationId
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
from ring3.devices.sound.es1371 import PORTS as ES1371_PORTS
from ring3.devices.sound.es1371 import Es1371
from ring3.devices.sound.opl3 import Player, play_nothing
from ring3.devices.sound.sb16 import Sb16
from ring3.devices.speaker import Speaker
from ring3.devices.storage.ahci import PORTS as AHCI_PORTS
from ring3.devices.storage.ahci import REGISTERS_BYTES, Ahci
from ring3.devices.storage.ata import AtaDevice, AtaDisk
from ring3.devices.storage.atapi import AtapiCd
from ring3.devices.storage.buslogic import BusLogic
from ring3.devices.storage.ide import BUS_MASTER_PORTS, IDE_DECODE, IDETIM, PiixIde
from ring3.devices.storage.scsi import ScsiTarget
from ring3.devices.storage.scsi_cd import ScsiCd
from ring3.devices.storage.scsi_disk import ScsiDisk
from ring3.devices.uart import Ns16550
from ring3.devices.usb.keyboard import UsbKeyboard
from ring3.devices.usb.tablet import UsbTablet
from ring3.devices.usb.uhci import PORTS as UHCI_PORTS
from ring3.devices.usb.uhci import Uhci
from ring3.devices.video.function import FRAME_BUFFER, REGISTER_BYTES, VgaFunction
from ring3.devices.video.memory import WINDOW_BYTES
from ring3.devices.video.vga import Vga
from ring3.devices.virtio.blk import VirtioBlk
from ring3.devices.virtio.console import VirtioConsole
from ring3.devices.virtio.pci import VirtioPci, Wires
from ring3.devices.virtio.rng import VirtioRng
from ring3.devices.vmware import backdoor
from ring3.devices.vmware.backdoor import Backdoor
from ring3.devices.vmware.pointer import VmMouse
from ring3.display.glyphs import find_fonts
from ring3.errors import ConfigError
from ring3.firmware import configuration, e820, text_mode
from ring3.firmware import post as firmware_post
from ring3.firmware.acpi import Platform, Polarity, Trigger
from ring3.firmware.e820 import HIGH
from ring3.firmware.find import buslogic_rom
from ring3.irq import IrqLine, SharedLine, fan_out

COM = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))     # (port, IRQ)

LPT = ((0x378, 7), (0x278, 5), (0x3BC, 7))

# PCI device numbers (slots); the ISA bridge's device has functions for IDE, USB and power management.
HOST_BRIDGE, ISA_BRIDGE, VIDEO, SCSI, AHCI, SOUND, VIRTIO = 0, 1, 2, 3, 4, 5, 8
IDE_FUNCTION, USB_FUNCTION, PM_FUNCTION = 1, 2, 3
IDE = ((0x1F0, 0x3F6, 14), (0x170, 0x376, 15))     # (command block, control port, IRQ)
VGA_PORTS = ((0x3B4, 2), (0x3BA, 1), (0x3C0, 16), (0x3D4, 2), (0x3DA, 1))  # (port, count)
VGA_PORT_BASE, DISPI_PORTS = 0x3B0, 0x1CE
IDE_BUS_MASTERS = 0xC000
PM_BASE, PM_PORTS = 0x600, acpi_pm.PORTS
UEFI_PM_BASE = 0xB000                               # where OVMF puts it; SeaBIOS takes the other
BIOS_WINDOW = 0x2_0000                              # bytes of the BIOS that are seen below 1 MiB
VGA_ROM = "pci1234,1111.rom"                        # the VGA BIOS's file, as the BIOS looks for it
SMI_COMMAND = 0xB2
SCI_IRQ = 9
SB16_IRQS = (5, 7, 9, 10)
LINK_IRQS = (5, 10, 11)                             # where PCI interrupts may go …
PIRQ_ROUTE = (10, 10, 11, 11)                       # … and where the BIOS puts PIRQA–PIRQD


@dataclass(frozen=True)
class Disk:
    """A hard disk and the bus it is on."""

    name: str                                       # disk0 …
    bus: str                                        # "ide", "scsi", "ahci", "virtio"
    drive: Drive


@dataclass(frozen=True)
class Cdrom:
    """A CD drive; None: empty."""

    name: str                                       # cdrom0 …
    bus: str
    drive: Drive | None


@dataclass(frozen=True)
class Floppy:
    """A diskette drive; None: empty."""

    name: str                                       # floppy0, floppy1
    type: str                                       # "auto", "360K", …
    drive: Drive | None


@dataclass(frozen=True)
class Flash:
    """A flash chip: its contents, and who keeps what changes in it."""

    data: bytes
    save: Callable[[int, bytes], None]


@dataclass(frozen=True)
class PcConfig:
    """What is on the board; every optional part has a field that says with what it is fitted."""

    memory: int                                     # bytes
    serial: Sequence[CharBackend]                   # COM1 …
    rtc_start_unix_s: int
    debug_exit_port: int | None = None
    video_memory: int = 16 << 20                    # bytes; 0: no video
    tsc_hz: int = 0
    firmware_console: CharBackend = field(default_factory=NoBackend)    # ports E9h and 402h
    disks: Sequence[Disk] = ()
    cdroms: Sequence[Cdrom] = ()
    floppies: Sequence[Floppy] = ()
    parallel: Sequence[CharBackend | None] = ()     # LPT1 …; None: no port
    virtio_consoles: Sequence[CharBackend] = ()
    virtio_rng: bool = False
    usb: Sequence[str] = ()                         # "tablet", "keyboard"
    sound: Sequence[str] = ()                       # "sb16", "es1371"
    audio: AudioSink = field(default_factory=NoAudio)
    play_fm: Player = play_nothing
    processors: int = 1
    rom: bytes | None = None                        # the BIOS; None: `direct_boot_rom` stands in for it
    option_roms: Mapping[str, bytes] = field(default_factory=dict)      # by file name, for the BIOS
    boot: Sequence[str] = ("floppy", "cdrom", "disk")
    boot_menu: bool = False
    flash: Flash | None = None                      # below the ROM: UEFI's variables


@dataclass(frozen=True)
class Board:
    """What optional parts are wired to: each has a function of its own below that takes this."""

    bus: Bus
    cfg: PcConfig
    isa: Sequence[SharedLine]                       # ISA interrupts: `isa[irq].input()` is a driver's end
    pci: PciBus                                     # `pci.add(slot, function, chip)`, `pci.intx(slot, pin)`
    dma: I8237Pair                                  # `dma.channel(n)`
    paths: dict[str, str] = field(default_factory=dict)     # Open Firmware's, of drives that can be booted


def build(bus: Bus, cfg: PcConfig) -> Board:
    """What is wired to what.  Interrupt controllers come first: `reset` goes the other way round."""
    board = chipset(bus, cfg)
    serial_ports(board)
    parallel_ports(board)
    video(board)
    vmware(board)
    usb(board)
    sound(board)
    debug_exit(board)
    ide(board)
    ahci(board)
    scsi(board)
    diskettes(board)
    virtio(board)
    firmware(board)
    return board


def chipset(bus: Bus, cfg: PcConfig) -> Board:
    """What every PC of this kind has."""
    pic = bus.add("pic", I8259Pair(bus.pins.intr))
    ioapic = bus.add("ioapic", IoApic(bus.pins.interrupt_message))
    isa = isa_lines(pic, ioapic)
    a20 = A20Gate(bus)

    timers = bus.add("hpet", high_precision_timer(bus, isa, ioapic))
    pit = bus.add("pit", I8254(bus.clock, timers.gates[0].line, Speaker(bus.clock, cfg.audio)))
    rtc = bus.add("rtc", Mc146818(bus.clock, timers.gates[1].line, cfg.rtc_start_unix_s))
    ps2 = bus.add(
        "ps2", I8042(bus.clock, isa[1].input(), isa[12].input(), bus.pins.init, a20.input())
    )
    port_a = bus.add("port_a", PortA(a20.input(), bus.pins.init))
    reset = bus.add("reset", ResetControl(bus.pins.reset, bus.pins.init))
    coprocessor = bus.add("coprocessor", CoprocessorError(isa[13].input(), bus.pins.ignne))
    piix3 = bus.add("isa_bridge", Piix3([line.input() for line in isa]))
    pci = bus.add("pci", PciBus(piix3.pirq, reset))
    dma = bus.add("dma", I8237Pair(bus.memory))
    pm = bus.add("pm", AcpiPm(bus.clock, isa[SCI_IRQ].input(), bus.pins.power_off))
    generation_id(bus, pm)
    pci.add(HOST_BRIDGE, 0, bus.add("host_bridge", I440Fx(bus.shadow)))
    pci.add(ISA_BRIDGE, 0, piix3)
    pci.add(
        ISA_BRIDGE,
        PM_FUNCTION,
        bus.add("pm_function", PmFunction(lambda _, base: bus.move_ports("pm", base, PM_PORTS, pm))),
    )

    bus.ports(0x000, 16, "dma", dma.primary)
    bus.ports(0x0C0, 32, "dma", dma.secondary)
    bus.ports(0x081, 15, "dma", dma.pages)
    bus.ports(0x020, 2, "pic", pic.primary)
    bus.ports(0x0A0, 2, "pic", pic.secondary)
    bus.ports(0x4D0, 2, "pic", pic.elcr)
    bus.ports(0x040, 4, "pit", pit)
    bus.ports(0x060, 1, "ps2", ps2.data)
    bus.ports(0x061, 1, "pit", pit.port_b)
    bus.ports(0x064, 1, "ps2", ps2.command)
    bus.ports(0x070, 2, "rtc", rtc)
    bus.ports(0x080, 1, "post_codes", bus.add("post_codes", PostCodes()))
    bus.ports(0x092, 1, "port_a", port_a)
    bus.ports(0x0F0, 2, "coprocessor", coprocessor)
    bus.ports(SMI_COMMAND, 2, "smi", pm.smi)
    bus.ports(0x0E9, 1, "debugcon", bus.add("debugcon", DebugCon(cfg.firmware_console)))
    bus.ports(0x402, 1, "firmware_console", bus.add("firmware_console", DebugCon(cfg.firmware_console)))
    bus.ports(0xCF8, 8, "pci", pci, width=4)
    bus.mmio(e820.IO_APIC, 0x1000, "ioapic", ioapic)
    bus.mmio(e820.HPET, 0x1000, "hpet", timers, width=8)
    bus.shadow(e820.OPTION_ROMS, e820.EXTENDED - e820.OPTION_ROMS, read=False, write=False)
    if cfg.rom is None:
        bus.empty_rom(e820.OPTION_ROMS, e820.SYSTEM_ROM - e820.OPTION_ROMS)

    return Board(bus, cfg, isa, pci, dma)


def serial_ports(board: Board) -> None:
    bus = board.bus
    for number, (backend, (port, irq)) in enumerate(zip(board.cfg.serial, COM, strict=False), start=1):
        com = bus.add(f"com{number}", Ns16550(board.isa[irq].input(), backend))
        bus.ports(port, 8, f"com{number}", com)


def video(board: Board) -> None:
    """A VGA with the Bochs extension; its BIOS comes through the firmware configuration."""
    bus, memory_bytes = board.bus, board.cfg.video_memory
    if not memory_bytes:
        bus.mmio(e820.VIDEO, WINDOW_BYTES, "video", OpenBus())
        return
    bus.native_mmio(e820.VIDEO, WINDOW_BYTES, "vga")
    vga = bus.add("vga", Vga(bus.clock, bus.video_memory(memory_bytes)))
    vga.map_window(e820.VIDEO)
    for first, count in VGA_PORTS:
        bus.ports(first, count, "vga", vga.face(first - VGA_PORT_BASE), width=2)
    bus.ports(DISPI_PORTS, 3, "dispi", bus.add("dispi", vga.dispi), width=2)
    places: dict[int, int | None] = {}

    def moved(bar: int, base: int | None) -> None:
        if bar == FRAME_BUFFER:
            bus.move_memory("vga", vga.memory, places.get(bar), base)
            places[bar] = base
        else:
            bus.move_mmio("vga registers", base, REGISTER_BYTES, chip)

    chip = bus.add("vga_function", VgaFunction(vga, moved))
    board.pci.add(VIDEO, 0, chip)


def parallel_ports(board: Board) -> None:
    bus = board.bus
    for number, (backend, (port, irq)) in enumerate(zip(board.cfg.parallel, LPT, strict=False), start=1):
        if backend is not None:
            lpt = bus.add(f"lpt{number}", ParallelPort(board.isa[irq].input(), backend))
            bus.ports(port, 3, f"lpt{number}", lpt)


def fitted_lpt(cfg: PcConfig) -> tuple[tuple[int, int], ...]:
    """(port, IRQ) of the parallel ports there are."""
    return tuple(p for p, backend in zip(LPT, cfg.parallel, strict=False) if backend is not None)


def firmware(board: Board) -> None:
    """The BIOS below 4 GiB, its last 128 KiB below 1 MiB as well, and what it asks the machine."""
    bus, cfg = board.bus, board.cfg
    if cfg.rom is None:
        return
    bus.rom(HIGH - len(cfg.rom), cfg.rom)
    bus.rom(e820.EXTENDED - BIOS_WINDOW, cfg.rom[-BIOS_WINDOW:])
    if cfg.flash is not None:
        variables(board, cfg.flash, HIGH - len(cfg.rom) - len(cfg.flash.data))
    settings = configuration.Settings(
        cfg.memory,
        cfg.processors,
        acpi_platform(cfg),
        boot_menu=cfg.boot_menu,
        boot_order=boot_paths(board),
        roms=cfg.option_roms,
    )
    items, files = configuration.items(settings), configuration.files(settings)
    bus.ports(0x510, fw_cfg.PORTS, "fw_cfg", bus.add("fw_cfg", FwCfg(bus.memory, files, items)), width=4)


def boot_paths(board: Board) -> list[str]:
    """Drives in the order they are tried; those of kinds behind the network come last by themselves."""
    cfg = board.cfg
    names: dict[str, list[str]] = {
        "floppy": [floppy.name for floppy in cfg.floppies],
        "cdrom": [cdrom.name for cdrom in cfg.cdroms],
        "disk": [disk.name for disk in cfg.disks],
    }
    kinds = itertools.takewhile(lambda kind: kind != "network", cfg.boot)
    return [board.paths[name] for kind in kinds for name in names[kind] if name in board.paths]


def generation_id(bus: Bus, pm: AcpiPm) -> None:
    bus.rom(e820.GENERATION_ID, bytes(PAGE_BYTES))

    def show(guid: bytes) -> None:
        bus.io.program_rom(e820.GENERATION_ID, guid)

    bus.add("generation_id", GenerationId(show, lambda: pm.raise_gpe(1 << acpi_pm.GPI), os.urandom))


def variables(board: Board, flash: Flash, base: int) -> None:
    bus = board.bus
    bus.rom(base, flash.data)

    def show(shown: bool) -> None:
        bus.io.show_rom(base, shown)

    def program(offset: int, data: bytes) -> None:
        bus.io.program_rom(base + offset, data)

    chip = bus.add("flash", CfiFlash(flash.data, show, program, flash.save))
    bus.mmio(base, len(flash.data), "flash", chip)


def vmware(board: Board) -> None:
    """The backdoor and its absolute pointer, which wakes the guest through the PS/2 mouse."""
    bus = board.bus
    door = bus.add("backdoor", Backdoor(board.cfg.tsc_hz))
    bus.add("vmmouse", VmMouse(door, bus.devices["ps2"].mouse.nudge))
    bus.gateway(backdoor.PORT, backdoor.MAGIC, door.call)


def usb(board: Board) -> None:
    """The PIIX3's USB function, if something is plugged in; its pin is D."""
    bus, pci = board.bus, board.pci
    kinds: dict[str, type[UsbTablet | UsbKeyboard]] = {"tablet": UsbTablet, "keyboard": UsbKeyboard}
    devices = [bus.add(f"usb_{name}", kinds[name](bus.clock)) for name in board.cfg.usb]
    if devices:
        uhci = Uhci(
            bus.clock,
            bus.memory,
            pci.intx(ISA_BRIDGE, 4),
            devices,
            lambda _, base: bus.move_ports("uhci", base, UHCI_PORTS, uhci),
        )
        pci.add(ISA_BRIDGE, USB_FUNCTION, bus.add("uhci", uhci))
        for device in devices:
            device.on_data = uhci.kick


def sound(board: Board) -> None:
    bus, sink = board.bus, board.cfg.audio
    if "sb16" in board.cfg.sound:
        irqs = {irq: board.isa[irq].input() for irq in SB16_IRQS}
        sb16 = bus.add("sb16", Sb16(bus.clock, irqs, board.dma.channel, sink, board.cfg.play_fm))
        bus.ports(0x220, 16, "sb16", sb16)
        bus.ports(0x330, 2, "sb16", sb16.mpu)
        bus.ports(0x388, 4, "sb16", sb16.fm)
    if "es1371" in board.cfg.sound:
        es1371 = Es1371(
            bus.clock,
            bus.memory,
            board.pci.intx(SOUND, 1),
            sink,
            lambda _, base: bus.move_ports("es1371", base, ES1371_PORTS, es1371),
        )
        board.pci.add(SOUND, 0, bus.add("es1371", es1371))


def debug_exit(board: Board) -> None:
    port = board.cfg.debug_exit_port
    if port is not None:
        chip = board.bus.add("debug_exit", DebugExit(board.bus.pins.debug_exit))
        board.bus.ports(port, 4, "debug_exit", chip)


def diskettes(board: Board) -> None:
    """The controller is on every board, as the IDE channels are; port 3F6h between its ports is IDE's."""
    bus = board.bus
    drives = [FloppyDrive(floppy_type(floppy), floppy.drive) for floppy in board.cfg.floppies]
    for number, (floppy, drive) in enumerate(zip(board.cfg.floppies, drives, strict=True)):
        bus.add(floppy.name, drive)
        board.paths[floppy.name] = f"/pci@i0cf8/isa@{ISA_BRIDGE:x}/fdc@03f0/floppy@{number}"
    chip = I82077AA(bus.clock, board.isa[6].input(), board.dma.channel(2), drives)
    bus.add("fdc", chip)
    bus.ports(0x3F0, 6, "fdc", chip)
    bus.ports(0x3F7, 1, "fdc", Registers(lambda _: chip.read(7), lambda _, value: chip.write(7, value)))


def floppy_type(floppy: Floppy) -> str:
    """What the configuration says, or what suits the medium that is in it at first."""
    if floppy.type != "auto":
        return floppy.type
    return drive_type_for(floppy.drive.size_bytes if floppy.drive is not None else None)


def ide(board: Board) -> None:
    """Disks from the primary channel on, CD drives from the secondary's first device; no more than four."""
    bus, cfg = board.bus, board.cfg
    channels = [board.isa[irq].input() for _, _, irq in IDE]
    places = [(channel, device) for channel in range(2) for device in range(2)]

    def decoded(channel: int, is_open: bool) -> None:
        block, control, _ = IDE[channel]
        face = chip.channels[channel]
        bus.move_ports(f"ide{channel}", block if is_open else None, 8, face)
        bus.move_ports(f"ide{channel} control", control if is_open else None, 1, face.control, width=1)

    def moved(bar: int, base: int | None) -> None:
        bus.move_ports("ide bus masters", base, BUS_MASTER_PORTS, chip)

    def attach(name: str, device: AtaDevice, wanted: tuple[int, int]) -> None:
        if not places:
            raise ConfigError(f"{name}: the IDE bus takes four drives, and has them: give it bus=ahci")
        channel, number = wanted if wanted in places else places[0]
        places.remove((channel, number))
        board.paths[name] = f"/pci@i0cf8/ide@{ISA_BRIDGE:x},{IDE_FUNCTION:x}/drive@{channel}/disk@{number}"
        chip.channels[channel].attach(number, bus.add(name, device))

    chip = bus.add("ide", PiixIde((channels[0], channels[1]), bus.memory, decoded, moved))
    for disk in cfg.disks:
        if disk.bus == "ide":
            attach(disk.name, AtaDisk(disk.drive, disk.name), places[0] if places else (0, 0))
    for cdrom in cfg.cdroms:
        if cdrom.bus == "ide":
            attach(cdrom.name, AtapiCd(cdrom.drive, cdrom.name), (1, 0))
    board.pci.add(ISA_BRIDGE, IDE_FUNCTION, chip)


def ahci(board: Board) -> None:
    """Only where something is attached: disks, then CD drives, a port each."""
    bus, cfg = board.bus, board.cfg
    attached: list[tuple[str, AtaDevice]] = []
    attached += [(d.name, AtaDisk(d.drive, d.name, sata=True)) for d in cfg.disks if d.bus == "ahci"]
    attached += [(c.name, AtapiCd(c.drive, c.name, sata=True)) for c in cfg.cdroms if c.bus == "ahci"]
    if not attached:
        return
    if len(attached) > AHCI_PORTS:
        raise ConfigError(f"{attached[AHCI_PORTS][0]}: AHCI takes {AHCI_PORTS} drives: give it bus=virtio")

    def moved(bar: int, base: int | None) -> None:
        bus.move_mmio("ahci", base, REGISTERS_BYTES, chip)

    chip = bus.add("ahci", Ahci(board.pci.intx(AHCI, 1), bus.memory, bus.pins.interrupt_message, moved))
    for number, (port, (name, device)) in enumerate(zip(chip.ports, attached, strict=False)):
        port.attach(bus.add(name, device))
        board.paths[name] = f"/pci@i0cf8/pci8086,2922@{AHCI:x}/drive@{number}/disk@0"
    board.pci.add(AHCI, 0, chip)


def scsi(board: Board) -> None:
    """The BusLogic adapter, where there is something on its bus; drives get their IDs in order."""
    bus, cfg = board.bus, board.cfg
    targets: list[tuple[str, ScsiTarget]] = []
    targets += [(d.name, ScsiDisk(d.drive, d.name)) for d in cfg.disks if d.bus == "scsi"]
    targets += [(c.name, ScsiCd(c.drive, c.name)) for c in cfg.cdroms if c.bus == "scsi"]
    if not targets:
        return

    def moved(region: int, base: int | None) -> None:
        size = len(rom) if region == ROM else adapter.bars[region].size
        move = bus.move_ports if region != ROM and adapter.bars[region].io else bus.move_mmio
        move(f"scsi region {region}", base, size, adapter.faces[region])

    def isa_moved(port: int | None) -> None:
        bus.move_ports("scsi isa", port, 4, adapter.isa)

    # Before its targets: `reset` goes the other way round, and what it has under way needs them.
    rom = buslogic_rom()
    adapter = bus.add("scsi", BusLogic(bus.memory, board.pci.intx(SCSI, 1), moved, isa_moved, rom))
    board.pci.add(SCSI, 0, adapter)
    for target_id, (name, target) in enumerate(targets):
        adapter.attach(target_id, bus.add(name, target))
        # The ROM has a header for each, in this order, and the BIOS numbers them.
        board.paths[name] = f"/pci@i0cf8/scsi@{SCSI:x}" + (f":rom{target_id:x}" if target_id else "")


def virtio(board: Board) -> None:
    """Each device in a slot of its own: disks, then consoles, then the entropy device."""
    cfg = board.cfg
    for disk in cfg.disks:
        if disk.bus == "virtio":
            virtio_slot(board, disk.name, partial(VirtioBlk, drive=disk.drive, serial=disk.name))
    for number, backend in enumerate(cfg.virtio_consoles):
        virtio_slot(board, f"virtio_console{number}", partial(VirtioConsole, backend=backend))
    if cfg.virtio_rng:
        virtio_slot(board, "virtio_rng", partial(VirtioRng, entropy=os.urandom))


def virtio_slot(board: Board, name: str, device: Callable[[Wires], VirtioPci]) -> None:
    bus = board.bus
    slot = board.pci.free_slot(VIRTIO)

    def moved(bar: int, base: int | None) -> None:
        region = chip.bars[bar]
        move = bus.move_ports if region.io else bus.move_mmio
        move(f"{name} region {bar}", base, region.size, chip.faces[bar])

    wires = Wires(bus.clock, bus.memory, board.pci.intx(slot, 1), bus.pins.interrupt_message, moved)
    chip = bus.add(name, device(wires))
    board.pci.add(slot, 0, chip)
    board.paths[name] = f"/pci@i0cf8/scsi@{slot:x}/disk@0,0"


def high_precision_timer(bus: Bus, isa: Sequence[SharedLine], ioapic: IoApic) -> Hpet:
    lines = {n: line.input() for n, line in enumerate(isa)} | {n: ioapic.line[n] for n in range(16, 24)}
    return Hpet(bus.clock, lines, (isa[0].input(), isa[8].input()), (isa[0].input(), isa[8].input()))


def isa_lines(pic: I8259Pair, ioapic: IoApic) -> list[SharedLine]:
    """Each ISA IRQ reaches the 8259 pair and the I/O APIC, IRQ 0 there at input 2; IRQ 2 is the cascade."""
    lines = [SharedLine(fan_out(pic.line[0], ioapic.line[2]))]
    lines += [SharedLine(fan_out(pic.line[irq], ioapic.line[irq])) for irq in range(1, 16)]
    lines[2] = SharedLine(IrqLine())
    return lines


class A20Gate:
    """Address line 20 passes while any of its controls lets it: port 92h or the 8042."""

    def __init__(self, bus: Bus) -> None:
        self._gate = SharedLine(IrqLine(bus.set_a20))

    def input(self) -> Callable[[bool], None]:
        return self._gate.input().set


def reset(bus: Bus, cfg: PcConfig) -> None:
    """The reset line reaches every chip, interrupt controllers last; then the self-test, if it's ours."""
    with bus.lock:
        for chip in reversed(bus.devices.values()):
            chip.reset()
        drives = [DRIVE_TYPES[floppy_type(floppy)].cmos for floppy in cfg.floppies]
        for index, value in firmware_post.cmos(cfg.memory, cfg.boot, drives).items():
            bus.devices["rtc"].set_cmos(index, value)
        if cfg.rom is None:
            post(bus)
            start_text_mode(bus, cfg)
        if cfg.rom is None or cfg.flash is not None:
            open_ide_channels(bus)          # OVMF expects them open


def post(bus: Bus) -> None:
    """As the BIOS would leave it: A20 on, timer ticking, all masked, DMA cascaded, PM and PIRQs in place."""
    config = firmware_post.config_write
    level = 1 << SCI_IRQ | sum(1 << irq for irq in set(PIRQ_ROUTE))
    writes = [(0x92, 0x02, 1)]
    writes += firmware_post.interrupt_controllers(0x20, 0xA0, 0x4D0, level)
    writes += firmware_post.system_timer(0x40)
    writes += firmware_post.dma_cascade(0xC0)
    writes += firmware_post.keyboard_controller(0x64, 0x60)
    for pirq, irq in enumerate(PIRQ_ROUTE):
        writes += config(ISA_BRIDGE, 0, 0x60 + pirq, irq, 1)
    writes += config(ISA_BRIDGE, PM_FUNCTION, 0x3C, SCI_IRQ, 1)
    writes += config(ISA_BRIDGE, PM_FUNCTION, 0x40, PM_BASE | 1, 4)         # PMBA
    writes += config(ISA_BRIDGE, PM_FUNCTION, 0x80, 0x01, 1)                # PMREGMISC: decode it
    writes += config(ISA_BRIDGE, IDE_FUNCTION, 0x20, IDE_BUS_MASTERS | 1, 4)
    writes += config(ISA_BRIDGE, IDE_FUNCTION, 0x04, 0x0005, 2)
    for port, value, size in writes:
        bus.write_port(port, value, size)


def start_text_mode(bus: Bus, cfg: PcConfig) -> None:
    vga = bus.devices.get("vga")
    if vga is not None:
        fonts = find_fonts(cfg.option_roms.get(VGA_ROM, b""))
        vga.memory.write(0, text_mode.memory(fonts.get(text_mode.GLYPH_ROWS, b"")))
        for port, value, size in text_mode.port_writes():
            bus.write_port(port, value, size)


def open_ide_channels(bus: Bus) -> None:
    for channel in range(2):
        at = IDETIM + 2 * channel
        for port, value, size in firmware_post.config_write(ISA_BRIDGE, IDE_FUNCTION, at, IDE_DECODE, 2):
            bus.write_port(port, value, size)


def acpi_platform(cfg: PcConfig) -> Platform:
    """This board as its ACPI tables tell it."""
    level = Polarity.ACTIVE_HIGH | Trigger.LEVEL
    pm_base = UEFI_PM_BASE if cfg.flash is not None else PM_BASE
    return Platform(
        processors=cfg.processors,
        local_apic=e820.LOCAL_APIC,
        io_apic=e820.IO_APIC,
        io_apic_id=cfg.processors,
        overrides=((0, 2, 0), (SCI_IRQ, SCI_IRQ, level), *((irq, irq, level) for irq in LINK_IRQS)),
        sci_irq=SCI_IRQ,
        smi_command=SMI_COMMAND,
        acpi_enable=acpi_pm.ACPI_ENABLE,
        acpi_disable=acpi_pm.ACPI_DISABLE,
        pm1_event=pm_base,
        pm1_control=pm_base + 4,
        pm_timer=pm_base + 8,
        pm_ports=(pm_base, PM_PORTS),
        soft_off_type=acpi_pm.SOFT_OFF,
        reset_port=0xCF9,
        reset_value=0x06,
        isa_bridge=ISA_BRIDGE,
        link_irqs=LINK_IRQS,
        pci_hole=(e820.PCI_HOLE, e820.PCI_HOLE_LAST),
        serial=COM[: len(cfg.serial)],
        parallel=fitted_lpt(cfg),
        floppy=bool(cfg.floppies),
        hpet=e820.HPET,
        hpet_id=hpet.Capability.LOW,
        gpe0=pm_base + acpi_pm.Reg.GPSTS,
        generation_id=e820.GENERATION_ID,
        generation_id_event=acpi_pm.GPI,
    )
