"""What chip tests share: a clock that obeys, wires that remember, a backend that listens."""

import pytest

from ring3.char import NoBackend
from ring3.clock import ManualClock
from ring3.irq import IrqLine


class Sink(NoBackend):
    """A backend that keeps what the guest sent and counts how often there was room."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.rooms = 0

    def write(self, data: bytes) -> None:
        self.sent += data

    def room(self) -> None:
        self.rooms += 1


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def edges() -> list[bool]:
    """Every change of `irq`, in order."""
    return []


@pytest.fixture
def irq(edges: list[bool]) -> IrqLine:
    return IrqLine(edges.append)
