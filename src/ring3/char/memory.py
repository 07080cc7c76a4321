"""A serial port in memory: what a program or a test types into and reads from.

    console = MemoryBackend()
    machine = Machine(MachineConfig(serial=console, …))
    console.expect("login:")
    console.send("root\n")
"""

import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ring3.char import Receive
from ring3.char.inlet import Inlet

if TYPE_CHECKING:
    import asyncio

KEPT = 4 << 20                          # bytes of output kept; older ones are forgotten
GATHER_S = 0.0005, 0.005                # output is looked at this often at most: at first, and later
TAIL = 2000                             # bytes of output that a failed `expect` shows


class ExpectError(AssertionError):
    """What was expected did not come; the message has the end of what did."""


class MemoryBackend:
    def __init__(self) -> None:
        self._inlet = Inlet()
        self._changed = threading.Condition()
        self._output = bytearray()
        self._start = 0                 # where in `_output` the next `expect` looks
        self._written = 0               # bytes ever
        self._closed = False
        self._watchers: dict[object, Callable[[], None]] = {}
        self._ended = threading.Event()

    # --- the device's side ---

    def attach(self, loop: "asyncio.AbstractEventLoop", receive: Receive) -> None:
        self._inlet.attach(loop, receive)

    def write(self, data: bytes) -> None:
        with self._changed:
            self._output += data
            self._written += len(data)
            if len(self._output) > KEPT + KEPT // 4:
                forgotten = len(self._output) - KEPT
                del self._output[:forgotten]
                self._start = max(0, self._start - forgotten)
            self._changed.notify_all()
            for watcher in self._watchers.values():
                watcher()

    def room(self) -> None:
        self._inlet.room()

    def close(self) -> None:
        self._inlet.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for watcher in self._watchers.values():
                watcher()
        self._ended.set()

    # --- the person's side ---

    def send(self, text: str | bytes) -> None:
        """Types it."""
        self._inlet.put(text.encode() if isinstance(text, str) else text)

    def offer(self, data: bytes) -> bool:
        """Types it, unless the guest has yet to read too much; for typists that can wait."""
        if self._inlet.full:
            return False
        self._inlet.put(data)
        return True

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back at each byte of output and at the end, in the guest's thread: to be brief.

        Returns what ends that.
        """
        token = object()
        with self._changed:
            self._watchers[token] = callback

        def unwatch() -> None:
            with self._changed:
                self._watchers.pop(token, None)

        return unwatch

    def since(self, position: int | None, limit: int) -> tuple[int, bytes]:
        """Output from a position on, counted in bytes ever written; None: from the oldest that is kept.

        Returns where it begins (later than asked for, where that is forgotten) and at most `limit` bytes.
        """
        with self._changed:
            oldest = self._written - len(self._output)
            start = min(max(oldest, position or 0), self._written)
            return start, bytes(self._output[start - oldest : start - oldest + limit])

    @property
    def closed(self) -> bool:
        """The machine has ended."""
        return self._closed

    @property
    def output(self) -> bytes:
        """All that was written so far (the last KEPT bytes of it)."""
        with self._changed:
            return bytes(self._output)

    def expect(self, pattern: str | bytes, timeout_s: float = 60.0) -> re.Match[bytes]:
        """Waits until output after the last match has the regular expression; raises ExpectError."""
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        deadline = time.monotonic() + timeout_s
        gather_s, longest_s = GATHER_S
        while True:
            with self._changed:
                # Searched before the check for the end: what came last counts.
                match = wanted.search(bytes(self._output[self._start:]))
                if match is not None:
                    self._start += match.end()
                    return match
                if self._closed or not self._wait_for_output(deadline):
                    raise self._failure(pattern, timeout_s)
            # Without the lock and woken by no byte: a guest that prints is not held up by who reads.
            self._ended.wait(gather_s)
            gather_s = min(2 * gather_s, longest_s)

    def _wait_for_output(self, deadline: float) -> bool:
        """With the lock held: waits for more output; False when time is up."""
        written = self._written
        return self._changed.wait_for(
            lambda: self._written != written or self._closed, max(0.0, deadline - time.monotonic()))

    def _failure(self, pattern: str | bytes, timeout_s: float) -> ExpectError:
        why = "the machine has ended" if self._closed else f"waited {timeout_s:g} s"
        tail = bytes(self._output[-TAIL:]).decode(errors="replace")
        return ExpectError(f"{pattern!r} did not come ({why}); the output ends:\n{tail}")
