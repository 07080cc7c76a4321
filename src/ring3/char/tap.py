"""A serial port that several can watch and type into, whatever else it is connected to.

Stands between the device and its backend: output goes to the backend and to every listener, input comes from
the backend and from whoever calls `send`.  The end of the output is kept for those who come later.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ring3.char import CharBackend, Receive
from ring3.char.inlet import LIMIT, Inlet

if TYPE_CHECKING:
    import asyncio

KEPT = 256 << 10                        # bytes of output kept


class Tap:
    def __init__(self, backend: CharBackend) -> None:
        self.backend = backend
        self._inlet = Inlet()
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._listeners: tuple[Callable[[bytes], None], ...] = ()

    # --- the device's side (CharBackend) ---

    def attach(self, loop: "asyncio.AbstractEventLoop", receive: Receive) -> None:
        self.backend.attach(loop, receive)
        self._inlet.attach(loop, receive)

    def write(self, data: bytes) -> None:
        with self._lock:
            self._kept += data
            if len(self._kept) > 2 * KEPT:
                del self._kept[:-KEPT]
            listeners = self._listeners
        for listener in listeners:
            listener(data)
        self.backend.write(data)

    def room(self) -> None:
        self.backend.room()
        self._inlet.room()

    def close(self) -> None:
        self._inlet.close()
        self.backend.close()

    # --- the consoles' side (ring3.display.face.SerialLine) ---

    def history(self) -> bytes:
        with self._lock:
            return bytes(self._kept[-KEPT:])

    def listen(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        """Calls back with each output from now on, under the machine lock: it may not wait."""
        with self._lock:
            self._listeners += (callback,)

        def unlisten() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not callback)

        return unlisten

    def send(self, data: bytes) -> None:
        """Types it; what a guest that reads nothing has no room for is lost."""
        if self._inlet.waiting < LIMIT:
            self._inlet.put(data)
