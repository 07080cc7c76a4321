"""A pytest plugin: each test gets a machine of its own, fresh, and off when the test ends.

    pytest_plugins = ["ring3.testing.plugin"]               # in conftest.py

    @pytest.mark.vm(disk="debian.qcow2", memory="1G")
    def test_login(vm):
        vm.screen.wait("login:", timeout_s=120)
        vm.keyboard.type("root\n")

    def test_two(new_vm):
        a, b = new_vm(floppy="dos.img"), new_vm(floppy="dos.img")

The settings are those of ring3.Machine.  What a guest writes to disks and diskettes is gone after the test:
they get an overlay or a copy, and the image itself is only read.  A failed test's report has each machine's
screen and the end of its serial output.
"""

import contextlib
import faulthandler
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ring3.char.memory import TAIL, MemoryBackend
from ring3.config import DiskConfig, FloppyConfig, MachineConfig, configure
from ring3.config import replace as with_settings
from ring3.config.places import below
from ring3.disk import create_image, open_image
from ring3.errors import VmError
from ring3.machine import Machine

NewVm = Callable[..., Machine]
MACHINES = pytest.StashKey[list[Machine]]()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    faulthandler.disable()              # pytest's would own SIGSEGV, which the engine needs for itself
    config.addinivalue_line("markers", "vm(**settings): what the machine of the `vm` fixture is made of")


@pytest.fixture
def new_vm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewVm]:
    """new_vm(**settings) is a machine that runs."""
    machines: list[Machine] = []
    request.node.stash[MACHINES] = machines

    def start(**settings: Any) -> Machine:
        directory = tmp_path / f"vm{len(machines)}"
        directory.mkdir()
        machine = Machine(fresh(configure(settings), directory), name=request.node.name)
        machines.append(machine)
        machine.start()
        return machine

    yield start
    for machine in machines:
        machine.stop()


@pytest.fixture
def vm(request: pytest.FixtureRequest, new_vm: NewVm) -> Machine:
    """A machine that runs, as the test's `vm` marks say; those nearer to the test come last."""
    settings: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("vm"))):
        settings |= mark.kwargs
    return new_vm(**settings)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        machines: list[Machine] = item.stash.get(MACHINES, [])
        for number, machine in enumerate(machines):
            report.sections += sections(f"machine {number}", machine)
    return report


def sections(name: str, machine: Machine) -> list[tuple[str, str]]:
    """What a person would look at first."""
    found = []
    with contextlib.suppress(VmError):  # a machine without one
        found.append((f"{name}: screen", machine.screen.text()))
    for number, port in enumerate(machine.serial, 1):
        if isinstance(port, MemoryBackend) and port.output:
            found.append((f"{name}: COM{number}", port.output[-TAIL:].decode(errors="replace")))
    return found


def fresh(config: MachineConfig, directory: Path) -> MachineConfig:
    """The same machine, which writes to `directory` instead of its images."""
    disks = [overlay(disk, directory / f"disk{n}.qcow2") for n, disk in enumerate(config.disks)]
    floppies = [copied(floppy, directory / f"floppy{n}.img") for n, floppy in enumerate(config.floppies)]
    return with_settings(config, {"disk": disks, "floppy": floppies})


def overlay(disk: DiskConfig, path: Path) -> DiskConfig:
    if disk.readonly or hasattr(disk.path, "read"):
        return disk
    known = None if disk.format == "auto" else disk.format
    image = open_image(disk.path, read_only=True, format=known)
    try:
        create_image(path, image.size_bytes, "qcow2", backing=below(Path.cwd(), str(disk.path)),
                     backing_format=disk.format if known else "")
    finally:
        image.close()
    return replace(disk, path=path, format="qcow2", mode="persistent", backing_anywhere=True)


def copied(floppy: FloppyConfig, path: Path) -> FloppyConfig:
    if floppy.readonly or floppy.empty or hasattr(floppy.path, "read"):
        return floppy
    shutil.copyfile(floppy.path, path)
    return replace(floppy, path=path)
