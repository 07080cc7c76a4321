"""isa-debug-exit.  Interface only so far."""

from collections.abc import Callable


class DebugExit:
    def __init__(self, exit_with: Callable[[int], None]) -> None:
        self.exit_with = exit_with

    def read(self, offset: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError
