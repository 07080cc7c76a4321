"""Input on its way to a device: bytes wait here until the device has room.

Any thread puts bytes in; only the event loop's thread hands them to the device.  What waits is bounded by
whoever reads the host's side: it calls `wait_for_space` before it reads on, so a guest that never reads its
port leaves the rest in the terminal's, pipe's or socket's own buffer.
"""

import threading
from typing import TYPE_CHECKING

from ring3.char import Receive

if TYPE_CHECKING:
    import asyncio

LIMIT = 65_536                          # bytes that wait before the reader stops reading
OFFER = 256                             # bytes offered to the device at a time


class Inlet:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending = bytearray()
        self._scheduled = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receive: Receive | None = None

    def attach(self, loop: "asyncio.AbstractEventLoop", receive: Receive) -> None:
        with self._changed:
            self._loop, self._receive = loop, receive
        self.room()

    def put(self, data: bytes) -> None:
        with self._changed:
            if not self._closed:
                self._pending += data
        self.room()

    @property
    def full(self) -> bool:
        """So much waits that a reader would stop reading."""
        return len(self._pending) >= LIMIT

    def room(self) -> None:
        """Has the event loop offer what waits; asks it once, however often this is called before it does."""
        if not self._pending:
            return
        with self._changed:
            if self._loop is None or self._scheduled or self._closed:
                return
            self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._offer)
        except RuntimeError:            # the loop is closed: the machine is gone
            self.close()

    @property
    def waiting(self) -> int:
        """Bytes that the device hasn't taken yet."""
        return len(self._pending)

    def wait_for_space(self) -> bool:
        """Waits until less than LIMIT bytes wait; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._pending) < LIMIT)
            return not self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._pending.clear()
            self._changed.notify_all()

    def _offer(self) -> None:
        with self._changed:
            self._scheduled = False
        while self._offer_some():
            pass

    def _offer_some(self) -> bool:
        with self._changed:
            chunk = bytes(self._pending[:OFFER])
            receive = self._receive
        if not chunk or receive is None:
            return False
        taken = receive(chunk)          # without our lock: the device may call `room`
        with self._changed:
            del self._pending[:taken]
            self._changed.notify_all()
        return taken == len(chunk)
