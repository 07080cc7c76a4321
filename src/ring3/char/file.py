"""`file:PATH`: what the guest sends goes to a file; it has nothing to read."""

import asyncio
import os

from ring3.char import Receive
from ring3.char.outlet import Outlet
from ring3.errors import ConfigError


class File:
    def __init__(self, path: str, setting: str = "serial") -> None:
        try:
            # A FIFO without a reader would hold the open up: take it for reading, too, as Linux lets us.
            flags = os.O_RDWR if os.path.exists(path) and not os.path.isfile(path) else os.O_WRONLY
            self._fd = os.open(path, flags | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"{setting} file:{path}: {error.strerror}; give a writable path") from error
        self._outlet = Outlet(self._fd)

    def attach(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        pass

    def write(self, data: bytes) -> None:
        self._outlet.write(data)

    def room(self) -> None:
        pass

    def close(self) -> None:
        self._outlet.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
