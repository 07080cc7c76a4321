"""Firmware images: the host's, which Debian's packages put where QEMU looks, too, and one of ours."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ring3.errors import ConfigError

BIOS, VGA_BIOS = "bios-256k.bin", "vgabios-stdvga.bin"
SEABIOS_DIRECTORIES = ("/usr/share/seabios", "/usr/local/share/seabios", "/usr/share/qemu")

BUSLOGIC_ROM = "buslogic_rom.bin"       # guests/buslogic

OVMF, OVMF_VARIABLES = "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"
OVMF_DIRECTORIES = ("/usr/share/OVMF", "/usr/local/share/OVMF", "/usr/share/edk2/x64")


def ovmf(name: str) -> bytes:
    """A file of OVMF."""
    return read("uefi", name, OVMF_DIRECTORIES, package="ovmf")


def seabios(name: str) -> bytes:
    """A file of SeaBIOS."""
    return read("bios", name, SEABIOS_DIRECTORIES, package="seabios")


def buslogic_rom() -> bytes:
    """The SCSI adapter's BIOS, which is ours."""
    data = resources.files("ring3.firmware").joinpath(BUSLOGIC_ROM)
    if not data.is_file():
        raise ConfigError("bus=scsi: the adapter's BIOS is not built: run `make build`, or give another bus")
    return data.read_bytes()


def present(name: str) -> bool:
    return any(Path(directory, name).is_file() for directory in (*SEABIOS_DIRECTORIES, *OVMF_DIRECTORIES))


def read(setting: str, name: str, directories: Sequence[str], *, package: str) -> bytes:
    for directory in directories:
        path = Path(directory, name)
        if path.is_file():
            try:
                return path.read_bytes()
            except OSError as error:
                raise ConfigError(f"firmware: {path}: {error.strerror}: make it readable") from error
    raise ConfigError(f"firmware: {name} for `{setting}` is not on this host: apt install {package}")
