"""Linux guests of our own making: a Debian kernel, busybox, and the kernel modules a test wants."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guest_terminal import BOOT_TIMEOUT_S, image
from ring3 import Machine
from ring3.testing.initramfs import Initramfs
from ring3.testing.modules import ModuleTree

FLAVOUR = {"i386": "686-pae", "amd64": "amd64"}
APPLETS = (
    "sh", "mount", "umount", "uname", "cat", "ls", "poweroff", "reboot", "sha256sum", "md5sum", "dd", "sleep",
    "insmod", "dmesg", "grep", "tail", "head", "cmp", "sync", "mkdir", "echo", "hexdump", "blockdev", "wc",
    "time", "mdev", "stty", "true", "eject", "seq", "date", "cut", "tr", "blkdiscard",
)  # fmt: skip
INIT = b"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read m options; do insmod /modules/$m.ko $options || echo "FAILED $m"; done < /modules/order
echo guest is ready
exec sh </dev/console >/dev/console 2>&1
"""


def initramfs(architecture: str, *modules: str, options: dict[str, str] | None = None) -> bytes:
    """busybox, and these modules with all they need, loaded in this order before the shell starts.

    `options`: parameters of modules by their names.
    """
    tree = ModuleTree(image(f"modules-{FLAVOUR[architecture]}.tar"))
    root = Initramfs()
    root.file("/bin/busybox", Path(image(f"busybox-{architecture}")).read_bytes(), mode=0o755)
    for applet in APPLETS:
        root.symlink(f"/bin/{applet}", "busybox")
    for directory in ("/proc", "/sys", "/dev", "/mnt", "/tmp"):
        root.directory(directory)
    root.device("/dev/console", 5, 1)
    order = tree.load_order(*modules)
    for name, data in order:
        root.file(f"/modules/{name}.ko", data)
    lines = [f"{name} {(options or {}).get(name, '')}\n" for name, _ in order]
    root.file("/modules/order", "".join(lines).encode())
    root.file("/init", INIT, mode=0o755)
    return root.build()


class Shell:
    """A guest's shell on its first serial port."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.console = machine.serial[0]

    def run(self, line: str, timeout_s: float = 120) -> str:
        """What a command prints; fails unless it succeeds."""
        self.console.send(f"echo 'st'art; {line}; echo \"en\"d=$?\n")
        match = self.console.expect(r"start\r*\n((?s:.*?))end=(\d+)", timeout_s)
        output = match[1].decode(errors="replace").replace("\r", "")
        assert match[2] == b"0", f"{line}: status {match[2]!r}: {output}"
        return output


@contextlib.contextmanager
def linux(architecture: str, initrd: bytes, append: str = "", **settings: Any) -> Iterator[Shell]:
    """A machine with that kernel and initramfs, at its shell's prompt."""
    kernel = image(f"linux-{FLAVOUR[architecture]}")
    line = f"console=ttyS0 quiet {append}"
    with Machine(kernel=kernel, initrd=initrd, append=line, serial="memory", **settings) as machine:
        shell = Shell(machine)
        shell.console.expect("guest is ready", BOOT_TIMEOUT_S)
        yield shell
