"""Copies of a running machine, by the verbs."""

import os

import pytest

from guest_terminal import BOOT_TIMEOUT_S, busybox_root, image
from ring3 import Machine
from ring3.checkpoint.machine import Moment
from ring3.control import home, spawn
from ring3.errors import ConfigError
from ring3.machine import config_of_copy

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]


def test_copies_run_on_from_where_the_machine_was_and_it_runs_on(own_home):
    parent = spawn.start("first", memory="16M", display="none", serial="memory")
    machines = [parent]
    try:
        parent.serial[0].expect("Keys are echoed", timeout_s=60)
        machines += parent.fork(2)
        assert [each.name for each in machines] == ["first", "first-fork", "first-fork-2"]
        for each in machines:
            each.serial[0].send("xyz")
            each.serial[0].expect("xyz")
        assert home.named("first").saved() == []
    finally:
        for each in machines:
            each.stop()
            each.close()
    assert home.machines() == []        # all were made for one run


def test_copies_of_a_copy_run_after_it_has_gone(own_home):
    machines = [spawn.start("first", memory="16M", display="none", serial="memory")]
    try:
        machines[0].serial[0].expect("Keys are echoed", timeout_s=60)
        for _ in range(2):
            machines += machines[-1].fork()
        for each in machines[:2]:
            each.stop()
        machines[2].serial[0].send("xyz")
        machines[2].serial[0].expect("xyz")
    finally:
        machines[-1].stop()
        for each in machines:
            each.close()
    assert home.machines() == []


@pytest.fixture
def parent(tmp_path, monkeypatch):
    monkeypatch.setenv("RING3_SCRATCH", str(tmp_path))
    with Machine(memory="16M") as vm:
        vm.serial[0].expect("Keys are echoed", timeout_s=60)
        yield vm
    assert os.listdir(tmp_path) == []


def test_copies_in_this_process_are_machines_like_any(parent):
    copies = parent.fork(3)
    try:
        for letters, each in zip(("xxx", "yyy", "zzz"), copies, strict=True):
            each.serial[0].send(letters)
            each.serial[0].expect(letters)
            assert letters.encode() not in parent.serial[0].output
        parent.serial[0].send("www")
        parent.serial[0].expect("www")
    finally:
        for each in copies:
            each.stop()


def test_memory_of_copies_is_their_own(parent):
    place = 8 << 20
    parent.memory.write(place, b"before")
    (copy,) = parent.fork()
    try:
        parent.memory.write(place, b"parent")
        assert copy.memory.read(place, 6) == b"before"
        copy.memory.write(place, b"a copy")
        assert parent.memory.read(place, 6) == b"parent"
    finally:
        copy.stop()


def test_a_machine_that_was_built_before_becomes_a_copy(parent, tmp_path):
    place = 8 << 20
    with parent.moment() as early:
        ready = Machine(config_of_copy(early), saved=Moment(early.contents, early.path, [], None))
    parent.memory.write(place, b"later")
    parent.serial[0].send("abc")
    parent.serial[0].expect("abc")
    with parent.moment() as late:
        ready.become(late, name="copy", auto_display="none", checkpoints=tmp_path / "checkpoints")
        now_ns = late.contents.clock_ns
    try:
        assert ready.name == "copy"
        assert ready.memory.read(place, 5) == b"later"
        assert ready.clock.now() == now_ns
        ready.start()
        ready.serial[0].send("xyz")
        ready.serial[0].expect("xyz")
        assert b"abc" not in ready.serial[0].output
        ready.memory.write(place, b"own")
        assert parent.memory.read(place, 5) == b"later"
        ready.checkpoint("tag")
        assert [each.path.stem for each in ready.list_checkpoints()] == ["tag"]
    finally:
        ready.stop()
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "checkpoints").rmdir()


def test_no_copies_are_a_mistake(parent):
    with pytest.raises(ConfigError, match="count"):
        parent.fork(0)


@pytest.mark.parametrize("mode", ["persistent", "undoable", "nonpersistent"])
def test_disks_of_copies_are_what_the_disk_was_and_their_own(tmp_path, monkeypatch, mode):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("RING3_SCRATCH", str(scratch))
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))

    def disk(vm):
        return vm.media.images()["disk0"]

    vm = Machine(memory="16M", disk=f"{image},mode={mode}", boot="cdrom")
    machines = [vm]
    try:
        disk(vm).write(4096, b"before")
        machines += vm.fork(2)
        disk(vm).write(4096, b"parent")
        disk(machines[1]).write(4096, b"a copy")
        assert [disk(each).read(4096, 6) for each in machines] == [b"parent", b"a copy", b"before"]
        machines += machines[1].fork()
        assert disk(machines[3]).read(4096, 6) == b"a copy"
    finally:
        for each in machines:
            each.stop()
    assert os.listdir(scratch) == []


def test_linux_draws_new_entropy_in_copies_and_after_a_rollback(tmp_path):
    """By ACPI's generation ID; and copies answer on their consoles, each its own."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(busybox_root("amd64"))
    told = "crng reseeded due to virtual machine fork"
    kernel, append = image("linux-amd64"), "console=ttyS0 loglevel=8"
    vm = Machine(kernel=kernel, initrd=str(initrd), memory="256M", append=append)
    copies = []
    with vm:
        vm.serial[0].expect("# ", timeout_s=BOOT_TIMEOUT_S)
        copies = vm.fork(2)
        try:
            numbers = set()
            for each in copies:
                each.serial[0].expect(told, timeout_s=60)
                each.serial[0].send("cat /proc/sys/kernel/random/uuid; echo e'n'd\n")
                numbers.add(each.serial[0].expect(r"([0-9a-f-]{36})\r\nend", timeout_s=60)[1])
            assert len(numbers) == 2
            assert told not in vm.serial[0].output.decode(errors="replace")
        finally:
            for each in copies:
                each.stop()
        with vm.speculate() as attempt:
            attempt.rollback()
        vm.serial[0].expect(told, timeout_s=60)
