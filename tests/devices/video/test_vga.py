"""The VGA's registers, and the picture that they describe."""

import pytest

from ring3.clock import ManualClock
from ring3.devices.video.picture import NO_SPLIT, Format
from ring3.devices.video.timing import Status
from ring3.devices.video.vga import Vga
from video_fakes import FakeVideoMemory, Guest


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def vga(clock):
    vga = Vga(clock, FakeVideoMemory())
    vga.map_window(0xA_0000)
    return vga


@pytest.fixture
def guest(vga):
    return Guest(vga)


def test_registers_keep_the_bits_they_have(guest):
    guest.index(0x3C4, 1, 0xFF)
    guest.index(0x3CE, 5, 0xFF)
    assert guest.read_index(0x3C4, 1) == 0x3D
    assert guest.read_index(0x3CE, 5) == 0x7B
    assert guest.read_index(0x3C4, 6) == 0


def test_the_crtc_is_at_3d4_or_3b4_as_miscellaneous_output_says(guest):
    guest.out(0x3C2, 0x01)
    guest.index(0x3D4, 0x0C, 0x12)
    assert guest.inb(0x3B5) == 0xFF
    assert guest.read_index(0x3D4, 0x0C) == 0x12
    guest.out(0x3C2, 0x00)
    assert guest.inb(0x3D5) == 0xFF
    assert guest.read_index(0x3B4, 0x0C) == 0x12


def test_protected_crtc_registers_take_line_compares_bit_only(guest):
    guest.mode(3)
    guest.index(0x3D4, 0, 0)
    guest.index(0x3D4, 7, 0)
    assert guest.read_index(0x3D4, 0) == 0x5F
    assert guest.read_index(0x3D4, 7) == 0x0F


def test_reading_the_status_makes_the_next_attribute_write_an_index(guest):
    guest.mode(3)
    guest.inb(0x3DA)
    guest.out(0x3C0, 0x05)
    guest.inb(0x3DA)
    guest.out(0x3C0, 0x07)
    guest.out(0x3C0, 0x3C)
    assert guest.inb(0x3C1) == 0x3C


def test_dac_entries_are_written_by_threes_and_read_back(guest):
    guest.out(0x3C8, 255)
    for value in (1, 2, 0xFF, 4, 5, 6):
        guest.out(0x3C9, value)
    guest.out(0x3C7, 255)
    assert [guest.inb(0x3C9) for _ in range(6)] == [1, 2, 0x3F, 4, 5, 6]
    assert guest.inb(0x3C7) == 3
    guest.out(0x3C8, 0)
    assert guest.inb(0x3C7) == 0


def test_the_pixel_mask_is_applied_to_colours(vga, guest):
    guest.mode(0x13)
    guest.out(0x3C8, 2)
    for value in (63, 0, 0):
        guest.out(0x3C9, value)
    assert vga.picture().palette[4 * 0x12 : 4 * 0x13] == bytes(4)
    guest.out(0x3C6, 0x0F)
    assert vga.picture().palette[4 * 0x12 : 4 * 0x13] == b"\0\0\xff\0"


def test_attributes_go_through_their_palette_and_the_colour_select(vga, guest):
    guest.mode(0x12)
    guest.out(0x3C8, 0xB9)
    for value in (0, 63, 0):
        guest.out(0x3C9, value)
    guest.attribute(3, 0x29)
    guest.attribute(0x10, 0x81)
    guest.attribute(0x14, 0x0B)
    guest.out(0x3C0, 0x20)
    assert vga.picture().palette[12:16] == b"\0\xff\0\0"


def test_planes_that_are_disabled_do_not_count(vga, guest):
    guest.mode(0x12)
    guest.out(0x3C8, 1)
    for value in (63, 63, 63):
        guest.out(0x3C9, value)
    guest.attribute(0x12, 0x01)
    guest.out(0x3C0, 0x20)
    palette = vga.picture().palette
    assert [palette[4 * n] for n in range(4)] == [0, 255, 0, 255]


@pytest.mark.parametrize(
    ("mode", "kind", "size", "shift"),
    [
        (3, Format.TEXT, (720, 400), 1),
        (4, Format.INTERLEAVED, (640, 400), 1),
        (0x12, Format.PLANAR, (640, 480), 0),
        (0x13, Format.CHAINED, (640, 400), 0),
    ],
)
def test_standard_modes(vga, guest, mode, kind, size, shift):
    guest.mode(mode)
    picture = vga.picture()
    assert (picture.format, (picture.width, picture.height), picture.address_shift) == (kind, size, shift)


def test_cga_modes_put_odd_lines_into_the_second_bank(vga, guest):
    guest.mode(4)
    picture = vga.picture()
    assert (picture.row_scan_bits, picture.row_lines, picture.double_scan) == (1, 2, True)


def test_line_compare_has_ten_bits(vga, guest):
    guest.mode(0x12)
    assert vga.picture().line_compare == NO_SPLIT
    guest.index(0x3D4, 0x18, 0x2C)
    assert vga.picture().line_compare == NO_SPLIT
    guest.index(0x3D4, 0x11, 0)
    guest.index(0x3D4, 7, 0x3E)
    guest.index(0x3D4, 7, 0x3E & ~0x10)
    guest.index(0x3D4, 9, 0)
    assert vga.picture().line_compare == 0x2C


def test_panning_of_nine_dots_counts_from_8(vga, guest):
    guest.mode(3)
    assert vga.picture().pan == 0
    guest.attribute(0x13, 0)
    guest.out(0x3C0, 0x20)
    assert vga.picture().pan == 1


def test_two_fonts_are_where_the_character_map_says(vga, guest):
    guest.mode(3)
    guest.index(0x3C4, 3, 0b00_1001)     # map B: 1, map A: 2
    assert vga.picture().fonts == (0x4000, 0x8000)
    guest.index(0x3C4, 3, 0b11_0000)
    assert vga.picture().fonts == (0x2000, 0x2000)


def test_the_screen_is_blank_without_display_enable(vga, guest):
    guest.mode(3)
    guest.inb(0x3DA)
    guest.out(0x3C0, 0x00)
    assert (vga.picture().format, vga.picture().width) == (Format.BLANK, 720)


def test_linear_modes_are_memory_to_the_guest_until_something_changes_bytes(vga, guest):
    views = vga.memory.views
    guest.mode(0x13)
    assert views == {0xA_0000: (0x1_0000, 0)}
    guest.index(0x3CE, 8, 0x0F)
    assert views == {}
    guest.index(0x3CE, 8, 0xFF)
    assert views == {0xA_0000: (0x1_0000, 0)}
    guest.index(0x3C4, 4, 0x06)
    assert views == {}


def test_the_cursor_shows_for_eight_frames_of_sixteen(vga, guest, clock):
    guest.mode(3)
    guest.index(0x3D4, 0x0F, 5)
    frame_ns = vga.timing().frame_ns
    shown = []
    for _ in range(16):
        shown.append(vga.picture().cursor == 5)
        clock.advance(frame_ns)
    assert shown == [True] * 8 + [False] * 8
    guest.index(0x3D4, 0x0A, 0x20)
    assert vga.picture().cursor is None


def test_blinking_is_told_while_somebody_watches_text_only(vga, guest, clock):
    guest.mode(3)
    vga.changed_at_all = False
    vga.memory.signals = 0
    clock.advance(1_000_000_000)
    assert vga.memory.signals == 0
    vga.watch(True)
    clock.advance(1_000_000_000)
    assert 7 <= vga.memory.signals <= 9
    guest.mode(0x13)
    vga.memory.signals = 0
    clock.advance(1_000_000_000)
    assert vga.memory.signals == 0


def test_no_programmed_timing_makes_blinking_wake_us_often(vga, guest, clock):
    guest.mode(3)
    for index in (0, 1, 6, 7, 0x12):
        guest.index(0x3D4, 0x11, 0)
        guest.index(0x3D4, index, 0)
    vga.watch(True)
    vga.memory.signals = 0
    clock.advance(1_000_000_000)
    assert vga.memory.signals <= 13


def test_retrace_comes_70_times_a_second_in_text(vga, guest, clock):
    guest.mode(3)
    starts, was = 0, True
    step_ns = 20_000
    for _ in range(1_000_000_000 // step_ns):
        now = bool(guest.inb(0x3DA) & Status.VERTICAL_RETRACE)
        starts += now and not was
        was = now
        clock.advance(step_ns)
    assert starts == 70


def test_display_is_off_during_retraces(vga, guest, clock):
    guest.mode(0x12)
    timing = vga.timing()
    assert timing.lines == 525
    assert guest.inb(0x3DA) == 0
    clock.advance(timing.line_ns - 1000)
    assert guest.inb(0x3DA) == Status.DISPLAY_OFF
    clock.advance_to(timing.line_ns * 490 + 1)
    assert guest.inb(0x3DA) == Status.DISPLAY_OFF | Status.VERTICAL_RETRACE


def test_one_signal_for_all_changes_until_somebody_looks(vga, guest):
    vga.changed_at_all = False
    vga.memory.signals = 0
    guest.mode(3)
    guest.mode(0x13)
    assert vga.memory.signals == 1


def test_the_font_is_remembered_when_graphics_begin(vga, guest):
    guest.mode(3)
    guest.mode(0x12)
    height, glyphs = vga.text_font
    assert (height, len(glyphs)) == (16, 256 * 16)
