"""Firmware images of the host, and the file of UEFI's variables."""

import pytest

from ring3.config import MachineConfig
from ring3.errors import ConfigError
from ring3.firmware import find
from ring3.roms import Roms

CODE, VARIABLES = b"\xc0" * 0x20000, b"\xff" * 0x2000


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Where all firmware is looked for."""
    monkeypatch.setattr(find, "SEABIOS_DIRECTORIES", (str(tmp_path),))
    monkeypatch.setattr(find, "OVMF_DIRECTORIES", (str(tmp_path),))
    return tmp_path


@pytest.fixture
def ovmf(directory):
    (directory / find.OVMF).write_bytes(CODE)
    (directory / find.OVMF_VARIABLES).write_bytes(VARIABLES)


def open_roms(**settings):
    return Roms(MachineConfig(**settings))


@pytest.mark.parametrize(("firmware", "package"), [("bios", "seabios"), ("uefi", "ovmf")])
def test_missing_firmware_is_one_line_with_the_remedy(directory, firmware, package):
    with pytest.raises(ConfigError, match=rf"^firmware: .* is not on this host: apt install {package}$"):
        open_roms(firmware=firmware)


def test_a_kernel_needs_none(directory):
    assert open_roms().settings == {}


def test_the_bios_brings_its_vga_bios(directory):
    (directory / find.BIOS).write_bytes(CODE)
    (directory / find.VGA_BIOS).write_bytes(b"\x55\xaa")
    found = open_roms(firmware="bios").settings
    assert found == {"rom": CODE, "option_roms": {"pci1234,1111.rom": b"\x55\xaa"}}


def test_variables_start_as_the_firmwares_own(ovmf, tmp_path):
    path = tmp_path / "variables.fd"
    opened = open_roms(firmware="uefi", uefi_variables=str(path))
    assert (opened.settings["flash"].data, path.read_bytes()) == (VARIABLES, VARIABLES)
    opened.close()


def test_variables_are_kept(ovmf, tmp_path):
    path = str(tmp_path / "variables.fd")
    first = open_roms(firmware="uefi", uefi_variables=path)
    first.settings["flash"].save(0x100, b"kept")
    first.close()
    second = open_roms(firmware="uefi", uefi_variables=path)
    assert second.settings["flash"].data[0x100:0x104] == b"kept"
    second.close()


def test_variables_of_another_firmware_are_refused(ovmf, tmp_path):
    path = tmp_path / "variables.fd"
    path.write_bytes(b"\0" * 512)
    with pytest.raises(ConfigError, match=r"^uefi_variables: .* has 512 bytes, but .* have 8192"):
        open_roms(firmware="uefi", uefi_variables=str(path))


def test_a_path_that_cannot_be_made_is_one_line(ovmf, tmp_path):
    with pytest.raises(ConfigError, match=r"^uefi_variables: .*: give a path"):
        open_roms(firmware="uefi", uefi_variables=str(tmp_path / "no" / "where"))


def test_without_a_file_variables_are_the_firmwares_own(ovmf):
    opened = open_roms(firmware="uefi")
    assert opened.settings["flash"].data == VARIABLES
