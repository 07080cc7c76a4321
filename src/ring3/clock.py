"""The machine's time: nanoseconds since power-on, and timers that call back at a deadline.

A chip asks `clock.now()` and sets deadlines; it never asks the host.  Chips own a handful of timers and arm
each one again and again, so the clock keeps the armed ones in a plain dict: bounded by the number of chips,
whatever the guest does, and cheap at that size.

1. A timer fires at most once for each `arm`, never before its deadline; timers due together fire in order
   of their deadlines, and of equal ones the first armed goes first.
2. A callback may arm and cancel any timer, its own included.
3. `HostClock.run_due` runs each timer at most once, so a timer that re-arms itself in the past cannot hold
   the event loop.  Chips with periodic timers count what they missed.

Everything here is called under the machine lock.
"""

import time
from collections.abc import Callable

NS_PER_S = 1_000_000_000


def _nobody_waits(deadline_ns: int) -> None:
    """The default hook of a clock that no event loop watches."""


class Clock:
    """What chips see of time."""

    def __init__(self) -> None:
        self._armed: dict[Timer, int] = {}
        # The event loop's hook: called with the new earliest deadline when it moves to an earlier time.
        self.on_earlier_deadline: Callable[[int], None] = _nobody_waits

    def now(self) -> int:
        """Nanoseconds since power-on."""
        raise NotImplementedError

    def timer(self, callback: Callable[[], None]) -> "Timer":
        return Timer(self, callback)

    def next_deadline(self) -> int | None:
        """The earliest deadline armed, in ns; None without any."""
        return min(self._armed.values(), default=None)

    def _arm(self, timer: "Timer", deadline_ns: int) -> None:
        self._armed.pop(timer, None)  # re-arming moves it behind others of the same deadline
        earliest_ns = self.next_deadline()
        self._armed[timer] = deadline_ns
        if earliest_ns is None or deadline_ns < earliest_ns:
            self.on_earlier_deadline(deadline_ns)

    def _cancel(self, timer: "Timer") -> None:
        self._armed.pop(timer, None)

    def _due(self, now_ns: int) -> list["Timer"]:
        """Timers with a deadline at or before `now_ns`, in the order they fire."""
        return sorted((t for t, at_ns in self._armed.items() if at_ns <= now_ns), key=self._armed.__getitem__)


class Timer:
    """A deadline of one chip.  Armed or not is derived from the chip's state: `restore` arms it again."""

    __slots__ = ("_callback", "_clock")

    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback

    @property
    def deadline_ns(self) -> int | None:
        return self._clock._armed.get(self)

    def arm(self, deadline_ns: int) -> None:
        """Call back once the clock reaches `deadline_ns`; replaces the deadline set before."""
        self._clock._arm(self, deadline_ns)

    def cancel(self) -> None:
        self._clock._cancel(self)

    def fire(self) -> None:
        """The clock's side: disarm and call back."""
        self._clock._cancel(self)
        self._callback()


class ManualClock(Clock):
    """Time that moves only when told to: for tests and for deterministic runs."""

    def __init__(self, now_ns: int = 0) -> None:
        super().__init__()
        self._now_ns = now_ns

    def now(self) -> int:
        return self._now_ns

    def advance(self, duration_ns: int) -> None:
        self.advance_to(self._now_ns + duration_ns)

    def advance_to(self, end_ns: int) -> None:
        """Go to `end_ns`, stopping exactly at every deadline on the way, those set on the way included."""
        while due := self._due(end_ns):
            timer = due[0]
            self._now_ns = max(self._now_ns, timer.deadline_ns or 0)
            timer.fire()
        self._now_ns = max(self._now_ns, end_ns)


class HostClock(Clock):
    """The host's monotonic clock, less the time the machine was paused.

    The event loop sleeps until `next_deadline`, learns of earlier ones by `on_earlier_deadline`, and then
    calls `run_due` under the machine lock.
    """

    def __init__(self, now_ns: int = 0) -> None:
        """`now_ns`: where time starts; a restored machine goes on where its checkpoint stopped."""
        super().__init__()
        self._origin_ns = time.monotonic_ns() - now_ns
        self._paused_at_ns: int | None = None

    def now(self) -> int:
        if self._paused_at_ns is not None:
            return self._paused_at_ns
        return time.monotonic_ns() - self._origin_ns

    def pause(self) -> None:
        """Time stands still until `resume`."""
        self._paused_at_ns = self.now()

    def set(self, now_ns: int) -> None:
        """Makes it another time, of a restored machine; it stands, and chips are restored after that."""
        self._paused_at_ns = now_ns

    @property
    def paused(self) -> bool:
        return self._paused_at_ns is not None

    def resume(self) -> None:
        if self._paused_at_ns is not None:
            self._origin_ns = time.monotonic_ns() - self._paused_at_ns
            self._paused_at_ns = None

    def run_due(self) -> None:
        """Run each timer that is due now, once."""
        now_ns = self.now()
        for timer in self._due(now_ns):
            deadline_ns = timer.deadline_ns
            if deadline_ns is not None and deadline_ns <= now_ns:  # not cancelled or moved by one before it
                timer.fire()
