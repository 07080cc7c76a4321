"""The window of `--display window`: a process that shows pictures and says what the user does (pygame-ce).

The window can be made larger or smaller; the picture is scaled, its shape kept.  A guest that knows no
positions gets the mouse by a click; Ctrl-Alt gives it back.  Ctrl-Alt-F: full screen; Ctrl-Alt-D: what
Ctrl-Alt-Del would do, which the host keeps for itself.  Closing the window pulls the plug, as its title says.

One thread has all of SDL.  It sleeps until SDL has an event; what the machine (`window.py`) says comes as
events, too, from a thread that reads.  When the machine has gone, the window goes.
"""

import contextlib
import os
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

INTERVAL_MS = 16                        # shortest time between two pictures
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


class SdlWindow:
    def __init__(self, link: Connection, name: str, size: tuple[int, int]) -> None:
        import pygame

        self._pygame: Any = pygame
        self._link = link
        self._name = name
        self._size = size               # of the guest's screen
        self._window: Any = None
        self._picture: Any = None       # the guest's screen, in its own size
        self._absolute = True           # the guest's mouse
        self._held: set[int] = set()    # SDL's scan codes
        self._buttons = 0
        self._captured = False
        self._full_screen = False
        self._drawn_ms = 0
        # SDL's numbers for what the machine says.
        self._changed = self._received = 0

    def run(self) -> None:
        """Until the window is closed, or the machine ends."""
        pygame = self._pygame
        try:
            pygame.display.init()
            self._changed, self._received = pygame.event.custom_type(), pygame.event.custom_type()
            self._open(self._size)
        except pygame.error as error:
            self._tell(str(error) or "SDL doesn't say why")
            return
        self._tell("")
        threading.Thread(target=self._read, name="machine", daemon=True).start()
        while self._handle(pygame.event.wait()):
            pass
        self._let_go()
        pygame.display.quit()

    def _tell(self, *message: Any) -> None:
        with contextlib.suppress(OSError):      # the machine has gone, and `_read` finds out
            self._link.send(message)

    # --- the thread that reads ---

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                match self._link.recv():
                    case ("changed",):
                        self._post(self._changed)
                    case ("absolute", absolute):
                        self._absolute = absolute
                    case ("picture", size, rects):
                        parts = [(rect, self._link.recv_bytes()) for rect in rects]
                        self._post(self._received, screen=size, parts=parts)
        self._post(self._pygame.QUIT, ours=True)

    def _post(self, kind: int, **values: Any) -> None:
        with contextlib.suppress(self._pygame.error):       # the window is gone
            self._pygame.event.post(self._pygame.event.Event(kind, values))

    # --- SDL's thread ---

    def _open(self, size: tuple[int, int], picture: Any = None) -> None:
        """… and shows that picture, if there is one."""
        pygame = self._pygame
        flags = pygame.RESIZABLE | (pygame.FULLSCREEN if self._full_screen else 0)
        self._window = pygame.display.set_mode((0, 0) if self._full_screen else size, flags)
        self._picture = picture or pygame.Surface(size, 0, 32, (0xFF0000, 0xFF00, 0xFF, 0))
        self._title()

    def _title(self) -> None:
        note = f" - {CTRL_ALT}" if self._captured else ""
        self._pygame.display.set_caption(f"{self._name} - Ring3{note}")

    def _handle(self, event: Any) -> bool:
        """False when the window is to close."""
        pygame = self._pygame
        if event.type == pygame.QUIT:
            if not getattr(event, "ours", False):
                self._tell("quit")
            return False
        if event.type == self._changed:
            pygame.time.wait(max(0, self._drawn_ms + INTERVAL_MS - pygame.time.get_ticks()))
            self._drawn_ms = pygame.time.get_ticks()
            self._tell("draw")
        elif event.type == self._received:
            self._draw(event.screen, event.parts)
        elif event.type in (pygame.KEYDOWN, pygame.KEYUP):
            self._key(event.scancode, event.type == pygame.KEYDOWN)
        elif event.type in (pygame.MOUSEMOTION, pygame.MOUSEBUTTONDOWN, pygame.MOUSEBUTTONUP):
            self._mouse(event)
        elif event.type == pygame.MOUSEWHEEL:
            self._tell("scroll", -event.y)
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._let_go()
        elif event.type in (pygame.VIDEORESIZE, pygame.WINDOWEXPOSED):
            self._show()
        return True

    # --- pictures ---

    def _draw(self, size: tuple[int, int], parts: list[tuple[tuple[int, int, int, int], bytes]]) -> None:
        if size != self._size:
            self._size = size
            self._open(size)
        for (x, y, width, height), pixels in parts:
            part = self._pygame.image.frombuffer(pixels, (width, height), "BGRA")
            part.set_alpha(None)        # the fourth byte means nothing
            self._picture.blit(part, (x, y))
        self._show()

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
                self._open(self._size, self._picture)
                self._show()
                return
            if chord and scancode == KEY_D:
                self._tell("press", "ctrl-alt-del")
                return
            self._held.add(scancode)
            if self._captured and {LEFT_CTRL, LEFT_ALT} <= self._held:
                self._capture(False)
        else:
            self._held.discard(scancode)
        if code is not None:
            self._tell("key", code, pressed)

    def _let_go(self) -> None:
        """The user is elsewhere."""
        for scancode in tuple(self._held):
            self._key(scancode, False)
        if self._buttons:
            self._buttons = 0
            self._tell("buttons", 0)
        self._capture(False)

    # --- the mouse ---

    def _mouse(self, event: Any) -> None:
        pygame = self._pygame
        if self._absolute:
            self._capture(False)
            x, y, width, height = self._place()
            across, down = self._size
            self._tell("move", max(0, min((event.pos[0] - x) * across // width, across - 1)),
                       max(0, min((event.pos[1] - y) * down // height, down - 1)))
        elif not self._captured:
            if event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
                self._capture(True)
            return
        elif event.type == pygame.MOUSEMOTION and event.rel != (0, 0):
            self._tell("move_by", *event.rel)
        if event.type != pygame.MOUSEMOTION and event.button in BUTTONS:
            bit = BUTTONS[event.button]
            down_now = event.type == pygame.MOUSEBUTTONDOWN
            self._buttons = self._buttons | bit if down_now else self._buttons & ~bit
            self._tell("buttons", self._buttons)

    def _capture(self, wanted: bool) -> None:
        if wanted != self._captured:
            self._captured = wanted
            self._pygame.event.set_grab(wanted)
            self._pygame.mouse.set_visible(not wanted)
            self._title()


def main() -> None:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    fd, name, width, height = sys.argv[1:]
    SdlWindow(Connection(int(fd)), name, (int(width), int(height))).run()


if __name__ == "__main__":
    main()
