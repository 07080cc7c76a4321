"""Damage: a set of tiles, one integer's bits for each row of tiles.

The tiles are those by which the native Frame finds changes, so that nothing is sent that didn't change.
"""

from collections.abc import Iterable

from ring3.display.screen import Rect

TILE_WIDTH, TILE_HEIGHT = 32, 16        # pixels


class Region:
    def __init__(self, width: int, height: int) -> None:
        """Empty, on a screen of that size."""
        self.width, self.height = width, height
        self._rows = [0] * (-(-height // TILE_HEIGHT))

    def __bool__(self) -> bool:
        return any(self._rows)

    def add(self, rect: Rect) -> None:
        """All tiles that the rectangle touches."""
        inside = rect.within(self.width, self.height)
        if not inside.width or not inside.height:
            return
        first, last = inside.x // TILE_WIDTH, (inside.x + inside.width - 1) // TILE_WIDTH
        mask = (1 << (last + 1)) - (1 << first)
        top, bottom = inside.y // TILE_HEIGHT, (inside.y + inside.height - 1) // TILE_HEIGHT
        for row in range(top, bottom + 1):
            self._rows[row] |= mask

    def add_all(self, rects: Iterable[Rect]) -> None:
        for rect in rects:
            self.add(rect)

    def everything(self) -> None:
        self.add(Rect(0, 0, self.width, self.height))

    def take(self) -> list[Rect]:
        """The tiles as rectangles that don't overlap; the region is empty then."""
        rects: list[Rect] = []
        open_rects: dict[tuple[int, int], Rect] = {}    # those that reach the row above, by x and width
        for row, bits in enumerate(self._rows):
            reached: dict[tuple[int, int], Rect] = {}
            height = min(TILE_HEIGHT, self.height - row * TILE_HEIGHT)
            for x, width in self._runs(bits):
                above = open_rects.pop((x, width), None)
                if above is None:
                    reached[x, width] = Rect(x, row * TILE_HEIGHT, width, height)
                else:
                    reached[x, width] = Rect(x, above.y, width, above.height + height)
            rects += open_rects.values()
            open_rects = reached
        rects += open_rects.values()
        self._rows = [0] * len(self._rows)
        return sorted(rects, key=lambda rect: (rect.y, rect.x))

    def _runs(self, bits: int) -> Iterable[tuple[int, int]]:
        """x and width in pixels of each run of tiles in a row."""
        at = 0
        while bits:
            skipped = (bits & -bits).bit_length() - 1
            bits >>= skipped
            length = (~bits & (bits + 1)).bit_length() - 1
            bits >>= length
            x = (at + skipped) * TILE_WIDTH
            at += skipped + length
            yield x, min(length * TILE_WIDTH, self.width - x)
