"""A video source without hardware: what a test draws is what a Screen shows."""

import os
import threading

from ring3.display.screen import Damage, Rect, TextCells


class FakeSource:
    """80×25 text cells of 8×16 pixels at first; `draw_pixels` makes it a picture."""

    def __init__(self, columns=80, rows=25):
        self.changed_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watched = False
        self.collected = 0
        self._lock = threading.Lock()
        self._damage = []
        self._resized = False
        self._picture = None
        self.text_cells = TextCells(columns, rows, b" " * (columns * rows), b"\x07" * (columns * rows))

    def print(self, text, column=0, row=0, attribute=0x07):
        """Draws in CP437."""
        with self._lock:
            cells = self.text_cells
            codes, attributes = bytearray(cells.codes), bytearray(cells.attributes)
            at = row * cells.columns + column
            data = text.encode("cp437")
            codes[at : at + len(data)] = data
            attributes[at : at + len(data)] = bytes([attribute]) * len(data)
            self.text_cells = TextCells(cells.columns, cells.rows, bytes(codes), bytes(attributes))
            self._damage.append(Rect(8 * column, 16 * row, 8 * len(data), 16))
        self._signal()

    def draw_pixels(self, width, height, data, rects=None):
        """`data`: BGRX."""
        with self._lock:
            self._resized = self._size() != (width, height)
            self._picture = (width, height, data)
            self._damage += rects or [Rect(0, 0, width, height)]
        self._signal()

    def _signal(self):
        if self.watched:
            os.eventfd_write(self.changed_fd, 1)

    def _size(self):
        if self._picture:
            return self._picture[:2]
        return 8 * self.text_cells.columns, 16 * self.text_cells.rows

    # --- ring3.display.screen.Source ---

    def size(self):
        with self._lock:
            return self._size()

    def pixels(self, rect):
        with self._lock:
            if self._picture is None:   # no font: a cell is filled with its code
                columns, codes = self.text_cells.columns, self.text_cells.codes
                return b"".join(
                    bytes([codes[y // 16 * columns + x // 8]]) * 3 + b"\0"
                    for y in range(rect.y, rect.y + rect.height)
                    for x in range(rect.x, rect.x + rect.width)
                )
            width, _, data = self._picture
            starts = (4 * (y * width + rect.x) for y in range(rect.y, rect.y + rect.height))
            return b"".join(data[at : at + 4 * rect.width] for at in starts)

    def cells(self):
        return None if self._picture else self.text_cells

    def glyphs(self):
        return None

    def watch(self, watched):
        self.watched = watched

    def collect(self):
        with self._lock:
            damage = Damage(tuple(self._damage), self._resized)
            self._damage, self._resized = [], False
            self.collected += 1
            return damage
