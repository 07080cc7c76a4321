"""Ports for firmware's messages: POST codes at port 80h, and Bochs's debug console at port E9h.

Port 80h is where BIOSes write their power-on self-test codes and where operating systems write to pass a
microsecond; it reads back the last value, like the DMA page register that answers there on a PC.  The
console (Bochs user manual, "port_e9_hack") reads as E9h, by which firmware detects it.
"""

from dataclasses import dataclass

from ring3.char import CharBackend

PRESENT = 0xE9


@dataclass(slots=True)
class PostState:
    last: int = 0


class PostCodes:
    """Port 80h."""

    def __init__(self) -> None:
        self.state = PostState()

    def read(self, offset: int) -> int:
        return self.state.last

    def write(self, offset: int, value: int) -> None:
        self.state.last = value

    def reset(self) -> None:
        self.restore(PostState())

    def restore(self, state: PostState) -> None:
        self.state = state


@dataclass(slots=True)
class State:
    """The console remembers nothing."""


class DebugCon:
    """Port E9h."""

    def __init__(self, backend: CharBackend) -> None:
        self.backend = backend
        self.state = State()

    def read(self, offset: int) -> int:
        return PRESENT

    def receive(self, data: bytes) -> int:
        """There is no way to the guest: what comes is dropped."""
        return len(data)

    def write(self, offset: int, value: int) -> None:
        self.backend.write(bytes((value,)))

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
