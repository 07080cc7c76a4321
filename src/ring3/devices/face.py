"""What chips and boards see of each other: register faces in the port and MMIO maps, and memory for DMA."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ring3 import trace

InFile = tuple[int, int]
"""Where bytes are in a file of the host: its descriptor, and the offset of the first."""


class ByteFace(Protocol):
    """Byte registers at an offset from the face's base; wider accesses arrive split into bytes."""

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


class WideFace(Protocol):
    """Registers that tell accesses of 1, 2 and 4 bytes apart."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, value: int, size: int) -> None: ...


class Memory(Protocol):
    """Guest-physical memory as a bus master sees it: FFh and no effect where there is none."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes | memoryview) -> None: ...

    def scatter(self, regions: list[tuple[int, int]], data: bytes) -> None:
        """Writes `data` into the regions (address, bytes), which have room for it; one call for many."""

    def fill(self, regions: list[tuple[int, int]], place: InFile) -> bool:
        """The same from a file of the host.  False: it cannot now, and what was written is undefined."""

    def gather(self, regions: list[tuple[int, int]]) -> bytes:
        """What the regions hold, one after the other."""


@runtime_checkable
class BlockFace(Protocol):
    """A wide face that also takes INS and OUTS with a count in one call: the same register, `count` times."""

    def read_block(self, offset: int, size: int, count: int) -> bytes: ...

    def write_block(self, offset: int, size: int, data: bytes) -> None: ...


class Registers:
    """A second byte face of a chip, made of two of its methods: port 61h of the PIT, port 64h of the 8042."""

    __slots__ = ("read", "write")

    def __init__(self, read: Callable[[int], int], write: Callable[[int, int], None]) -> None:
        self.read = read
        self.write = write


class WideRegisters:
    """The same for registers that tell sizes apart: one of several regions of a PCI function."""

    __slots__ = ("read", "write")

    def __init__(self, read: Callable[[int, int], int], write: Callable[[int, int, int], None]) -> None:
        self.read = read
        self.write = write


class RomFace:
    """The wide face of a ROM: what it holds, for good."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, value: int, size: int) -> None:
        trace.odd("rom", "write of %Xh to offset %Xh of a ROM", value, offset)


class Drive(Protocol):
    """What a storage chip has behind it: bytes at offsets, asynchronous, so that no host I/O holds a vCPU.

    Offsets and lengths stay within `size_bytes`, and nothing is written to a `read_only` one: the chip's
    duty.  Requests are made under the machine lock.  Each `done` is called once, under it too, in the order
    of the requests: perhaps before the call returns, else from another thread.  A chip that was reset
    meanwhile drops what comes late by a generation number; one that asks again from `done` minds its stack.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def read_only(self) -> bool: ...

    def in_file(self, offset: int, length: int) -> InFile | None:
        """Where these bytes are as they stand, for `Memory.fill` at once; None: `read` must be asked."""

    def read(self, offset: int, length: int, done: Callable[[bytes | OSError], None]) -> None: ...

    def write(
        self, offset: int, data: bytes | memoryview, done: Callable[[OSError | None], None]
    ) -> None: ...

    def flush(self, done: Callable[[OSError | None], None]) -> None: ...

    def discard(self, offset: int, length: int, done: Callable[[OSError | None], None]) -> None: ...
