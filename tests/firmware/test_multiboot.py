"""The Multiboot 1 loader, on images made here."""

import struct

import pytest

from ring3.errors import ConfigError
from ring3.firmware import boot, multiboot
from ring3.firmware.e820 import MIB, memory_map
from ring3.firmware.handover import Kernel, Target

CODE = b"\xf4" * 64


def header(flags, *addresses):
    magic = 0x1BADB002
    return struct.pack(f"<III{len(addresses)}I", magic, flags, -(magic + flags) & 0xFFFFFFFF, *addresses)


def aout(load_at=0x100000, *, flags=0x10003, bss_end=0, code=CODE, load_end=0):
    head = header(flags, load_at, load_at, load_end, bss_end, load_at + 32)
    return head + code


def elf32(physical=0x100000, virtual=0x100000, entry=0x100000, memory_size=0x1000, machine=3):
    data = header(3) + CODE
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    ehdr = ident + struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, entry, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    phdr = struct.pack("<IIIIIIII", 1, 84, virtual, physical, len(data), memory_size, 7, 4)
    return ehdr + phdr + data


def elf64(physical=0x100000, entry=0x100000):
    data = header(3) + CODE
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    ehdr = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    phdr = struct.pack("<IIQQQQQQ", 1, 7, 120, physical, physical, len(data), len(data), 4)
    return ehdr + phdr + data


def load(data, memory=64 * MIB, **kernel):
    result = boot.load(Kernel(data, **kernel), Target(memory, memory_map(memory), 0xF0000, True))
    return dict(result.writes), result.registers


def info(writes):
    return writes[multiboot.INFO]


def text_at(writes, address):
    data = info(writes)[address - multiboot.INFO :]
    return data[: data.index(b"\x00")]


def test_the_machine_state_is_the_specifications():
    _, registers = load(aout())
    assert registers["rax"] == 0x2BADB002
    assert registers["rbx"] == multiboot.INFO
    assert registers["rip"] == 0x100020
    assert registers["cr0"] & 0x80000001 == 1
    assert registers["rflags"] & 0x20200 == 0


def test_aout_kludge_loads_the_file_from_its_header_on():
    writes, _ = load(bytes(16) + aout())
    assert writes[0x100000] == aout()


def test_aout_bss_is_zeroed():
    writes, _ = load(aout(bss_end=0x100400))
    assert writes[0x100000] == aout(bss_end=0x100400).ljust(0x400, b"\x00")


def test_aout_addresses_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="contradictory"):
        load(aout(bss_end=0x100008))


def test_an_aout_image_cut_short_is_refused():
    with pytest.raises(ConfigError, match="truncated"):
        load(aout(load_end=0x110000))


def test_elf_segments_go_to_their_physical_addresses():
    writes, registers = load(elf32(virtual=0xC0100000, entry=0xC0100010))
    assert writes[0x100000][: len(header(3) + CODE)] == header(3) + CODE
    assert len(writes[0x100000]) == 0x1000
    assert registers["rip"] == 0x100010


def test_a_64_bit_elf_file_is_loaded_too():
    writes, registers = load(elf64())
    assert writes[0x100000] == header(3) + CODE
    assert registers["rip"] == 0x100000


@pytest.mark.parametrize("length", range(40, len(elf32()), 7))
def test_a_truncated_elf_file_is_refused(length):
    with pytest.raises(ConfigError):
        load(elf32()[:length])


def test_an_elf_file_for_another_machine_is_refused():
    with pytest.raises(ConfigError, match="x86 kernel"):
        load(elf32(machine=40))


def test_features_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="features"):
        load(aout(flags=0x10083))


def test_a_segment_outside_ram_is_refused():
    with pytest.raises(ConfigError, match="no RAM"):
        load(aout(load_at=0xF0000))


def test_a_segment_above_the_machines_memory_names_the_remedy():
    with pytest.raises(ConfigError, match="raise --memory"):
        load(elf32(physical=0x8000000, virtual=0x8000000, entry=0x8000000))


def test_memory_information():
    writes, _ = load(aout())
    flags, lower, upper = struct.unpack_from("<III", info(writes))
    assert flags & 0x41 == 0x41
    assert (lower, upper) == (639, 63 * 1024)
    length, address = struct.unpack_from("<II", info(writes), 44)
    entries = info(writes)[address - multiboot.INFO :][:length]
    assert length == 24 * len(memory_map(64 * MIB))
    assert struct.unpack_from("<IQQI", entries) == (20, 0, 0x9FC00, 1)


def test_the_command_line_starts_with_the_kernels_name():
    writes, _ = load(aout(), name="kernel.elf", command_line="quiet")
    (address,) = struct.unpack_from("<I", info(writes), 16)
    assert text_at(writes, address) == b"kernel.elf quiet"


def test_the_initrd_is_a_module_on_a_page_of_its_own():
    writes, _ = load(aout(), initrd=b"module", initrd_name="disk.img")
    count, address = struct.unpack_from("<II", info(writes), 20)
    start, end, name, _ = struct.unpack_from("<4I", info(writes), address - multiboot.INFO)
    assert count == 1
    assert start % 4096 == 0
    assert writes[start] == b"module"
    assert end - start == 6
    assert text_at(writes, name) == b"disk.img"


def test_a_module_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="raise --memory"):
        load(aout(), memory=2 * MIB, initrd=bytes(2 * MIB))


def test_a_header_with_a_wrong_checksum_is_no_header():
    assert multiboot.find_header(struct.pack("<III", 0x1BADB002, 3, 0) + bytes(100)) is None
