"""Processes that are started before it is known which machine they are (ring3.control.process)."""

import pytest

from ring3.config.places import machines_path
from ring3.control import lock, process


class Started:
    """Stands in for a HostProcess."""

    made: "list[Started]"

    def __init__(self):
        self.dropped = False
        self.made.append(self)

    def drop(self):
        self.dropped = True


@pytest.fixture(autouse=True)
def started(monkeypatch, tmp_path):
    monkeypatch.setenv("RING3_HOME", str(tmp_path))
    monkeypatch.setattr(process, "HostProcess", Started)
    Started.made = []
    return Started.made


def test_the_process_that_was_started_ahead_is_the_one_taken(started):
    with process.ahead("debian"):
        assert process.take() is started[0]
    assert not started[0].dropped


def test_one_that_nobody_takes_is_dropped(started):
    with pytest.raises(KeyboardInterrupt), process.ahead("debian"):
        raise KeyboardInterrupt
    assert started[0].dropped


def test_none_is_kept_for_a_machine_that_runs(started):
    directory = machines_path() / "debian"
    directory.mkdir(parents=True)
    own = lock.Lock(directory / lock.NAME)
    assert own.hold()
    with process.ahead("debian"):
        assert started[0].dropped
        assert process.take() is not started[0]
    own.release()


def test_a_name_that_no_file_can_have_runs_nowhere():
    with process.ahead("de\0bian"):
        pass


def test_who_takes_one_without_asking_ahead_gets_a_new_one(started):
    assert process.take() is started[0]
