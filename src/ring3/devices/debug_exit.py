"""The debug-exit port by which test guests end the machine with a status, as QEMU's isa-debug-exit does.

Writing v to any of its ports ends the machine with exit status v << 1 | 1, so no guest can claim status 0.
Of a wider write only the low byte's low seven bits can be told apart in a process's status.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class State:
    """The port remembers nothing."""


class DebugExit:
    def __init__(self, exit_with: Callable[[int], None]) -> None:
        """`exit_with` takes the exit status; it may return, the guest then goes on until stopped."""
        self._exit_with = exit_with
        self.state = State()

    def read(self, offset: int) -> int:
        return 0

    def write(self, offset: int, value: int) -> None:
        if offset == 0:
            self._exit_with((value << 1 | 1) & 0xFF)

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
