"""Checkpoints of real guests: saved while they count, restored elsewhere, and they count on."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xxhash

import ring3
from guest_terminal import BOOT_TIMEOUT_S, busybox_root, image
from ring3 import Machine
from ring3.checkpoint import machine as checkpoint
from ring3.checkpoint.format import write
from ring3.checkpoint.pages import Extents
from ring3.errors import CheckpointError, HostError

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]

EMBEDDED = Path(ring3.__file__).with_name("firmware") / "embedded_guest.bin"
COUNT = "i=0; while true; do i=$((i+1)); echo count $i; usleep 20000; done\n"


def linux(tmp_path: Path, **settings) -> Machine:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(busybox_root("i386"))
    options = {"memory": "128M", "append": "console=ttyS0", "video_memory": "4M"}
    vm = Machine(kernel=image("linux-686-pae"), initrd=str(initrd), **options | settings)
    vm.start()
    return vm


def counted(vm: Machine, times: int = 3) -> list[int]:
    return [int(vm.serial[0].expect(rb"count (\d+)\r\n", timeout_s=60)[1]) for _ in range(times)]


def ram_hash(vm: Machine) -> str:
    return xxhash.xxh3_128_hexdigest(vm.memory.read(0, vm.config.memory_bytes))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A Linux guest that counts; the checkpoint, and the last number before it."""
    path = tmp_path_factory.mktemp("checkpoint")
    vm = linux(path)
    try:
        vm.serial[0].expect(r"# ", timeout_s=BOOT_TIMEOUT_S)
        vm.serial[0].send(COUNT)
        before = counted(vm)[-1]
        file = vm.checkpoint(path / "counting.ring3")
        after = counted(vm, 30)[-1]         # it goes on
    finally:
        vm.stop()
    with Machine.restored(file) as vm:
        last = counted(vm, 1)[0] - 1
    assert before <= last < after
    return file, last


@pytest.mark.parametrize("engine", ["translate", "interp"])
def test_it_counts_on_in_a_new_machine_on_either_engine(saved, engine):
    file, last = saved
    vm = Machine.restored(file, engine=engine)
    with vm:
        numbers = counted(vm)
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert abs(numbers[0] - last) <= 2


def test_it_counts_on_in_another_process(saved):
    file, last = saved
    code = (f"import ring3; vm = ring3.Machine.restored({str(file)!r})\n"
            "with vm: print(int(vm.serial[0].expect(rb'count (\\d+)')[1]))")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           timeout=60)
    assert abs(int(found.stdout) - last) <= 2


def test_a_machine_goes_back_in_place(saved):
    file, last = saved
    vm = Machine.restored(file)
    with vm:
        assert counted(vm, 30)[-1] > last + 20
        vm.restore(file)
        assert abs(counted(vm, 31)[-1] - last) <= 62
        vm.pause()


def test_a_checkpoint_of_the_interpreter_goes_on_translated(saved, tmp_path):
    file, _ = saved
    with Machine.restored(file, engine="interp") as vm:
        before = counted(vm)[-1]
        again = vm.checkpoint(tmp_path / "again.ring3", compress=True)
    with Machine.restored(again, engine="translate") as vm:
        assert counted(vm)[0] >= before


def test_restored_machines_have_the_same_memory(saved):
    file, _ = saved
    hashes = set()
    for _ in range(20):
        vm = Machine.restored(file)
        hashes.add(ram_hash(vm))
        vm.stop()
    assert len(hashes) == 1


def test_what_was_saved_is_what_is_saved_again(saved, tmp_path):
    """From the second time on: chips look at the clock when they are restored."""
    files = [saved[0]]
    for n in range(2):
        vm = Machine.restored(files[-1])
        files.append(vm.checkpoint(tmp_path / f"{n}.ring3"))
        vm.stop()
    records = []
    for path in files[1:]:
        with checkpoint.SavedFile(path) as saved_file:
            reader, contents = saved_file.reader, saved_file.contents
            pages = [(at, bytes(data)) for at, data in Extents(reader, 1 << 40)]
            tsc = contents.processors[0].state["tsc"]
            records.append((contents.clock_ns, contents.devices, tsc, pages))
    assert records[0][0] == records[1][0]
    assert records[0][2] == records[1][2]
    for name, record in records[0][1].items():
        assert (records[1][1][name] == record) == (name != "generation_id"), name
    assert records[0][3] == records[1][3]


def test_the_guest_runs_while_the_file_is_written(saved, tmp_path, monkeypatch):
    file, last = saved
    with Machine.restored(file) as vm:
        counted(vm)

        def write_later(*arguments, **options):
            counted(vm, 20)
            write(*arguments, **options)

        monkeypatch.setattr(checkpoint, "write", write_later)
        again = vm.checkpoint(tmp_path / "again.ring3")
    with Machine.restored(again) as vm:
        assert counted(vm)[-1] < last + 15


def test_a_file_that_cannot_be_written_leaves_nothing_and_the_guest_runs_on(saved, tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with Machine(kernel=EMBEDDED, memory="16M", serial="memory", disk=str(disk)) as vm:
        vm.serial[0].expect("Keys are echoed")
        monkeypatch.setattr(os, "fdatasync", no_space)
        with pytest.raises(HostError, match="No space"):
            vm.checkpoint(tmp_path / "c/never.ring3")
        monkeypatch.undo()
        vm.serial[0].send("xyz")
        vm.serial[0].expect("xyz")
    assert os.listdir(tmp_path / "c") == []
    assert sorted(os.listdir(tmp_path)) == ["c", "disk.img", "disk.img.undo"]


def test_timers_do_not_come_in_a_burst(saved):
    """Fifty sleeps of 20 ms take their second, though the checkpoint is older than that."""
    file, _ = saved
    with Machine.restored(file) as vm:
        counted(vm)
        started = time.monotonic()
        counted(vm, 50)
        assert time.monotonic() - started > 0.5


def test_every_flipped_bit_is_noticed(saved, tmp_path):
    file, _ = saved
    data = bytearray(file.read_bytes())
    bad = tmp_path / "bad.ring3"
    for at in [*range(0, 400, 37), *range(4000, len(data), len(data) // 40), len(data) - 1]:
        data[at] ^= 0x10
        bad.write_bytes(data)
        data[at] ^= 0x10
        with pytest.raises(CheckpointError) as caught:
            Machine.restored(bad)
        assert "\n" not in str(caught.value)
