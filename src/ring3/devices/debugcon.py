"""Ports 80h, E9h.  Interface only so far."""

from ring3.char import CharBackend


class PostCodes:
    def __init__(
        self,
    ) -> None:
        self.last = 0

    def read(self, offset: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError


class DebugCon:
    def __init__(self, backend: CharBackend) -> None:
        self.backend = backend

    def read(self, offset: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError
