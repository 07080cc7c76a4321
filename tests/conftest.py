"""For all tests."""

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    """Machines of a test are not the user's, nor another test's."""
    home = tmp_path_factory.mktemp("ring3")
    monkeypatch.setenv("RING3_HOME", str(home))
    return home
