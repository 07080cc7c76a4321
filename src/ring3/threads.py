"""A machine's threads besides its vCPU's: timers and the event loop (ring3.machine has what for)."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ring3.clock import NS_PER_S, HostClock


class TimerThread:
    """Runs the clock's timers, each as soon as it is due, under the machine lock."""

    def __init__(self, clock: HostClock, lock: Any, failed: Callable[[BaseException], None]) -> None:
        self._clock = clock
        self._failed = failed
        self._changed = threading.Condition(lock)
        self._stopped = False
        clock.on_earlier_deadline = self._earlier
        self._thread = threading.Thread(target=self._run, name="timers", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _earlier(self, deadline_ns: int) -> None:
        self._changed.notify()          # the chip that armed it runs under the machine lock

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                try:
                    self._clock.run_due()
                except Exception as error:
                    self._failed(error)
                    return
                self._changed.wait(self._seconds_to_deadline())

    def _seconds_to_deadline(self) -> float | None:
        deadline_ns = self._clock.next_deadline()
        if deadline_ns is None or self._clock.paused:
            return None
        return max(deadline_ns - self._clock.now(), 0) / NS_PER_S


class EventLoopThread:
    """An asyncio loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="event-loop", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Runs `function` in the loop's thread and waits for it."""

        async def body() -> None:
            function(*arguments)

        asyncio.run_coroutine_threadsafe(body(), self.loop).result()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
