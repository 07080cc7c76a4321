"""The text mode that a BIOS leaves: registers, memory, and what is told of it."""

import struct
from itertools import pairwise

from ring3.firmware import text_mode


def test_the_crtc_shows_80_columns_of_16_lines():
    writes = [(port, value) for port, value, _ in text_mode.port_writes()]
    registers = {}
    for (port, index), (data_port, value) in pairwise(writes):
        if port == 0x3D4 and data_port == 0x3D5:
            registers[index] = value
    assert (registers[0x01] + 1, registers[0x09] & 0x1F) == (80, 15)
    assert registers[0x13] * 2 == 80


def test_the_display_is_on_and_all_dac_bits_count():
    ports = text_mode.port_writes()
    assert (0x3C0, 0x20, 1) in ports
    assert (0x3C6, 0xFF, 1) in ports
    assert sum(port == 0x3C9 for port, *_ in ports) == 3 * 64


def test_colors_are_the_egas():
    assert text_mode.ega_color(0x07) == (0x2A, 0x2A, 0x2A)
    assert text_mode.ega_color(0x14) == (0x2A, 0x15, 0)
    assert text_mode.ega_color(0x3F) == (0x3F, 0x3F, 0x3F)


def test_memory_is_blank_cells_and_the_font():
    font = bytes(range(256)) * 16
    memory = text_mode.memory(font)
    assert (memory[0:2], memory[8:10]) == (b"\x20\x07", b"\x20\x07")
    assert [memory[4 * (32 * 3 + row) + 2] for row in range(17)] == [*font[48:64], 0]


def test_without_a_font_the_glyphs_are_empty():
    assert set(text_mode.memory(b"")[2::4]) == {0}


def test_the_bios_data_area_has_mode_columns_port_and_rows():
    (first, data), (second, more) = text_mode.bios_data()
    assert (first, data[0], struct.unpack_from("<H", data, 1)) == (0x449, 3, (80,))
    assert struct.unpack_from("<H", data, 0x463 - 0x449) == (0x3D4,)
    assert (second, more[0] + 1, more[1]) == (0x484, 25, 16)


def test_linux_is_told_of_a_vga():
    info = text_mode.screen_info()
    assert (info[6], info[7], info[14], info[15], info[16]) == (3, 80, 25, 1, 16)
