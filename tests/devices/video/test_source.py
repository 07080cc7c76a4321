"""A VGA as a screen's source, over native video memory: text, damage, glyphs."""

import os
import select
import threading

import pytest

from ring3._native import Vm
from ring3.clock import ManualClock
from ring3.devices.video.dispi import Reg
from ring3.devices.video.source import VgaSource
from ring3.devices.video.vga import Vga
from ring3.display.screen import Rect
from video_fakes import Guest

MIB = 1 << 20
LETTER = bytes.fromhex("003c66c3c3ffc3c3c3c3c3c3c3c3c300")
FONT = bytes(65 * 16) + LETTER + bytes(190 * 16)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def vga(clock):
    vm = Vm(MIB, MIB)
    vga = Vga(clock, vm.add_video_memory(16 * MIB))
    vga.vm = vm                         # kept alive
    vga.map_window(0xA_0000)
    return vga


@pytest.fixture
def source(vga):
    source = VgaSource(vga, threading.RLock(), {16: FONT})
    source.watch(True)
    return source


def text_mode(vga):
    Guest(vga).mode(3)
    for at, row in enumerate(LETTER):
        vga.memory.write(4 * (65 * 32 + at) + 2, bytes([row]))


def cell(vga, column, row, code, attribute=7):
    vga.memory.write(8 * (80 * row + column), bytes([code, attribute]))


def readable(source):
    return bool(select.select([source.changed_fd], [], [], 0)[0])


def test_cells_are_codes_and_attributes_with_the_cursor(vga, source):
    text_mode(vga)
    cell(vga, 2, 1, 65, 0x1E)
    Guest(vga).index(0x3D4, 0x0F, 83)
    Guest(vga).index(0x3D4, 0x0B, 14)
    cells = source.cells()
    assert (cells.columns, cells.rows, cells.cursor) == (80, 25, (3, 1))
    assert (cells.codes[82], cells.attributes[82]) == (65, 0x1E)


def test_a_mode_set_is_a_resize(vga, source):
    text_mode(vga)
    assert readable(source)
    source.collect()
    Guest(vga).mode(0x12)
    damage = source.collect()
    assert damage.resized
    assert damage.rects == (Rect(0, 0, 640, 480),)


def test_text_damage_is_by_cells(vga, source):
    text_mode(vga)
    source.collect()
    cell(vga, 2, 1, 65)
    cell(vga, 5, 1, 66)
    cell(vga, 79, 24, 67)
    assert source.collect().rects == (Rect(18, 16, 36, 16), Rect(711, 384, 9, 16))
    cell(vga, 5, 1, 66)
    assert source.collect().rects == ()


def test_the_cursor_damages_the_cells_it_leaves_and_enters(vga, source):
    text_mode(vga)
    Guest(vga).index(0x3D4, 0x0B, 14)
    source.collect()
    Guest(vga).index(0x3D4, 0x0F, 81)
    assert source.collect().rects == (Rect(0, 0, 9, 16), Rect(9, 16, 9, 16))


def test_another_font_damages_everything(vga, source):
    text_mode(vga)
    source.collect()
    vga.memory.write(4 * 65 * 32 + 2, b"\xff")
    assert source.collect().rects == (Rect(0, 0, 720, 400),)


def test_graphics_damage_is_by_lines(vga, source):
    Guest(vga).mode(0x13)
    source.collect()
    vga.memory.write(320 * 100, b"\x01")
    assert source.collect().rects == (Rect(0, 178, 640, 28),)


def test_a_palette_change_damages_everything(vga, source):
    Guest(vga).mode(0x13)
    source.collect()
    guest = Guest(vga)
    for value in (1, 2, 3):
        guest.out(0x3C9, value)
    assert readable(source)
    assert source.collect().rects == (Rect(0, 0, 640, 400),)


def test_nothing_is_told_while_nobody_watches(vga, source):
    text_mode(vga)
    source.collect()
    os.eventfd_read(source.changed_fd)
    source.watch(False)
    cell(vga, 0, 0, 65)
    Guest(vga).mode(0x13)
    assert not readable(source)


def draw_letters(vga, width, height, bytes_per_pixel, places):
    """The letter A at character places, in white, through the frame buffer."""
    dispi = vga.dispi
    dispi.write_register(Reg.XRES, width)
    dispi.write_register(Reg.YRES, height)
    dispi.write_register(Reg.BPP, 8 * bytes_per_pixel)
    dispi.write_register(Reg.ENABLE, 0x41)
    for column, row in places:
        for y, bits in enumerate(LETTER):
            dots = (b"\xff" if bits >> 7 - x & 1 else b"\x20" for x in range(8))
            line = b"".join(dot * bytes_per_pixel for dot in dots)
            offset = ((16 * row + y) * width + 8 * column) * bytes_per_pixel
            vga.memory.write(offset, line)


@pytest.mark.parametrize("bytes_per_pixel", [1, 2, 4])
def test_text_in_a_frame_buffer_is_found_by_its_glyphs(vga, source, bytes_per_pixel):
    vga.write(0x16, 0xFF, 1)
    vga.write(0x18, 0xFF, 1)
    for _ in range(3):
        vga.write(0x19, 63, 1)
    draw_letters(vga, 800, 600, bytes_per_pixel, [(0, 0), (99, 0), (3, 36)])
    found = source.glyphs()
    assert (found.columns, found.rows) == (100, 37)
    assert [at for at, code in enumerate(found.codes) if code == 65] == [0, 99, 3603]


def other_font_source(vga, search):
    """Watched, with a letter on the screen whose font `search` may find."""
    source = VgaSource(vga, threading.RLock(), {16: bytes(4096)}, search)
    source.watch(True)
    draw_letters(vga, 640, 480, 4, [(1, 0)])
    source.collect()
    os.eventfd_read(source.changed_fd)
    return source


def test_text_in_a_font_of_the_guests_own_is_read_at_the_first_look(vga):
    source = other_font_source(vga, lambda: [(16, FONT)])
    assert source.glyphs().text().startswith(" A\n")


def test_a_long_search_for_fonts_is_not_waited_for_but_told_of(vga, monkeypatch):
    monkeypatch.setattr("ring3.devices.video.source.SEARCH_S", 0)
    looked = threading.Event()

    def search():
        assert looked.wait(10)
        return [(16, FONT)]

    source = other_font_source(vga, search)
    assert source.glyphs() is None
    looked.set()
    assert select.select([source.changed_fd], [], [], 10)[0]
    assert source.collect().rects == (Rect(0, 0, 640, 480),)
    assert source.glyphs().text().startswith(" A\n")


def test_lines_of_a_picture_are_not_text(vga):
    source = VgaSource(vga, threading.RLock(), {16: bytes(0xC4 * 16) + bytes(7) + b"\xff" + bytes(952)})
    draw_letters(vga, 640, 480, 4, [])
    vga.memory.write(7 * 640 * 4, b"\xff" * 640 * 4)
    assert source.glyphs() is None


def test_a_picture_without_text_has_none(vga, source):
    draw_letters(vga, 640, 480, 4, [])
    vga.memory.write(0, bytes(range(256)))
    assert source.glyphs() is None


def test_pixels_of_a_mode_that_was_left_meanwhile_are_black(vga, source):
    Guest(vga).mode(0x13)
    assert source.pixels(Rect(700, 0, 2, 1)) == bytes(8)
