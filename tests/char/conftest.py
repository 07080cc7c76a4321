"""Parts for tests of character backends: an event loop that runs when told to, and a device's receiver."""

from collections.abc import Callable
from typing import Any

import pytest


class StepLoop:
    """The one method of an event loop that backends use; calls wait until `run`."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def call_soon_threadsafe(self, callback: Callable[[], Any]) -> None:
        self.calls.append(callback)

    def run(self) -> None:
        while self.calls:
            self.calls.pop(0)()


class Device:
    """Takes up to `room` bytes."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.got = bytearray()

    def receive(self, data: bytes) -> int:
        taken = data[: self.room - len(self.got)]
        self.got += taken
        return len(taken)


@pytest.fixture
def loop() -> StepLoop:
    return StepLoop()


@pytest.fixture
def device() -> Device:
    return Device()
