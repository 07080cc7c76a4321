"""`--display window`: the machine's screen in a window (pygame-ce, extra `window`).

The window is a process of its own (`window_sdl.py`), because Xlib ends the process whose X server goes away:
then the window has gone, and the machine and its other consoles go on.  Here is the machine's end.

The two talk in tuples over a socket.  The window is told that the screen has "changed", once, and asks for
the picture with "draw" when it is ready for one; so a window that is slow, or stopped, holds nothing up.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from ring3.display.face import Face
from ring3.display.screen import Damage, Rect
from ring3.errors import ConfigError

START_PATIENCE_S = 10.0
STOP_PATIENCE_S = 2.0
RECTS_MAX = 64                          # of what is to be drawn; beyond that it is everything


class Window(Protocol):
    """The other end's process."""

    def wait(self, timeout: float) -> object:
        """Raises subprocess.TimeoutExpired."""

    def kill(self) -> None: ...


Launch = Callable[[Connection, str, tuple[int, int]], Window]


def launch(link: Connection, name: str, size: tuple[int, int]) -> Window:
    """A session of its own, so that Ctrl-C at the machine's terminal doesn't reach it."""
    fd = link.fileno()
    command = [sys.executable, "-m", "ring3.display.window_sdl", str(fd), name, *map(str, size)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(fd,), start_new_session=True)


class WindowConsole:
    def __init__(self, face: Face, launch: Launch = launch) -> None:
        if importlib.util.find_spec("pygame") is None:
            raise ConfigError("display window: pygame-ce is missing: run pip install 'ring3[window]', "
                              "or give --display browser")
        self._face = face
        self._launch = launch
        self._keys: set[int] = set()    # that are down
        self._buttons = 0
        self._absolute: bool | None = None              # what the window knows of the mouse
        self._dirty: list[Rect] = []
        self._told = False                              # … that the screen has changed
        self._lock = threading.Lock()                   # of `_dirty`, `_told` and the life of `_wake`
        self._wake = -1                                 # an eventfd, while it is open
        self._closing = False
        self._unwatch: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._serve, name="window", daemon=True)

    def where(self) -> str:
        return ""

    def start(self) -> None:
        self._link, far = Pipe()
        with far:
            self._window = self._launch(far, self._face.name, self._face.screen.size)
        failure = "it takes too long"
        if self._link.poll(START_PATIENCE_S):
            try:
                failure = self._link.recv()[0]
            except EOFError:
                failure = "its process has ended"
        if failure:
            self._end()
            raise ConfigError(f"display window: no window can be opened ({failure}): give --display browser")
        self._wake = os.eventfd(0)
        self._unwatch = self._face.screen.watch(self._damaged)
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._closing = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
        self._thread.join(STOP_PATIENCE_S)
        if self._thread.is_alive():     # the window takes nothing any more
            self._window.kill()
            self._thread.join()

    # --- any thread ---

    def _damaged(self, damage: Damage) -> None:
        with self._lock:
            self._dirty.extend(damage.rects)
            if len(self._dirty) > RECTS_MAX or damage.resized:
                self._dirty = [Rect(0, 0, *self._face.screen.size)]
            if not self._told and self._wake >= 0:
                self._told = True
                os.eventfd_write(self._wake, 1)

    # --- the window's thread ---

    def _serve(self) -> None:
        with contextlib.suppress(EOFError, OSError):    # the window has gone
            self._tell_mouse()
            while not self._closing:
                ready = wait((self._link, self._wake))
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                    self._tell("changed")
                if self._link in ready:
                    self._obey(self._link.recv())
        self._unwatch()
        with self._lock:
            os.close(self._wake)
            self._wake = -1
        self._release()
        self._end()

    def _end(self) -> None:
        self._link.close()
        try:
            self._window.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._window.kill()
            self._window.wait(STOP_PATIENCE_S)

    def _obey(self, message: tuple[Any, ...]) -> None:
        keyboard, mouse = self._face.keyboard, self._face.mouse
        match message:
            case ("draw",):
                self._send_picture()
            case ("key", code, pressed):
                self._keys.add(code) if pressed else self._keys.discard(code)
                keyboard.key(code, pressed)
            case ("press", keys):
                keyboard.press(keys, wait=False)
            case ("move", x, y):
                mouse.move(x, y)
            case ("move_by", dx, dy):
                mouse.move_by(dx, dy)
            case ("buttons", mask):
                self._buttons = mask
                mouse.buttons(mask)
            case ("scroll", dz):
                mouse.scroll(dz)
            case ("quit",):
                self._face.power.quit()
        self._tell_mouse()

    def _tell(self, *message: Any) -> None:
        with contextlib.suppress(OSError):              # it has gone; what it said last is still to be read
            self._link.send(message)

    def _tell_mouse(self) -> None:
        if self._face.mouse.absolute != self._absolute:
            self._absolute = self._face.mouse.absolute
            self._tell("absolute", self._absolute)

    def _send_picture(self) -> None:
        with self._lock:
            dirty, self._dirty = self._dirty, []
            self._told = False
        size = self._face.screen.size
        inside = [rect.within(*size) for rect in dirty]
        rects = [rect for rect in inside if rect.width and rect.height]
        self._tell("picture", size, [(rect.x, rect.y, rect.width, rect.height) for rect in rects])
        with contextlib.suppress(OSError):
            for rect in rects:
                self._link.send_bytes(self._face.screen.pixels(rect))

    def _release(self) -> None:
        """Keys and buttons that were down when the window went."""
        for code in self._keys:
            self._face.keyboard.key(code, False)
        if self._buttons:
            self._face.mouse.buttons(0)
