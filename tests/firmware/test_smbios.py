"""SMBIOS structures, parsed back."""

import struct

import pytest

from ring3.firmware import smbios


def structures(tables):
    """(type, handle, formatted area, strings) of each."""
    found, at = [], 0
    while at < len(tables):
        kind, length, handle = struct.unpack_from("<BBH", tables, at)
        end = tables.index(b"\0\0", at + length)
        strings = [text.decode() for text in tables[at + length : end].split(b"\0") if text]
        found.append((kind, handle, tables[at : at + length], strings))
        at = end + 2
    return found


@pytest.mark.parametrize("memory", [1 << 20, 512 << 20, 3 << 30, 64 << 30])
def test_the_entry_point_tells_length_and_number(memory):
    entry = smbios.build(memory, 2)
    length, _address, count, revision = struct.unpack_from("<HIHB", entry.anchor, 22)
    assert (len(entry.anchor), entry.anchor[:4], entry.anchor[16:21]) == (31, b"_SM_", b"_DMI_")
    assert (length, count, revision) == (len(entry.tables), len(structures(entry.tables)), 0x28)


def test_the_structures_a_pc_must_have_are_there_and_the_end_is_last():
    kinds = [kind for kind, *_ in structures(smbios.build(512 << 20, 1).tables)]
    assert set(kinds) >= {0, 1, 3, 4, 16, 17, 19, 32}
    assert kinds[-1] == 127


def test_handles_are_unique():
    handles = [handle for _, handle, *_ in structures(smbios.build(64 << 30, 8).tables)]
    assert len(handles) == len(set(handles))


LENGTHS = [(0, 24), (1, 27), (3, 21), (4, 42), (16, 23), (17, 34), (19, 31)]


@pytest.mark.parametrize(("kind", "length"), LENGTHS)
def test_structures_have_the_lengths_of_their_version(kind, length):
    found = [area for k, _, area, _ in structures(smbios.build(512 << 20, 1).tables) if k == kind]
    assert [len(area) for area in found] == [length]


def test_memory_devices_add_up():
    areas = [area for kind, _, area, _ in structures(smbios.build(40 << 30, 1).tables) if kind == 17]
    sizes = [struct.unpack_from("<H", a, 12)[0] for a in areas]
    assert sizes == [16384, 16384, 8192]


def test_the_uuid_is_stored_little_endian():
    tables = smbios.build(1 << 20, 1, bytes.fromhex("00112233445566778899aabbccddeeff")).tables
    (area,) = [area for kind, _, area, _ in structures(tables) if kind == 1]
    assert area[8:24] == bytes.fromhex("33221100554477668899aabbccddeeff")
