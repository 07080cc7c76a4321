"""The cpio writer (ring3.testing.initramfs)."""

import shutil
import subprocess

import pytest

from ring3.testing.initramfs import Initramfs


def test_an_empty_archive_is_its_trailer():
    archive = Initramfs().build()
    assert archive[:6] == b"070701"
    assert archive[110:121] == b"TRAILER!!!\0"
    assert len(archive) % 4 == 0


def test_a_files_data_follows_its_padded_name():
    root = Initramfs()
    root.file("/init", b"abcde", mode=0o755)
    archive = root.build()
    assert archive[14:22] == b"000081ED"                # a regular file, rwxr-xr-x
    assert archive[54:62] == b"00000005"                # its size
    assert archive[110:116] == b"init\0\0"
    assert archive[116:124] == b"abcde\0\0\0"


def test_parents_come_before_their_children():
    root = Initramfs()
    root.symlink("/usr/bin/sh", "busybox")
    archive = root.build()
    assert archive.index(b"usr\0") < archive.index(b"usr/bin\0") < archive.index(b"usr/bin/sh\0")


def test_the_same_contents_give_the_same_bytes():
    def build() -> bytes:
        root = Initramfs()
        root.device("/dev/console", 5, 1)
        return root.build()

    assert build() == build()


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio here")
def test_cpio_reads_it():
    root = Initramfs()
    root.file("/etc/motd", b"hello")
    listed = subprocess.run(["cpio", "-t"], input=root.build(), capture_output=True, check=True).stdout
    assert listed.split() == [b"etc", b"etc/motd"]
