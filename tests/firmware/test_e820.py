"""The physical memory map, for every size of machine."""

from itertools import pairwise

import pytest

from ring3.firmware import e820
from ring3.firmware.e820 import GIB, KIB, MIB, Kind

SIZES = [MIB, 16 * MIB, 512 * MIB, 3 * GIB, 3 * GIB + 4 * KIB, 4 * GIB, 64 * GIB]


@pytest.mark.parametrize("memory", SIZES)
def test_regions_ascend_without_overlap(memory):
    regions = e820.memory_map(memory)
    assert all(a.end <= b.base for a, b in pairwise(regions))


@pytest.mark.parametrize("memory", SIZES)
def test_usable_memory_is_all_of_ram_but_the_area_from_ebda_to_1_mib(memory):
    usable = sum(r.length for r in e820.memory_map(memory) if r.kind == Kind.USABLE)
    assert usable == memory - (MIB - e820.EBDA)


def test_ram_beyond_3_gib_goes_on_at_4_gib():
    assert e820.split(5 * GIB) == (3 * GIB, 2 * GIB)
    assert e820.memory_map(5 * GIB)[-1] == (4 * GIB, 2 * GIB, Kind.USABLE)


def test_the_ebda_is_reserved():
    assert (0x9FC00, 0x400, Kind.RESERVED) in e820.memory_map(64 * MIB)
