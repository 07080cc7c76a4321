"""The Bochs display interface, by its ports and by the PCI function's region 2."""

import pytest

from ring3.clock import ManualClock
from ring3.devices.video.dispi import Reg
from ring3.devices.video.edid import edid
from ring3.devices.video.function import VgaFunction
from ring3.devices.video.picture import Format
from ring3.devices.video.vga import Vga
from video_fakes import FakeVideoMemory

MIB = 1 << 20


@pytest.fixture
def vga():
    vga = Vga(ManualClock(), FakeVideoMemory(16 * MIB))
    vga.map_window(0xA_0000)
    vga.write(0x12, 0x67, 1)
    return vga


def put(vga, index, value):
    vga.dispi.write(0, index, 2)
    vga.dispi.write(1, value, 2)


def get(vga, index):
    vga.dispi.write(0, index, 2)
    return vga.dispi.read(1, 2)


def mode(vga, width, height, depth, enable=0x41):
    put(vga, Reg.ENABLE, 0)
    put(vga, Reg.XRES, width)
    put(vga, Reg.YRES, height)
    put(vga, Reg.BPP, depth)
    put(vga, Reg.ENABLE, enable)


def test_it_says_which_version_it_is_and_takes_older_ones(vga):
    assert get(vga, Reg.ID) == 0xB0C5
    put(vga, Reg.ID, 0xB0C0)
    put(vga, Reg.ID, 0x1234)
    assert get(vga, Reg.ID) == 0xB0C0


def test_capabilities_replace_the_values_while_asked_for(vga):
    put(vga, Reg.ENABLE, 0x02)
    assert [get(vga, reg) for reg in (Reg.XRES, Reg.YRES, Reg.BPP)] == [2560, 1600, 32]
    put(vga, Reg.ENABLE, 0)
    assert get(vga, Reg.XRES) == 640
    assert get(vga, Reg.MEMORY_64K) == 256


@pytest.mark.parametrize(
    ("depth", "kind", "pixel_bytes"),
    [(8, Format.LINEAR8, 1), (15, Format.LINEAR15, 2), (16, Format.LINEAR16, 2),
     (24, Format.LINEAR24, 3), (32, Format.LINEAR32, 4)],
)  # fmt: skip
def test_a_frame_buffer_has_the_size_and_depth_asked_for(vga, depth, kind, pixel_bytes):
    mode(vga, 1024, 768, depth)
    picture = vga.picture()
    assert (picture.format, picture.width, picture.height) == (kind, 1024, 768)
    assert picture.pitch == 1024 * pixel_bytes


def test_the_largest_mode_fits_into_16_mib(vga):
    mode(vga, 9999, 9999, 32)
    assert (vga.picture().width, vga.picture().height) == (2560, 1600)
    assert vga.picture().pitch * 1600 <= 16 * MIB


def test_a_virtual_screen_is_panned(vga):
    mode(vga, 800, 600, 16)
    put(vga, Reg.VIRT_WIDTH, 1024)
    put(vga, Reg.X_OFFSET, 10)
    put(vga, Reg.Y_OFFSET, 20)
    assert (vga.picture().pitch, vga.picture().start) == (2048, 20 * 2048 + 20)
    assert get(vga, Reg.VIRT_HEIGHT) == 16 * MIB // 2048
    put(vga, Reg.VIRT_WIDTH, 1)
    assert get(vga, Reg.VIRT_WIDTH) == 800


def test_sixteen_colours_are_planar(vga):
    mode(vga, 800, 600, 4)
    put(vga, Reg.X_OFFSET, 3)
    picture = vga.picture()
    assert (picture.format, picture.pitch, picture.pan) == (Format.PLANAR, 100, 3)


def test_enabling_clears_what_will_be_seen_unless_told_not_to(vga):
    vga.memory.write(0, b"\x55" * 4)
    mode(vga, 640, 480, 8, enable=0xC1)
    assert vga.memory.read(0, 4) == b"\x55" * 4
    mode(vga, 640, 480, 8)
    assert vga.memory.read(0, 4) == bytes(4)


def test_banks_move_what_the_guest_has_at_a0000(vga):
    mode(vga, 640, 480, 32)
    assert vga.memory.views[0xA_0000] == (0x1_0000, 0)
    put(vga, Reg.BANK, 7)
    assert vga.memory.views[0xA_0000] == (0x1_0000, 7 * 0x1_0000)
    put(vga, Reg.BANK, 256 + 3)
    assert get(vga, Reg.BANK) == 3


def test_the_dac_may_have_eight_bits(vga):
    mode(vga, 640, 480, 8, enable=0x61)
    vga.write(0x18, 1, 1)
    for value in (0xFF, 0x81, 0x01):
        vga.write(0x19, value, 1)
    assert vga.picture().palette[4:8] == b"\x01\x81\xff\0"


def test_region_2_has_the_same_registers(vga):
    function = VgaFunction(vga, lambda bar, base: None)
    function.write(0x500 + 2 * Reg.XRES, 1280, 2)
    assert get(vga, Reg.XRES) == 1280
    assert function.read(0x500 + 2 * Reg.MEMORY_64K, 2) == 256
    function.write(0x404, 0x0301, 2)     # ports 3C4h and 3C5h
    assert function.read(0x405, 1) == 1
    assert (function.read(0x600, 4), function.read(0x604, 4)) == (8, 0x1E1E1E1E)


def test_region_2_begins_with_the_displays_edid(vga):
    function = VgaFunction(vga, lambda bar, base: None)
    data = b"".join(function.read(at, 4).to_bytes(4, "little") for at in range(0, 128, 4))
    assert data == edid()
    assert data.startswith(b"\x00\xff\xff\xff\xff\xff\xff\x00")
    assert sum(data) % 256 == 0


def test_edid_prefers_1024_by_768():
    detailed = edid()[54:72]
    assert detailed[2] | (detailed[4] >> 4) << 8 == 1024
    assert detailed[5] | (detailed[7] >> 4) << 8 == 768


def test_regions_follow_their_base_address_registers(vga):
    moves = []
    function = VgaFunction(vga, lambda bar, base: moves.append((bar, base)))
    function.write_config(0x10, 0xFFFF_FFFF, 4)
    assert function.read_config(0x10, 4) == 0xFF00_0008
    assert function.read_config(0x14, 4) == 0
    function.write_config(0x10, 0xE000_0000, 4)
    function.write_config(0x18, 0xFEBF_0000, 4)
    function.write_config(0x04, 0x0002, 2)
    assert moves == [(0, 0xE000_0000), (2, 0xFEBF_0000)]
