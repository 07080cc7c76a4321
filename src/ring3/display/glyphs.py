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

# UEFI's fonts (UEFI specification 2.10, §34.3.1, EFI_NARROW_GLYPH): records of code, attributes and 19 lines.
EFI_HEIGHT = 19
EFI_RECORD = 3 + EFI_HEIGHT
EFI_START = b"\x20\0\0" + bytes(EFI_HEIGHT) + b"\x21"       # a blank, then the exclamation mark
EFI_MOST_RECORDS = 512


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
    for address in search(EFI_START, MOST_SMILEYS):
        narrow = efi_font(read(address, EFI_RECORD * EFI_MOST_RECORDS))
        if narrow is not None and (EFI_HEIGHT, narrow) not in fonts:
            fonts.append((EFI_HEIGHT, narrow))
    return fonts


def efi_font(records: bytes) -> bytes | None:
    """256 glyphs of code page 437 from a UEFI font's records, which begin with the blank."""
    drawn: dict[str, bytes] = {}
    before = 0
    for at in range(0, len(records) - EFI_RECORD + 1, EFI_RECORD):
        code = int.from_bytes(records[at : at + 2], "little")
        if code <= before:
            break
        before = code
        drawn[chr(code)] = records[at + 3 : at + EFI_RECORD]
    if not all(chr(code) in drawn for code in range(0x20, 0x7F)):
        return None
    return b"".join(drawn.get(letter, bytes(EFI_HEIGHT)) for letter in TABLE)
