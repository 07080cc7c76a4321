"""Firmware configuration, as SeaBIOS and OVMF read it."""

import struct

import pytest

from fakes import Ram
from ring3.devices.fw_cfg import FwCfg

SIGNATURE, DIRECTORY, FIRST = 0x00, 0x19, 0x20
READ, SKIP, SELECT, WRITE = 2, 4, 8, 16


@pytest.fixture
def ram():
    return Ram()


@pytest.fixture
def chip(ram):
    return FwCfg(ram, {"etc/b": b"second", "etc/a": b"first"}, {0x05: b"\x02\x00"})


def item(chip, key, length):
    chip.write(0, key, 2)
    return bytes(chip.read(1, 1) for _ in range(length))


def transfer(chip, ram, control, length=0, address=0x2000, descriptor=0x1000):
    """Runs a descriptor; its control word afterwards."""
    ram.write(descriptor, struct.pack(">IIQ", control, length, address))
    chip.write(4, 0, 4)
    chip.write(8, int.from_bytes(struct.pack(">I", descriptor), "little"), 4)
    return struct.unpack(">I", ram.read(descriptor, 4))[0]


def test_the_signature_is_item_0(chip):
    assert item(chip, SIGNATURE, 4) == b"QEMU"


def test_dma_is_announced(chip):
    assert item(chip, 1, 4) == b"\x03\0\0\0"
    assert struct.pack("<II", chip.read(4, 4), chip.read(8, 4)) == b"QEMU CFG"


def test_the_directory_lists_files_by_name(chip):
    data = item(chip, DIRECTORY, 4 + 2 * 64)
    assert struct.unpack_from(">I", data) == (2,)
    entries = [struct.unpack_from(">IHH56s", data, 4 + 64 * n) for n in range(2)]
    assert entries == [(5, FIRST, 0, b"etc/a".ljust(56, b"\0")), (6, FIRST + 1, 0, b"etc/b".ljust(56, b"\0"))]


def test_an_item_ends_in_zeros(chip):
    assert item(chip, FIRST, 8) == b"first\0\0\0"


def test_selecting_starts_over(chip):
    assert [item(chip, FIRST, 2), item(chip, FIRST, 2)] == [b"fi", b"fi"]


def test_items_that_are_not_there_are_empty(chip):
    assert item(chip, 0x1234, 2) == b"\0\0"


def test_dma_selects_and_reads_in_one_go(chip, ram):
    assert transfer(chip, ram, FIRST << 16 | SELECT | READ, 5) == 0
    assert ram.read(0x2000, 6) == b"first\0"


def test_dma_goes_on_where_it_stopped_and_skips(chip, ram):
    transfer(chip, ram, FIRST << 16 | SELECT | READ, 1)
    transfer(chip, ram, SKIP, 2)
    transfer(chip, ram, READ, 2)
    assert ram.read(0x2000, 2) == b"st"


def test_dma_fills_up_with_zeros(chip, ram):
    ram.write(0x2000, b"\xff" * 16)
    transfer(chip, ram, FIRST << 16 | SELECT | READ, 8)
    assert ram.read(0x2000, 9) == b"first\0\0\0\xff"


def test_writing_is_an_error(chip, ram):
    assert transfer(chip, ram, FIRST << 16 | SELECT | WRITE, 5) == 1
    assert item(chip, FIRST, 5) == b"first"


def test_a_read_of_everything_there_could_be_is_bounded(chip, ram):
    assert transfer(chip, ram, FIRST << 16 | SELECT | READ, 0xFFFF_FFFF) == 0


def test_a_name_too_long_is_our_mistake(ram):
    with pytest.raises(ValueError, match="at most 55"):
        FwCfg(ram, {"x" * 56: b""}, {})
