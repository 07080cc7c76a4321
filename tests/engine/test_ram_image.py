"""Frozen RAM: what a machine and its copies store is theirs alone; the guest and its code don't notice."""

import itertools
import os
import random
import select

import pytest

from ring3._native import Exit, RamImage, Vcpu, Vm

MIB = 1 << 20
PAGE = 4096
CODE = 0x1000
CELL = 0x5000

# l: inc byte [5000h]; out 61h, al (which kicks); jmp l
COUNT = bytes.fromhex("fe060050 e661 ebf8")
# l: inc byte [1005h], which is the next one's operand; mov al, 0; out 61h, al; jmp l
PATCHES_ITSELF = bytes.fromhex("fe060510 b000 e661 ebf6")


def machine(engine: str, code: bytes = COUNT) -> tuple[Vm, Vcpu]:
    vm = Vm(MIB, MIB)
    vm.write_physical(CODE, code)
    vcpu = Vcpu(vm, engine=engine)
    vcpu.set_registers({"cs": 0, "cs_base": 0, "ds": 0, "ds_base": 0, "rip": CODE})
    vm.map_ports(0x61, 1, lambda offset: 0, lambda offset, value: vcpu.kick())
    return vm, vcpu


@pytest.fixture(params=["interp", "translate"])
def engine(request):
    return request.param


def copy_of(image: RamImage) -> Vm:
    vm = Vm(MIB, MIB)
    vm.adopt(image.extents)
    return vm


def cell(vm: Vm) -> int:
    return vm.read_physical(CELL, 1)[0]


def test_the_guest_runs_on_and_the_image_stays(engine):
    vm, vcpu = machine(engine)
    images = []
    for _ in range(5):
        for _ in range(3):
            assert vcpu.run() == Exit.KICKED
        images.append(vm.freeze())
    assert vcpu.run() == Exit.KICKED
    assert [memoryview(image)[CELL] for image in images] == [3, 6, 9, 12, 15]
    assert cell(vm) == 16


def test_machine_and_copy_do_not_see_each_other(engine):
    vm, vcpu = machine(engine)
    vcpu.run()
    copy = copy_of(vm.freeze())
    vcpu.run()
    copy.write_physical(CELL, b"\x77")
    vcpu.run()
    assert (cell(vm), cell(copy)) == (3, 0x77)


def test_code_that_patches_itself_is_noticed_after_a_freeze(engine):
    vm, vcpu = machine(engine, PATCHES_ITSELF)
    seen = []
    for _ in range(6):
        vcpu.run()
        seen.append(vcpu.registers()["rax"] & 0xFF)
        vm.freeze()
    assert seen == [1, 2, 3, 4, 5, 6]


def test_host_writes_over_translated_code_are_noticed_after_a_freeze(engine):
    vm, vcpu = machine(engine)
    vcpu.run()
    vm.freeze()
    vm.write_physical(CODE, bytes.fromhex("fe0e0050"))      # dec byte [5000h]
    vcpu.run()
    vcpu.run()
    assert cell(vm) == 0xFF


def test_stores_to_video_memory_are_noticed_after_a_freeze(engine):
    vm, _ = machine(engine)
    video = vm.add_video_memory(MIB)
    video.map_view(0xA_0000, 0x1_0000, 0)
    video.collect()
    vm.freeze()
    vm.write_physical(0xA_1000, b"x")
    assert select.select([video.changed_fd], [], [], 10)[0]
    os.eventfd_read(video.changed_fd)
    assert video.collect() == [(0x1000, 0x2000)]


def test_video_memory_is_behind_ram_in_the_image(engine):
    vm, _ = machine(engine)
    video = vm.add_video_memory(MIB)
    video.write(0x123, b"picture")
    image = vm.freeze()
    assert image.size_bytes == vm.total_bytes == 2 * MIB
    assert bytes(memoryview(image)[MIB + 0x123 :][:7]) == b"picture"


def test_many_freezes_of_a_ram_that_changes_everywhere_come_out_right():
    numbers = random.Random(4)
    vm = Vm(4 * MIB, 4 * MIB)
    kept = []
    for _ in range(60):
        for _ in range(numbers.randrange(60)):
            at = numbers.randrange(4 * MIB - 9000)
            vm.write_physical(at, numbers.choice((b"\0", b"x")) * numbers.randrange(9000))
        kept.append((vm.freeze(), vm.read_physical(0, 4 * MIB)))
    for image, memory in kept:
        assert bytes(image) == memory
    for (older, before), (newer, after) in itertools.pairwise(kept):
        changed = newer.changed_since(older)
        known = bytearray(before)
        for start, end in changed:
            known[start:end] = after[start:end]
        assert known == after


def test_an_image_outlives_its_machine():
    vm = Vm(MIB, MIB)
    vm.write_physical(0, b"abc")
    image = vm.freeze()
    del vm
    assert copy_of(image).read_physical(0, 3) == b"abc"


def test_what_was_searched_for_is_found_in_a_copy_and_behind_a_freeze():
    vm = Vm(MIB, MIB)
    vm.write_physical(0x3000, b"needle")
    copy = copy_of(vm.freeze())
    copy.write_physical(0x9_0000, b"needle")
    assert copy.search_ram(b"needle", 9) == [0x3000, 0x9_0000]


def test_a_freeze_of_a_large_empty_machine_takes_no_memory():
    vm = Vm(4 << 30, 3 << 30)
    vm.write_physical(0x1000, b"x")
    copies = [vm]
    for _ in range(3):
        image = copies[-1].freeze()
        assert sum(length for _, length, *_ in image.extents) <= 128 << 10
        copies.append(Vm(4 << 30, 3 << 30))
        copies[-1].adopt(image.extents)


NO_EXTENTS = [(0, PAGE, 99999, 0), (0, 2 * MIB, None, 0), (5, PAGE, None, 0), (0, PAGE, -1, 0)]


@pytest.mark.parametrize("extent", NO_EXTENTS)
def test_extents_that_do_not_fit_are_refused_and_ram_stays(extent):
    vm = Vm(MIB, MIB)
    vm.write_physical(0, b"abc")
    start, length, fd, offset = extent
    file = os.memfd_create("test")
    os.ftruncate(file, 4 * MIB)
    with pytest.raises((ValueError, OSError)):
        vm.adopt([(start, length, file if fd is None else fd, offset)])
    os.close(file)
    assert vm.read_physical(0, 3) == b"abc"
