"""Video memory in guest memory: views, stores noticed while the guest runs, code in it."""

import os
import select
import threading

import pytest

from ring3._native import Exit, Vcpu, VideoMemory, Vm

MIB = 1 << 20
CODE = 0x1000
VIEW = 0xA_0000
HLT = b"\xf4"

# mov ax, A000h; mov ds, ax; l: inc byte [0]; add byte [1234h], 1; jmp l
TWO_PAGES_FOR_EVER = bytes.fromhex("b800a08ed8 fe060000 8006341201 ebf5")
# mov ax, A000h; mov ds, ax; l: inc byte [2000h]; out 61h, al (which kicks); jmp l
ONE_STORE_A_RUN = bytes.fromhex("b800a08ed8 fe060020 e661 ebf8")
# l: inc byte [A000:3000h]; cmp byte [0:500h], 0; je l; hlt   (ds = A000h, es = 0)
UNTIL_TOLD = bytes.fromhex("b800a08ed831c08ec0 fe060030 26803e000500 74f4 f4")


@pytest.fixture(params=["interp", "translate"])
def make(request):
    def make(code: bytes) -> tuple[Vm, Vcpu, VideoMemory]:
        vm = Vm(MIB, MIB)
        video = vm.add_video_memory(MIB)
        video.map_view(VIEW, 0x1_0000, 0x2_0000)
        vm.write_physical(CODE, code)
        vcpu = Vcpu(vm, engine=request.param)
        vcpu.set_registers({"cs": 0, "cs_base": 0, "rip": CODE})
        vm.map_ports(0x61, 1, lambda offset: 0, lambda offset, value: vcpu.kick())
        return vm, vcpu, video

    return make


def wait_for_change(video: VideoMemory) -> None:
    assert select.select([video.changed_fd], [], [], 10)[0], "no store was noticed"
    os.eventfd_read(video.changed_fd)


def test_a_guest_sees_video_memory_through_its_view(make):
    _, vcpu, video = make(ONE_STORE_A_RUN)
    video.write(0x2_2000, b"\x41")
    assert vcpu.run() == Exit.KICKED
    assert video.read(0x2_2000, 1) == b"\x42"


def test_a_moved_view_shows_another_part(make):
    _, vcpu, video = make(ONE_STORE_A_RUN)
    vcpu.run()
    video.unmap_view(VIEW)
    vcpu.run()
    video.map_view(VIEW, 0x1_0000, 0x5_0000)
    vcpu.run()
    assert (video.read(0x2_2000, 1), video.read(0x5_2000, 1)) == (b"\x01", b"\x01")


def test_stores_are_collected_by_page(make):
    _, vcpu, video = make(ONE_STORE_A_RUN)
    assert video.collect() == [(0, MIB)]
    assert video.collect() == []
    vcpu.run()
    assert video.collect() == [(0x2_2000, 0x2_3000)]
    assert video.collect() == []
    vcpu.run()
    assert video.collect() == [(0x2_2000, 0x2_3000)]


def test_a_store_is_told_once_until_it_is_collected(make):
    _, vcpu, video = make(ONE_STORE_A_RUN)
    video.collect()
    vcpu.run()
    wait_for_change(video)
    vcpu.run()
    assert not select.select([video.changed_fd], [], [], 0)[0]
    video.collect()
    vcpu.run()
    wait_for_change(video)


def test_nothing_is_told_while_disarmed(make):
    _, vcpu, video = make(ONE_STORE_A_RUN)
    video.collect()
    video.disarm()
    vcpu.run()
    assert not select.select([video.changed_fd], [], [], 0)[0]


def test_a_running_guest_is_noticed_again_and_again(make):
    _, vcpu, video = make(TWO_PAGES_FOR_EVER)
    video.collect()
    runner = threading.Thread(target=vcpu.run)
    runner.start()
    seen = set()
    for _ in range(200):
        wait_for_change(video)
        seen |= {start for start, end in video.collect() for start in range(start, end, 0x1000)}
    vcpu.kick()
    runner.join()
    assert seen == {0x2_0000, 0x2_1000}


def test_no_store_is_lost_between_collecting_and_reading(make):
    """What is read after the last dirty page was collected is the end of it."""
    vm, vcpu, video = make(UNTIL_TOLD)
    video.collect()
    runner = threading.Thread(target=vcpu.run)
    runner.start()
    for _ in range(100):
        wait_for_change(video)
        video.collect()
    vm.write_physical(0x500, b"\x01")
    runner.join()
    shown = None
    while video.collect():
        shown = video.read(0x2_3000, 1)
    assert shown in (None, video.read(0x2_3000, 1))


# mov ax, A000h; mov ds, ax; call A000:0; mov byte [1], 2; call A000:0; hlt
CALLS = bytes.fromhex("b800a08ed8 9a000000a0 c606010002 9a000000a0 f4")
ADDS = bytes.fromhex("80c301 cb")       # add bl, 1; retf


def test_code_runs_in_video_memory_and_may_change(make):
    _, vcpu, video = make(CALLS.replace(bytes.fromhex("c6060100"), bytes.fromhex("c6060200")))
    video.write(0x2_0000, ADDS)
    vcpu.set_registers({"rbx": 0, "rsp": 0x800, "ss": 0, "ss_base": 0})
    assert vcpu.run() == Exit.HALT
    assert vcpu.registers()["rbx"] == 3


def test_code_in_video_memory_is_dropped_when_another_view_changes_it(make):
    _, vcpu, video = make(CALLS.replace(bytes.fromhex("c606010002"), bytes.fromhex("26c6060200 02")))
    video.map_view(0xB_0000, 0x1000, 0x2_0000)
    video.write(0x2_0000, ADDS)
    vcpu.set_registers({"rbx": 0, "rsp": 0x800, "ss": 0, "ss_base": 0, "es": 0xB000, "es_base": 0xB_0000})
    assert vcpu.run() == Exit.HALT
    assert vcpu.registers()["rbx"] == 3


def test_code_in_video_memory_is_dropped_when_a_chip_changes_it(make):
    _, vcpu, video = make(bytes.fromhex("9a000000a0 e661") * 2)
    video.write(0x2_0000, ADDS)
    vcpu.set_registers({"rbx": 0, "rsp": 0x800, "ss": 0, "ss_base": 0})
    vcpu.run()
    video.write(0x2_0002, b"\x10")
    vcpu.run()
    assert vcpu.registers()["rbx"] == 0x11


def test_accesses_beyond_video_memory_are_refused(make):
    _, _, video = make(HLT)
    for refused in (
        lambda: video.read(MIB, 1),
        lambda: video.write(MIB - 1, b"ab"),
        lambda: video.map_view(0xB_0000, 0x1000, MIB),
        lambda: video.map_view(0xB_0800, 0x1000, 0),
    ):
        with pytest.raises(ValueError):
            refused()
