"""What a video chip's registers say of the picture: the whole input of the native pixel code.

Fields and units are those of `rust/engine/src/pixels.rs`, which reads them by these names.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ring3.display.screen import Rect

PAGE = 4096


class Format:
    BLANK, TEXT, PLANAR, INTERLEAVED, CHAINED, LINEAR8, LINEAR15, LINEAR16, LINEAR24, LINEAR32 = range(10)


LINEAR_BYTES = {
    Format.LINEAR8: 1,
    Format.LINEAR15: 2,
    Format.LINEAR16: 2,
    Format.LINEAR24: 3,
    Format.LINEAR32: 4,
}
NO_SPLIT = 0xFFFF_FFFF                  # a line compare that no screen reaches


@dataclass(frozen=True, slots=True)
class Picture:
    format: int
    width: int
    height: int
    start: int = 0                      # first address: bytes in linear formats, else character counts
    pitch: int = 0                      # from row to row, in the same unit
    address_mask: int = 0xFFFF
    address_shift: int = 0
    wrap_bit: int = 15
    row_scan_bits: int = 0
    row_lines: int = 1
    double_scan: bool = False
    preset_row: int = 0
    line_compare: int = NO_SPLIT
    pan: int = 0                        # dots
    byte_pan: int = 0
    split_unpanned: bool = False
    double_dots: bool = False
    cell_width: int = 8
    fonts: tuple[int, int] = (0, 0)     # addresses in plane 2
    cursor: int | None = None           # character count
    cursor_lines: tuple[int, int] = (0, 0)
    blink: bool = False
    blink_hides: bool = False
    underline: int = 31
    line_graphics: bool = False
    palette: bytes = b""                # BGRX

    @property
    def scale(self) -> tuple[int, int]:
        """Pixels of the screen that make one of the picture, across and down."""
        across = (1 + self.double_dots) * (2 if self.format == Format.CHAINED else 1)
        rows = 1 if self.row_scan_bits else self.row_lines
        return across, rows << self.double_scan

    @property
    def cell(self) -> tuple[int, int]:
        """Pixels of a text cell."""
        return self.cell_width * (1 + self.double_dots), self.row_lines << self.double_scan

    def damage(self, runs: Iterable[tuple[int, int]], memory_bytes: int) -> tuple[Rect, ...]:
        """What shows bytes of video memory in these runs (start, end); not for text."""
        if self.format in LINEAR_BYTES:
            return tuple(merged(self._linear_rects(runs, memory_bytes)))
        pages = {page for start, end in runs for page in range(start // PAGE, -(-end // PAGE))}
        return tuple(merged(self._row_rects(pages)))

    def _linear_rects(self, runs: Iterable[tuple[int, int]], memory_bytes: int) -> Iterator[Rect]:
        bytes_per_pixel = LINEAR_BYTES[self.format]
        if self.pitch * self.height + self.start > memory_bytes or not self.pitch:
            yield Rect(0, 0, self.width, self.height)       # goes around the end of memory
            return
        for start, end in runs:
            first, last = max(start - self.start, 0), end - self.start - 1
            if last < 0:
                continue
            top, bottom = first // self.pitch, last // self.pitch
            left, right = 0, self.width
            if top == bottom:
                left = first % self.pitch // bytes_per_pixel
                right = last % self.pitch // bytes_per_pixel + 1
            rect = Rect(left, top, right - left, bottom - top + 1).within(self.width, self.height)
            if rect.width and rect.height:
                yield rect

    def _row_rects(self, pages: set[int]) -> Iterator[Rect]:
        """The VGA's own formats: rows with a word in one of the pages."""
        if self.row_scan_bits or self.line_compare < self.height:
            if pages:
                yield Rect(0, 0, self.width, self.height)
            return
        lines = self.row_lines << self.double_scan
        words = (self.width // (8 * (1 + self.double_dots)) + 2 + self.byte_pan) << self.address_shift
        top = -(self.preset_row << self.double_scan)
        address = self.start
        while top < self.height:
            word = (address & self.address_mask) << self.address_shift
            first, last = word * 4 // PAGE, (word + words) * 4 // PAGE
            if not pages.isdisjoint(range(first, last + 1)):
                yield Rect(0, top, self.width, lines).within(self.width, self.height)
            top += lines
            address += self.pitch


def merged(rects: Iterable[Rect]) -> Iterator[Rect]:
    """Rects from top to bottom, those that continue the one above joined to it."""
    above: Rect | None = None
    for rect in rects:
        if above is None:
            above = rect
        elif (above.x, above.width, above.y + above.height) == (rect.x, rect.width, rect.y):
            above = Rect(above.x, above.y, above.width, above.height + rect.height)
        else:
            yield above
            above = rect
    if above is not None:
        yield above
