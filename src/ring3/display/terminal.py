"""`--display terminal`: the machine's screen and keyboard in the user's terminal.

Text modes as text with their colours and the cursor, graphics as half blocks.  Keys go to the machine as they
are, function keys, Alt and pastes included, but Ctrl-] (ring3.char.escape).

Threads: one draws, one reads.  Drawing waits for the terminal, so a slow one gets fewer pictures; the
machine's threads only say that something changed.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable

from ring3.char.escape import HELP, MENU, Command, EscapeFilter
from ring3.char.reader import Reader
from ring3.char.terminal import RawTerminal
from ring3.display.ansi import (
    ENTER_SCREEN,
    LEAVE_SCREEN,
    Canvas,
    Chord,
    KeyParser,
    colours_of,
)
from ring3.display.face import Face
from ring3.display.screen import Damage
from ring3.errors import ConfigError

CHUNK = 4096                            # bytes per read
ESCAPE_S = 0.05                         # after a lone Escape: no terminal takes so long within a sequence
TEXT_INTERVAL_S = 0.02                  # shortest time between two pictures of a text mode
GRAPHICS_INTERVAL_S = 0.1               # … of a graphics mode: thousands of coloured cells each
PATIENCE_S = 0.5                        # for a terminal that takes nothing, at the end
HELP_LINE = " | ".join(line.partition(":")[0] for line in HELP.splitlines())


class TerminalConsole:
    def __init__(self, face: Face, *, stdin_fd: int = 0, stdout_fd: int = 1) -> None:
        if not (os.isatty(stdin_fd) and os.isatty(stdout_fd)):
            raise ConfigError("display terminal: standard input and output are no terminal: "
                              "give --display browser or vnc")
        self._face = face
        self._stdin, self._stdout = stdin_fd, stdout_fd
        self._canvas = Canvas(*os.get_terminal_size(stdout_fd), colours_of(os.environ))
        self._keys = KeyParser()
        self._escape = EscapeFilter()
        self._message = ""
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._reader = Reader("terminal-keys", self._read)
        self._drawer = threading.Thread(target=self._draw_on, name="terminal", daemon=True)
        self._terminal: RawTerminal | None = None
        self._unwatch: Callable[[], None] = lambda: None

    def where(self) -> str:
        return ""

    def start(self) -> None:
        self._terminal = RawTerminal(self._stdin)
        self._write(ENTER_SCREEN)
        self._unwatch = self._face.screen.watch(self._damaged)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGWINCH, lambda number, frame: self._changed.set())
        self._drawer.start()
        self._reader.start()

    def stop(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._unwatch()
        self._changed.set()
        self._reader.stop()
        if self._drawer.is_alive():
            self._drawer.join(PATIENCE_S)
        self.restore()

    def restore(self) -> None:
        """The terminal as it was; for a process that ends without `stop`, too."""
        if self._terminal is not None:
            if not self._drawer.is_alive():
                self._write(LEAVE_SCREEN)
            self._terminal.restore()
            self._terminal = None

    # --- drawing ---

    def _damaged(self, damage: Damage) -> None:
        self._changed.set()

    def _draw_on(self) -> None:
        while not self._ended.is_set():
            self._changed.wait()
            self._changed.clear()
            if self._ended.is_set():
                return
            try:
                interval_s = self._draw()
            except OSError:             # the terminal is gone
                return
            self._ended.wait(interval_s)

    def _draw(self) -> float:
        """Brings the terminal up to date; the time until it may be done again."""
        size = os.get_terminal_size(self._stdout)
        if size != (self._canvas.columns, self._canvas.rows):
            self._write(self._canvas.resize(*size))
        cells = self._face.screen.cells()
        if cells is not None:
            self._write(self._canvas.draw_text(cells, self._message))
            return TEXT_INTERVAL_S
        self._write(self._canvas.draw_pixels(*self._picture(), self._message))
        return GRAPHICS_INTERVAL_S

    def _picture(self) -> tuple[bytes, int, int]:
        """The screen as RGB, made to fit: two pixels stand in each cell, one over the other."""
        from PIL import Image

        size = self._face.screen.size
        image = Image.frombytes("RGB", size, self._face.screen.pixels(), "raw", "BGRX")
        room = (self._canvas.columns, 2 * self._canvas.rows)
        scale = min(room[0] / size[0], room[1] / size[1])
        fitting = (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))
        small = image.resize(fitting, Image.Resampling.BOX)
        return small.tobytes(), *fitting

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._stdout, data) :]

    # --- typing ---

    def _read(self, reader: Reader) -> None:
        while reader.readable(self._stdin):
            try:
                data = os.read(self._stdin, CHUNK)
            except OSError:             # a terminal that hung up
                return
            if not data:
                return
            if self._message:
                self._say("")
            for event in self._escape.feed(data):
                if isinstance(event, bytes):
                    self._type(event)
                else:
                    self._obey(event)

    def _type(self, data: bytes) -> None:
        actions = self._keys.feed(data)
        if self._keys.pending and not self._more_comes():
            actions += self._keys.flush()
        keyboard = self._face.keyboard
        for action in actions:
            with contextlib.suppress(ConfigError):      # a character that the machine's keyboard hasn't
                if isinstance(action, Chord):
                    keyboard.press(action.keys, wait=False)
                else:
                    keyboard.type(action.text, wait=False)

    def _more_comes(self) -> bool:
        return bool(select.select([self._stdin], [], [], ESCAPE_S)[0])

    def _obey(self, command: Command) -> None:
        match command:
            case Command.MENU:
                self._say(MENU)
            case Command.HELP:
                self._say(HELP_LINE)
            case Command.QUIT:
                self._face.power.quit()
            case Command.RESET:
                self._face.power.reset()
            case Command.PAUSE:
                self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        power = self._face.power
        if power.paused:
            power.resume()
        else:
            power.pause()
            self._say("paused: Ctrl-] p to let it run on")

    def _say(self, message: str) -> None:
        """In the last line, until the next key."""
        self._message = message
        self._changed.set()
