#!/usr/bin/env python3
"""Disks: what Linux reads a second from an image in the host's page cache, by bus, beside QEMU's TCG.

    bench/disk.py [--bus virtio|ahci|ide|scsi]… [--rounds N] [--no-qemu]

The guest is Debian's linux-image-amd64 with native/reads.c, which reads past the guest's own page cache:
4 KiB at random places, and 1 MiB one after the other.  The best of the rounds counts.  For Ring3 the time
that its vCPU was ready for and had no processor for does not count, as it depends on what else the host does;
QEMU's figures are as its guest saw them, so they are comparable on a host that is idle only.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ring3 import Machine
from ring3.testing.initramfs import Initramfs
from ring3.testing.modules import ModuleTree

ROOT = Path(__file__).resolve().parents[1]
GUESTS = ROOT / "build/guests"
SOURCE = Path(__file__).parent / "native/reads.c"
IMAGE_MIB = 256
RANDOM = (4096, 20_000)                 # bytes, reads
SEQUENTIAL = (1 << 20, 512)
TIMEOUT_S = 300

BUSES = {                               # modules, device, QEMU's arguments
    "virtio": (("virtio_pci", "virtio_blk"), "vda", ("-device", "virtio-blk-pci,drive=d")),
    "ahci": (("ahci", "sd_mod"), "sda", ("-device", "ahci,id=a", "-device", "ide-hd,bus=a.0,drive=d")),
    "ide": (("ata_piix", "sd_mod"), "sda", ("-device", "ide-hd,drive=d")),
    "scsi": (("BusLogic", "sd_mod"), "sda", ()),            # QEMU has no BusLogic
}
FIGURES = re.compile(r"reads of (\d+) bytes in [\d.]+ s: (\d+)/s, (\d+) MB/s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bus", action="append", choices=BUSES, help="this one only; may be given again")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--no-qemu", action="store_true")
    options = parser.parse_args()
    qemu = None if options.no_qemu else shutil.which("qemu-system-x86_64")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        with image.open("wb") as file:
            for _ in range(IMAGE_MIB):
                file.write(os.urandom(1 << 20))
        print("| bus | 4 KiB reads/s | QEMU | MB/s in sequence | QEMU |")
        print("|---|---|---|---|---|")
        for bus in options.bus or BUSES:
            ours = ring3_figures(bus, image, options.rounds)
            theirs = (0.0, 0.0)
            if qemu and BUSES[bus][2]:
                theirs = qemu_figures(qemu, bus, Path(folder), options.rounds)
            told = [f"{n:.0f}" if n else "–" for n in (ours[0], theirs[0], ours[1], theirs[1])]
            print(f"| {bus} | {told[0]} | {told[1]} | {told[2]} | {told[3]} |", flush=True)
    return 0


def initramfs(bus: str, script: str) -> bytes:
    modules, _, _ = BUSES[bus]
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "reads"
        subprocess.run(["cc", "-O2", "-static", "-o", str(binary), str(SOURCE)], check=True)
        reads = binary.read_bytes()
    root = Initramfs()
    root.file("/bin/busybox", (GUESTS / "busybox-amd64").read_bytes(), mode=0o755)
    root.file("/bin/reads", reads, mode=0o755)
    order = ModuleTree(GUESTS / "modules-amd64.tar").load_order(*modules)
    for name, data in order:
        root.file(f"/modules/{name}.ko", data)
    for folder in ("/proc", "/sys", "/dev"):
        root.directory(folder)
    root.device("/dev/console", 5, 1)
    loads = "\n".join(f"insmod /modules/{name}.ko" for name, _ in order)
    head = "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nmount -t devtmpfs dev /dev\n"
    wait = f"while ! [ -e /dev/{BUSES[bus][1]} ]; do sleep 1; done\n"
    root.file("/init", f"{head}{loads}\n{wait}{script}\n".encode(), mode=0o755)
    return root.build()


def commands(bus: str) -> list[str]:
    return [f"reads /dev/{BUSES[bus][1]} {size} {count}" for size, count in (RANDOM, SEQUENTIAL)]


def ring3_figures(bus: str, image: Path, rounds: int) -> tuple[float, float]:
    best = [0.0, 0.0]
    root = initramfs(bus, "exec sh </dev/console >/dev/console 2>&1")
    settings = {"kernel": str(GUESTS / "linux-amd64"), "append": "console=ttyS0 quiet", "display": "none"}
    with Machine(initrd=root, disk=f"{image},bus={bus}", serial="memory", **settings) as vm:
        console = vm.serial[0]
        console.expect("job control turned off", TIMEOUT_S)
        for _ in range(rounds):
            for n, (size, count) in enumerate((RANDOM, SEQUENTIAL)):
                command = commands(bus)[n]
                waited_s, start_s = run_delay_s(), time.monotonic()
                console.send(command + "\n")
                console.expect(r"MB/s\r", TIMEOUT_S)
                net_s = time.monotonic() - start_s - (run_delay_s() - waited_s)
                best[n] = max(best[n], count / net_s * (size / 1e6 if n else 1))
    return best[0], best[1]


def run_delay_s() -> float:
    """What the vCPU's thread was ready for and had no processor for."""
    (vcpu,) = (thread for thread in threading.enumerate() if thread.name == "vcpu-0")
    return int(Path(f"/proc/self/task/{vcpu.native_id}/schedstat").read_text().split()[1]) / 1e9


def qemu_figures(qemu: str, bus: str, folder: Path, rounds: int) -> tuple[float, float]:
    script = "\n".join(commands(bus) * rounds) + "\npoweroff -f"
    root = folder / "initrd"
    root.write_bytes(initramfs(bus, f"exec >/dev/console 2>&1\n{script}"))
    output = subprocess.run(
        [qemu, "-accel", "tcg", "-m", "512", "-display", "none", "-serial", "stdio", "-no-reboot",
         "-kernel", str(GUESTS / "linux-amd64"), "-initrd", str(root), "-append", "console=ttyS0 quiet",
         "-drive", f"if=none,id=d,format=raw,file={folder / 'disk.img'}", *BUSES[bus][2]],
        capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False).stdout
    found = [(int(size), float(rate), float(mb)) for size, rate, mb in FIGURES.findall(output)]
    random = max((rate for size, rate, _ in found if size == RANDOM[0]), default=0)
    sequential = max((mb for size, _, mb in found if size == SEQUENTIAL[0]), default=0)
    return random, sequential


if __name__ == "__main__":
    sys.exit(main())
