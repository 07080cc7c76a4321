"""Kernel modules and small programs for guests of our own."""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from guest_terminal import busybox, image
from ring3.testing.initramfs import Initramfs


def root_with(
    modules: tuple[str, ...],
    programs: dict[str, str],
    applets: tuple[str, ...] = (),
    files: dict[str, bytes] | None = None,
) -> bytes:
    """An initramfs whose shell starts once `modules` of the 686-pae kernel, and what they depend on, are in.

    A module may be followed by its options.  `programs`: C sources by name, for /bin; `files`: by path.
    """
    root = Initramfs()
    busybox(root, "i386", "insmod", "ls", *applets)
    root.directory("/dev")
    options = {module.split()[0].replace("-", "_"): " ".join(module.split()[1:]) for module in modules}
    found = _modules(tuple(options))
    for name, data in found.items():
        root.file(f"/modules/{name}.ko", data)
    for name, source in programs.items():
        root.file(f"/bin/{name}", compiled(source), mode=0o755)
    for path, data in (files or {}).items():
        root.file(path, data)
    script = ["#!/bin/sh", "mount -t proc proc /proc", "mount -t sysfs sys /sys"]
    script += ["mount -t devtmpfs dev /dev"]
    for name in found:
        script += [f"insmod /modules/{name}.ko {options.get(name, '')}"]
    root.file("/init", "\n".join([*script, "exec sh", ""]).encode(), mode=0o755)
    return root.build()


def compiled(source: str) -> bytes:
    """A static i386 program."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc: the guest's program cannot be made")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program"
        command = ["gcc", "-m32", "-static", "-Os", "-x", "c", "-", "-o", str(program)]
        made = subprocess.run(command, input=source.encode(), capture_output=True, timeout=60)
        if made.returncode:
            pytest.skip(f"gcc -m32 -static: {made.stderr.decode()[:200]}")
        return program.read_bytes()


def _modules(wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Modules by name, each after what it depends on."""
    with tarfile.open(image("modules-686-pae.tar")) as tar:
        members = {Path(member.name).stem.replace("-", "_"): member for member in tar if member.isfile()}
        found: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in found or name not in members:    # not there: built in
                return
            file = tar.extractfile(members[name])
            assert file is not None
            data = file.read()
            at = data.index(b"depends=") + len(b"depends=")
            for other in data[at : data.index(b"\0", at)].decode().split(","):
                add(other.replace("-", "_"))
            found[name] = data

        for name in wanted:
            add(name.replace("-", "_"))
    return found
