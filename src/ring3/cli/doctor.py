"""`ring3 doctor`: what of this host the engine uses, what is missing, and the command that brings it."""

import fcntl
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ring3.errors import HostError, VmError
from ring3.machine import Machine, import_native

KVM_GET_API_VERSION = 0xAE00            # <linux/kvm.h>
KVM_CREATE_VM = 0xAE01
KVM_CREATE_VCPU = 0xAE41
KVM_API_VERSION = 12

GIB = 1 << 30
MEMORY_MIN = GIB                        # the default guest (512 MiB), the engine, and room to spare

FEATURES = {                            # of `host_features`: what the engine does with it
    "avx2": "guests see x86-64-v3",
    "avx512": "guests see AVX-512",
    "bmi2": "shifts and flags without detours",
    "sha": "guests see the SHA instructions",
    "fsgsbase": "thread pointers without system calls",
    "invariant_tsc": "the guest's TSC is the host's, scaled",
}


# What the embedded guest prints of a mode: its name, then ns an iteration of its three loops.
MODE_LINE = re.compile(r"^  (\S.*?)  +([\d.]+) +([\d.]+) +([\d.]+)  ok", re.MULTILINE)
MODES = ("32-bit protected mode, ring 3", "64-bit mode, ring 3")
SPEED_TIMEOUT_S = 60


class Verdict(Enum):
    """How a finding is shown."""

    USED = "[green]✓[/green]"
    ABSENT = "[yellow]–[/yellow]"       # it works without
    MISSING = "[red]✗[/red]"            # it does not


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    verdict: Verdict
    found: str
    remedy: str = ""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> int:
    """Say what of this host Ring3 can use, and what is missing.

    Exit status: 0 when machines can run here, 1 when something they need is missing.
    """
    findings = list(examine())
    Console().print(table(findings))
    missing = [f for f in findings if f.verdict is Verdict.MISSING]
    return 1 if missing else 0


def table(findings: Iterable[Finding]) -> Table:
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "what", "found", "remedy"):
        result.add_column(heading, overflow="fold")
    for finding in findings:
        result.add_row(finding.verdict.value, finding.what, finding.found, finding.remedy)
    return result


def examine() -> Iterable[Finding]:
    yield cpu(Path("/proc/cpuinfo").read_text())
    yield python()
    yield from engine()
    yield speed()
    yield memory(Path("/proc/meminfo").read_text())
    yield memfd()
    yield kvm("/dev/kvm")
    yield tool("nasm", "assembles the embedded guest and test programs")
    yield tool("qemu-system-x86_64", "the peer that `make bench` compares with", "qemu-system-x86")


def cpu(cpuinfo: str) -> Finding:
    """The host's CPU; `cpuinfo` is the text of /proc/cpuinfo."""
    fields = [line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line]
    names = [value.strip() for key, value in fields if key.strip() == "model name"]
    if platform.machine() != "x86_64" or not names:
        return Finding("CPU", Verdict.MISSING, platform.machine(), "Ring3 needs an x86-64 host")
    return Finding("CPU", Verdict.USED, f"{names[0]}, {len(names)} threads")


def python() -> Finding:
    version = platform.python_version()
    note = "" if sys.prefix == sys.base_prefix else f" in {sys.prefix}"
    return Finding("Python", Verdict.USED, f"{version}{note}")


def engine() -> Iterable[Finding]:
    """The extension, which engine runs, and the host's features that it uses."""
    try:
        features: dict[str, bool] = import_native().host_features()
    except HostError as error:
        yield Finding("engine", Verdict.MISSING, str(error), "make build")
        return
    yield Finding("engine", Verdict.USED, "translate (x86 to x86-64; `interp` for single instructions)")
    for name, use in FEATURES.items():
        if features.get(name):
            yield Finding(f"  {name}", Verdict.USED, use)
        else:
            yield Finding(f"  {name}", Verdict.ABSENT, "not on this CPU")


def speed() -> Finding:
    """The embedded guest's loops, run here and now."""
    try:
        machine = Machine(append="once", memory="16M")
        machine.start()
        machine.wait(SPEED_TIMEOUT_S)
        machine.stop()
        figures = loops(machine.serial[0].output.decode(errors="replace"))
    except VmError as error:
        return Finding("speed", Verdict.MISSING, str(error), "make build")
    if not figures:
        return Finding("speed", Verdict.MISSING, "the embedded guest gave no figures", "ring3 run shows why")
    return Finding("speed", Verdict.USED, figures)


def loops(output: str) -> str:
    """The figures of the modes that most guests run in, from what the embedded guest printed."""
    return "\n".join(f"{mode}: {integer} integer, {memory} memory, {calls} calls (ns an iteration)"
                     for mode, integer, memory, calls in MODE_LINE.findall(output) if mode in MODES)


def memory(meminfo: str) -> Finding:
    """Memory a guest can have; `meminfo` is the text of /proc/meminfo."""
    kib = {line.split(":")[0]: int(line.split()[1]) for line in meminfo.splitlines() if ":" in line}
    total, available = kib.get("MemTotal", 0) << 10, kib.get("MemAvailable", 0) << 10
    found = f"{available / GIB:.1f} GiB of {total / GIB:.1f} GiB available"
    if available >= MEMORY_MIN:
        return Finding("memory", Verdict.USED, found)
    return Finding("memory", Verdict.ABSENT, found, "give guests less: ring3 run --memory 128M")


def memfd() -> Finding:
    try:
        fd = os.memfd_create("ring3-doctor")
    except OSError as error:
        return Finding("memfd", Verdict.MISSING, error.strerror or "", "allow memfd_create in this container")
    try:
        os.ftruncate(fd, GIB)           # no memory is taken: pages come when they are touched
    except OSError as error:
        return Finding("memfd", Verdict.MISSING, f"1 GiB: {error.strerror}", "ulimit -f unlimited")
    finally:
        os.close(fd)
    return Finding("memfd", Verdict.USED, "guest memory is taken page by page as it is touched")


def kvm(path: str) -> Finding:
    """Whether KVM is real: the device may be there and yet make no machine."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Finding("KVM", Verdict.ABSENT, f"{path}: {error.strerror}; not needed")
    try:
        if fcntl.ioctl(fd, KVM_GET_API_VERSION) != KVM_API_VERSION:
            return Finding("KVM", Verdict.ABSENT, f"{path} is not KVM's; not needed")
        vm = fcntl.ioctl(fd, KVM_CREATE_VM, 0)
        try:
            os.close(fcntl.ioctl(vm, KVM_CREATE_VCPU, 0))
        finally:
            os.close(vm)
    except OSError as error:
        return Finding("KVM", Verdict.ABSENT, f"{path} makes no machine: {error.strerror}; not needed")
    finally:
        os.close(fd)
    return Finding("KVM", Verdict.ABSENT, "works here; this version doesn't use it")


def tool(name: str, purpose: str, package: str = "") -> Finding:
    path = shutil.which(name)
    if path:
        return Finding(name, Verdict.USED, path)
    return Finding(name, Verdict.ABSENT, f"not found; {purpose}", f"apt-get install {package or name}")
