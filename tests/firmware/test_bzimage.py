"""The bzImage loader, on kernels made here of a header and some bytes."""

import struct

import pytest

from ring3.errors import ConfigError
from ring3.firmware import boot, flat, linux
from ring3.firmware.e820 import GIB, MIB, memory_map
from ring3.firmware.handover import Kernel, Target

SYSTEM = b"\x90" * 0x1000


def bzimage(version=0x20F, *, loadflags=1, xloadflags=0, system=SYSTEM, code32=0x100000, **fields):
    """A kernel image of two sectors of setup; keyword fields are (layout, value) at Field offsets."""
    image = bytearray(1024)
    put = struct.pack_into
    put("<B", image, 0x1F1, 1)
    put("<I", image, 0x1F4, len(system) // 16)
    put("<H", image, 0x1FE, 0xAA55)
    put("<BB", image, 0x200, 0xEB, 0x66)
    put("<4sH", image, 0x202, b"HdrS", version)
    put("<B", image, 0x211, loadflags)
    put("<I", image, 0x214, code32)
    put("<I", image, 0x22C, fields.get("initrd_max", 0x7FFFFFFF))
    put("<IBBH", image, 0x230, 0x200000, fields.get("relocatable", 1), 0, xloadflags)
    put("<I", image, 0x238, fields.get("cmdline_size", 2047))
    put("<Q", image, 0x258, fields.get("preferred", 0x1000000))
    put("<I", image, 0x260, fields.get("init_size", 0x200000))
    return bytes(image) + system


def target(memory=512 * MIB, long_mode=True):
    return Target(memory, memory_map(memory), rsdp=0xF0000, long_mode=long_mode)


def load(data, memory=512 * MIB, long_mode=True, **kernel):
    result = boot.load(Kernel(data, **kernel), target(memory, long_mode))
    return dict(result.writes), result.registers


def zero_page(writes):
    return writes[linux.BOOT_PARAMS]


def test_a_32_bit_kernel_is_entered_flat_with_boot_params_in_esi():
    writes, registers = load(bzimage())
    assert registers["rip"] == 0x1000000
    assert writes[0x1000000] == SYSTEM
    assert registers["rsi"] == linux.BOOT_PARAMS
    assert registers["cr0"] & (flat.Cr0.PE | flat.Cr0.PG) == flat.Cr0.PE
    assert (registers["cs"], registers["ds"]) == (0x10, 0x18)
    assert registers["rflags"] & 0x200 == 0


def test_a_64_bit_kernel_is_entered_at_200h_with_paging_on():
    writes, registers = load(bzimage(xloadflags=1))
    assert registers["rip"] == 0x1000200
    assert registers["efer"] == 0x500
    assert registers["cs_attributes"] & flat.LONG
    pml4 = writes[registers["cr3"]]
    (pdpt,) = struct.unpack_from("<Q", pml4)
    assert pdpt & ~0xFFF == registers["cr3"] + 0x1000


def test_the_identity_map_covers_4_gib():
    tables = flat.identity_map(0x94000)
    directory = tables[0x2000:]
    assert len(directory) == 4 * 4096
    assert struct.unpack_from("<Q", directory, 8 * 2047)[0] == 4 * GIB - flat.LARGE_PAGE + 0x83


def test_a_64_bit_kernel_on_a_cpu_without_long_mode_is_refused():
    with pytest.raises(ConfigError, match="x86-64, which this CPU model lacks"):
        load(bzimage(xloadflags=1), long_mode=False)


def test_the_zero_page_has_header_map_and_loader():
    writes, _ = load(bzimage())
    page = zero_page(writes)
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x210] == 0xFF
    assert page[0x1E8] == len(memory_map(512 * MIB))
    assert struct.unpack_from("<QQI", page, 0x2D0) == (0, 0x9FC00, 1)
    assert struct.unpack_from("<Q", page, 0x70) == (0xF0000,)
    assert struct.unpack_from("<I", page, 0x1E0) == (511 * 1024,)


def test_the_command_line_is_passed_with_its_nul():
    writes, _ = load(bzimage(), command_line="console=ttyS0")
    (pointer,) = struct.unpack_from("<I", zero_page(writes), 0x228)
    assert writes[pointer] == b"console=ttyS0\x00"


def test_before_2_02_the_command_line_goes_the_old_way():
    writes, _ = load(bzimage(0x201), command_line="ro")
    magic, offset = struct.unpack_from("<HH", zero_page(writes), 0x20)
    assert magic == 0xA33F
    assert writes[linux.BOOT_PARAMS + offset] == b"ro\x00"


def test_a_command_line_longer_than_the_kernel_takes_is_refused():
    with pytest.raises(ConfigError, match="at most 10"):
        load(bzimage(cmdline_size=10), command_line="console=ttyS0")


def test_a_zimage_is_loaded_low():
    writes, registers = load(bzimage(0x200, loadflags=0, code32=0x1000))
    assert registers["rip"] == 0x1000
    assert writes[0x1000] == SYSTEM


def test_an_old_bzimage_is_loaded_at_1_mib():
    _, registers = load(bzimage(0x203))
    assert registers["rip"] == 0x100000


def test_a_kernel_that_cannot_move_stays_at_code32_start():
    _, registers = load(bzimage(relocatable=0))
    assert registers["rip"] == 0x100000


def test_the_initrd_goes_to_the_top_of_low_memory():
    writes, _ = load(bzimage(), initrd=bytes(5000))
    address, size = struct.unpack_from("<II", zero_page(writes), 0x218)
    assert (address, size) == (512 * MIB - 2 * 4096, 5000)
    assert writes[address] == bytes(5000)


def test_the_initrd_stays_below_the_kernels_limit():
    writes, _ = load(bzimage(initrd_max=0x37FFFFFF), memory=2 * GIB, initrd=bytes(4096))
    assert struct.unpack_from("<I", zero_page(writes), 0x218) == (0x38000000 - 4096,)


def test_the_initrd_stays_below_the_pci_hole():
    writes, _ = load(bzimage(initrd_max=0xFFFFFFFF), memory=8 * GIB, initrd=bytes(4096))
    assert struct.unpack_from("<I", zero_page(writes), 0x218) == (3 * GIB - 4096,)


def test_kernel_and_initrd_that_do_not_fit_are_refused_with_the_size_needed():
    with pytest.raises(ConfigError, match=r"kernel and initrd needs? 23 MiB.*raise --memory"):
        load(bzimage(), memory=20 * MIB, initrd=bytes(4 * MIB))


def test_a_kernel_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"needs 18 MiB of RAM, the machine has 16 MiB"):
        load(bzimage(), memory=16 * MIB)


def test_a_truncated_kernel_is_refused():
    with pytest.raises(ConfigError, match="truncated"):
        load(bzimage()[:-16])


def test_the_last_paragraph_may_be_short():
    load(bzimage()[:-15])


def test_a_header_cut_short_is_refused():
    with pytest.raises(ConfigError):
        load(bzimage()[:0x206])


def test_a_damaged_header_is_refused():
    image = bytearray(bzimage())
    image[0x1FE] = 0
    with pytest.raises(ConfigError, match="damaged"):
        load(bytes(image))


@pytest.mark.parametrize("length", range(0x1F0, 0x270, 3))
def test_no_length_of_a_header_raises_anything_else(length):
    with pytest.raises(ConfigError):
        load(bzimage()[:length])
