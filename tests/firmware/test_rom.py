"""The system ROM and the BIOS data area."""

import struct

import pytest

from ring3.errors import ConfigError
from ring3.firmware import rom


def test_the_reset_vector_jumps_to_a_stub_that_resets_the_machine():
    image = rom.build(b"")
    offset, segment = struct.unpack_from("<HH", image, 0xFFF1)
    assert image[0xFFF0] == 0xEA
    assert segment == 0xF000
    assert image[offset : offset + 6] == b"\xba\xf9\x0c\xb0\x06\xee"


def test_tables_come_first():
    assert rom.build(b"RSD PTR ")[:8] == b"RSD PTR "


def test_tables_too_large_are_a_config_error():
    with pytest.raises(ConfigError, match="do not fit"):
        rom.build(bytes(0xF000))


def test_bios_data_area_tells_com_ports_ebda_and_conventional_memory():
    data = rom.bios_data_area((0x3F8, 0x2F8))
    assert struct.unpack_from("<4H", data) == (0x3F8, 0x2F8, 0, 0)
    assert struct.unpack_from("<H", data, 0x0E) == (0x9FC0,)
    assert struct.unpack_from("<H", data, 0x10)[0] >> 9 & 7 == 2
    assert struct.unpack_from("<H", data, 0x13) == (639,)


def vector(number):
    offset, segment = struct.unpack_from("<HH", rom.interrupt_vectors(), 4 * number)
    assert segment == 0xF000
    return rom.build(b"")[offset:]


def test_a_bios_call_returns_with_the_carry_flag_set():
    assert vector(0x15).startswith(bytes.fromhex("55 8BEC 804E0601 5D CF"))


def test_exceptions_and_irqs_return_at_once():
    assert vector(0x08)[0] == vector(0x76)[0] == 0xCF
