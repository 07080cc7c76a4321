"""Ports 92h, CF9h.  Interface only so far."""

from collections.abc import Callable


class PortA:
    def __init__(self, a20: Callable[[bool], None], init: Callable[[], None]) -> None:
        self.a20 = a20
        self.init = init

    def read(self, offset: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError


class ResetControl:
    def __init__(self, hard_reset: Callable[[], None], init: Callable[[], None]) -> None:
        self.hard_reset = hard_reset
        self.init = init

    def read(self, offset: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError
