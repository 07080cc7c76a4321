"""A machine without hardware, its control socket, and a client."""

import pytest

from control_fakes import FakeHost
from ring3.control.remote import RemoteMachine


@pytest.fixture
def host():
    host = FakeHost()
    yield host
    host.close()


@pytest.fixture
def vm(host):
    with RemoteMachine("fake") as vm:
        yield vm
