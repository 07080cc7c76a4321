"""Raw mode and the ways back from it (ring3.char.terminal)."""

import contextlib
import os
import pty
import shutil
import subprocess
import sys
import termios

import pytest

PROGRAM = """
import sys
from ring3.char.terminal import RawTerminal
terminal = RawTerminal(0)
print("raw", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(shutil.which("stty") is None, reason="no stty here")
def test_a_killed_process_leaves_the_terminal_as_it_was():
    master, slave = pty.openpty()
    before = termios.tcgetattr(master)
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=slave, stdout=subprocess.PIPE) as process:
        os.close(slave)
        assert process.stdout.readline() == b"raw\n"
        assert termios.tcgetattr(master) != before
        process.kill()
    with contextlib.suppress(OSError):  # EIO: the last process that had the terminal open has ended
        while os.read(master, 100):
            pass
    assert termios.tcgetattr(master) == before
    os.close(master)
