"""The PC's wiring: what answers where, and which line reaches what."""

import pytest

from fakes import FakeVm
from ring3.boards import pc
from ring3.bus import Bus, Pins
from ring3.char.memory import MemoryBackend
from ring3.clock import ManualClock
from ring3.firmware import e820

MIB = 1 << 20


class Wires:
    def __init__(self):
        self.intr = False
        self.messages = []
        self.resets = 0
        self.power_offs = 0
        self.inits = 0
        self.ignne = []
        self.codes = []

    def set_intr(self, level):
        self.intr = level

    def pins(self):
        return Pins(
            self.set_intr,
            lambda *message: self.messages.append(message),
            lambda: setattr(self, "resets", self.resets + 1),
            lambda: setattr(self, "inits", self.inits + 1),
            self.ignne.append,
            lambda: setattr(self, "power_offs", self.power_offs + 1),
            self.codes.append,
        )


@pytest.fixture
def wires():
    return Wires()


@pytest.fixture
def console():
    return MemoryBackend()


@pytest.fixture
def bus(wires, console):
    bus = Bus(FakeVm(64 << 20, 64 << 20), ManualClock(), wires.pins())
    cfg = pc.PcConfig(64 << 20, [console], rtc_start_unix_s=0, debug_exit_port=0xF4)
    pc.build(bus, cfg)
    pc.reset(bus, cfg)
    return bus


PORTS = [0x20, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xA0, 0xA1, 0xB2, 0xE9, 0xF4]
PORTS += [0x3F8, 0x3FF, 0x4D0, 0x4D1, 0x600, 0x604, 0x608, 0xCF8, 0xCF9, 0xCFC]


@pytest.mark.parametrize("port", PORTS)
def test_a_chip_answers_at(bus, port):
    assert port in bus.io.ports


def test_windows_do_not_overlap(bus):
    ports = [p for w in bus.port_windows for p in range(w.first, w.last + 1)]
    assert len(ports) == len(set(ports))


def test_the_io_apic_is_at_its_address(bus):
    assert 0xFEC00000 in bus.io.mmio


def test_a20_is_on_after_post(bus):
    assert bus.io.a20 is True


def test_com1_sends_to_its_backend(bus, console):
    bus.write_port(0x3F8, 0x41)
    assert console.output == b"A"


def test_com1_interrupts_on_irq_4_of_the_8259(bus, wires):
    bus.write_port(0x21, 0xEF)
    bus.write_port(0x3FC, 0x08)
    bus.write_port(0x3F9, 0x02)
    assert wires.intr
    assert bus.devices["pic"].acknowledge() == 0x08 + 4


def route(bus, pin, vector):
    """The I/O APIC's redirection entry, unmasked, edge, fixed, to APIC 0."""
    ioapic = bus.devices["ioapic"]
    for register, value in ((0x10 + 2 * pin, vector), (0x11 + 2 * pin, 0)):
        ioapic.write(0x00, register, 4)
        ioapic.write(0x10, value, 4)


def test_the_timer_reaches_input_2_of_the_io_apic(bus, wires):
    route(bus, 2, 0x40)
    bus.clock.advance(60_000_000)
    assert wires.messages[0][0] == 0x40


def test_the_timer_reaches_the_8259(bus, wires):
    bus.write_port(0x21, 0xFE)
    bus.clock.advance(60_000_000)
    assert wires.intr
    assert bus.devices["pic"].acknowledge() == 0x08


def test_port_cf9_resets(bus, wires):
    bus.write_port(0xCF9, 0x06)
    assert wires.resets == 1


def test_the_8042_restarts_the_cpu_alone(bus, wires):
    bus.write_port(0x64, 0xFE)
    assert (wires.inits, wires.resets) == (1, 0)


def test_port_92h_restarts_the_cpu_alone(bus, wires):
    bus.write_port(0x92, 0x03)
    assert (wires.inits, wires.resets) == (1, 0)


def test_soft_off_switches_off(bus, wires):
    bus.write_port(0x604, 0x2000, 2)
    assert wires.power_offs == 1


def test_the_power_button_raises_the_sci_on_irq_9(bus, wires):
    bus.write_port(0xA1, 0xFD)
    bus.write_port(0x21, 0xFB)
    bus.write_port(0xB2, 0xF1)
    bus.write_port(0x602, 0x0100, 2)
    bus.devices["pm"].press_power_button()
    assert wires.intr
    assert bus.devices["pic"].acknowledge() == 0x70 + 1


def test_debug_exit_tells_its_status(bus, wires):
    bus.write_port(0xF4, 1)
    assert wires.codes == [3]


def config_read(bus, device, function, register):
    bus.write_port(0xCF8, 1 << 31 | device << 11 | function << 8 | register, 4)
    return bus.read_port(0xCFC, 4)


@pytest.mark.parametrize(
    ("device", "function", "identity"),
    [(0, 0, 0x12378086), (1, 0, 0x70008086), (1, 3, 0x71138086), (2, 0, 0x11111234), (31, 0, 0xFFFFFFFF)],
)
def test_pci_functions(bus, device, function, identity):
    assert config_read(bus, device, function, 0) == identity


def test_pm_follows_its_base_register(bus):
    bus.write_port(0xCF8, 0x80000B40, 4)
    bus.write_port(0xCFC, 0xB001, 4)
    assert 0x600 not in bus.io.ports
    assert 0xB008 in bus.io.ports


def test_post_routes_pirqs(bus):
    assert config_read(bus, 1, 0, 0x60) == 0x0B0B0A0A


def test_cmos_tells_extended_memory(bus):
    values = []
    for index in (0x17, 0x18):
        bus.write_port(0x70, index)
        values.append(bus.read_port(0x71))
    assert values == [63 * 1024 & 0xFF, 63 * 1024 >> 8]


def test_without_video_its_window_floats_high(wires):
    bus = Bus(FakeVm(MIB, MIB), ManualClock(), wires.pins())
    pc.build(bus, pc.PcConfig(MIB, [], 0, video_memory=0))
    _, read, _, _ = bus.io.mmio[0xA0000]
    assert read(0, 2) == 0xFFFF
    assert config_read(bus, 2, 0, 0) == 0xFFFFFFFF


def test_the_frame_buffer_is_where_its_region_says(bus):
    vga = bus.devices["vga"]
    bus.write_port(0xCF8, 1 << 31 | 2 << 11 | 0x10, 4)
    bus.write_port(0xCFC, 0xE000_0000, 4)
    bus.write_port(0xCF8, 1 << 31 | 2 << 11 | 0x04, 4)
    bus.write_port(0xCFC, 0x0002, 4)
    assert vga.memory.views[0xE000_0000] == (16 << 20, 0)
    bus.write_port(0xCF8, 1 << 31 | 2 << 11 | 0x10, 4)
    bus.write_port(0xCFC, 0x0000_0000, 4)
    assert vga.memory.views == {}


def test_where_option_roms_might_be_there_is_nothing(bus):
    assert bus.io.roms[0xC0000] == b"\xff" * 0x30000


def test_a_reset_puts_chips_back(bus):
    bus.write_port(0x3FF, 0x55)
    bus.write_port(0x64, 0xD1)
    pc.reset(bus, pc.PcConfig(64 << 20, [], 0))
    assert bus.read_port(0x3FF) == 0
    assert bus.io.a20 is True


def test_memory_is_shadowed_as_the_host_bridge_says(bus):
    bus.write_port(0xCF8, 0x8000_0058, 4)
    bus.write_port(0xCFD, 0x30, 1)
    assert bus.io.shadow[0xF_0000] == (0x1_0000, True, True)


def test_irq_13_is_the_coprocessors(bus, wires):
    bus.write_port(0x21, 0xFB)
    bus.write_port(0xA1, 0xDF)
    bus.devices["coprocessor"].ferr(True)
    assert wires.intr
    bus.write_port(0xF0, 0)
    assert (wires.intr, wires.ignne[-1]) == (False, True)


def firmware_board(**settings):
    wires = Wires()
    bus = Bus(FakeVm(64 << 20, 64 << 20), ManualClock(), wires.pins())
    cfg = pc.PcConfig(64 << 20, [], rtc_start_unix_s=0, rom=b"\x5a" * 0x4_0000, **settings)
    pc.build(bus, cfg)
    pc.reset(bus, cfg)
    return bus


def test_the_bios_is_below_4_gib_and_its_end_below_1_mib():
    roms = firmware_board().io.roms
    sizes = {base: len(data) for base, data in roms.items() if base != e820.GENERATION_ID}
    assert sizes == {0xFFFC_0000: 0x4_0000, 0xE_0000: 0x2_0000}


def test_the_bios_finds_its_configuration():
    bus = firmware_board()
    bus.write_port(0x510, 0, 2)
    assert bytes(bus.read_port(0x511) for _ in range(4)) == b"QEMU"


def test_cmos_has_the_boot_order():
    bus = firmware_board(boot=("cdrom", "disk", "floppy"))
    bus.write_port(0x70, 0x3D)
    first_two = bus.read_port(0x71)
    bus.write_port(0x70, 0x38)
    assert (first_two, bus.read_port(0x71)) == (0x23, 0x11)


def test_with_a_bios_chips_are_left_as_reset_leaves_them():
    assert 0x604 not in firmware_board().io.ports


def test_bootable_drives_are_listed_in_the_order_asked():
    empty = {"cdroms": [pc.Cdrom("cdrom0", "ide", None)], "floppies": [pc.Floppy("floppy0", "1.44M", None)]}
    bus = firmware_board(boot=("cdrom", "floppy", "network", "disk"), **empty)
    chip = bus.devices["fw_cfg"]
    paths = [item for item in chip.items.values() if item.startswith(b"/pci@")]
    assert paths == [b"/pci@i0cf8/ide@1,1/drive@1/disk@0\n/pci@i0cf8/isa@1/fdc@03f0/floppy@0\0"]
