"""The SCSI adapter's BIOS, as far as it need not run (PCI 2.1, §6.3; Plug and Play BIOS 1.0A, §3)."""

import struct

import pytest

from ring3.devices.pci.config import Reg
from ring3.devices.storage import buslogic
from ring3.errors import ConfigError
from ring3.firmware import find
from ring3.firmware.find import buslogic_rom

UNITS = 15


@pytest.fixture(scope="module")
def rom():
    return buslogic_rom()


def word(rom, at):
    return int.from_bytes(rom[at : at + 2], "little")


def test_it_is_an_expansion_rom_of_its_own_size(rom):
    assert rom[:2] == b"\x55\xaa"
    assert rom[2] * 512 == len(rom)
    assert len(rom) & len(rom) - 1 == 0


def test_its_bytes_add_up_to_0(rom):
    assert sum(rom) & 0xFF == 0


def test_its_data_structure_is_for_the_adapter(rom):
    at = word(rom, 0x18)
    signature, vendor, device, _, length, revision = struct.unpack_from("<4s4HB", rom, at)
    assert at % 4 == 0
    assert signature == b"PCIR"
    assert (vendor, device) == struct.unpack_from("<HH", buslogic.RESET, Reg.VENDOR)
    assert (length, revision) == (24, 0)
    assert rom[at + 13 : at + 16] == buslogic.RESET[Reg.CLASS : Reg.CLASS + 3]
    image_length, _, code_type, indicator = struct.unpack_from("<HHBB", rom, at + 16)
    assert image_length * 512 == len(rom)
    assert (code_type, indicator) == (0, 0x80)


def test_there_is_an_expansion_header_for_each_target_that_can_be(rom):
    for at in range(word(rom, 0x1A), word(rom, 0x1A) + 32 * UNITS, 32):
        assert at % 16 == 0
        assert rom[at : at + 6] == b"$PnP\x01\x02"
        assert rom[word(rom, at + 14) :].startswith(b"Ring3\0")
        assert rom[at + 18 : at + 21] == bytes((1, 0, 0))


def test_before_it_ran_no_header_offers_a_drive(rom):
    at = word(rom, 0x1A)
    assert (word(rom, at + 6), word(rom, at + 22), word(rom, at + 26)) == (0, 0, 0)


def test_without_it_a_scsi_machine_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(find, "BUSLOGIC_ROM", "never_built.bin")
    with pytest.raises(ConfigError, match=r"run `make build`"):
        buslogic_rom()
