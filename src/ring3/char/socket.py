"""`socket:PATH`: the serial port as a Unix stream socket.

One client at a time; the next waits in the listen queue until the first has left.  What the guest sends
while nobody is connected is gone, as on an unplugged cable.
"""

import asyncio
import contextlib
import os
import socket
import stat

from ring3.char import Receive
from ring3.char.inlet import Inlet
from ring3.char.outlet import Outlet
from ring3.char.reader import Reader
from ring3.errors import ConfigError

CHUNK = 4096                            # bytes per read


class UnixSocket:
    def __init__(self, path: str) -> None:
        self._path = path
        self._listener = _listen(path)
        self._outlet: Outlet | None = None
        self._inlet = Inlet()
        self._reader = Reader(f"serial-{path}", self._serve)

    def attach(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        self._inlet.attach(loop, receive)
        self._reader.start()

    def write(self, data: bytes) -> None:
        outlet = self._outlet
        if outlet is not None:
            outlet.write(data)

    def room(self) -> None:
        self._inlet.room()

    def close(self) -> None:
        self._inlet.close()
        self._reader.stop()
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    # --- the reader's thread ---

    def _serve(self, reader: Reader) -> None:
        while reader.readable(self._listener.fileno()):
            try:
                client, _ = self._listener.accept()
            except OSError:             # the client gave up before we came
                continue
            with client:
                self._outlet = Outlet(client.fileno())
                self._read(reader, client)
                outlet, self._outlet = self._outlet, None
                outlet.close()

    def _read(self, reader: Reader, client: socket.socket) -> None:
        while self._inlet.wait_for_space() and reader.readable(client.fileno()):
            try:
                data = client.recv(CHUNK)
            except OSError:
                return
            if not data:
                return
            self._inlet.put(data)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(path)
        listener.listen(1)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)           # a path over 107 bytes has no errno
        raise ConfigError(f"serial socket:{path}: {reason}; give a free path of at most 107 bytes") from error
    return listener


def _remove_stale(path: str) -> None:
    """Removes a socket that nobody listens on any more, and nothing else."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
