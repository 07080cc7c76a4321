"""The asynchronous drive that storage chips see, made of a synchronous image and a thread.

A read that the host's page cache can answer is answered before `read` returns: handing it to a thread would
cost more than the copy.  Everything else is queued, and the thread works it off in order, so that a request
sees what those before it wrote.

1. The image is used by one thread at a time: by the caller only while nothing is queued or under way.
2. Requests come under the machine lock; `done` is called under it, once for each, in order.
3. The queue is as long as chips make it, and theirs are bounded (32 commands of an AHCI port, for example).
4. Lock order: machine lock, then `_changed`.  The thread holds neither while it uses the image.
"""

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from ring3.disk.image import Image

ReadDone = Callable[[bytes | OSError], None]
Done = Callable[[OSError | None], None]


class DiskWorker:
    def __init__(
        self, image: Image, lock: Any, failed: Callable[[BaseException], None] | None = None
    ) -> None:
        """`lock`: the machine's.  `failed` hears of exceptions out of `done`: they are bugs of ours."""
        self.image = image
        self.size_bytes = image.size_bytes
        self.read_only = image.read_only
        self._lock = lock
        self._failed = failed
        self._queue: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._pending = 0               # requests queued or under way
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def read(self, offset: int, length: int, done: ReadDone) -> None:
        if not self._pending:
            data = self.image.read_now(offset, length)
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
        """Has the thread do it when all before is done, and waits; not under the machine lock."""
        answers: SimpleQueue[Any] = SimpleQueue()
        with self._lock:
            self._submit(work, answers.put)
        answer = answers.get()
        if isinstance(answer, OSError):
            raise answer
        return answer

    def drain(self) -> None:
        """Waits until nothing is under way; not to be called under the machine lock."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending)

    def close(self) -> None:
        """Works off what is queued and closes the image; not to be called under the machine lock."""
        self.drain()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self.image.close()

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
            try:
                outcome = work()
            except OSError as error:
                outcome = error
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
