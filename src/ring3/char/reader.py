"""A thread that reads host file descriptors for a backend, and can be told to stop.

Threads and poll() instead of the event loop's readers: a regular file on standard input works as well, and
waiting for the guest to take its input holds up nobody else.
"""

import os
import select
import threading
from collections.abc import Callable


class Reader:
    """Runs `body(self)` in a thread; `body` waits with `readable`, which ends when `stop` is called."""

    def __init__(self, name: str, body: "Callable[[Reader], None]") -> None:
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=body, args=(self,), name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def readable(self, fd: int) -> bool:
        """Waits until `fd` has input, its end, or an error; False once `stop` was called."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        return all(ready != self._wake_read for ready, _ in poll.poll())

    def stop(self) -> None:
        """Ends the thread; a second call, and one from the thread itself, do what is left to do."""
        if self._wake_write >= 0:
            os.close(self._wake_write)
            self._wake_write = -1
        if self._thread is threading.current_thread():
            return
        if self._thread.is_alive():
            self._thread.join()
        if self._wake_read >= 0:
            os.close(self._wake_read)
            self._wake_read = -1
