"""Stock Linux drivers on virtio, BusLogic, the diskette controller and the parallel port."""

import hashlib
import random

import pytest

from guest_terminal import BOOT_TIMEOUT_S
from module_guest import initramfs, linux

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]

BOTH = pytest.mark.parametrize("architecture", ["amd64", "i386"])
DISK_BYTES = 16 << 20


def image(path, size, seed=1):
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_and_write_a_disk(shell, device, path):
    """All of it is read, some of it is written across a cache flush; both ends see the same bytes."""
    assert shell.run(f"sha256sum /dev/{device}").split()[0] == checksum(path)
    shell.run("dd if=/dev/urandom of=/tmp/new bs=64k count=16")
    shell.run(f"dd if=/tmp/new of=/dev/{device} bs=64k seek=7")
    shell.run(f"sync; echo 3 > /proc/sys/vm/drop_caches; cat /dev/{device} > /dev/null")
    new = shell.run("sha256sum /tmp/new").split()[0]
    assert hashlib.sha256(path.read_bytes()[7 * 65536 :][: 1 << 20]).hexdigest() == new
    assert shell.run(f"sha256sum /dev/{device}").split()[0] == checksum(path)


@pytest.mark.parametrize(
    ("architecture", "append"),
    [("amd64", ""), ("i386", ""), ("amd64", "pci=nomsi")],
    ids=["amd64", "i386", "intx"],
)
def test_a_virtio_disk_is_read_and_written(architecture, append, tmp_path):
    path = image(tmp_path / "disk.img", DISK_BYTES)
    modules = initramfs(architecture, "virtio_pci", "virtio_blk")
    with linux(architecture, modules, append, disk=f"{path},bus=virtio") as shell:
        read_and_write_a_disk(shell, "vda", path)
        assert shell.run("cat /sys/block/vda/serial").strip() == "disk0"


def test_a_virtio_disk_can_be_discarded(tmp_path):
    path = image(tmp_path / "disk.img", DISK_BYTES)
    modules = initramfs("amd64", "virtio_pci", "virtio_blk")
    with linux("amd64", modules, disk=f"{path},bus=virtio") as shell:
        shell.run("blkdiscard -o 1048576 -l 1048576 /dev/vda")
        data = path.read_bytes()
    assert data[1 << 20 : 2 << 20] == bytes(1 << 20)
    assert data[2 << 20 :][:65536] != bytes(65536)


def test_a_legacy_virtio_driver_is_served_too(tmp_path):
    path = image(tmp_path / "disk.img", DISK_BYTES)
    legacy = {"virtio_pci": "force_legacy=1"}
    modules = initramfs("amd64", "virtio_pci", "virtio_blk", options=legacy)
    with linux("amd64", modules, disk=f"{path},bus=virtio") as shell:
        read_and_write_a_disk(shell, "vda", path)


@BOTH
def test_a_buslogic_disk_is_read_and_written(architecture, tmp_path):
    path = image(tmp_path / "disk.img", DISK_BYTES)
    with linux(architecture, initramfs(architecture, "BusLogic", "sd_mod"), disk=f"{path},bus=scsi") as shell:
        assert "BusLogic BT-958 Initialized Successfully" in shell.run("dmesg")
        read_and_write_a_disk(shell, "sda", path)


def test_a_cd_at_the_buslogic_adapter_is_read(tmp_path):
    path = image(tmp_path / "cd.iso", 3 << 20)
    modules = initramfs("i386", "BusLogic", "sr_mod")
    with linux("i386", modules, cdrom=f"{path},bus=scsi") as shell:
        assert shell.run("sha256sum /dev/sr0").split()[0] == checksum(path)


@BOTH
def test_a_diskette_is_read_and_written(architecture, tmp_path):
    path = image(tmp_path / "floppy.img", 1440 * 1024)
    with linux(architecture, initramfs(architecture, "floppy"), floppy=str(path)) as shell:
        assert shell.run("md5sum /dev/fd0").split()[0] == hashlib.md5(path.read_bytes()).hexdigest()
        shell.run("dd if=/dev/urandom of=/tmp/new bs=18k count=4")
        shell.run("dd if=/tmp/new of=/dev/fd0 bs=18k seek=3; sync")
        new = shell.run("md5sum /tmp/new").split()[0]
    assert hashlib.md5(path.read_bytes()[3 * 18432 :][: 4 * 18432]).hexdigest() == new


def test_another_diskette_is_seen(tmp_path):
    first = image(tmp_path / "a.img", 1440 * 1024, seed=1)
    second = image(tmp_path / "b.img", 1440 * 1024, seed=2)
    with linux("amd64", initramfs("amd64", "floppy"), floppy=str(first)) as shell:
        shell.run("head -c 512 /dev/fd0 | md5sum")
        shell.machine.insert("floppy0", second)
        assert shell.run("md5sum /dev/fd0").split()[0] == hashlib.md5(second.read_bytes()).hexdigest()


def test_a_print_job_arrives_as_a_file(tmp_path):
    job = tmp_path / "out.prn"
    with linux("amd64", initramfs("amd64", "parport_pc", "lp"), parallel=f"file:{job}") as shell:
        assert "using parport0 (interrupt-driven)" in shell.run("dmesg")
        shell.run("seq 1 2000 > /tmp/text; cat /tmp/text > /dev/lp0")
        printed = shell.run("md5sum /tmp/text").split()[0]
    assert hashlib.md5(job.read_bytes()).hexdigest() == printed


@BOTH
def test_virtio_rng_gives_random_bytes(architecture):
    with linux(architecture, initramfs(architecture, "virtio_pci", "virtio_rng"), virtio_rng=True) as shell:
        assert shell.run("cat /sys/class/misc/hw_random/rng_current").strip() == "virtio_rng.0"
        sums = {shell.run("head -c 4096 /dev/hwrng | md5sum") for _ in range(2)}
    assert len(sums) == 2


def test_a_virtio_console_talks_both_ways():
    modules = initramfs("amd64", "virtio_pci", "virtio_console")
    with linux("amd64", modules, virtio_console="memory") as shell:
        console = shell.machine.virtio_consoles[0]
        shell.run("stty raw -echo < /dev/hvc0; echo from the guest > /dev/hvc0")
        shell.run("(head -n 1 /dev/hvc0 > /tmp/line &)")
        console.expect("from the guest")
        console.send("from the host\n")
        assert shell.run("while ! [ -s /tmp/line ]; do sleep 1; done; cat /tmp/line") == "from the host\n"
