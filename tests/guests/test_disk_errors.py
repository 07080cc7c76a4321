"""A host's disk that is full, and a guest that writes."""

import os
import subprocess

import pytest

from guest_terminal import BOOT_TIMEOUT_S
from module_guest import initramfs, linux

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(3 * BOOT_TIMEOUT_S),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of 4 MiB"),
]
FILL = "dd if=/dev/urandom of=/tmp/new bs=64k count=128 2>/dev/null"
WRITE = f"{FILL}; dd if=/tmp/new of=/dev/vda bs=64k conv=fsync"


@pytest.fixture
def disk(tmp_path):
    """A sparse disk of 16 MiB on a file system of 4 MiB."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path], check=False).returncode:
        pytest.skip("no file systems can be mounted here")
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    yield path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_linux_hears_of_a_full_host_or_waits_for_space_as_asked(disk, capfd):
    modules = initramfs("amd64", "virtio_pci", "virtio_blk")
    with linux("amd64", modules, disk=f"{disk},bus=virtio") as shell:
        shell.run(f"{WRITE} || echo refused; dmesg | grep -q 'I/O error.*vda'")
    with linux("amd64", modules, disk=f"{disk},bus=virtio,error=pause") as shell:
        shell.console.send(f"{WRITE} && sha256sum /tmp/new\n")
        with shell.machine._changed:
            assert shell.machine._changed.wait_for(lambda: shell.machine.paused, BOOT_TIMEOUT_S)
        assert shell.machine.pause_reason == "disk0: No space left on device"
        assert "is paused: disk0: No space left on device" in capfd.readouterr().err
        subprocess.run(["mount", "-o", "remount,size=64m", disk.parent], check=True)
        shell.machine.resume()
        written = shell.console.expect(r"([0-9a-f]{64})  /tmp/new", BOOT_TIMEOUT_S)[1].decode()
        assert shell.run("dd if=/dev/vda bs=64k count=128 2>/dev/null | sha256sum").split()[0] == written
