"""A VGA as the source of a screen (ring3/display/screen.py).

Theory.  Native code notices stores to video memory by page, and the chip says when its registers change the
picture.  Both make one eventfd readable.  `collect` then finds out what that means on the screen: in text
modes cells that differ from those seen last, in graphics modes the lines that show the pages.

1. Registers are read under the machine lock, pixels without it: nobody who looks holds up the guest.
2. `collect` first arms the native log, then reads registers and memory: what changes meanwhile is told again.
3. `_lock` is taken inside of nothing and holds nothing up but other looks; machine lock inside of it.
"""

import string
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from ring3.devices.video.picture import Format, Picture
from ring3.devices.video.vga import Vga
from ring3.display.glyphs import EFI_HEIGHT
from ring3.display.screen import Damage, Rect, TextCells

SEARCH_AGAIN_S = 5.0                    # after a search for fonts, if text remains unread
SEARCH_RARELY_S = 60.0                  # each time twice as long, up to this
SEARCH_S = 1.0                          # how long the first reader waits for one that goes on beside it
MOST_FOUND = 8

EFI_CONSOLES = ((80, 25), (80, 50), (100, 31), (128, 40), (160, 42), (240, 56))     # columns, rows
LETTERS = (string.ascii_letters + string.digits).encode()

Font = tuple[int, bytes]                # height, glyphs
FindFonts = Callable[[], list[Font]]


def no_fonts() -> list[Font]:
    """There is no guest's memory to look into."""
    return []


@dataclass(frozen=True, slots=True)
class TextSeen:
    """A text screen as a look found it."""

    picture: Picture                    # without its cursor
    codes: bytes
    attributes: bytes
    fonts: tuple[bytes, bytes]
    cursor: tuple[int, int] | None


class VgaSource:
    def __init__(
        self,
        vga: Vga,
        machine_lock: AbstractContextManager[object],
        fonts: Mapping[int, bytes],
        guest_fonts: FindFonts = no_fonts,
        users_fonts: Sequence[Font] = (),
    ) -> None:
        """`fonts`: the video BIOS's, by height.  `guest_fonts` looks through the guest's memory."""
        self._vga = vga
        self._memory = vga.memory
        self._machine_lock = machine_lock
        # Most text is in 16 lines.
        self._fonts: list[Font] = [*users_fonts, *sorted(fonts.items(), reverse=True)]
        self._found: list[Font] = []    # in the guest's memory, by the last search
        self._guest_fonts = guest_fonts
        self._search: threading.Thread | None = None
        self._search_at_s = 0.0
        self._search_wait_s = SEARCH_AGAIN_S
        self._lock = threading.Lock()
        self._size = (0, 0)             # as of the last look
        self._text: TextSeen | None = None

    @property
    def changed_fd(self) -> int:
        return self._memory.changed_fd

    def size(self) -> tuple[int, int]:
        picture = self._picture()
        return picture.width, picture.height

    def pixels(self, rect: Rect) -> bytes:
        picture = self._picture()
        inside = rect.within(picture.width, picture.height)
        if inside != rect:              # the guest has changed the mode since the caller asked for the size
            return bytes(4 * rect.width * rect.height)
        return self._memory.pixels(picture, rect.x, rect.y, rect.width, rect.height)

    def cells(self) -> TextCells | None:
        picture = self._picture()
        if picture.format != Format.TEXT:
            return None
        columns, rows = grid(picture)
        codes, attributes = self._memory.cells(picture)
        return TextCells(columns, rows, codes, attributes, cursor_place(picture))

    def glyphs(self) -> TextCells | None:
        with self._machine_lock:
            picture, own_font = self._vga.picture(), self._vga.text_font
        if picture.format in (Format.TEXT, Format.BLANK):
            return None
        found = self._find_text(picture, own_font)
        if found is None or found[4] * 49 > found[3] * 50:      # no font at all, or not all of the text's
            search = self._search_fonts()
            if search is not None and not self._found:
                search.join(SEARCH_S)
                found = self._find_text(picture, own_font)
        if found is None:
            return None
        columns, rows, codes, drawn, _ = found
        letters = len(codes) - len(codes.translate(None, LETTERS))
        if letters * 4 < drawn:         # a picture's own lines and frames look like glyphs too
            return None
        return TextCells(columns, rows, codes, b"\x07" * len(codes)) if drawn else None

    def _find_text(self, picture: Picture, own_font: Font | None) -> tuple[int, int, bytes, int, int] | None:
        """Columns, rows, codes; cells with a glyph, and those that might have one; None without fonts."""
        with self._lock:
            fonts = self._found + ([own_font] if own_font is not None else []) + self._fonts
        placed = [(*font, origin) for font in fonts for origin in origins(font[0], picture)]
        return self._memory.find_text(picture, picture.scale, placed)

    # --- the guest's own fonts ---

    def _search_fonts(self) -> threading.Thread | None:
        """Some cells look like text and aren't in any font we have: look for more, beside the caller.

        The search, if it was time for one.
        """
        with self._lock:
            now_s = time.monotonic()
            if self._search is not None or now_s < self._search_at_s:
                return None
            self._search_at_s = now_s + self._search_wait_s
            self._search_wait_s = min(2 * self._search_wait_s, SEARCH_RARELY_S)
            self._search = threading.Thread(target=self._searching, name="fonts", daemon=True)
            self._search.start()
            return self._search

    def _searching(self) -> None:
        found = self._guest_fonts()
        with self._lock:
            self._search = None
            found = [font for font in found if font not in self._fonts][:MOST_FOUND]
            new, self._found = found != self._found, found
        if new:
            with self._machine_lock:
                self._vga.changed_at_all = True     # who waits for text looks again
            self._memory.signal()

    def watch(self, watched: bool) -> None:
        with self._machine_lock:
            self._vga.watch(watched)
        if watched:
            self._memory.collect()      # arms; who watches anew has looked at nothing yet
            self._look(everything=True)
        else:
            self._memory.disarm()

    def collect(self) -> Damage:
        runs = self._memory.collect()
        return self._look(everything=False, runs=runs)

    def _look(self, everything: bool, runs: "list[tuple[int, int]] | None" = None) -> Damage:
        with self._lock:
            with self._machine_lock:
                picture = self._vga.picture()
                everything |= self._vga.changed_at_all
                self._vga.changed_at_all = False
            size = picture.width, picture.height
            resized, self._size = size != self._size, size
            if resized:
                self._search_at_s, self._search_wait_s = 0.0, SEARCH_AGAIN_S
            before, self._text = self._text, self._see(picture)
            if self._text is not None and before is not None and not resized:
                return Damage(tuple(changed_cells(before, self._text)))
            if everything or resized:
                return Damage((Rect(0, 0, *size),), resized)
            return Damage(picture.damage(runs or (), self._memory.size_bytes))

    def _see(self, picture: Picture) -> TextSeen | None:
        if picture.format != Format.TEXT:
            return None
        codes, attributes = self._memory.cells(picture)
        fonts = self._memory.font(picture, 0), self._memory.font(picture, 1)
        cursor = cursor_place(picture)
        blinks = picture.blink_hides and picture.blink and any(a & 0x80 for a in attributes)
        steady = replace(picture, cursor=None, start=0, blink_hides=blinks)
        return TextSeen(steady, codes, attributes, fonts, cursor)

    def _picture(self) -> Picture:
        with self._machine_lock:
            return self._vga.picture()


def origins(height: int, picture: Picture) -> list[tuple[int, int]]:
    """Where a font's first cell may be: UEFI consoles lie in the middle of the screen."""
    if height != EFI_HEIGHT:
        return [(0, 0)]
    width, lines = picture.width, picture.height
    fitting = [(c, r) for c, r in EFI_CONSOLES if c * 8 <= width and r * height <= lines]
    fitting.append((width // 8, lines // height))
    return list(dict.fromkeys(((width - c * 8) // 2, (lines - r * height) // 2) for c, r in fitting))


def grid(picture: Picture) -> tuple[int, int]:
    """Columns and rows of text, the last row perhaps in part."""
    width, height = picture.cell
    return picture.width // width, -(-picture.height // height)


def cursor_place(picture: Picture) -> tuple[int, int] | None:
    """Column and row."""
    first, last = picture.cursor_lines
    if picture.cursor is None or first > last or not picture.pitch:
        return None
    columns, rows = grid(picture)
    distance = (picture.cursor - picture.start - picture.byte_pan) & picture.address_mask
    row, column = divmod(distance, picture.pitch)
    return (column, row) if column < columns and row < rows else None


def changed_cells(before: TextSeen, now: TextSeen) -> list[Rect]:
    """A rect for each row with changed cells; one for all when every cell may look different."""
    picture = now.picture
    whole = [Rect(0, 0, picture.width, picture.height)]
    if (before.picture, before.fonts) != (picture, now.fonts):
        return whole
    columns, rows = grid(picture)
    cursors = [c for c in (before.cursor, now.cursor) if c and before.cursor != now.cursor]
    rects = []
    for row in range(rows):
        span = slice(row * columns, (row + 1) * columns)
        changed = {place[0] for place in cursors if place[1] == row}
        for old, new in ((before.codes, now.codes), (before.attributes, now.attributes)):
            if old[span] != new[span]:
                changed |= {n for n, (a, b) in enumerate(zip(old[span], new[span], strict=True)) if a != b}
        if changed:
            first, last = min(changed), max(changed)
            rects.append(cell_rect(picture, first, row, last - first + 1))
    return rects


def cell_rect(picture: Picture, column: int, row: int, count: int) -> Rect:
    """Of cells of one row, as far as they show: panning moves them left and up."""
    width, height = picture.cell
    x = column * width - picture.pan * (1 + picture.double_dots)
    y = row * height - (picture.preset_row << picture.double_scan)
    return Rect(x, y, count * width, height).within(picture.width, picture.height)
