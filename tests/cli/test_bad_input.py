"""A user's mistake is one line with the cause and the remedy, and exit status 2; never a traceback."""

import gzip
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ring3.cli.main import invoke


@pytest.fixture
def mistake(capsys):
    """Runs a command line that must fail: mistake("run", …) gives the one line it said."""

    def run(*arguments: str) -> str:
        assert invoke(list(arguments)) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("ring3: ")
        return lines[0]

    return run


def test_an_unknown_verb_is_answered_with_the_nearest(mistake):
    assert "did you mean rm or run?" in mistake("rum")


def test_an_unknown_option_is_answered_with_the_nearest(mistake):
    assert "did you mean --kernel" in mistake("run", "--kernal", "vmlinuz")


def test_an_option_without_its_value_is_named(mistake):
    assert "--kernel" in mistake("run", "--kernel")


def test_an_argument_too_many_is_named(mistake):
    assert "vmlinuz" in mistake("run", "disk.img", "vmlinuz")


@pytest.mark.parametrize(("option", "value", "says"), [
    ("--engine", "fast", "translate"),
    ("--display", "hologram", "browser"),
    ("--triple-fault", "halt", "reset"),
    ("--memory", "0", "512M"),
    ("--memory", "much", "512M"),
    ("--memory", "-1M", "512M"),
    ("--memory", "100G", "64G"),
    ("--serial", "tty0", "stdio, pty, file:PATH, socket:PATH, none"),
    ("--debug-exit", "port", "0xf4"),
    ("--debug-exit", "0x10000", "0xf4"),
])
def test_a_wrong_value_is_answered_with_right_ones(mistake, option, value, says):
    assert says in mistake("run", option, value)


def test_an_unknown_cpu_is_answered_with_the_models(mistake):
    assert "max" in mistake("run", "--cpu", "i986")


def test_two_ports_cannot_share_standard_input(mistake):
    assert "stdio" in mistake("run", "--serial", "stdio", "--serial", "stdio")


def test_an_initrd_needs_a_kernel(mistake, tmp_path):
    (tmp_path / "initrd").write_bytes(b"070701")
    assert "--kernel" in mistake("run", "--initrd", str(tmp_path / "initrd"))


ELF_ARM64 = b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + struct.pack("<H", 183) + bytes(100)

KERNELS = {                             # contents -> a word of the answer
    "empty": (b"", "empty"),
    "text": (b"hello\n" * 100, "neither"),
    "script": (b"#!/bin/sh\nexit 0\n", "script"),
    "gzip": (gzip.compress(b"kernel"), "gzip"),
    "truncated": (b"MZ" + bytes(100), "kernel"),
    "foreign": (ELF_ARM64, "ARM 64"),
}


@pytest.mark.parametrize("kind", KERNELS)
def test_a_file_that_is_no_kernel_is_named_with_the_reason(mistake, tmp_path, kind):
    contents, says = KERNELS[kind]
    (tmp_path / "image").write_bytes(contents)
    line = mistake("run", "--kernel", str(tmp_path / "image"))
    assert says in line
    assert str(tmp_path / "image") in line


def test_a_missing_kernel_is_named(mistake):
    line = mistake("run", "--kernel", "/no/such/vmlinuz")
    assert "/no/such/vmlinuz" in line
    assert "No such file" in line


def test_a_directory_is_no_kernel(mistake, tmp_path):
    assert str(tmp_path) in mistake("run", "--kernel", str(tmp_path))


def test_a_mistake_ends_a_real_process_with_status_2_and_no_traceback(tmp_path):
    process = subprocess.run([sys.executable, "-m", "ring3", "run", "--kernel", str(tmp_path / "none")],
                             capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1
    assert "Traceback" not in process.stderr


def test_help_is_no_mistake(capsys):
    assert invoke(["run", "--help"]) == 0
    assert "--kernel" in capsys.readouterr().out


def test_the_documented_options_are_those_there_are(capsys):
    document = (Path(__file__).resolve().parents[2] / "docs/cli.md").read_text()
    invoke(["run", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert {option for option in options if f"| `{option}" not in document} == set()
