"""Checkpoints of a Linux guest that writes to its disks: restored, they have what they had then."""

import os
import shutil
import subprocess
import sys

import pytest

from guest_terminal import BOOT_TIMEOUT_S
from module_guest import Shell, initramfs, linux
from ring3 import Machine
from ring3.checkpoint import machine as checkpoint
from ring3.disk.modes import open_disk
from ring3.errors import ConfigError, VmError

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(2 * BOOT_TIMEOUT_S),
    pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="no mkfs.ext4: apt install e2fsprogs"),
]

FILE_SYSTEM_BYTES, PLAIN_BYTES, DISKETTE_BYTES = 32 << 20, 4 << 20, 1440 << 10
MARKS = (("/dev/vdb", 0), ("/dev/vdc", 4096), ("/dev/fd0", 512))


class Guest:
    """Where its files are, and what it says of its disks."""

    def __init__(self, directory):
        self.directory = directory
        self.file_system = directory / "ext4.img"
        with self.file_system.open("wb") as file:
            file.truncate(FILE_SYSTEM_BYTES)
        subprocess.run(["mkfs.ext4", "-q", self.file_system], check=True)
        for name, size in (("undoable", PLAIN_BYTES), ("shared", PLAIN_BYTES), ("diskette", DISKETTE_BYTES)):
            (directory / f"{name}.img").write_bytes(bytes(size))

    @property
    def settings(self):
        disks = [f"{self.file_system}", f"{self.directory / 'undoable.img'},mode=undoable",
                 f"{self.directory / 'shared.img'},mode=nonpersistent"]
        return {"memory": "128M", "disk": [f"{disk},bus=virtio" for disk in disks],
                "floppy": str(self.directory / "diskette.img")}

    def file(self, tag):
        return self.directory / "checkpoints" / f"{tag}.ring3"


def mark(shell, text):
    """Writes it to a file, and to each of the other disks."""
    shell.run(f"echo {text} > /mnt/state; dd if=/dev/urandom of=/mnt/{text} bs=64k count=20; sync")
    for device, offset in MARKS:
        shell.run(f"echo {text} | dd of={device} bs=512 seek={offset // 512} conv=notrunc; sync")


def marks(shell):
    """… and reads it again, from the disks and not from memory."""
    shell.run("sync; echo 3 > /proc/sys/vm/drop_caches")
    found = [shell.run("cat /mnt/state").strip()]
    for device, offset in MARKS:
        sector = shell.run(f"dd if={device} bs=512 skip={offset // 512} count=1 2>/dev/null | head -n 1")
        found.append(sector.strip())
    return found


def is_clean(path, copy):
    """What fsck says of a disk that was unmounted."""
    disk = open_disk(path, read_only=True)
    copy.write_bytes(disk.read(0, disk.size_bytes))
    disk.close()
    return subprocess.run(["e2fsck", "-fn", copy], check=False, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    """One that was saved as `one`, went on, was saved as `two` in the midst of writing, and went on."""
    guest = Guest(tmp_path_factory.mktemp("disks"))
    modules = initramfs("amd64", "virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "floppy")
    with linux("amd64", modules, **guest.settings) as shell:
        shell.run("mount -t ext4 /dev/vda /mnt")
        mark(shell, "one")
        shell.machine.checkpoint(guest.file("one"))
        mark(shell, "two")
        shell.run("(while true; do dd if=/dev/urandom of=/mnt/busy bs=4k count=64 conv=fsync; done) "
                  ">/dev/null 2>&1 & sleep 1")
        shell.machine.checkpoint(guest.file("two"))
        mark(shell, "three")
        shell.machine.restore(guest.file("one"))
        assert marks(shell) == ["one"] * 4
        mark(shell, "four")
        assert marks(shell) == ["four"] * 4
        shell.machine.restore(guest.file("two"))
        assert marks(shell) == ["two"] * 4
        shell.run("kill $!; wait; umount /mnt; sync")
    return guest


def test_the_running_machine_went_back_and_its_file_system_is_whole(guest, tmp_path):
    assert is_clean(guest.file_system, tmp_path / "copy")


@pytest.mark.parametrize("tag", ["one", "two"])
def test_a_new_machine_has_the_disks_of_then(guest, tmp_path, tag):
    with Machine.restored(guest.file(tag)) as vm:
        shell = Shell(vm)
        assert marks(shell) == [tag] * 4
        shell.run("kill $!; wait; umount /mnt; sync" if tag == "two" else "umount /mnt; sync")
    assert is_clean(guest.file_system, tmp_path / "copy")


def test_another_process_has_the_disks_of_then(guest):
    code = (f"import ring3; vm = ring3.Machine.restored({str(guest.file('one'))!r})\n"
            "with vm:\n"
            "    vm.serial[0].send('cat /mnt/state | tr a-z A-Z\\n')\n"
            "    vm.serial[0].expect('ONE')\n")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_images_are_as_they_were(guest):
    assert (guest.directory / "undoable.img").read_bytes() == bytes(PLAIN_BYTES)
    assert (guest.directory / "shared.img").read_bytes() == bytes(PLAIN_BYTES)


def test_a_changed_image_is_refused_before_anything_is_touched(guest):
    names = sorted(os.listdir(guest.directory))
    with guest.file_system.open("r+b") as file:
        data = file.read(1)
        file.seek(0)
        file.write(data)
    times = guest.file_system.stat()
    with pytest.raises(VmError, match=r"disk0: .* was written to since") as caught:
        Machine.restored(guest.file("one"))
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(guest.directory)) == names
    assert guest.file_system.stat().st_mtime_ns == times.st_mtime_ns


def test_a_missing_image_is_one_line(guest):
    hidden = guest.file_system.with_suffix(".hidden")
    guest.file_system.rename(hidden)
    try:
        with pytest.raises(ConfigError) as caught:
            Machine.restored(guest.file("one"))
        assert "\n" not in str(caught.value)
    finally:
        hidden.rename(guest.file_system)


def test_removed_checkpoints_leave_nothing(guest):
    for tag in ("one", "two"):
        checkpoint.remove(guest.file(tag))
    left = sorted(os.listdir(guest.directory))
    assert left == ["checkpoints", "diskette.img", "ext4.img", "ext4.img.undo", "shared.img", "undoable.img",
                    "undoable.img.undo"]
    assert os.listdir(guest.directory / "checkpoints") == []
