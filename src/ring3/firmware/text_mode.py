"""80 columns and 25 rows of text: what a video BIOS sets a VGA to before anything is booted.

IBM "Personal System/2 and Personal Computer Display Adapter / VGA XGA Technical Reference" (1992), "VGA
function", the register values of mode 3+.  Pure data: port accesses in their order, and the contents of video
memory, where the four planes' bytes at one address lie together.  The BIOS data area's part is here as well.
"""

import struct

from ring3.firmware.post import PortWrite

COLUMNS, ROWS, GLYPH_ROWS = 80, 25, 16
BLANK, GREY_ON_BLACK = 0x20, 0x07
FONT_STRIDE = 32                        # rows that a glyph takes in plane 2
GLYPHS = 256

MISC_OUTPUT = 0x67
SEQUENCER = bytes.fromhex("03 00 03 00 02")
CRTC = bytes.fromhex("5F 4F 50 82 55 81 BF 1F 00 4F 0D 0E 00 00 00 00 9C 8E 8F 28 1F 96 B9 A3 FF")
GRAPHICS = bytes.fromhex("00 00 00 00 00 10 0E 00 FF")
ATTRIBUTE = bytes.fromhex("00 01 02 03 04 05 14 07 38 39 3A 3B 3C 3D 3E 3F 0C 00 0F 08 00")
DISPLAY_ON = 0x20                       # in the attribute controller's index

VIDEO_DATA, MORE_VIDEO_DATA = 0x449, 0x484          # addresses in the BIOS data area
COLOR_80 = 0x20                         # of the equipment word


def port_writes() -> list[PortWrite]:
    writes = [(0x3C2, MISC_OUTPUT, 1)]
    for port, values in ((0x3C4, SEQUENCER), (0x3D4, CRTC), (0x3CE, GRAPHICS)):
        for index, value in enumerate(values):
            writes += [(port, index, 1), (port + 1, value, 1)]
    for index, value in enumerate(ATTRIBUTE):
        writes += [(0x3C0, index, 1), (0x3C0, value, 1)]
    writes += [(0x3C0, DISPLAY_ON, 1), (0x3C6, 0xFF, 1), (0x3C8, 0, 1)]
    return writes + [(0x3C9, part, 1) for color in range(64) for part in ega_color(color)]


def ega_color(number: int) -> tuple[int, ...]:
    """Red, green and blue of 0 to 63: the primary bits are worth two thirds, the secondary ones one."""
    return tuple((number >> bit & 1) * 0x2A + (number >> bit + 3 & 1) * 0x15 for bit in (2, 1, 0))


def memory(font: bytes) -> bytes:
    """Blank cells in planes 0 and 1, at every second address; the font (16 rows a glyph) in plane 2."""
    image = bytearray(4 * GLYPHS * FONT_STRIDE)
    cells = 8 * COLUMNS * ROWS
    image[0:cells:8] = bytes([BLANK]) * (COLUMNS * ROWS)
    image[1:cells:8] = bytes([GREY_ON_BLACK]) * (COLUMNS * ROWS)
    for row in range(min(len(font), GLYPHS * GLYPH_ROWS)):
        glyph, line = divmod(row, GLYPH_ROWS)
        image[4 * (glyph * FONT_STRIDE + line) + 2] = font[row]
    return bytes(image)


def bios_data() -> list[tuple[int, bytes]]:
    """(address, bytes): mode, columns, page, cursor, CRTC's port; rows, glyphs, the adapter's kind."""
    cursor_shape = 0x0D0E
    mode = struct.pack("<BHHH16xHBHBB", 3, COLUMNS, 0x1000, 0, cursor_shape, 0, 0x3D4, 0x29, 0x30)
    more = struct.pack("<BHBBBB", ROWS - 1, GLYPH_ROWS, 0x60, 0xF9, 0x51, 0x08)
    return [(VIDEO_DATA, mode), (MORE_VIDEO_DATA, more)]


def screen_info() -> bytes:
    """Linux's boot_params begin with it: cursor, mode, columns, rows, that it's a VGA, glyph height."""
    return struct.pack("<BBHHBBBBHHBBH", 0, 0, 0, 0, 3, COLUMNS, 0, 0, 3, 0, ROWS, 1, GLYPH_ROWS)
