"""The concrete backends on real descriptors (stdio, file, socket), and the specs that name them."""

import os
import pty
import socket
import termios
import threading

import pytest

from ring3.char import open_backend
from ring3.char.file import File
from ring3.char.socket import UnixSocket
from ring3.char.stdio import Stdio
from ring3.errors import ConfigError


class WaitingLoop:
    """Runs calls as they come, in the caller's thread, and lets a test wait for one."""

    def __init__(self):
        self.called = threading.Event()

    def call_soon_threadsafe(self, callback):
        callback()
        self.called.set()


@pytest.fixture
def calling():
    return WaitingLoop()


@pytest.mark.parametrize("spec", ["", "file", "file:", "socket:", "stdio:x", "none:", "tty", "pty:3"])
def test_a_spec_that_names_nothing_is_a_one_line_mistake(spec):
    with pytest.raises(ConfigError, match="give one of stdio, pty, file:PATH, socket:PATH, none"):
        open_backend(spec)


def test_file_holds_what_the_guest_sent(tmp_path):
    backend = File(str(tmp_path / "log"))
    backend.write(b"Linux version 6.1\n")
    backend.close()
    assert (tmp_path / "log").read_bytes() == b"Linux version 6.1\n"


def test_file_in_a_missing_directory_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(ConfigError, match="No such file or directory"):
        File(str(tmp_path / "no" / "log"))


# --- socket ---

@pytest.fixture
def unix(tmp_path, calling, device):
    backend = UnixSocket(str(tmp_path / "com1"))
    backend.attach(calling, device.receive)
    yield backend
    backend.close()


def connect(tmp_path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(30)
    client.connect(str(tmp_path / "com1"))
    return client


def talk(client: socket.socket, calling: WaitingLoop, text: bytes) -> None:
    """Sends `text` and waits until the device has been offered it: then the backend knows the client."""
    calling.called.clear()
    client.sendall(text)
    assert calling.called.wait(30)


def test_socket_carries_both_ways(tmp_path, unix, calling, device):
    with connect(tmp_path) as client:
        talk(client, calling, b"in")
        unix.write(b"out")
        assert client.recv(100) == b"out"
    assert device.got == b"in"


def test_socket_takes_the_next_client_when_one_has_left(tmp_path, unix, calling, device):
    with connect(tmp_path) as first:
        talk(first, calling, b"1")
    with connect(tmp_path) as second:
        talk(second, calling, b"2")
        unix.write(b"hello")
        assert second.recv(100) == b"hello"
    assert device.got == b"12"


def test_socket_without_a_client_swallows_output(unix):
    unix.write(b"nobody hears it")


def test_socket_replaces_a_stale_one(tmp_path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "com1"))
    UnixSocket(str(tmp_path / "com1")).close()
    assert not (tmp_path / "com1").exists()


def test_socket_leaves_a_file_in_its_place_alone(tmp_path):
    (tmp_path / "com1").write_text("mine")
    with pytest.raises(ConfigError, match="Address already in use"):
        UnixSocket(str(tmp_path / "com1"))
    assert (tmp_path / "com1").read_text() == "mine"


def test_socket_in_use_is_a_mistake_of_the_user(tmp_path, unix):
    with pytest.raises(ConfigError, match="Address already in use"):
        UnixSocket(str(tmp_path / "com1"))


def test_socket_path_too_long_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        UnixSocket(str(tmp_path / ("x" * 120)))


# --- stdio ---

def test_stdio_on_pipes_passes_bytes_as_they_are(calling, device):
    stdin, typed = os.pipe()
    shown, stdout = os.pipe()
    backend = Stdio({}, stdin, stdout)
    backend.attach(calling, device.receive)
    os.write(typed, b"\x1dq\x03")
    assert calling.called.wait(30)
    os.close(typed)
    backend.write(b"out")
    backend.close()
    assert os.read(shown, 100) == b"out"
    assert device.got == b"\x1dq\x03"
    for fd in (stdin, shown, stdout):
        os.close(fd)


def test_stdio_survives_the_end_of_its_input(calling, device):
    shown, stdout = os.pipe()
    stdin = os.open(os.devnull, os.O_RDONLY)
    backend = Stdio({}, stdin, stdout)
    backend.attach(calling, device.receive)
    backend.write(b"still here")
    backend.close()
    assert os.read(shown, 100) == b"still here"
    for fd in (stdin, shown, stdout):
        os.close(fd)


@pytest.fixture
def terminal():
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_stdio_gives_the_terminal_back_as_it_was(terminal, calling, device):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    backend = Stdio({}, slave, slave)
    backend.attach(calling, device.receive)
    assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ISIG | termios.ECHO)
    backend.close()
    assert termios.tcgetattr(slave) == before


def test_stdio_obeys_the_menu(terminal, calling, device):
    master, slave = terminal
    asked = threading.Event()
    backend = Stdio({"quit": asked.set}, slave, slave)
    backend.attach(calling, device.receive)
    os.write(master, b"\x1dq")
    assert asked.wait(30)
    backend.close()
    assert device.got == b""
