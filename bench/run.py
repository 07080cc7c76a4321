#!/usr/bin/env python3
"""Ring3 beside the bare host and QEMU's TCG: the embedded guest's loops, and Linux booting and idle.

    make bench                      or: bench/run.py [--rounds N] [--only loops|boot|idle]

Every round runs each contender once, one after the other, so that what else the machine does falls on all
alike; a figure is the median of the rounds.  Prints the tables of SPECIFICATION.md as Markdown.

Units: loops in ns an iteration, boots in s from the start of the process to the shell's prompt; of an idle
guest: CPU time in % of one core, memory in MiB, and how much faster its clock goes than the host's in %.
"""

import argparse
import os
import re
import select
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "bench/build"
GUESTS = ROOT / "build/guests"
EMBEDDED = ROOT / "src/ring3/firmware/embedded_guest.bin"
RING3 = ROOT / ".venv/bin/ring3"

LOOPS = ("integer", "memory", "calls")
LOOP_TIMEOUT_S = 120
BOOT_TIMEOUT_S = 300
SETTLE_S, IDLE_S = 3, 10
TICKS_PER_S = 250
BOOT_LINE = "console=ttyS0 rdinit=/bin/sh"
PROMPT = re.compile(rb"\n[~/]* ?# ")

MODE_LINE = re.compile(r"^  (\S.*?)  +([\d.]+) +([\d.]+) +([\d.]+)  ok$", re.MULTILINE)

Figures = dict[str, float]              # by row
Contenders = dict[str, Callable[[], Figures]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--only", choices=("loops", "boot", "idle"), help="one table only")
    options = parser.parse_args()
    tables = {"loops": print_loops, "boot": print_boots, "idle": print_idle}
    for name, table in tables.items():
        if options.only in (None, name):
            table(options.rounds)
    return 0


# --- loops ---

def print_loops(rounds: int) -> None:
    contenders: Contenders = {"native": native_loops, "ring3": ring3_loops}
    if shutil.which("qemu-system-x86_64"):
        contenders["QEMU TCG"] = tcg_loops
    medians = interleaved(contenders, rounds)
    heading("loop, ns an iteration", contenders)
    for row in medians["ring3"]:
        mode, loop = row.split(": ")
        native = medians["native"][f"{native_bits(mode)}: {loop}"]
        print_row(row, [native, *(medians[name].get(row) for name in contenders if name != "native")])


def native_bits(mode: str) -> int:
    return 64 if mode.startswith("64-bit") else 32


def native_loops() -> Figures:
    result: Figures = {}
    for bits in (32, 64):
        output = subprocess.run([native_program(bits)], check=True, capture_output=True, text=True).stdout
        result |= {f"{bits}: {loop}": float(ns) for loop, ns in zip(LOOPS, output.split(), strict=True)}
    return result


def native_program(bits: int) -> Path:
    BUILD.mkdir(exist_ok=True)
    program, code = BUILD / f"loops-{bits}", BUILD / f"loops-{bits}.o"
    if not program.exists():
        subprocess.run(["nasm", f"-felf{bits}", f"-I{ROOT}/guests/embedded/", "-o", code,
                        ROOT / "bench/native/loops.asm"], check=True)
        subprocess.run(["gcc", f"-m{bits}", "-O2", "-no-pie", "-o", program,
                        ROOT / "bench/native/main.c", code], check=True)
    return program


def ring3_loops() -> Figures:
    return guest_loops([str(RING3), "run", "--append", "once"])


def tcg_loops() -> Figures:
    return guest_loops([*qemu("max"), "-kernel", str(EMBEDDED), "-append", "once"])


def guest_loops(argv: list[str]) -> Figures:
    """The embedded guest's table: ns by 'mode: loop'."""
    output = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                            timeout=LOOP_TIMEOUT_S).stdout
    figures = {f"{mode}: {loop}": float(ns) for mode, *times in MODE_LINE.findall(output)
               for loop, ns in zip(LOOPS, times, strict=True)}
    if not figures:
        sys.exit(f"{argv[0]} gave no figures; it said:\n{output[-2000:]}")
    return figures


# --- Linux ---

class Linux:
    """The installer's kernel with a shell, on pipes."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.start_s = time.monotonic()
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, bufsize=0)
        self.output = bytearray()

    def __enter__(self) -> "Linux":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_for(self, pattern: "re.Pattern[bytes]") -> "re.Match[bytes]":
        """The first match in what came since the last one."""
        assert self.process.stdout is not None
        deadline_s = time.monotonic() + BOOT_TIMEOUT_S
        while not (match := pattern.search(bytes(self.output))):
            ready = select.select([self.process.stdout], [], [], max(0.0, deadline_s - time.monotonic()))[0]
            data = self.process.stdout.read(65536) if ready else b""
            if not data:
                tail = self.output[-2000:].decode(errors="replace")
                sys.exit(f"{self.argv[0]}: {pattern.pattern!r} did not come; it said:\n{tail}")
            self.output += data
        del self.output[: match.end()]
        return match

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    def uptime_s(self) -> float:
        """The guest's own clock."""
        self.type("read up rest </proc/uptime; echo up=$up")
        return float(self.wait_for(re.compile(rb"\nup=([\d.]+)\r"))[1])

    def cpu_s(self) -> float:
        """CPU time of the host process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


def linux_argv(contender: str, architecture: str, memory: str) -> list[str] | None:
    """How to boot the installer's kernel; None where set-up could not fetch it."""
    kernel = GUESTS / f"linux-installer-{architecture}"
    initrd = GUESTS / f"initrd-installer-{architecture}.gz"
    if not kernel.exists() or not initrd.exists():
        print(f"(no {architecture} kernel in build/guests: scripts/guests fetches it)", file=sys.stderr)
        return None
    if contender == "ring3":
        return [str(RING3), "run", "--memory", memory,
                "--kernel", str(kernel), "--initrd", str(initrd), "--append", BOOT_LINE]
    return [*qemu("max", memory), "-kernel", str(kernel), "-initrd", str(initrd), "-append", BOOT_LINE]


def print_boots(rounds: int) -> None:
    print_linux("boot to a shell, s", "512M", rounds, lambda name, argv: {name: boot_s(argv)})


def boot_s(argv: list[str]) -> float:
    with Linux(argv) as linux:
        linux.wait_for(PROMPT)
        return time.monotonic() - linux.start_s


def print_idle(rounds: int) -> None:
    before = wakes_cpu()
    print_linux("Linux at its prompt, with 4 GiB", "4G", rounds, idle)
    after = wakes_cpu()
    print(f"\nDebian's i386 kernel ticks {TICKS_PER_S} times a second.  To wake so often, and do nothing, "
          f"costs a program of this host {before:.2f} % of a core before, {after:.2f} % after these runs.")


def wakes_cpu() -> float:
    BUILD.mkdir(exist_ok=True)
    program = BUILD / "wakes"
    subprocess.run(["gcc", "-O2", "-o", program, ROOT / "bench/native/wakes.c"], check=True)
    argv = [program, str(TICKS_PER_S), str(IDLE_S)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def idle(name: str, argv: list[str]) -> Figures:
    with Linux(argv) as linux:
        linux.wait_for(PROMPT)
        linux.type("mount -t proc proc /proc")
        linux.uptime_s()
        time.sleep(SETTLE_S)
        host_s, guest_s, cpu_s = time.monotonic(), linux.uptime_s(), linux.cpu_s()
        time.sleep(IDLE_S)
        cpu_s = linux.cpu_s() - cpu_s
        host_s, guest_s = time.monotonic() - host_s, linux.uptime_s() - guest_s
        return {f"{name}: CPU, % of a core": 100 * cpu_s / host_s,
                f"{name}: resident, MiB": linux.resident_mib(),
                f"{name}: clock ahead of the host's, %": 100 * (guest_s / host_s - 1)}


def print_linux(what: str, memory: str, rounds: int, measure: Callable[[str, list[str]], Figures]) -> None:
    """A table of both architectures, Ring3 beside TCG."""
    names = ["ring3", *(["QEMU TCG"] if shutil.which("qemu-system-x86_64") else [])]
    rows: dict[str, Figures] = {name: {} for name in names}
    for architecture in ("amd64", "i386"):
        argvs = {name: linux_argv(name, architecture, memory) for name in names}
        contenders = {name: partial(measure, f"Debian 12 {architecture}", argv)
                      for name, argv in argvs.items() if argv is not None}
        for name, figures in interleaved(contenders, rounds).items():
            rows[name] |= figures
    heading(what, names)
    for row in rows["ring3"]:
        print_row(row, [rows[name].get(row) for name in names])


# --- both ---

def qemu(cpu: str, memory: str = "512M") -> list[str]:
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", cpu, "-m", memory, "-display", "none",
            "-serial", "stdio", "-no-reboot", "-nodefaults"]


def interleaved(contenders: Mapping[str, Callable[[], Figures]], rounds: int) -> dict[str, Figures]:
    """Medians by contender and row."""
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for number in range(rounds):
        for name, measure in contenders.items():
            print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr)
            for row, value in measure().items():
                figures[name].setdefault(row, []).append(value)
    return {name: {row: statistics.median(values) for row, values in rows.items()}
            for name, rows in figures.items()}


def heading(what: str, contenders: Iterable[str]) -> None:
    first, *others = contenders
    columns = [what, *contenders, *(f"{name} / {first}" for name in others)]
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))


def print_row(name: str, figures: list[float | None]) -> None:
    first, *others = figures
    cells = ["–" if figure is None else f"{figure:.2f}" for figure in figures]
    cells += ["–" if figure is None or not first else f"{figure / first:.2f}" for figure in others]
    print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
