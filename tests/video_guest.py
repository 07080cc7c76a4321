"""Boot sectors that draw, from tests/guests/video, and machines that boot them through SeaBIOS."""

import subprocess
from pathlib import Path

import pytest

from ring3 import Machine
from ring3.firmware import find

SOURCES = Path(__file__).parent / "guests/video"

needs_bios = pytest.mark.skipif(
    not (find.present(find.BIOS) and find.present(find.VGA_BIOS)),
    reason="SeaBIOS is not there: apt install seabios",
)


def boot_disk(directory: Path, source: str, symbols: dict[str, object]) -> str:
    """A disk of 1 MiB with the assembled boot sector; its path."""
    disk = directory / "disk.img"
    defines = [f"-D{name}={value}" for name, value in symbols.items()]
    subprocess.run(["nasm", "-fbin", *defines, "-o", disk, SOURCES / source], check=True, timeout=60)
    with disk.open("r+b") as file:
        file.truncate(1 << 20)
    return str(disk)


def machine_of(disk: str) -> Machine:
    return Machine(disk=disk, memory="32M", serial="memory", rtc_start_unix_s=0)
