"""Code page 437, which PCs' fonts are in: codes as Unicode text, and fonts found in a video BIOS.

A font is 256 glyphs of `height` bytes, a byte for each row of 8 dots, the leftmost in bit 7.
"""

from collections.abc import Callable, Iterable

CONTROL_GLYPHS = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
CODES = bytes(range(256))
TABLE = CONTROL_GLYPHS + CODES[32:127].decode("ascii") + "⌂" + CODES[128:255].decode("cp437") + " "

# The second glyph of every PC font, after a blank one, by the font's height.
SMILEYS = {
    8: bytes.fromhex("7e81a581bd99817e"),
    14: bytes.fromhex("00007e81a58181bd99817e000000"),
    16: bytes.fromhex("00007e81a58181bd9981817e00000000"),
}


SMILEYS_START = SMILEYS[8][:4]           # of all of them, after blank lines
MOST_SMILEYS = 64


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


def fonts_in_memory(
    search: Callable[[bytes, int], list[int]], read: Callable[[int, int], bytes]
) -> list[tuple[int, bytes]]:
    """Fonts (height, glyphs) that a guest has in its memory: those of kernels that draw text themselves.

    `search`: addresses of some bytes, as many as given at most; `read`: bytes from an address on.
    """
    fonts = []
    for address in search(SMILEYS_START, MOST_SMILEYS):
        for height, smiley in SMILEYS.items():
            start = address - smiley.index(SMILEYS_START) - height
            if start >= 0:
                glyphs = read(start, 256 * height)
                if glyphs.startswith(bytes(height) + smiley) and (height, glyphs) not in fonts:
                    fonts.append((height, glyphs))
    return fonts
