#!/usr/bin/env python3
"""Ring3 beside the bare host and QEMU's TCG: the embedded guest's loops, and Linux's boot to a shell.

    make bench                      or: bench/run.py [--rounds N] [--only loops|boot]

Every round runs each contender once, one after the other, so that what else the machine does falls on all
alike; a figure is the median of the rounds.  Prints the tables of SPECIFICATION.md as Markdown.

Units: loops in ns an iteration, boots in s from the start of the process to the shell's prompt.
"""

import argparse
import re
import select
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "bench/build"
GUESTS = ROOT / "build/guests"
EMBEDDED = ROOT / "src/ring3/firmware/embedded_guest.bin"
RING3 = ROOT / ".venv/bin/ring3"

LOOPS = ("integer", "memory", "calls")
LOOP_TIMEOUT_S = 120
BOOT_TIMEOUT_S = 300
BOOT_LINE = "console=ttyS0 rdinit=/bin/sh"
PROMPT = re.compile(rb"\n[~/]* ?# ")

MODE_LINE = re.compile(r"^  (\S.*?)  +([\d.]+) +([\d.]+) +([\d.]+)  ok$", re.MULTILINE)

Figures = dict[str, float]              # by row
Contenders = dict[str, Callable[[], Figures]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--only", choices=("loops", "boot"), help="one table only")
    options = parser.parse_args()
    if options.only != "boot":
        print_loops(options.rounds)
    if options.only != "loops":
        print_boots(options.rounds)
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


# --- boots ---

def print_boots(rounds: int) -> None:
    for architecture in ("amd64", "i386"):
        kernel = GUESTS / f"linux-installer-{architecture}"
        initrd = GUESTS / f"initrd-installer-{architecture}.gz"
        if not kernel.exists() or not initrd.exists():
            print(f"(no {architecture} kernel in build/guests: scripts/guests fetches it)", file=sys.stderr)
            continue
        media = ["--kernel", str(kernel), "--initrd", str(initrd), "--append", BOOT_LINE]
        contenders = {"ring3": boot(f"Debian 12 {architecture}", [str(RING3), "run", *media])}
        if shutil.which("qemu-system-x86_64"):
            contenders["QEMU TCG"] = boot(f"Debian 12 {architecture}",
                                          [*qemu("max"), *(text.replace("--", "-") for text in media)])
        medians = interleaved(contenders, rounds)
        heading("boot to a shell, s", contenders)
        for row in medians["ring3"]:
            print_row(row, [medians[name].get(row) for name in contenders])


def boot(name: str, argv: list[str]) -> Callable[[], Figures]:
    return lambda: {name: boot_s(argv)}


def boot_s(argv: list[str]) -> float:
    """Seconds from the start of the process to the shell's prompt."""
    start = time.monotonic()
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, bufsize=0) as process:
        output = bytearray()
        for data in chunks(process, start + BOOT_TIMEOUT_S):
            output += data
            if PROMPT.search(output):
                seconds = time.monotonic() - start
                process.kill()
                return seconds
        process.kill()
    sys.exit(f"{argv[0]} reached no shell; it said:\n{output[-2000:].decode(errors='replace')}")


def chunks(process: "subprocess.Popen[bytes]", deadline: float) -> Iterator[bytes]:
    assert process.stdout is not None
    while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        data = process.stdout.read(65536)
        if not data:
            return
        yield data


# --- both ---

def qemu(cpu: str) -> list[str]:
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", cpu, "-m", "512", "-display", "none",
            "-serial", "stdio", "-no-reboot", "-nodefaults"]


def interleaved(contenders: Contenders, rounds: int) -> dict[str, Figures]:
    """Medians by contender and row."""
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for number in range(rounds):
        for name, measure in contenders.items():
            print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr)
            for row, value in measure().items():
                figures[name].setdefault(row, []).append(value)
    return {name: {row: statistics.median(values) for row, values in rows.items()}
            for name, rows in figures.items()}


def heading(what: str, contenders: Contenders) -> None:
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
