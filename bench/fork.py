#!/usr/bin/env python3
"""Forks: how long until a copy runs and answers, what many cost, and how long a machine stands for one.

    bench/fork.py [--count N] [--memory SIZE]

The guest is Debian's kernel, a shell on its serial console.  "Runs" is when the machine's process has heard
from the copy's, after its first instructions.  The memory of a copy is what its process has to itself.  How
fast a copy computes is the best of some runs of a loop in its shell: at first its RAM is the machine's, later
what it uses is its own.

The shell carries out what it reads, without editing lines: busybox's editor sleeps for 20 ms after each one
where the terminal does not say where its cursor is.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from ring3.control import spawn
from ring3.control.remote import RemoteMachine
from ring3.machine import Machine
from ring3.testing.initramfs import Initramfs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from guest_terminal import busybox, image

SINGLES = 15                            # forks measured one by one
PAUSE_S = 0.2                           # before each by `ring3 fork`: so long the next process takes
LOOPS = 8                               # of a second or so
BOOT_S = 300.0
MS = 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50, help="copies made at once (default: 50)")
    parser.add_argument("--memory", default="512M", help="of the guest (default: 512M)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RING3_HOME"] = folder
        initrd = Path(folder) / "initrd"
        initrd.write_bytes(root())
        settings = {"kernel": image("linux-amd64"), "initrd": str(initrd), "memory": options.memory,
                    "append": "console=ttyS0 quiet"}
        print("| what | |\n|---|---|")
        with Machine(**settings) as vm, Machine(**settings) as other:
            for each in (vm, other):
                each.serial[0].expect("ready", timeout_s=BOOT_S)
            in_process(vm)
            computing(vm, other)
        parent = spawn.start("parent", serial="memory", display="none", **settings)
        try:
            parent.serial[0].expect("ready", timeout_s=BOOT_S)
            one_by_one(parent)
            at_once(parent, options.count)
        finally:
            parent.stop()
    return 0


def root() -> bytes:
    made = Initramfs()
    busybox(made, "amd64")
    made.file("/init", b'#!/bin/sh\necho ready\nwhile read line; do eval "$line"; done\n', mode=0o755)
    return made.build()


def row(what: str, value: str) -> None:
    print(f"| {what} | {value} |", flush=True)


def in_process(vm: Machine) -> None:
    """Machine.fork, and how long the machine stands."""
    stands, runs, answers = [], [], []
    for _ in range(SINGLES):
        begin = time.perf_counter()
        (copy,) = vm.fork()
        runs.append(time.perf_counter() - begin)
        answer(copy)
        answers.append(time.perf_counter() - begin)
        copy.stop()
        begin = time.perf_counter()
        vm.pause()
        with vm.moment():
            stands.append(time.perf_counter() - begin)
        vm.resume()
    row("the machine stands (median)", f"{statistics.median(stands) * MS:.1f} ms")
    row("Machine.fork: the copy runs (median)", f"{statistics.median(runs) * MS:.1f} ms")
    row("… and has answered on its console", f"{statistics.median(answers) * MS:.1f} ms")


def computing(vm: Machine, never_copied: Machine) -> None:
    """How fast a machine and its copy compute that go on doing so: in turn, for the host has other work."""
    (copy,) = vm.fork()
    times = {each: [loop(each) for _ in range(2)] for each in (never_copied, copy, vm)}
    first_s = times[copy][0]
    for _ in range(LOOPS):
        for each, known in times.items():
            known.append(loop(each))
    full_s = min(times[never_copied])
    for what, each in (("a copy", copy), ("a machine that was copied", vm)):
        row(f"{what} computes as fast as one that never was", f"{full_s / min(times[each]):.0%}")
    row("… a copy at first", f"{full_s / first_s:.0%}")
    copy.stop()


def loop(vm: Machine) -> float:
    begin = time.perf_counter()
    vm.serial[0].send("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo en'd'ed\n")
    vm.serial[0].expect("ended\r\n", timeout_s=BOOT_S)
    return time.perf_counter() - begin


def one_by_one(parent: RemoteMachine) -> None:
    runs, answers, first = [], [], 0.0
    for _ in range(SINGLES + 1):
        time.sleep(PAUSE_S)
        begin = time.perf_counter()
        (name,) = parent.client.call("machine.fork", count=1)
        ran = time.perf_counter() - begin
        with RemoteMachine(name) as copy:
            answer(copy)
            if first:
                runs.append(ran)
                answers.append(time.perf_counter() - begin)
            first = first or ran
            copy.stop()
    row("ring3 fork: the copy runs (median)", f"{statistics.median(runs) * MS:.1f} ms")
    row("… and has answered on its console", f"{statistics.median(answers) * MS:.1f} ms")
    row("… the first fork of a machine", f"{first * MS:.0f} ms")


def at_once(parent: RemoteMachine, count: int) -> None:
    begin = time.perf_counter()
    names = parent.client.call("machine.fork", count=count, within_s=600)
    row(f"{count} forks", f"{time.perf_counter() - begin:.2f} s")
    copies = [RemoteMachine(name) for name in names]
    own = [private_bytes(copy.info()["pid"]) for copy in copies]
    row("memory of a copy's own at birth (median)", f"{statistics.median(own) / (1 << 20):.1f} MiB")
    for copy in copies:
        copy.stop()
        copy.close()


def answer(copy: RemoteMachine | Machine) -> None:
    copy.serial[0].send("echo an's'wer\n")
    copy.serial[0].expect("answer\r\n", timeout_s=60)


def private_bytes(pid: int) -> int:
    """Pages that only this process has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


if __name__ == "__main__":
    sys.exit(main())
