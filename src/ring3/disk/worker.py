"""The asynchronous drive that storage chips see, made of a synchronous image and a thread.

A read that the host's page cache can answer is answered before `read` returns: handing it to a thread would
cost more than the copy.  Chips may also ask where the bytes are (`in_file`), to have them without one.
Everything else is queued, and the thread works it off in order, so that a request sees what those before it
wrote.

1. The image is used by one thread at a time: by the caller only while nothing is queued or under way.
2. Requests come under the machine lock; `done` is called under it, once for each, in order.
3. The queue is as long as chips make it, and theirs are bounded (32 commands of an AHCI port, for example).
4. Lock order: machine lock, then `_changed`.  The thread holds neither while it uses the image.
5. Where errors are to stop the machine, the thread holds on to a request that the host has refused until
   `retry`; the guest hears nothing of it.  A closed drive's request has its error.
6. What a closed drive waits for is worked off, but a server is not waited for longer than `CLOSING_S`.
"""

import errno
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from ring3.disk.image import Image, files_of, in_file

CLOSING_S = 1.0
ReadDone = Callable[[bytes | OSError], None]
Done = Callable[[OSError | None], None]


class DiskWorker:
    def __init__(
        self,
        image: Image,
        lock: Any,
        failed: Callable[[BaseException], None] | None = None,
        refused: Callable[[OSError], None] | None = None,
    ) -> None:
        """`lock`: the machine's.  `failed` hears of exceptions out of `done`: they are bugs of ours.

        `refused`: stops the machine for what the host refuses, without waiting; None: the guest gets errors.
        """
        self.image = image
        self.size_bytes = image.size_bytes
        self.read_only = image.read_only
        self._lock = lock
        self._failed = failed
        self._refused = refused
        self._held: OSError | None = None       # what became of the request that waits for `retry`
        self._queue: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._pending = 0               # requests queued or under way
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def in_file(self, offset: int, length: int) -> tuple[int, int] | None:
        """None also while something is under way that may change it."""
        if self._pending:
            return None
        try:
            return in_file(self.image, offset, length)
        except OSError:                 # damaged metadata: `read` meets it, too
            return None

    def read(self, offset: int, length: int, done: ReadDone) -> None:
        if not self._pending:
            data = self._read_now(offset, length)
            if data is not None:
                done(data)
                return
        self._submit(lambda: self.image.read(offset, length), done)

    def write(self, offset: int, data: bytes | memoryview, done: Done) -> None:
        self._submit(lambda: self.image.write(offset, data), done)

    def flush(self, done: Done) -> None:
        self._submit(self.image.flush, done)

    def discard(self, offset: int, length: int, done: Done) -> None:
        self._submit(lambda: self.image.discard(offset, length), done)

    def ask(self, work: Callable[[], Any]) -> Any:
        """Has the thread do it when all before is done, and waits; not under the machine lock.

        What the host refuses of it is an OSError, and stops nothing.
        """
        answers: SimpleQueue[Any] = SimpleQueue()
        with self._lock:
            self._submit(lambda: attempted(work), answers.put)
        answer = answers.get()
        if isinstance(answer, OSError):
            raise answer
        return answer

    def retry(self) -> None:
        """The request that the host has refused is tried again."""
        with self._changed:
            self._held = None
            self._changed.notify_all()

    def drain(self) -> OSError | None:
        """Waits until nothing is under way; not to be called under the machine lock.

        What it returns is what keeps a request from its end: then it waits for `retry`.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self._held)
            return self._held

    def close(self) -> None:
        """Works off what is queued and closes the image; not to be called under the machine lock."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._pending, CLOSING_S):
                for file in files_of(self.image):
                    if hasattr(file, "give_up"):
                        file.give_up()
                self._changed.wait_for(lambda: not self._pending)
        if self._thread is not None:
            self._thread.join()
        self.image.close()

    def _read_now(self, offset: int, length: int) -> bytes | None:
        try:
            return self.image.read_now(offset, length)
        except OSError:                 # damaged metadata: `read` meets it, too
            return None

    def _submit(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        with self._changed:
            self._pending += 1
            self._queue.append((work, done))
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                work, done = self._queue.popleft()
            outcome = self._carry_out(work)
            with self._lock:
                try:
                    done(outcome)
                except BaseException as error:
                    if self._failed is None:
                        raise
                    self._failed(error)
                finally:
                    with self._changed:
                        self._pending -= 1
                        self._changed.notify_all()

    def _carry_out(self, work: Callable[[], Any]) -> Any:
        """What comes of it, or the error for the guest."""
        while True:
            try:
                return work()
            except OSError as error:
                if self._refused is None or error.errno == errno.EROFS:     # that is the guest's own mistake
                    return error
                with self._changed:
                    self._held = error
                self._refused(error)
                with self._changed:
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._held is None or self._closing)
                    self._held = None
                    if self._closing:
                        return error


def attempted(work: Callable[[], Any]) -> Any:
    """What comes of it, or its error."""
    try:
        return work()
    except OSError as error:
        return error
