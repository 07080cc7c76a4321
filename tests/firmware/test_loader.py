"""The table loader's script, run as firmware runs it."""

import struct

import pytest

from ring3.boards import pc
from ring3.char import NoBackend
from ring3.firmware import acpi, loader

PLACES = {loader.TABLES: 0x7FE0000, loader.FACS: 0x7FD0000, loader.RSDP: 0xF5000}


@pytest.fixture
def placed():
    """Each file as it stands in memory after the script."""
    files = loader.files(acpi.lay_out(pc.acpi_platform(pc.PcConfig(64 << 20, [NoBackend()], 0))))
    script = files.pop(loader.SCRIPT)
    memory = {name: bytearray(data) for name, data in files.items()}
    for at in range(0, len(script), loader.RECORD):
        run(memory, script[at : at + loader.RECORD])
    return memory


def run(memory, record):
    (command,) = struct.unpack_from("<I", record)
    if command == loader.ADD_POINTER:
        target, source, at, size = struct.unpack_from("<56s56sIB", record, 4)
        data = memory[text(target)]
        value = int.from_bytes(data[at : at + size], "little") + PLACES[text(source)]
        data[at : at + size] = value.to_bytes(size, "little")
    elif command == loader.ADD_CHECKSUM:
        name, at, first, length = struct.unpack_from("<56sIII", record, 4)
        data = memory[text(name)]
        data[at] = (data[at] - sum(data[first : first + length])) & 0xFF


def text(name):
    return name.rstrip(b"\0").decode()


def table(placed, address):
    at = address - PLACES[loader.TABLES]
    (length,) = struct.unpack_from("<I", placed[loader.TABLES], at + 4)
    return placed[loader.TABLES][at : at + length]


def test_the_rsdp_finds_both_root_tables(placed):
    rsdp = placed[loader.RSDP]
    assert (sum(rsdp[:20]) & 0xFF, sum(rsdp) & 0xFF) == (0, 0)
    rsdt, xsdt = struct.unpack_from("<I4xQ", rsdp, 16)
    assert (table(placed, rsdt)[:4], table(placed, xsdt)[:4]) == (b"RSDT", b"XSDT")


def test_every_table_is_found_with_its_checksum(placed):
    (xsdt,) = struct.unpack_from("<Q", placed[loader.RSDP], 24)
    root = table(placed, xsdt)
    tables = [table(placed, address) for (address,) in struct.iter_unpack("<Q", root[36:])]
    assert [bytes(each[:4]) for each in tables][:2] == [b"FACP", b"APIC"]
    assert [sum(each) & 0xFF for each in (root, *tables)] == [0] * (1 + len(tables))


def test_the_fadt_points_at_facs_and_dsdt(placed):
    (xsdt,) = struct.unpack_from("<Q", placed[loader.RSDP], 24)
    (first,) = struct.unpack_from("<Q", table(placed, xsdt), 36)
    fadt = table(placed, first)
    facs, dsdt = struct.unpack_from("<II", fadt, 36)
    assert (facs, bytes(table(placed, dsdt)[:4])) == (PLACES[loader.FACS], b"DSDT")
    assert struct.unpack_from("<QQ", fadt, 132) == (facs, dsdt)
