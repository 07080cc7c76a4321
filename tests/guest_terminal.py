"""Real guests, as a person at a terminal sees them: the command, its output, and its exit status."""

import os
import sys
from pathlib import Path

import pexpect
import pytest

from ring3.testing.initramfs import Initramfs

ROOT = Path(__file__).resolve().parents[1]
GUESTS = ROOT / "build/guests"
BOOT_TIMEOUT_S = 300                    # on a machine that is busy with other tests
REPLY_TIMEOUT_S = 60


class Guest:
    """`ring3 run` on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = pexpect.spawn(
            sys.executable, ["-m", "ring3", "run", *arguments],
            timeout=REPLY_TIMEOUT_S, encoding="utf-8", codec_errors="replace", dimensions=(50, 250))
        self.process.delaybeforesend = None
        if os.environ.get("RING3_SHOW"):
            self.process.logfile_read = sys.stdout

    def wait_for(self, pattern: str, timeout_s: float = REPLY_TIMEOUT_S) -> str:
        """Waits for the regular expression; returns what it matched."""
        self.process.expect(pattern, timeout=timeout_s)
        return str(self.process.match.group())

    def wait_for_shell(self) -> None:
        self.wait_for(r"\n[~/]* ?# ", BOOT_TIMEOUT_S)

    def run(self, line: str) -> str:
        """What a shell command prints; fails unless it succeeds."""
        # Quoted, so that the echo of the typed line is not taken for the answer.
        self.process.send(f"echo 'st'art; {line} && echo 'en'd\n")
        self.process.expect(r"start\r*\n(.*)end\r*\n")
        return str(self.process.match.group(1))

    def type(self, line: str) -> None:
        self.process.send(line + "\n")

    def exit_status(self) -> int:
        """Waits for the end of the machine."""
        self.process.expect(pexpect.EOF)
        self.process.close()
        assert self.process.signalstatus is None
        return int(self.process.exitstatus)


def image(name: str) -> str:
    """The path of a guest's file; skips the test where set-up could not fetch it."""
    path = GUESTS / name
    if not path.exists():
        pytest.skip(f"no {name}: scripts/guests fetches it where a Debian mirror can be reached")
    return str(path)


def busybox_root(architecture: str) -> bytes:
    """An initramfs that starts a shell on the console."""
    root = Initramfs()
    busybox(root, architecture)
    root.file("/init", b"#!/bin/sh\nmount -t proc proc /proc\nmount -t sysfs sys /sys\nexec sh\n", mode=0o755)
    return root.build()


def busybox(root: Initramfs, architecture: str, *more: str) -> None:
    """What a shell needs, with `more` applets than the usual ones."""
    root.file("/bin/busybox", Path(image(f"busybox-{architecture}")).read_bytes(), mode=0o755)
    for applet in ("sh", "mount", "uname", "cat", "poweroff", "reboot", "sha256sum", "dd", "sleep", *more):
        root.symlink(f"/bin/{applet}", "busybox")
    root.directory("/proc")
    root.directory("/sys")
    root.device("/dev/console", 5, 1)
    root.device("/dev/null", 1, 3, mode=0o666)
