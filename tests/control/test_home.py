"""Machines' directories and locks."""

import os
import signal
import subprocess
import sys

import pytest

from ring3.config import MachineConfig
from ring3.control import home, lock
from ring3.control.home import Directory, Ending, State
from ring3.control.lock import Lock
from ring3.errors import ConfigError, HostError

HOLD = """
import sys
from pathlib import Path
from ring3.control.lock import Lock
lock = Lock(Path(sys.argv[1]))
print(lock.hold(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory():
    made = home.named("debian")
    made.create(MachineConfig(memory="64M"))
    return made


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock `tmp_path/lock`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_is_held_once(tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.hold()
    assert not second.hold()
    first.release()
    assert second.hold()


def test_asking_does_not_take_a_lock(tmp_path):
    own = Lock(tmp_path / "lock")
    assert not lock.held(tmp_path / "lock")
    assert own.hold()
    assert lock.held(tmp_path / "lock")
    assert lock.held(tmp_path / "lock")
    own.release()
    assert not lock.held(tmp_path / "lock")


def test_a_killed_process_leaves_no_lock(tmp_path, holder):
    assert not Lock(tmp_path / "lock").hold()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not lock.held(tmp_path / "lock")
    assert Lock(tmp_path / "lock").hold()


def test_children_do_not_inherit_a_lock(tmp_path):
    own = Lock(tmp_path / "lock")
    own.hold()
    with subprocess.Popen(["sleep", "60"]) as child:
        own.release()
        assert not lock.held(tmp_path / "lock")
        child.kill()


def test_machines_are_where_ring3_home_says(own_home):
    assert home.machines_path() == own_home / "machines"


def test_without_ring3_home_they_are_in_the_users_data(monkeypatch, tmp_path):
    monkeypatch.delenv("RING3_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home.machines_path() == tmp_path / "ring3/machines"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.machines_path() == tmp_path / ".local/share/ring3/machines"


def test_a_directory_is_the_owners_only(directory):
    assert directory.path.stat().st_mode & 0o077 == 0


def test_what_was_made_is_found(directory):
    assert [each.name for each in home.machines()] == ["debian"]
    assert home.existing("debian").config().memory == "64M"
    assert not directory.running


def test_a_name_can_be_had_once(directory):
    with pytest.raises(ConfigError, match="debian exists already"):
        directory.create(MachineConfig())


def test_an_unknown_name_is_answered_with_the_nearest(directory):
    with pytest.raises(ConfigError, match="no machine is called debain; there is debian"):
        home.existing("debain")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", ".hidden", "x" * 64, "a b", "a\0", "ä"])
def test_a_name_cannot_lead_elsewhere(name):
    with pytest.raises(ConfigError, match="no machine's name"):
        home.named(name)


def test_a_machine_that_runs_is_not_removed(directory):
    own = Lock(directory.lock_file)
    own.hold()
    with pytest.raises(ConfigError, match="debian runs: stop it first"):
        directory.remove()
    own.release()
    directory.remove()
    assert home.machines() == []


def test_a_directory_made_for_one_run_is_written_over_when_it_is_left_over():
    directory = home.named("x")
    directory.create(MachineConfig(), once=True)
    directory.create(MachineConfig(memory="32M"), once=True)
    assert directory.config().memory == "32M"


def test_state_comes_back(directory):
    state = State(7, 1.5, Ending("power off", 2.5, 3))
    directory.write_state(state)
    assert directory.state() == state


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"pid":"x"}', b"\xff"])
def test_a_damaged_state_is_none(directory, data):
    directory.state_file.write_bytes(data)
    assert directory.state() is None


def test_a_damaged_description_is_named(directory):
    directory.config_file.write_text("memroy = '1G'")
    with pytest.raises(ConfigError, match=r"machine\.toml: memroy: no such setting; there is memory"):
        directory.config()


def test_a_home_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RING3_HOME", str(tmp_path / "file"))
    with pytest.raises(HostError, match="set RING3_HOME"):
        home.named("x").create(MachineConfig())


def test_a_socket_works_in_a_directory_with_a_long_path(tmp_path):
    path = tmp_path / ("x" * 100) / ("y" * 100)
    path.mkdir(parents=True)
    directory = Directory(path)
    with directory.listen(), directory.connect():
        pass


def test_a_stale_socket_is_replaced(directory):
    directory.listen().close()
    assert directory.socket_file.exists()
    with pytest.raises(ConnectionRefusedError):
        directory.connect()
    with directory.listen(), directory.connect():
        assert os.stat(directory.socket_file).st_mode & 0o077 == 0


def test_a_long_log_is_put_aside(directory):
    directory.log_file.write_bytes(b"x" * (home.LOG_BYTES + 1))
    os.close(directory.open_log())
    assert directory.log_file.stat().st_size == 0
    assert (directory.path / "log.1").exists()


def test_names_for_one_run_are_like_what_was_wanted(directory):
    assert next(home.unused("debian")).name == "debian-2"
    assert next(home.unused("My disk (1)")).name == "My-disk-1"
    assert next(home.unused("../..")).name == "machine"
