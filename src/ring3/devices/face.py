"""Register faces: what a board plugs into the port and MMIO maps."""

from collections.abc import Callable
from typing import Protocol


class ByteFace(Protocol):
    """Byte registers at an offset from the face's base; wider accesses arrive split into bytes."""

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


class WideFace(Protocol):
    """Registers that tell accesses of 1, 2 and 4 bytes apart."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, value: int, size: int) -> None: ...


class Registers:
    """A second byte face of a chip, made of two of its methods: port 61h of the PIT, port 64h of the 8042."""

    __slots__ = ("read", "write")

    def __init__(self, read: Callable[[int], int], write: Callable[[int, int], None]) -> None:
        self.read = read
        self.write = write
