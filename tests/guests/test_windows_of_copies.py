"""Machines that were frozen, copied or restored: busy ones get windows again, over RAM that is thawed for it
(rust/engine/src/backing.rs), idle ones don't, and nobody's memory changes by that."""

import pytest

from guest_terminal import BOOT_TIMEOUT_S, busybox, image
from ring3 import Machine
from ring3.testing.initramfs import Initramfs

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]

ANSWER_S = 60.0
TRIES = 20                              # of a second or so each, with a busy host
COMPUTE = "awk 'BEGIN { for (i = 0; i < 300000; i++) { s += i; a[i % 9777] = s } print s, length(a) }'\n"
COMPUTED = "44999850000 9777"
SUM = "sha256sum /random\n"
SHELL = b"""#!/bin/sh
dd if=/dev/urandom of=/random bs=1M count=8 2>/dev/null
exec sh
"""


@pytest.fixture(scope="module")
def vm(tmp_path_factory):
    root = Initramfs()
    busybox(root, "amd64", "awk")
    root.device("/dev/urandom", 1, 9, mode=0o666)
    root.file("/init", SHELL, mode=0o755)
    with Machine(kernel=image("linux-installer-amd64"), initrd=root.build(), memory="256M", serial="memory",
                 append="console=ttyS0 quiet", display="none",
                 checkpoints=tmp_path_factory.mktemp("checkpoints")) as vm:
        vm.serial[0].expect("# ", timeout_s=BOOT_TIMEOUT_S)
        yield vm


@pytest.fixture
def copy(vm):
    (made,) = vm.fork()
    yield made
    made.stop()


def answer(vm, line, pattern):
    vm.serial[0].send(line)
    found = vm.serial[0].expect(pattern, timeout_s=ANSWER_S)[0]
    vm.serial[0].expect("# ", timeout_s=ANSWER_S)
    return found


def random_sum(vm):
    return answer(vm, SUM, "[0-9a-f]{64}")


def compute_in_windows(vm):
    """Computes, rightly, until it has had windows."""
    before = vm.stats()["window_faults"]
    for _ in range(TRIES):
        answer(vm, COMPUTE, COMPUTED)
        if vm.stats()["window_faults"] > before:
            return
    pytest.fail("it computes without windows")


def test_a_busy_copy_gets_windows_and_machines_stay_apart(vm, copy):
    expected = random_sum(vm)
    answer(copy, "dd if=/dev/urandom of=/random bs=1M count=1 seek=2 conv=notrunc\n", "records out")
    own = random_sum(copy)
    assert own != expected
    compute_in_windows(copy)
    compute_in_windows(vm)
    assert (random_sum(vm), random_sum(copy)) == (expected, own)


def test_an_idle_copy_gets_none(copy):
    random_sum(copy)
    assert copy.stats()["window_faults"] == 0


def test_a_copy_of_a_copy_with_windows_has_its_memory(copy):
    compute_in_windows(copy)
    expected = random_sum(copy)
    (second,) = copy.fork()
    try:
        compute_in_windows(copy)
        assert random_sum(second) == expected
        compute_in_windows(second)
        assert random_sum(second) == expected
    finally:
        second.stop()


def test_a_restored_machine_gets_windows_and_the_next_checkpoint_has_what_changed(vm):
    expected = random_sum(vm)
    whole = vm.checkpoint("whole")
    compute_in_windows(vm)
    changed = vm.checkpoint("changed")
    assert changed.stat().st_size < whole.stat().st_size / 4
    answer(vm, "rm /random; echo go''ne\n", "gone")
    for tag in ("changed", "whole"):
        vm.restore(tag)
        vm.serial[0].send("\n")
        vm.serial[0].expect("# ")
        assert random_sum(vm) == expected
        compute_in_windows(vm)
        assert random_sum(vm) == expected


def test_a_checkpoint_of_a_machine_with_windows_restores_elsewhere(vm, tmp_path):
    compute_in_windows(vm)
    expected = random_sum(vm)
    path = vm.checkpoint(tmp_path / "elsewhere.ring3")
    with Machine.restored(path) as other:
        assert random_sum(other) == expected
        compute_in_windows(other)
        assert random_sum(other) == expected
