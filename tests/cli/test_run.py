"""`ring3 run`: exit statuses, plain pipes, files, and the reports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ring3.testing.multiboot import multiboot

pytestmark = pytest.mark.guest

TRIPLE_FAULT = bytes.fromhex("0f011d29001000 0f0b 000000000000")    # lidt [zeros]; ud2; zeros
RESET = bytes.fromhex("b0fe e664 ebfe")                 # mov al,FEh; out 64h,al: the 8042 pulses reset
DEBUG_EXIT = bytes.fromhex("b003 e6f4 ebfe")            # mov al,3; out F4h,al


def run(*arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([sys.executable, "-m", "ring3", "run", *arguments],
                          input=stdin, capture_output=True, check=False, timeout=50)


@pytest.fixture
def kernel(tmp_path):
    def write(code: bytes) -> str:
        (tmp_path / "kernel").write_bytes(multiboot(code))
        return str(tmp_path / "kernel")

    return write


def test_the_embedded_guest_powers_off_with_status_0():
    process = run("--append", "once")
    assert b"All tests passed." in process.stdout
    assert process.returncode == 0
    assert process.stderr == b""


def test_typed_keys_come_through_a_pipe():
    process = run(stdin=b"hello\nq")
    assert b"hello" in process.stdout
    assert process.returncode == 0


def test_a_triple_fault_that_stops_has_status_3_and_a_report(kernel):
    process = run("--kernel", kernel(TRIPLE_FAULT), "--triple-fault", "stop")
    assert process.returncode == 3
    assert b"triple fault" in process.stderr
    assert b"Traceback" not in process.stderr


def test_a_reset_under_no_reboot_has_status_0(kernel):
    assert run("--kernel", kernel(RESET), "--no-reboot").returncode == 0


def test_debug_exit_has_the_guests_status(kernel):
    assert run("--kernel", kernel(DEBUG_EXIT), "--debug-exit", "0xf4").returncode == 7


def test_serial_to_a_file_leaves_standard_output_alone(tmp_path):
    process = run("--append", "once", "--serial", f"file:{tmp_path}/com1")
    assert process.returncode == 0
    assert process.stdout == b""
    assert b"All tests passed." in (tmp_path / "com1").read_bytes()


def test_stats_go_to_standard_error():
    process = run("--append", "once", "--serial", "none", "--stats")
    assert process.returncode == 0
    assert process.stdout == b""
    assert len(process.stderr.splitlines()) > 5


def test_cpu_help_lists_the_models():
    assert b"max" in run("--cpu", "help").stdout


def test_a_fresh_guest_of_4_gib_stays_small():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-m", "ring3", "run", "--memory", "4G"],
                          stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while b"Keys are echoed" not in process.stdout.readline():
            assert process.poll() is None
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident_kib = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])
        process.communicate(b"q")
    assert resident_kib < 200 * 1024
