"""`pty`: the serial port as a pseudo-terminal, for `screen`, `minicom` and the like; its path is printed.

We keep the terminal's own end open as well, so that one may come and go.  What the guest sends while nobody
reads stays in the terminal until that is full; after that it is lost.
"""

import asyncio
import os
import sys
import tty

from ring3.char import Receive
from ring3.char.inlet import Inlet
from ring3.char.outlet import Outlet
from ring3.char.reader import Reader
from ring3.errors import HostError

CHUNK = 4096                            # bytes per read


class Pty:
    def __init__(self, setting: str = "serial") -> None:
        try:
            self._ours, self._theirs = os.openpty()
        except OSError as error:
            raise HostError(f"{setting} pty: the host gives no pseudo-terminal: {error.strerror}") from error
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.path = os.ttyname(self._theirs)
        self._setting = setting
        self._inlet = Inlet()
        self._outlet = Outlet(self._ours)
        self._reader = Reader(f"{setting}-{self.path}", self._read)

    @property
    def lost(self) -> int:
        """Bytes that nobody read in time."""
        return self._outlet.lost

    def attach(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        sys.stderr.write(f"ring3: {self._setting} port on {self.path}\n")
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
        for fd in (self._ours, self._theirs):
            if fd >= 0:
                os.close(fd)
        self._ours = self._theirs = -1

    def _read(self, reader: Reader) -> None:
        while self._inlet.wait_for_space() and reader.readable(self._ours):
            try:
                data = os.read(self._ours, CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not data:
                return
            self._inlet.put(data)
