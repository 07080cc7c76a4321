"""Where print jobs go, and the pseudo-terminal of a serial port."""

import os
import threading

import pytest

from ring3.char import open_backend
from ring3.char.printer import Command, open_printer
from ring3.char.pty import Pty
from ring3.errors import ConfigError


def test_a_file_gets_what_is_printed(tmp_path):
    printer = open_printer(f"file:{tmp_path}/out.prn")
    printer.write(b"page 1\f")
    printer.close()
    assert (tmp_path / "out.prn").read_bytes() == b"page 1\f"


def test_a_command_gets_a_job_when_the_printer_falls_silent(tmp_path):
    fifo = tmp_path / "job"
    os.mkfifo(fifo)
    printer = Command(f"cat > {fifo}", silence_s=0.0)
    printer.write(b"first job")
    assert fifo.read_bytes() == b"first job"
    printer.close()


def test_the_end_of_the_machine_ends_the_last_job(tmp_path):
    printer = open_printer(f"command:cat > {tmp_path}/job")
    printer.write(b"last ")
    printer.write(b"job")
    printer.close()
    assert (tmp_path / "job").read_bytes() == b"last job"


def test_nothing_printed_runs_no_command(tmp_path):
    printer = open_printer(f"command:touch {tmp_path}/job")
    printer.close()
    assert not (tmp_path / "job").exists()


def test_a_command_that_fails_does_no_harm():
    printer = open_printer("command:exit 3")
    printer.write(b"x" * 100_000)
    printer.close()


def test_none_is_no_port():
    assert open_printer("none") is None


BAD = ["lpr", "file:", "none:x", "command:", "device:/etc/passwd", "device:/no/such"]


@pytest.mark.parametrize("spec", BAD)
def test_a_wrong_printer_is_one_line(spec):
    with pytest.raises(ConfigError, match="parallel") as caught:
        open_printer(spec)
    assert "\n" not in str(caught.value)


def test_a_pty_carries_both_ways(capfd):
    backend = open_backend("pty")
    assert isinstance(backend, Pty)
    came, got = threading.Event(), bytearray()

    def receive(data):
        got.extend(data)
        came.set()
        return len(data)

    class Loop:
        def call_soon_threadsafe(self, function):
            function()

    backend.attach(Loop(), receive)
    assert backend.path in capfd.readouterr().err
    user = os.open(backend.path, os.O_RDWR | os.O_NOCTTY)
    os.write(user, b"ls\r")
    assert came.wait(10)
    backend.write(b"file\r\n")
    assert os.read(user, 100) == b"file\r\n"
    os.close(user)
    backend.close()
    assert bytes(got) == b"ls\r"
