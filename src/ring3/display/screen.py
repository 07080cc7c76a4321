"""A machine's screen: pixels, text, and news of changes, for programs and consoles.

    screen.wait("login:")
    screen.image().save("screen.png")
    unwatch = screen.watch(lambda damage: print(damage.rects))

Theory.  The video chip is a `Source`.  While somebody watches, its `changed_fd` becomes readable at the first
change after each `collect`; the event loop then collects what changed, at most every INTERVAL_S, and tells
the watchers.  While nothing changes nothing runs, and while nobody watches nothing is even noticed.

1. Watchers are called in the event loop's thread only; everything else may be called from any thread.
2. `collect` comes before the watchers look: what the guest draws while they do makes the fd readable again.
3. A watcher that raises is reported to the loop's exception handler; the others are called all the same.
4. Lock order: `_lock`, then nothing.  The machine lock is the source's own affair.

Until `attach` (the machine starts) and after `close` watchers are kept and nobody calls them.
"""

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ring3.display import glyphs

if TYPE_CHECKING:
    import asyncio

    from PIL.Image import Image

GATHER_S = 0.002                        # from the first change to the look at it: drawing comes in bursts
INTERVAL_S = 0.015                      # the shortest time between two looks


@dataclass(frozen=True, slots=True)
class Rect:
    """In pixels; the origin is the screen's upper left corner."""

    x: int
    y: int
    width: int
    height: int

    def within(self, width: int, height: int) -> "Rect":
        """The part of it that lies on a screen of that size; perhaps empty."""
        left, top = min(max(self.x, 0), width), min(max(self.y, 0), height)
        right, bottom = min(self.x + self.width, width), min(self.y + self.height, height)
        return Rect(left, top, max(right - left, 0), max(bottom - top, 0))


@dataclass(frozen=True, slots=True)
class TextCells:
    """A text screen.  Codes are code page 437, attributes the VGA's; row by row from the upper left."""

    columns: int
    rows: int
    codes: bytes
    attributes: bytes
    cursor: tuple[int, int] | None = None   # column, row; None: not shown

    def text(self) -> str:
        """Rows joined by newlines, without the blanks at their ends."""
        starts = range(0, self.columns * self.rows, self.columns)
        return "\n".join(glyphs.unicode(self.codes[at : at + self.columns]).rstrip() for at in starts)


@dataclass(frozen=True, slots=True)
class Damage:
    """What changed since the last time."""

    rects: tuple[Rect, ...] = ()
    resized: bool = False               # the screen has another size: everything changed


Watcher = Callable[[Damage], None]


class Source(Protocol):
    """Video hardware, as a screen sees it.  Callable from any thread, the machine lock not held."""

    @property
    def changed_fd(self) -> int:
        """An eventfd: readable from the first change after `collect` on, while watched."""
        ...

    def size(self) -> tuple[int, int]: ...

    def pixels(self, rect: Rect) -> bytes:
        """BGRX, rows packed; `rect` lies on the screen."""
        ...

    def cells(self) -> TextCells | None:
        """The text in text modes; None in graphics modes."""
        ...

    def glyphs(self) -> TextCells | None:
        """In graphics modes: the text drawn in one of the machine's own fonts; None in text modes."""
        ...

    def watch(self, watched: bool) -> None:
        """Whether changes are to be noticed."""
        ...

    def collect(self) -> Damage:
        """What changed since the last `collect`, or since `watch(True)`: then everything."""
        ...


class WaitError(AssertionError):
    """The text did not come; the message has the screen's."""


class Screen:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._watchers: dict[object, Watcher] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching = False
        self._due: asyncio.TimerHandle | None = None
        self._looked_s = float("-inf")
        self._ended = threading.Event()

    # --- what is on it ---

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._source.size()

    def pixels(self, rect: Rect | None = None) -> bytes:
        """BGRX, 4 bytes a pixel, rows packed; what of `rect` lies beyond the screen is black."""
        width, height = self.size
        if rect is None:
            return self._source.pixels(Rect(0, 0, width, height))
        inside = rect.within(width, height)
        if inside == rect:
            return self._source.pixels(rect)
        return _padded(self._source.pixels(inside), inside, rect)

    def cells(self) -> TextCells | None:
        return self._source.cells()

    def text(self) -> str:
        """The screen's text; in graphics modes what is drawn exactly in one of the machine's own fonts."""
        cells = self._source.cells() or self._source.glyphs()
        return cells.text() if cells else ""

    def image(self) -> "Image":
        from PIL import Image  # here: most machines' screens are never saved

        width, height = self.size
        data = self.pixels(Rect(0, 0, width, height))
        return Image.frombytes("RGB", (width, height), data, "raw", "BGRX")

    # --- changes ---

    def watch(self, callback: Watcher) -> Callable[[], None]:
        """Calls back soon after each change, first with the whole screen; returns what ends that."""
        token = object()
        with self._lock:
            self._watchers[token] = callback
        self._call_soon(self._greet, callback)

        def unwatch() -> None:
            with self._lock:
                self._watchers.pop(token, None)
            self._call_soon(self._update)

        return unwatch

    def wait(self, text: str, *, regex: bool = False, timeout_s: float = 60.0) -> re.Match[str]:
        """Waits until the screen has the text, or a match of the regular expression; raises WaitError."""
        wanted = re.compile(text if regex else re.escape(text), re.MULTILINE)
        changed = threading.Event()
        deadline_s = time.monotonic() + timeout_s
        unwatch = self.watch(lambda damage: changed.set())
        try:
            while True:
                changed.clear()
                ended = self._ended.is_set()
                shown = self.text()
                match = wanted.search(shown)
                if match is not None:
                    return match
                if ended or not changed.wait(max(deadline_s - time.monotonic(), 0)):
                    why = "the machine has ended" if ended else f"waited {timeout_s:g} s"
                    raise WaitError(f"{text!r} did not come ({why}); the screen shows:\n{shown}")
        finally:
            unwatch()

    # --- the machine's side ---

    def attach(self, loop: "asyncio.AbstractEventLoop") -> None:
        """Watchers are called in `loop`'s thread, which is this one."""
        self._loop = loop
        self._update()
        self._tell(self._whole())

    def close(self) -> None:
        """The machine has ended; in the loop's thread.  Waits end."""
        self._ended.set()
        self._stop_looking()
        self._loop = None
        self._tell(Damage())

    # --- the event loop's thread ---

    def _call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(function, *arguments)
            except RuntimeError:        # the loop was closed meanwhile: the machine has ended
                return

    def _greet(self, callback: Watcher) -> None:
        self._update()
        self._call(callback, self._whole())

    def _whole(self) -> Damage:
        width, height = self.size
        return Damage((Rect(0, 0, width, height),))

    def _update(self) -> None:
        """Looks while somebody watches."""
        with self._lock:
            wanted = bool(self._watchers)
        if wanted and not self._watching and self._loop is not None:
            self._watching = True
            self._loop.add_reader(self._source.changed_fd, self._changed)
            self._source.watch(True)
        elif not wanted:
            self._stop_looking()

    def _stop_looking(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._watching and self._loop is not None:
            self._watching = False
            self._source.watch(False)
            self._loop.remove_reader(self._source.changed_fd)

    def _changed(self) -> None:
        try:
            os.eventfd_read(self._source.changed_fd)
        except BlockingIOError:
            return
        if self._due is None and self._loop is not None:
            now_s = self._loop.time()
            self._due = self._loop.call_at(max(now_s + GATHER_S, self._looked_s + INTERVAL_S), self._look)

    def _look(self) -> None:
        self._due = None
        if self._loop is None:
            return
        self._looked_s = self._loop.time()
        damage = self._source.collect()
        if damage.rects or damage.resized:
            self._tell(damage)

    def _tell(self, damage: Damage) -> None:
        with self._lock:
            watchers = list(self._watchers.values())
        for watcher in watchers:
            self._call(watcher, damage)

    def _call(self, watcher: Watcher, damage: Damage) -> None:
        try:
            watcher(damage)
        except Exception as error:
            if self._loop is not None:
                message = "a watcher of the screen failed"
                self._loop.call_exception_handler({"message": message, "exception": error})


def _padded(data: bytes, inside: Rect, rect: Rect) -> bytes:
    """`data` of `inside` as part of the black `rect`."""
    out = bytearray(4 * rect.width * rect.height)
    left, row_bytes = inside.x - rect.x, 4 * inside.width
    for row in range(inside.height):
        at = 4 * ((inside.y - rect.y + row) * rect.width + left)
        out[at : at + row_bytes] = data[row * row_bytes : (row + 1) * row_bytes]
    return bytes(out)
