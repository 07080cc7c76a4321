"""Signals and the terminal: a machine ends promptly, whatever its guest does, and leaves no trace."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from ring3.testing.multiboot import multiboot

pytestmark = pytest.mark.guest

SPIN = bytes.fromhex("fa ebfe")         # cli; jmp $
HELLO = bytes.fromhex("66baf803 b048 ee ebfe")      # mov dx,3F8h; mov al,'H'; out dx,al; jmp $


class Terminal:
    """`ring3 run` on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(self.master)
        self.process = subprocess.Popen([sys.executable, "-m", "ring3", "run", *arguments],
                                        stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.output = b""

    def wait_for(self, pattern: bytes) -> None:
        while not re.search(pattern, self.output):
            assert select.select([self.master], [], [], 30)[0], self.output
            self.output += os.read(self.master, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        """Waits for the process; returns its exit status."""
        with contextlib.suppress(OSError):              # EIO: nobody has the terminal open any more
            while data := os.read(self.master, 4096):
                self.output += data
        status = self.process.wait(30)
        assert termios.tcgetattr(self.master) == self.before
        os.close(self.master)
        return status


@pytest.fixture
def terminal():
    """Starts a machine on a terminal: terminal("--kernel", …); what still runs at the end is killed."""
    started: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        started.append(Terminal(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def kernel(tmp_path):
    def write(code: bytes) -> str:
        path: Path = tmp_path / "kernel"
        path.write_bytes(multiboot(code))
        return str(path)

    return write


@pytest.mark.parametrize(("number", "status"), [
    (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_guest_that_spins_with_interrupts_off(terminal, kernel, number, status):
    screen = terminal("--kernel", kernel(HELLO))
    screen.wait_for(b"H")
    screen.process.send_signal(number)
    assert screen.end() == status


def test_a_signal_ends_the_embedded_guest(terminal):
    screen = terminal()
    screen.wait_for(b"Ring3 embedded guest")
    screen.process.send_signal(signal.SIGTERM)
    assert screen.end() == 143


def test_the_menu_quits(terminal, kernel):
    screen = terminal("--kernel", kernel(HELLO))
    screen.wait_for(b"H")
    screen.type(b"\x1dq")
    assert screen.end() == 0
    assert b"q quit" in screen.output


def test_the_menu_resets(terminal, kernel):
    screen = terminal("--kernel", kernel(HELLO))
    screen.wait_for(b"H")
    screen.type(b"\x1dr")
    screen.wait_for(rb"(?s)H.*Ctrl-\].*H")
    screen.type(b"\x1dq")
    assert screen.end() == 0


def test_the_menu_pauses_and_quits_a_paused_machine(terminal, kernel):
    screen = terminal("--kernel", kernel(HELLO))
    screen.wait_for(b"H")
    screen.type(b"\x1dp")
    screen.wait_for(b"paused")
    screen.type(b"\x1dq")
    assert screen.end() == 0


def test_control_c_is_the_guests_key(terminal):
    screen = terminal()
    screen.wait_for(b"All tests passed")
    screen.type(b"a\x03b")
    screen.type(b"q")
    assert screen.end() == 0


def test_a_signal_ends_a_machine_on_pipes(kernel):
    with subprocess.Popen([sys.executable, "-m", "ring3", "run", "--kernel", kernel(HELLO)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"H"
        process.terminate()
        assert process.wait(30) == 143


def test_a_machine_ends_though_nobody_reads_its_output(kernel):
    flood = bytes.fromhex("66baf803 b048 ee ebfd")      # … out dx,al; jmp out
    with subprocess.Popen([sys.executable, "-m", "ring3", "run", "--kernel", kernel(flood)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"H"
        process.terminate()
        assert process.wait(30) == 143
