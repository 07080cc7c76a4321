"""The ACPI tables, parsed back by their published layouts."""

import struct
from dataclasses import replace

import pytest

from ring3.boards import pc
from ring3.char import NoBackend
from ring3.firmware import acpi

CONFIG = pc.PcConfig(64 << 20, [NoBackend()] * 4, rtc_start_unix_s=0, processors=2)
BASE, FACS = 0xF0000, 0x9FC40


@pytest.fixture
def tables():
    return acpi.build(pc.acpi_platform(CONFIG), base=BASE, facs=FACS)


def at(tables, address):
    """The table at an address, cut to its length."""
    start = address - BASE
    (length,) = struct.unpack_from("<I", tables.image, start + 4)
    return tables.image[start : start + length]


def roots(tables):
    """Tables by signature, through the XSDT."""
    (xsdt_address,) = struct.unpack_from("<Q", tables.image, 24)
    xsdt = at(tables, xsdt_address)
    addresses = struct.unpack_from(f"<{(len(xsdt) - 36) // 8}Q", xsdt, 36)
    return {at(tables, a)[:4]: at(tables, a) for a in addresses}


def test_rsdp_is_first_and_both_its_checksums_are_zero(tables):
    assert tables.rsdp == BASE
    assert tables.image[:8] == b"RSD PTR "
    assert tables.image[15] == 2
    assert sum(tables.image[:20]) & 0xFF == 0
    assert sum(tables.image[:36]) & 0xFF == 0


def test_every_table_has_a_zero_checksum(tables):
    found = roots(tables)
    (dsdt,) = struct.unpack_from("<I", found[b"FACP"], 40)
    for data in [*found.values(), at(tables, dsdt)]:
        assert sum(data) & 0xFF == 0, data[:4]


def test_rsdt_and_xsdt_name_the_same_tables(tables):
    rsdt_address, xsdt_address = struct.unpack_from("<I4xQ", tables.image, 16)
    rsdt, xsdt = at(tables, rsdt_address), at(tables, xsdt_address)
    assert struct.unpack_from("<2I", rsdt, 36) == struct.unpack_from("<2Q", xsdt, 36)


def test_fadt_tells_the_boards_ports(tables):
    fadt = roots(tables)[b"FACP"]
    assert len(fadt) == 244
    facs, dsdt, sci = struct.unpack_from("<II2xH", fadt, 36)
    assert (facs, sci) == (FACS, 9)
    assert at(tables, dsdt)[:4] == b"DSDT"
    event, control, timer = (struct.unpack_from("<I", fadt, offset)[0] for offset in (56, 64, 76))
    assert (event, control, timer) == (pc.PM_BASE, pc.PM_BASE + 4, pc.PM_BASE + 8)
    assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0xCF9, 6)
    assert struct.unpack_from("<Q", fadt, 152)[0] == event
    assert struct.unpack_from("<Q", fadt, 176)[0] == control
    assert struct.unpack_from("<Q", fadt, 212)[0] == timer


def test_facs_is_aligned_and_64_bytes_long(tables):
    assert FACS % 64 == 0
    assert len(tables.facs) == 64
    assert tables.facs[:8] == b"FACS" + struct.pack("<I", 64)


def test_madt_lists_processors_io_apic_and_overrides(tables):
    madt = roots(tables)[b"APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    entries, offset = [], 44
    while offset < len(madt):
        entries.append(madt[offset : offset + madt[offset + 1]])
        offset += madt[offset + 1]
    local = [e for e in entries if e[0] == 0]
    assert [(e[3], e[4]) for e in local] == [(0, 1), (1, 1)]
    (io_apic,) = (e for e in entries if e[0] == 1)
    assert struct.unpack_from("<II", io_apic, 4) == (0xFEC00000, 0)
    overrides = {e[3]: struct.unpack_from("<IH", e, 4) for e in entries if e[0] == 2}
    assert overrides[0] == (2, 0)
    assert overrides[9] == (9, 0x0D)
    assert (4, 6, 0xFF, 0, 0, 1) in [tuple(e) for e in entries]


def test_dsdt_names_soft_off_and_the_pci_root(tables):
    (dsdt_address,) = struct.unpack_from("<I", roots(tables)[b"FACP"], 40)
    dsdt = at(tables, dsdt_address)
    assert b"\x08\\_S5_\x12" in dsdt
    assert b"PCI0" in dsdt
    assert dsdt.count(b"COM") == 4


def test_without_an_smi_port_no_port_is_claimed_for_it():
    platform = replace(pc.acpi_platform(CONFIG), smi_command=0)
    assert acpi.smi_command_ports(platform) == []


def test_under_uefi_the_tables_say_where_its_firmware_puts_power_management():
    flash = pc.Flash(b"", lambda offset, data: None)
    assert pc.acpi_platform(replace(CONFIG, flash=flash)).pm1_event == 0xB000
