"""AML encodings, against byte strings worked out from chapter 20 of the ACPI specification."""

import pytest

from ring3.firmware import aml


@pytest.mark.parametrize(
    ("length", "encoded"),
    [
        (0, b"\x01"),
        (62, b"\x3f"),
        (63, b"\x41\x04"),
        (4093, b"\x4f\xff"),
        (4094, b"\x81\x00\x01"),
    ],
)
def test_package_length_counts_itself(length, encoded):
    assert aml.package_length(length) == encoded


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("\\", b"\\\x00"),
        ("_S5", b"_S5_"),
        ("\\_SB.PCI0", b"\\\x2e_SB_PCI0"),
        ("^A.B.C", b"^\x2f\x03A___B___C___"),
    ],
)
def test_name_strings(path, encoded):
    assert aml.name_string(path) == encoded


def test_long_name_segments_are_refused():
    with pytest.raises(ValueError):
        aml.name_string("LONGER")


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (2, b"\x0a\x02"),
        (0x100, b"\x0b\x00\x01"),
        (0x10000, b"\x0c\x00\x00\x01\x00"),
        (1 << 32, b"\x0e\x00\x00\x00\x00\x01\x00\x00\x00"),
    ],
)
def test_integers_take_the_shortest_form(value, encoded):
    assert aml.integer(value) == encoded


def test_eisa_id():
    assert aml.eisa_id("PNP0A03") == 0x030AD041


def test_resource_templates_end_with_an_end_tag():
    assert aml.resource_template(aml.irq_no_flags(4)) == b"\x11\x08\x0a\x05\x22\x10\x00\x79\x00"


def test_io_descriptor():
    assert aml.io(0x3F8, 8, alignment=8) == b"\x47\x01\xf8\x03\xf8\x03\x08\x08"


def test_a_wide_field_unit_does_not_count_its_own_length():
    assert aml.package_length_bits(8) == b"\x08"
    assert aml.package_length_bits(0x100) == b"\x40\x10"
