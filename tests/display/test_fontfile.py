"""Font files: PSF, BDF and Unifont, whole and damaged."""

import gzip
import random
import struct

import pytest

from ring3.display import fontfile
from ring3.display.glyphs import TABLE
from ring3.errors import ConfigError

HEIGHT = 16
GLYPHS = {letter: bytes((n % 256, *range(HEIGHT - 1))) for n, letter in enumerate(TABLE)}
FONT = (HEIGHT, b"".join(GLYPHS[letter] for letter in TABLE))
ORDER = sorted(GLYPHS)                  # of files that say which glyph is whose


def psf1(mode=0, letters=TABLE):
    letters = [*letters, *" " * (256 - len(letters))]
    rows = b"".join(GLYPHS[letter] for letter in letters)
    table = b"".join(letter.encode("utf-16-le") + b"\xfe\xff\x41\0\x42\0\xff\xff" for letter in letters)
    return b"\x36\x04" + bytes((mode, HEIGHT)) + rows + (table if mode & 2 else b"")


def psf2(flags=0, letters=TABLE, width=8):
    header = struct.pack("<4s7I", b"\x72\xb5\x4a\x86", 0, 32, flags, len(letters), HEIGHT, HEIGHT, width)
    rows = b"".join(GLYPHS[letter] for letter in letters)
    table = b"".join(letter.encode() + b"\xfeAB\xff" for letter in letters)
    return header + rows + (table if flags & 1 else b"")


def bdf(box=(8, HEIGHT, 0, -2)):
    """With a wide glyph in between."""
    lines = ["STARTFONT 2.1", "FONT_ASCENT 14", "FONT_DESCENT 2", "CHARS 257"]
    wide = ["STARTCHAR wide", "ENCODING 20013", "DWIDTH 16 0", "BBX 16 1 0 0", "BITMAP", "FFFF", "ENDCHAR"]
    for letter in ORDER:
        rows = [f"{row:02X}" for row in GLYPHS[letter]]
        lines += [f"STARTCHAR U+{ord(letter):04X}", f"ENCODING {ord(letter)}", "SWIDTH 500 0", "DWIDTH 8 0",
                  "BBX " + " ".join(map(str, box)), "BITMAP", *rows, "ENDCHAR"]
        lines += wide if letter == "A" else []
    return "\n".join([*lines, "ENDFONT"]).encode()


def unifont():
    lines = [f"{ord(letter):04X}:{GLYPHS[letter].hex().upper()}" for letter in ORDER]
    return "\n".join([*lines, "4E2D:" + "F" * 64, ""]).encode()


FILES = {
    "psf1": psf1(), "psf1 with a table": psf1(2, ORDER), "psf2": psf2(), "psf2 with a table": psf2(1, ORDER),
    "bdf": bdf(), "bdf from Windows": bdf().replace(b"\n", b"\r\n"), "unifont": unifont(),
}


@pytest.mark.parametrize("name", FILES)
def test_a_font_file_gives_the_glyphs_of_code_page_437(name):
    assert fontfile.parse(FILES[name]) == FONT


def test_a_small_box_is_placed_in_its_cell():
    small = b"STARTCHAR x\nENCODING 65\nDWIDTH 8 0\nBBX 3 2 2 -1\nBITMAP\nE0\nA0\nENDCHAR\n"
    data = bdf().replace(b"ENCODING 65\n", b"ENCODING 999\n") + small
    height, glyphs = fontfile.parse(data)
    place = TABLE.index("A") * height
    assert glyphs[place : place + height] == bytes(13) + bytes((0x38, 0x28)) + bytes(1)


def test_a_compressed_file_is_unpacked(tmp_path):
    path = tmp_path / "font.psf.gz"
    path.write_bytes(gzip.compress(FILES["psf2"]))
    assert fontfile.load(str(path)) == FONT


@pytest.mark.parametrize(("data", "why"), [
    (b"", "of no known format"),
    (b"GIF89a", "of no known format"),
    (psf1()[:3], "damaged"),
    (psf2()[:20], "damaged"),
    (psf2(width=12), "cells of 12x16 dots"),
    (psf2()[:1000], "lacks letters"),
    (b"STARTFONT 2.1\n", "it has no FONT_ASCENT"),
    (gzip.compress(psf1())[:-30], "damaged"),
], ids=["empty", "picture", "psf1", "psf2", "wide", "short", "bdf", "gzip"])
def test_what_is_no_font_is_one_line_that_says_why(data, why, tmp_path):
    path = tmp_path / "font"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"font: .*{why}.*: give a PSF, BDF or Unifont file") as caught:
        fontfile.load(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"font: .*: No such file or directory: give a font file"):
        fontfile.load(f"{tmp_path}/none")


@pytest.mark.parametrize("name", FILES)
def test_damage_raises_nothing_else(name):
    rng = random.Random(name)
    for _ in range(60):
        data = bytearray(FILES[name][: rng.choice((None, rng.randrange(5000)))])
        for _ in range(rng.randrange(20)):
            if data:
                data[rng.randrange(min(len(data), rng.choice((40, 1 << 20))))] = rng.getrandbits(8)
        try:
            height, glyphs = fontfile.parse(bytes(data))
        except ValueError:
            continue
        assert len(glyphs) == 256 * height
