"""Output on its way to a host file descriptor: a bounded buffer and a thread that writes it out.

The guest's write is an append.  When the host takes bytes more slowly than the guest makes them, the buffer
fills, and then the guest is slowed: its write waits for room, at most PATIENCE_S in one stall.  A host that
takes nothing for that long (a stopped terminal, a pipe nobody reads) loses bytes from then on, counted in
`lost`, until it takes some again.  So output is complete for every reader that reads, and no reader can stop
the guest.  A reader that went away (EPIPE) gets nothing more; the guest runs on.
"""

import asyncio
import os
import select
import threading
import time

from ring3.char import Receive

LIMIT = 1 << 20                         # bytes buffered
CHUNK = 4096                            # bytes per write: what POLLOUT promises for a pipe (PIPE_BUF)
PATIENCE_S = 0.25                       # the longest a stall may hold the guest
LINGER_S = 0.002                        # output is gathered this long: one wake-up for a line, not one a byte
CLOSE_S = 2.0                           # the longest `close` waits for the host to take the rest


class Outlet:
    def __init__(self, fd: int, *, limit: int = LIMIT, patience_s: float = PATIENCE_S) -> None:
        self.fd = fd                    # stays the caller's: `close` does not close it
        self.lost = 0                   # bytes
        self._limit = limit
        self._patience_s = patience_s
        self._pending = bytearray()
        self._stalled = False           # a write has waited in vain; later ones don't wait until bytes flow
        self._broken = False            # the host's end is gone
        self._deadline: float | None = None     # set by `close`, time.monotonic()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"outlet-{fd}", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        with self._changed:
            if self._broken or not self._wait_for_room(len(data)):
                self.lost += len(data)
                return
            self._pending += data
            if len(self._pending) == len(data):
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._deadline = time.monotonic() + CLOSE_S
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(CLOSE_S + 1)

    @property
    def broken(self) -> bool:
        return self._broken

    def _wait_for_room(self, size: int) -> bool:
        def room() -> bool:
            return self._broken or len(self._pending) + size <= self._limit

        if not room() and not self._stalled:
            self._stalled = not self._changed.wait_for(room, self._patience_s)
        return room() and not self._broken

    # --- the writer's thread ---

    def _run(self) -> None:
        while chunk := self._next():
            written = self._write_some(chunk)
            with self._changed:
                del self._pending[:written]
                self._stalled = self._stalled and not written
                self._broken = not written
                self._changed.notify_all()
                if self._broken:
                    return

    def _next(self) -> bytes:
        """The next bytes to write; none once closed and empty."""
        with self._changed:
            waited = not self._pending
            self._changed.wait_for(lambda: self._pending or self._closing.is_set())
        if waited:
            self._closing.wait(LINGER_S)
        with self._changed:
            return bytes(self._pending[:CHUNK])

    def _write_some(self, chunk: bytes) -> int:
        """How many bytes the host took; 0 when it never will take any."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        try:
            while not poll.poll(100):
                if self._deadline is not None and time.monotonic() > self._deadline:
                    return 0
            return os.write(self.fd, chunk)
        except BlockingIOError:         # someone shares a descriptor that doesn't block: poll was too hopeful
            self._closing.wait(LINGER_S)
            return self._write_some(chunk) if self._deadline is None else 0
        except OSError:
            return 0


class Sink:
    """A descriptor that takes what the guest sends, and has nothing for it to read; it is ours to close."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._outlet = Outlet(fd)

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
