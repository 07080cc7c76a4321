"""Code page 437, which PCs' fonts are in: codes as Unicode text, and fonts found in a video BIOS.

A font is 256 glyphs of `height` bytes, a byte for each row of 8 dots, the leftmost in bit 7.
"""

from collections.abc import Iterable

CONTROL_GLYPHS = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
CODES = bytes(range(256))
TABLE = CONTROL_GLYPHS + CODES[32:127].decode("ascii") + "⌂" + CODES[128:255].decode("cp437") + " "

# The second glyph of every PC font, after a blank one, by the font's height.
SMILEYS = {
    8: bytes.fromhex("7e81a581bd99817e"),
    14: bytes.fromhex("00007e81a58181bd99817e000000"),
    16: bytes.fromhex("00007e81a58181bd9981817e00000000"),
}


def unicode(codes: Iterable[int]) -> str:
    return "".join(map(TABLE.__getitem__, codes))


def find_fonts(rom: bytes) -> dict[int, bytes]:
    """A video BIOS's fonts by their heights: 8, 14 and 16, those that are there.

    The BIOS's 8×8 font may be in two halves that lie apart; then the second one's glyphs are blank.
    """
    fonts = {}
    for height, smiley in SMILEYS.items():
        at = rom.find(bytes(height) + smiley)
        if at >= 0:
            fonts[height] = rom[at : at + 256 * height].ljust(256 * height, b"\0")
    return fonts
