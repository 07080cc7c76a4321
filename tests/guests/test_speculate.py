"""Attempts: what a machine did in the block is undone on an exception, on `rollback`, and else is kept."""

import pytest

from ring3 import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

PLACE = 8 << 20


class MindChangedError(Exception):
    pass


@pytest.fixture
def vm():
    with Machine(memory="16M") as vm:
        vm.serial[0].expect("Keys are echoed", timeout_s=60)
        vm.memory.write(PLACE, b"before")
        yield vm


def change_your_mind(vm, then=lambda: None):
    with vm.speculate():
        vm.memory.write(PLACE, b"inside")
        then()
        raise MindChangedError


def echoes(vm, letters):
    vm.serial[0].send(letters)
    vm.serial[0].expect(letters)


def test_an_exception_undoes_it_and_is_raised(vm):
    with pytest.raises(MindChangedError):
        change_your_mind(vm, lambda: echoes(vm, "xyz"))
    assert vm.memory.read(PLACE, 6) == b"before"
    echoes(vm, "abc")


def test_without_one_it_is_kept(vm):
    with vm.speculate():
        vm.memory.write(PLACE, b"inside")
    assert vm.memory.read(PLACE, 6) == b"inside"


def test_rollback_undoes_it_as_often_as_one_likes(vm):
    with vm.speculate() as attempt:
        for _ in range(3):
            vm.memory.write(PLACE, b"inside")
            echoes(vm, "xyz")
            attempt.rollback()
            assert vm.memory.read(PLACE, 6) == b"before"
    echoes(vm, "abc")


def test_attempts_nest(vm):
    with vm.speculate() as outer:
        vm.memory.write(PLACE, b"outer ")
        with pytest.raises(MindChangedError):
            change_your_mind(vm)
        assert vm.memory.read(PLACE, 6) == b"outer "
        outer.rollback()
    assert vm.memory.read(PLACE, 6) == b"before"


def test_a_machine_that_has_ended_is_left_alone(vm):
    with pytest.raises(MindChangedError):
        change_your_mind(vm, vm.stop)


@pytest.mark.parametrize("mode", ["persistent", "undoable", "nonpersistent"])
def test_disks_go_back(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("RING3_SCRATCH", str(tmp_path))
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    vm = Machine(memory="16M", disk=f"{image},mode={mode}", boot="cdrom")
    try:
        def disk():
            return vm.media.images()["disk0"]

        disk().write(4096, b"before")
        with vm.speculate() as attempt:
            disk().write(4096, b"inside")
            attempt.rollback()
            assert disk().read(4096, 6) == b"before"
            disk().write(4096, b"second")
        assert disk().read(4096, 6) == b"second"
    finally:
        vm.stop()
