"""`stdio`: the guest's serial port on standard input and output.

On a terminal: raw mode, and Ctrl-] then a key for us (ring3.char.escape).  On pipes and files: bytes as they
are, nothing escaped; the end of the input is the end of the typing, not of the guest.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping

from ring3.char import Receive
from ring3.char.escape import HELP, MENU, Command, EscapeFilter
from ring3.char.inlet import Inlet
from ring3.char.outlet import Outlet
from ring3.char.reader import Reader
from ring3.char.terminal import RawTerminal

CHUNK = 4096                            # bytes per read


class Stdio:
    """`menu` maps "quit", "reset" and "pause" to what they do; called in the reader's thread."""

    def __init__(self, menu: Mapping[str, Callable[[], None]], stdin_fd: int = 0, stdout_fd: int = 1) -> None:
        self._menu = menu
        self._stdin = stdin_fd
        self._terminal: RawTerminal | None = None
        self._escape: EscapeFilter | None = None
        self._inlet = Inlet()
        self._outlet = Outlet(stdout_fd)
        self._reader = Reader("stdin", self._read)

    @property
    def lost(self) -> int:
        """Bytes of output that standard output did not take."""
        return self._outlet.lost

    def attach(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        if os.isatty(self._stdin):
            self._terminal = RawTerminal(self._stdin)
            self._escape = EscapeFilter()
        self._inlet.attach(loop, receive)
        self._reader.start()

    def write(self, data: bytes) -> None:
        self._outlet.write(data)

    def room(self) -> None:
        self._inlet.room()

    def close(self) -> None:
        self._inlet.close()
        self._reader.stop()
        self._outlet.close()
        self.restore_terminal()

    def restore_terminal(self) -> None:
        """Only that: for a process that ends without `close`."""
        if self._terminal is not None:
            self._terminal.restore()

    # --- the reader's thread ---

    def _read(self, reader: Reader) -> None:
        while self._inlet.wait_for_space() and reader.readable(self._stdin):
            try:
                data = os.read(self._stdin, CHUNK)
            except OSError:             # closed, or a terminal that hung up
                return
            if not data:
                return
            for event in self._escape.feed(data) if self._escape else [data]:
                if isinstance(event, bytes):
                    self._inlet.put(event)
                else:
                    self._obey(event)

    def _obey(self, command: Command) -> None:
        match command:
            case Command.MENU:
                self._say(MENU)
            case Command.HELP:
                self._say(HELP)
            case _:
                self._menu.get(command.value, lambda: None)()

    def _say(self, text: str) -> None:
        sys.stderr.write("\r\n" + text + "\r\n")
        sys.stderr.flush()
