"""Font files of users: PSF (the Linux console's), BDF (the X Window System's), GNU Unifont's, also gzipped.

Kept of a font is what text on a guest's screen is looked for in: glyphs of code page 437 (see `glyphs`) in
cells 8 dots wide.  PSF glyphs without a table of characters are in that code page's order.

Adobe, "Glyph Bitmap Distribution Format (BDF) Specification", version 2.2; kbd, `psf.h`; Unifont, `hex`(5).
"""

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ring3.display.glyphs import TABLE
from ring3.errors import ConfigError

Font = tuple[int, bytes]                # height, 256 glyphs
Glyphs = dict[str, bytes]               # by character

GZIP = b"\x1f\x8b"
BYTES_MAX = 64 << 20                    # also of what was compressed
HEIGHT_MAX = 32
WIDTH = 8
CODES = frozenset(map(ord, TABLE))
LETTERS = TABLE[0x21:0x7F]              # a font without these is none

PSF1, PSF1_HEADER = b"\x36\x04", 4
PSF1_512, PSF1_TABLE = 0x01, 0x06       # its mode
PSF2, PSF2_FIELDS = b"\x72\xb5\x4a\x86", struct.Struct("<4s7I")
PSF2_TABLE = 0x01                       # its flags

BDF = b"STARTFONT"
BDF_GLYPH = re.compile(
    rb"ENCODING (\d+)\s(?:(?!STARTCHAR).)*?DWIDTH (\d+)(?:(?!STARTCHAR).)*?"
    rb"BBX (\d+) (\d+) (-?\d+) (-?\d+)\s(?:(?!STARTCHAR).)*?BITMAP\s+([0-9A-Fa-f\s]*)ENDCHAR",
    re.DOTALL,
)

HEX_START = re.compile(rb"[0-9A-Fa-f]{4,6}:[0-9A-Fa-f]{32}")
HEX_GLYPH = re.compile(rb"^([0-9A-Fa-f]{4,6}):([0-9A-Fa-f]{32})\s*$", re.MULTILINE)
HEX_HEIGHT = 16


def load(path: str) -> Font:
    """The font of a file; a ConfigError where there is none of cells 8 dots wide."""
    try:
        return parse(_read(Path(path)))
    except OSError as error:
        raise ConfigError(f"font: {path}: {error.strerror or error}: give a font file") from error
    except ValueError as error:
        raise ConfigError(f"font: {path}: {error}: give a PSF, BDF or Unifont file, 8 dots wide") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(BYTES_MAX)
    if not data.startswith(GZIP):
        return data
    try:
        with gzip.open(path) as file:
            return file.read(BYTES_MAX)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"damaged ({error})") from error


def parse(data: bytes) -> Font:
    """Raises ValueError saying why it is no font."""
    reader: Callable[[bytes], tuple[int, Glyphs]]
    if data.startswith(PSF1):
        reader = psf1
    elif data.startswith(PSF2):
        reader = psf2
    elif data.startswith(BDF):
        reader = bdf
    elif HEX_START.match(data):
        reader = unifont
    else:
        raise ValueError("of no known format")
    try:
        height, glyphs = reader(data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"damaged ({error})") from error
    if not all(letter in glyphs for letter in LETTERS):
        raise ValueError("it lacks letters")
    blank = bytes(height)
    return height, b"".join(glyphs.get(letter, blank) for letter in TABLE)


def check_size(width: int, height: int) -> None:
    if width != WIDTH or not 1 <= height <= HEIGHT_MAX:
        raise ValueError(f"cells of {width}x{height} dots")


# --- PSF ---


def psf1(data: bytes) -> tuple[int, Glyphs]:
    mode, height = data[2], data[3]
    check_size(WIDTH, height)
    count = 512 if mode & PSF1_512 else 256
    rows = data[PSF1_HEADER : PSF1_HEADER + count * height]
    table = data[PSF1_HEADER + count * height :]
    entries = psf1_table(table) if mode & PSF1_TABLE else iter(TABLE)
    return height, numbered(rows, height, entries)


def psf1_table(table: bytes) -> Iterator[str]:
    """Each glyph's characters: 16 bits each up to FFFFh; sequences, which begin with FFFEh, are none."""
    words = struct.unpack(f"<{len(table) // 2}H", table[: len(table) & -2])
    characters, alone = "", True
    for word in words:
        if word == 0xFFFF:
            yield characters
            characters, alone = "", True
        elif word == 0xFFFE:
            alone = False
        elif alone:
            characters += chr(word)


def psf2(data: bytes) -> tuple[int, Glyphs]:
    _, _, start, flags, count, size, height, width = PSF2_FIELDS.unpack_from(data)
    check_size(width, height)
    if size != height or start < PSF2_FIELDS.size or count > len(data):
        raise ValueError("damaged (its header contradicts itself)")
    rows, table = data[start : start + count * size], data[start + count * size :]
    entries = psf2_table(table) if flags & PSF2_TABLE else iter(TABLE)
    return height, numbered(rows, height, entries)


def psf2_table(table: bytes) -> Iterator[str]:
    """As in version 1: UTF-8 up to FFh, sequences behind FEh."""
    for entry in table.split(b"\xff"):
        yield entry.split(b"\xfe")[0].decode(errors="ignore")


def numbered(rows: bytes, height: int, entries: Iterator[str]) -> Glyphs:
    """Glyphs, one after the other, by the characters that each is for."""
    glyphs: Glyphs = {}
    for at, characters in zip(range(0, len(rows) - height + 1, height), entries, strict=False):
        for character in characters:
            glyphs.setdefault(character, rows[at : at + height])
    return glyphs


# --- BDF ---


def bdf(data: bytes) -> tuple[int, Glyphs]:
    """A cell reaches from the font's ascent to its descent; glyphs of other widths than 8 are left out."""
    ascent, descent = (bdf_number(data, name) for name in (b"FONT_ASCENT", b"FONT_DESCENT"))
    height = ascent + descent
    check_size(WIDTH, height)
    glyphs: Glyphs = {}
    for found in BDF_GLYPH.finditer(data):
        code, advance, width, lines, left, bottom = map(int, found.groups()[:6])
        if code not in CODES or advance != WIDTH or not 0 <= left <= left + width <= WIDTH:
            continue
        top = ascent - bottom - lines
        rows = [int(row[:2].ljust(2, b"0"), 16) >> left for row in found[7].split()]
        if len(rows) == lines and 0 <= top <= height - lines:
            glyphs[chr(code)] = (bytes(top) + bytes(rows)).ljust(height, b"\0")
    return height, glyphs


def bdf_number(data: bytes, name: bytes) -> int:
    found = re.search(rb"^" + name + rb"\s+(\d{1,3})\s", data, re.MULTILINE)
    if found is None:
        raise ValueError(f"it has no {name.decode()}")
    return int(found[1])


# --- Unifont ---


def unifont(data: bytes) -> tuple[int, Glyphs]:
    """A line for each glyph; those of 16 dots have twice the digits."""
    found = ((int(code, 16), rows) for code, rows in HEX_GLYPH.findall(data))
    return HEX_HEIGHT, {chr(code): bytes.fromhex(rows.decode()) for code, rows in found if code in CODES}
