"""Block devices of the host and partitions of disks."""

import contextlib
import os
import shutil
import struct
import subprocess

import pytest

from ring3.config import DiskConfig
from ring3.disk import device, open_image
from ring3.disk.modes import discard, keep, open_disk, undecided
from ring3.disk.partition import partitions
from ring3.errors import ConfigError, HostError

SIZE = 8 << 20
START, SECTORS = 2048, 4096


@pytest.fixture
def disk(tmp_path, content):
    """A disk with an MBR: partition 2 at 1 MiB, and in an extended one partitions 5 and 6."""
    data = bytearray(content)

    def table(sector, *entries):
        data[sector * 512 : sector * 512 + 512] = bytes(446) + b"".join(
            struct.pack("<B3sB3sII", 0, b"\0\0\0", kind, b"\0\0\0", first, count) if kind else bytes(16)
            for kind, first, count in entries
        ).ljust(64, b"\0") + b"\x55\xaa"

    table(0, (0, 0, 0), (0x0C, START, SECTORS), (0x05, 8192, 4096), (0, 0, 0))
    table(8192, (0x83, 64, 1000), (0x05, 2000, 1000))
    table(8192 + 2000, (0x83, 64, 900), (0, 0, 0))
    path = tmp_path / "disk.img"
    path.write_bytes(data)
    return path


@pytest.fixture
def loop(disk):
    """The same as a block device."""
    if os.geteuid() or shutil.which("losetup") is None:
        pytest.skip("loop devices are root's")
    made = subprocess.run(["losetup", "-f", "--show", disk], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop devices: {made.stderr}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


def test_partitions_are_numbered_as_linux_does(disk):
    image = open_image(disk, read_only=True)
    found = [(entry.number, entry.first, entry.sectors) for entry in partitions(image)]
    assert found == [(2, START, SECTORS), (5, 8192 + 64, 1000), (6, 8192 + 2000 + 64, 900)]
    image.close()


def test_gpt_partitions_are_found(tmp_path):
    if shutil.which("sfdisk") is None:
        pytest.skip("sfdisk is not installed")
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    script = "label: gpt\nstart=2048,size=2048\nstart=6144,size=1024\n"
    subprocess.run(["sfdisk", "-q", path], input=script, text=True, check=True, timeout=30)
    image = open_image(path, read_only=True)
    assert [entry[:3] for entry in partitions(image)] == [(1, 2048, 2048), (2, 6144, 1024)]
    image.close()


def test_a_partition_lies_where_it_lies_behind_a_record_of_its_own(disk, content):
    shown = open_disk(disk, partition=2)
    record = shown.read(0, 512)
    assert record[510:] == b"\x55\xaa"
    assert struct.unpack_from("<B3sB3sII", record, 446)[4:] == (START, SECTORS)
    assert record[446 + 16 : 510] == bytes(48)
    assert shown.read(512, (START - 1) * 512) == bytes((START - 1) * 512)
    assert shown.read(START * 512, SECTORS * 512) == content[START * 512 : (START + SECTORS) * 512]
    assert shown.read(START * 512 - 2, 4) == bytes(2) + content[START * 512 : START * 512 + 2]
    assert shown.size_bytes == (START + SECTORS) * 512
    shown.close()


def test_what_is_outside_of_a_partition_cannot_be_written(disk):
    before = disk.read_bytes()
    shown = open_disk(disk, partition=2)
    for offset in (0, 512, START * 512 - 1):
        with pytest.raises(OSError, match="outside of the partition"):
            shown.write(offset, b"x")
        with pytest.raises(OSError, match="outside of the partition"):
            shown.discard(offset, 10)
    shown.write(START * 512, b"inside")
    shown.close()
    assert disk.read_bytes() == before[: START * 512] + b"inside" + before[START * 512 + 6 :]


def test_a_partition_that_is_not_there_is_answered_with_those_that_are(disk):
    with pytest.raises(ConfigError, match="has no partition 1; there are: 2, 5, 6"):
        open_disk(disk, partition=1)


def test_a_nonpersistent_partition_leaves_the_disk_alone(disk):
    before = disk.read_bytes()
    shown = open_disk(disk, "nonpersistent", partition=2)
    shown.write(START * 512, b"inside")
    assert shown.read(START * 512, 6) == b"inside"
    shown.close()
    assert disk.read_bytes() == before


def test_partition_tables_that_loop_end(tmp_path):
    data = bytearray(1 << 20)
    entry = struct.pack("<B3sB3sII", 0, bytes(3), 0x05, bytes(3), 1, 100)
    data[446:462] = entry
    data[510:512] = b"\x55\xaa"
    data[512 + 446 : 512 + 478] = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 1, 1) + struct.pack(
        "<B3sB3sII", 0, bytes(3), 0x05, bytes(3), 1, 100)
    data[512 + 510 : 512 + 512] = b"\x55\xaa"
    data[1024:1536] = data[512:1024]
    path = tmp_path / "loop.img"
    path.write_bytes(data)
    image = open_image(path, read_only=True)
    assert len(list(partitions(image))) <= 128
    image.close()


def test_a_partition_is_given_by_its_number():
    assert DiskConfig("disk.img", partition="2").text == "disk.img,partition=2"
    with pytest.raises(ConfigError, match="partition=two is no number"):
        DiskConfig("disk.img", partition="two")


def test_a_device_is_a_disk(loop, content):
    shown = open_disk(loop, partition=2)
    assert shown.read(START * 512, 100) == content[START * 512 : START * 512 + 100]
    shown.write(START * 512, b"through")
    shown.flush()
    shown.close()
    shown = open_disk(loop, read_only=True)
    assert shown.read(START * 512, 7) == b"through"
    shown.close()


def test_a_device_of_one_machine_is_refused_to_another(loop):
    shown = open_disk(loop)
    with pytest.raises(ConfigError, match="in use"):
        open_disk(loop)
    shown.close()
    open_disk(loop).close()


def test_a_mounted_device_is_refused_unless_forced_in_words(tmp_path, loop):
    if shutil.which("mkfs.ext2") is None:
        pytest.skip("no mkfs.ext2")
    subprocess.run(["mkfs.ext2", "-q", "-F", loop], check=True, timeout=30)
    place = tmp_path / "mounted"
    place.mkdir()
    if subprocess.run(["mount", "-o", "ro", loop, place], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(ConfigError, match=f"is mounted at {place}.*force={device.ANYWAY}"):
            open_disk(loop)
        with pytest.raises(ConfigError, match="forces nothing"):
            open_disk(loop, force="yes")
        with contextlib.closing(open_disk(loop, read_only=True, force=device.ANYWAY)) as shown:
            assert shown.size_bytes == SIZE
    finally:
        subprocess.run(["umount", place], check=True)


# --- changes to be decided on ---


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RING3_HOME", str(tmp_path / "home"))


def changed(path, **options):
    disk = open_disk(path, "undoable", **options)
    disk.write((START + 8) * 512, b"\xa5" * 5000)
    disk.close()


def expected(disk):
    data = bytearray(disk.read_bytes())
    at = (START + 8) * 512
    data[at : at + 5000] = b"\xa5" * 5000
    return bytes(data)


@pytest.mark.usefixtures("home")
def test_changes_to_a_device_wait_apart_until_they_are_kept(loop, disk):
    before, after = disk.read_bytes(), expected(disk)
    changed(loop)
    assert not os.path.exists(f"{loop}.undo")
    with contextlib.closing(open_disk(loop, "undoable")) as shown:
        assert shown.read(0, SIZE) == after
    assert disk.read_bytes() == before
    keep(loop)
    with contextlib.closing(open_disk(loop, read_only=True)) as shown:
        assert shown.read(0, SIZE) == after
    assert undecided(loop) is None


@pytest.mark.usefixtures("home")
def test_changes_to_a_device_can_be_discarded(loop, disk):
    before = disk.read_bytes()
    changed(loop)
    discard(loop)
    with contextlib.closing(open_disk(loop, "undoable")) as shown:
        assert shown.read(0, SIZE) == before
    discard(loop)


@pytest.mark.usefixtures("home")
def test_changes_are_not_laid_over_another_device_of_that_name(loop, disk):
    changed(loop)
    image = open_disk(loop, read_only=True)
    image.close()
    with open(loop, "r+b") as file:
        file.write(b"another disk")
    for use in (lambda: open_disk(loop, "undoable"), lambda: keep(loop)):
        with pytest.raises(ConfigError, match="changed under its undecided changes: ring3 disk discard"):
            use()
    discard(loop)
    open_disk(loop, "undoable").close()


@pytest.mark.usefixtures("home")
def test_a_device_with_a_machine_that_undoes_cannot_be_taken_by_another(loop):
    with contextlib.closing(open_disk(loop, "undoable")), pytest.raises(ConfigError, match="in use"):
        open_disk(loop, "undoable")


@pytest.mark.usefixtures("home")
def test_a_device_that_is_written_cannot_be_frozen(loop, tmp_path):
    with contextlib.closing(open_disk(loop, "undoable")) as shown:
        shown.write(0, b"x")
        with pytest.raises(HostError, match="mode=nonpersistent"):
            shown.freeze(tmp_path / "a.ring3")


def test_changes_to_a_partition_are_kept_on_the_disk_that_it_is_on(disk):
    after = expected(disk)
    changed(disk, partition=2)
    keep(disk)
    assert disk.read_bytes() == after


def test_an_undoable_partition_protects_the_others(disk):
    with contextlib.closing(open_disk(disk, "undoable", partition=2)) as shown:
        with pytest.raises(OSError, match="outside of the partition"):
            shown.write(0, b"x" * 512)
        assert shown.size_bytes == (START + SECTORS) * 512
        assert shown.read(512, 512) == bytes(512)
    keep(disk)
