#!/usr/bin/env python3
"""Checkpoints: how long the machine stands, how long until one is complete, and until it runs on from one.

    bench/checkpoint.py [--memory SIZE] [--fill MIB] [--rounds N] [--no-qemu]

The guest is Debian's kernel with a shell on its serial console, and so much random data in memory; QEMU's TCG
has the same one, for savevm and loadvm, while which the guest stands.  Medians.
Files are in the host's page cache, and synced by both.  "Runs" is when the guest's clock goes on; from the
command line, when `ring3 restore` of a machine that was off returns.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ring3 import Machine
from ring3.control import spawn
from ring3.testing.initramfs import Initramfs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from guest_terminal import busybox, image

BOOT_S = 300.0
MS = 1e3
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", default="512", help="of the guest, MiB (default: 512)")
    parser.add_argument("--fill", type=int, default=100, help="random data in it, MiB (default: 100)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-qemu", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RING3_HOME"] = folder
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/bytecode"       # as what is installed has it
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        initrd = Path(folder) / "initrd"
        initrd.write_bytes(root())
        print("| what | |\n|---|---|")
        in_process(initrd, options)
        from_the_command_line(initrd, options)
        if not options.no_qemu and shutil.which("qemu-system-x86_64"):
            qemu(Path(folder), initrd, options)
    return 0


def root() -> bytes:
    made = Initramfs()
    busybox(made, "amd64")
    made.device("/dev/urandom", 1, 9, mode=0o666)
    made.file("/init", b"#!/bin/sh\nmount -t proc proc /proc\nexec sh\n", mode=0o755)
    return made.build()


def fill(options: argparse.Namespace) -> str:
    return f"dd if=/dev/urandom of=/fill bs=1M count={options.fill} 2>/dev/null; echo fil''led\n"


def settings(initrd: Path, options: argparse.Namespace) -> dict[str, str]:
    return {"kernel": image("linux-amd64"), "initrd": str(initrd), "memory": f"{options.memory}M",
            "append": "console=ttyS0 quiet", "serial": "memory", "display": "none"}


def row(what: str, values: list[float], unit: str = "ms", scale: float = MS) -> None:
    best, middle = min(values) * scale, statistics.median(values) * scale
    print(f"| {what} | {middle:.1f} {unit} (best {best:.1f}) |", flush=True)


def timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def in_process(initrd: Path, options: argparse.Namespace) -> None:
    folder = initrd.parent / "checkpoints"
    with Machine(**settings(initrd, options), checkpoints=folder) as vm:
        vm.serial[0].expect("# ", timeout_s=BOOT_S)
        vm.serial[0].send(fill(options))
        vm.serial[0].expect("filled", timeout_s=BOOT_S)
        whole = [checkpoint(vm, folder / "whole.ring3") for _ in range(options.rounds + 1)][1:]
        row("checkpoint, the guest stands", [stood for _, stood in whole])
        row("checkpoint of all, complete", [complete for complete, _ in whole])
        print(f"| its size | {(folder / 'whole.ring3').stat().st_size // MIB} MiB |")
        vm.checkpoint("first")
        changed = [checkpoint(vm, f"next{n}") for n in range(options.rounds)]
        row("checkpoint of what changed, complete", [complete for complete, _ in changed])
        row("restore of the newest until it runs", [restore(vm, "next0") for _ in range(options.rounds)])
        others = ["first", "next1"] * options.rounds
        row("restore of another until it runs", [restore(vm, tag) for tag in others[: options.rounds]])


def checkpoint(vm: Machine, where: Path | str) -> tuple[float, float]:
    """Until it is complete, and how much of that the guest's clock stood."""
    clock_ns = vm.clock.now()
    complete_s = timed(lambda: vm.checkpoint(where))
    return complete_s, complete_s - (vm.clock.now() - clock_ns) / 1e9


def restore(vm: Machine, tag: str) -> float:
    def until_it_runs() -> None:
        vm.restore(tag)
        clock_ns = vm.clock.now()
        while vm.clock.now() == clock_ns:
            pass

    return timed(until_it_runs)


def from_the_command_line(initrd: Path, options: argparse.Namespace) -> None:
    ring3 = [sys.executable, "-m", "ring3"]
    subprocess.run([*ring3, "new", "bench"], check=True)
    vm = spawn.start("bench", **settings(initrd, options))
    vm.serial[0].expect("# ", timeout_s=BOOT_S)
    vm.serial[0].send(fill(options))
    vm.serial[0].expect("filled", timeout_s=BOOT_S)
    vm.checkpoint("full")
    vm.stop()
    times = []
    for _ in range(options.rounds + 1):
        times.append(timed(lambda: subprocess.run([*ring3, "restore", "bench", "full"], check=True)))
        subprocess.run([*ring3, "stop", "--force", "bench"], check=True, capture_output=True)
    row("restore from the command line until it runs", times[1:])


# --- QEMU ---


class Monitor:
    """QEMU's human monitor."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._read()

    def _read(self) -> str:
        text = b""
        while not text.endswith(b"(qemu) "):
            text += self._socket.recv(65536)
        return text.decode(errors="replace")

    def __call__(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\n")
        answer = self._read()
        if "rror" in answer:
            raise RuntimeError(answer)


def qemu(folder: Path, initrd: Path, options: argparse.Namespace) -> None:
    disk, serial, monitor = folder / "disk.qcow2", folder / "serial", folder / "monitor"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1G"], check=True)
    command = ["qemu-system-x86_64", "-accel", "tcg", "-m", options.memory, "-nographic", "-nodefaults",
               "-kernel", image("linux-amd64"), "-initrd", initrd, "-append", "console=ttyS0 quiet",
               "-drive", f"file={disk},if=virtio,format=qcow2",
               "-serial", f"unix:{serial},server=on,wait=on",
               "-monitor", f"unix:{monitor},server=on,wait=off"]
    with subprocess.Popen(command) as process:
        try:
            console = connected(serial)
            wait_for(console, b"# ")
            console.sendall(fill(options).encode())
            wait_for(console, b"filled")
            ask = Monitor(monitor)
            row("QEMU TCG: savevm", [timed(lambda: ask("savevm x")) for _ in range(options.rounds)])
            row("QEMU TCG: loadvm", [timed(lambda: ask("loadvm x")) for _ in range(options.rounds)])
        finally:
            process.kill()


def connected(path: Path) -> socket.socket:
    deadline_s = time.monotonic() + BOOT_S
    while True:
        found = socket.socket(socket.AF_UNIX)
        try:
            found.connect(str(path))
            return found
        except OSError:
            found.close()
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def wait_for(console: socket.socket, wanted: bytes) -> None:
    console.settimeout(BOOT_S)
    text = b""
    while wanted not in text:
        text += console.recv(65536)


if __name__ == "__main__":
    sys.exit(main())
