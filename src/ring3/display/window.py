"""`--display window`: the machine's screen in a window (pygame-ce, extra `window`).

The window can be made larger or smaller; the picture is scaled, its shape kept.  A guest that knows no
positions gets the mouse by a click; Ctrl-Alt gives it back.  Ctrl-Alt-F: full screen; Ctrl-Alt-D: what
Ctrl-Alt-Del would do, which the host keeps for itself.  Closing the window pulls the plug, as its title says.

One thread has all of SDL.  It sleeps until SDL has an event; changes of the screen come as one, too.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

from ring3.display.face import Face
from ring3.display.screen import Damage, Rect
from ring3.errors import ConfigError

INTERVAL_MS = 16                        # shortest time between two pictures
START_PATIENCE_S = 10.0
CTRL_ALT = "Ctrl-Alt gives the mouse back"

# SDL's scan codes are USB HID usages (HID Usage Tables, §10); ours are those of set 1.
_LETTERS = (0x1E, 0x30, 0x2E, 0x20, 0x12, 0x21, 0x22, 0x23, 0x17, 0x24, 0x25, 0x26, 0x32,
            0x31, 0x18, 0x19, 0x10, 0x13, 0x1F, 0x14, 0x16, 0x2F, 0x11, 0x2D, 0x15, 0x2C)
_PUNCTUATION = (0x1C, 0x01, 0x0E, 0x0F, 0x39, 0x0C, 0x0D, 0x1A, 0x1B, 0x2B, 0x2B, 0x27, 0x28, 0x29,
                0x33, 0x34, 0x35, 0x3A)
_EDITING = (0xE037, 0x46, 0xE11D, 0xE052, 0xE047, 0xE049, 0xE053, 0xE04F, 0xE051,
            0xE04D, 0xE04B, 0xE050, 0xE048)
_KEYPAD = (0x45, 0xE035, 0x37, 0x4A, 0x4E, 0xE01C, 0x4F, 0x50, 0x51, 0x4B, 0x4C, 0x4D, 0x47, 0x48, 0x49,
           0x52, 0x53, 0x56, 0xE05D)
_MODIFIERS = (0x1D, 0x2A, 0x38, 0xE05B, 0xE01D, 0x36, 0xE038, 0xE05C)
KEYS = {
    **{0x04 + n: code for n, code in enumerate(_LETTERS)},
    **{0x1E + n: 0x02 + n for n in range(10)},
    **{0x28 + n: code for n, code in enumerate(_PUNCTUATION)},
    **{0x3A + n: 0x3B + n for n in range(10)}, 0x44: 0x57, 0x45: 0x58,
    **{0x46 + n: code for n, code in enumerate(_EDITING)},
    **{0x53 + n: code for n, code in enumerate(_KEYPAD)},
    0x87: 0x73, 0x88: 0x70, 0x89: 0x7D, 0x8A: 0x79, 0x8B: 0x7B,
    **{0xE0 + n: code for n, code in enumerate(_MODIFIERS)},
}
BUTTONS = {1: 1, 2: 4, 3: 2, 6: 8, 7: 16}       # pygame's numbers to ring3.display.input.BUTTONS
KEY_D, KEY_F = 0x07, 0x09
LEFT_CTRL, LEFT_ALT = 0xE0, 0xE2


class WindowConsole:
    def __init__(self, face: Face) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ImportError as error:
            raise ConfigError("display window: pygame-ce is missing: run pip install 'ring3[window]', "
                              "or give --display browser") from error
        self._pygame: Any = pygame
        self._face = face
        self._window: Any = None
        self._picture: Any = None       # the guest's screen, in its own size
        self._held: set[int] = set()    # SDL's scan codes
        self._buttons = 0
        self._captured = False
        self._full_screen = False
        self._dirty: list[Rect] = []
        self._lock = threading.Lock()   # of `_dirty`
        self._drawn_ms = 0
        self._changed = 0               # SDL's number for "the screen has changed"
        self._unwatch: Callable[[], None] = lambda: None
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="window", daemon=True)

    def where(self) -> str:
        return ""

    def start(self) -> None:
        self._thread.start()
        if not self._ready.wait(START_PATIENCE_S) or self._failure is not None:
            raise ConfigError(f"display window: no window can be opened ({self._failure}): "
                              "give --display browser")

    def stop(self) -> None:
        self._unwatch()
        if self._thread.is_alive() and self._window is not None:
            self._post(self._pygame.QUIT, ours=True)
            self._thread.join()

    # --- any thread ---

    def _damaged(self, damage: Damage) -> None:
        with self._lock:
            first = not self._dirty
            self._dirty.extend(damage.rects)
            if len(self._dirty) > 64 or damage.resized:
                self._dirty = [Rect(0, 0, *self._face.screen.size)]
        if first:
            self._post(self._changed)

    def _post(self, kind: int, **values: Any) -> None:
        try:
            self._pygame.event.post(self._pygame.event.Event(kind, values))
        except self._pygame.error:      # the window is gone
            return

    # --- the window's thread ---

    def _run(self) -> None:
        pygame = self._pygame
        try:
            pygame.display.init()
            self._changed = pygame.event.custom_type()
            self._open(self._face.screen.size)
        except pygame.error as error:
            self._failure = error
            self._ready.set()
            return
        self._unwatch = self._face.screen.watch(self._damaged)
        self._ready.set()
        while self._handle(pygame.event.wait()):
            pass
        self._let_go()
        pygame.display.quit()

    def _open(self, size: tuple[int, int]) -> None:
        pygame = self._pygame
        flags = pygame.RESIZABLE | (pygame.FULLSCREEN if self._full_screen else 0)
        self._window = pygame.display.set_mode((0, 0) if self._full_screen else size, flags)
        self._picture = pygame.Surface(size, 0, 32, (0xFF0000, 0xFF00, 0xFF, 0))
        self._title()

    def _title(self) -> None:
        note = f" - {CTRL_ALT}" if self._captured else ""
        self._pygame.display.set_caption(f"{self._face.name} - Ring3{note}")

    def _handle(self, event: Any) -> bool:
        """False when the window is to close."""
        pygame = self._pygame
        if event.type == pygame.QUIT:
            if not getattr(event, "ours", False):
                self._face.power.quit()
            return False
        if event.type == self._changed:
            self._draw()
        elif event.type in (pygame.KEYDOWN, pygame.KEYUP):
            self._key(event.scancode, event.type == pygame.KEYDOWN)
        elif event.type in (pygame.MOUSEMOTION, pygame.MOUSEBUTTONDOWN, pygame.MOUSEBUTTONUP):
            self._mouse(event)
        elif event.type == pygame.MOUSEWHEEL:
            self._face.mouse.scroll(-event.y)
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._let_go()
        elif event.type in (pygame.VIDEORESIZE, pygame.WINDOWEXPOSED):
            self._show()
        return True

    # --- pictures ---

    def _draw(self) -> None:
        """Brings the picture up to date, not too often."""
        pygame = self._pygame
        pygame.time.wait(max(0, self._drawn_ms + INTERVAL_MS - pygame.time.get_ticks()))
        self._drawn_ms = pygame.time.get_ticks()
        with self._lock:
            rects, self._dirty = self._dirty, []
        size = self._face.screen.size
        if size != self._picture.get_size():
            self._open(size)
            rects = [Rect(0, 0, *size)]
        for rect in rects:
            inside = rect.within(*size)
            if inside.width and inside.height:
                self._put(inside)
        self._show()

    def _put(self, rect: Rect) -> None:
        pixels = self._face.screen.pixels(rect)
        part = self._pygame.image.frombuffer(pixels, (rect.width, rect.height), "BGRA")
        part.set_alpha(None)            # the fourth byte means nothing
        self._picture.blit(part, (rect.x, rect.y))

    def _place(self) -> tuple[int, int, int, int]:
        """Where in the window the picture is: in the middle, as large as fits."""
        (width, height), room = self._picture.get_size(), self._window.get_size()
        scale = min(room[0] / width, room[1] / height)
        shown = (max(1, int(width * scale)), max(1, int(height * scale)))
        return (room[0] - shown[0]) // 2, (room[1] - shown[1]) // 2, *shown

    def _show(self) -> None:
        pygame = self._pygame
        x, y, width, height = self._place()
        self._window.fill((0, 0, 0))
        if (width, height) == self._picture.get_size():
            self._window.blit(self._picture, (x, y))
        else:
            self._window.blit(pygame.transform.smoothscale(self._picture, (width, height)), (x, y))
        pygame.display.flip()

    # --- keys ---

    def _key(self, scancode: int, pressed: bool) -> None:
        code = KEYS.get(scancode)
        chord = {LEFT_CTRL, LEFT_ALT} <= self._held
        if pressed:
            if chord and scancode == KEY_F:
                self._full_screen = not self._full_screen
                self._open(self._picture.get_size())
                self._damaged(Damage((), resized=True))
                return
            if chord and scancode == KEY_D:
                self._face.keyboard.press("ctrl-alt-del", wait=False)
                return
            self._held.add(scancode)
            if self._captured and {LEFT_CTRL, LEFT_ALT} <= self._held:
                self._capture(False)
        else:
            self._held.discard(scancode)
        if code is not None:
            self._face.keyboard.key(code, pressed)

    def _let_go(self) -> None:
        """The user is elsewhere."""
        for scancode in tuple(self._held):
            self._key(scancode, False)
        if self._buttons:
            self._buttons = 0
            self._face.mouse.buttons(0)
        self._capture(False)

    # --- the mouse ---

    def _mouse(self, event: Any) -> None:
        pygame, mouse = self._pygame, self._face.mouse
        if mouse.absolute:
            self._capture(False)
            x, y, width, height = self._place()
            across, down = self._picture.get_size()
            mouse.move(max(0, min((event.pos[0] - x) * across // width, across - 1)),
                       max(0, min((event.pos[1] - y) * down // height, down - 1)))
        elif not self._captured:
            if event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
                self._capture(True)
            return
        elif event.type == pygame.MOUSEMOTION and event.rel != (0, 0):
            mouse.move_by(*event.rel)
        if event.type != pygame.MOUSEMOTION and event.button in BUTTONS:
            bit = BUTTONS[event.button]
            down_now = event.type == pygame.MOUSEBUTTONDOWN
            self._buttons = self._buttons | bit if down_now else self._buttons & ~bit
            mouse.buttons(self._buttons)

    def _capture(self, wanted: bool) -> None:
        if wanted != self._captured:
            self._captured = wanted
            self._pygame.event.set_grab(wanted)
            self._pygame.mouse.set_visible(not wanted)
            self._title()
