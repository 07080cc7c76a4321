#!/usr/bin/env python3
"""Accesses to devices: µs each as the guest sees them, beside QEMU's TCG.

    bench/exits.py [--rounds N] [--no-qemu]

The guest (native/exits.asm) does each in batches and tells the shortest; the best round counts, so that what
else the host does has little part in it.  The loop around an access is taken off.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ring3 import Machine
from ring3.testing.multiboot import multiboot

SOURCE = Path(__file__).parent / "native/exits.asm"
BATCH = 500                             # accesses, as in the guest
NOTHING = "nothing"
LINE = re.compile(r"^(.+)=([0-9A-F]{16})\r?$", re.MULTILINE)
TIMEOUT_S = 120

Figures = dict[str, float]              # ticks of the TSC by access


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each (default: 3)")
    parser.add_argument("--no-qemu", action="store_true")
    options = parser.parse_args()
    qemu = None if options.no_qemu else shutil.which("qemu-system-x86_64")
    with tempfile.TemporaryDirectory() as folder:
        kernel, disk = Path(folder) / "guest", Path(folder) / "disk.img"
        binary = Path(folder) / "guest.bin"
        subprocess.run(["nasm", "-f", "bin", "-o", str(binary), str(SOURCE)], check=True)
        kernel.write_bytes(multiboot(binary.read_bytes()))
        disk.write_bytes(bytes(1 << 20))
        ours: Figures = {}
        theirs: Figures = {}
        for _ in range(options.rounds):
            figures, tsc_hz = ring3_ticks(kernel, disk)
            keep_best(ours, figures)
            if qemu:
                keep_best(theirs, qemu_ticks(qemu, kernel, disk))
    print("| access | Ring3, µs | QEMU TCG, µs |\n|---|---|---|")
    for access in ours:
        if access != NOTHING:
            told = [cell(figures, access, tsc_hz) for figures in (ours, theirs)]
            print(f"| {access} | {told[0]} | {told[1]} |")
    return 0


def keep_best(best: Figures, figures: Figures) -> None:
    for access, ticks in figures.items():
        best[access] = min(ticks, best.get(access, ticks))


def cell(figures: Figures, access: str, tsc_hz: int) -> str:
    if access not in figures:
        return "–"
    return f"{(figures[access] - figures[NOTHING]) / BATCH / tsc_hz * 1e6:.3f}"


def ticks_in(output: str) -> Figures:
    return {access: int(ticks, 16) for access, ticks in LINE.findall(output)}


def ring3_ticks(kernel: Path, disk: Path) -> tuple[Figures, int]:
    with Machine(kernel=str(kernel), disk=f"{disk},bus=ide", memory="32M", serial="memory",
                 display="none") as vm:
        said = vm.serial[0].expect("(?s).*done\n", TIMEOUT_S)[0].decode()
        return ticks_in(said), vm.vcpu.tsc_hz


def qemu_ticks(qemu: str, kernel: Path, disk: Path) -> Figures:
    argv = [qemu, "-accel", "tcg", "-m", "32", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", str(kernel), "-drive", f"if=ide,format=raw,file={disk}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("done"):
                break
        process.kill()
    return ticks_in(output)


if __name__ == "__main__":
    sys.exit(main())
