"""Guests that a test starts and that are gone when it ends."""

import pytest

from guest_terminal import Guest


@pytest.fixture
def guest():
    """Starts guests: guest("--kernel", …); what still runs at the end is killed."""
    started: list[Guest] = []

    def start(*arguments: str) -> Guest:
        started.append(Guest(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.close(force=True)
