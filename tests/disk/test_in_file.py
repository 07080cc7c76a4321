"""Where images say their bytes are in files of the host, for reads without a copy in between."""

import os
import random
import threading

import pytest

from ring3.disk import DiskWorker, create_image, open_image
from ring3.disk.file import NOW_MAX, HostFile
from ring3.disk.image import in_file
from ring3.disk.modes import open_disk
from ring3.disk.raw import Raw

CONTENT = os.urandom(4096 + 100)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    image = Raw(HostFile(path, read_only=False))
    yield image
    image.close()


def test_a_raw_image_is_its_file(image):
    fd, offset = in_file(image, 512, 1024)
    assert os.pread(fd, 1024, offset) == CONTENT[512:1536]


def test_what_a_raw_image_has_behind_its_files_end_is_not_in_it(image):
    assert in_file(image, 4096, 512) is None


def test_a_long_read_is_not_for_at_once(tmp_path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(2 * NOW_MAX)
    image = Raw(HostFile(path, read_only=True))
    assert in_file(image, 0, NOW_MAX) is not None
    assert in_file(image, 0, NOW_MAX + 512) is None
    image.close()


def test_a_drive_tells_nothing_while_a_write_is_under_way(image):
    gate = threading.Event()
    write = image.write

    def slowly(offset, data):
        gate.wait()
        write(offset, data)

    image.write = slowly
    lock = threading.RLock()
    drive = DiskWorker(image, lock)
    with lock:
        assert drive.in_file(0, 512) is not None
        drive.write(0, bytes(512), lambda error: None)
        assert drive.in_file(0, 512) is None
        gate.set()
    drive.drain()
    assert drive.in_file(0, 512) is not None
    drive.close()


def test_a_qcow2_image_tells_of_clusters_that_lie_together(tmp_path):
    path = tmp_path / "disk.qcow2"
    create_image(path, 1 << 20, "qcow2")
    image = open_image(path)
    content = random.Random(5).randbytes(200_000)
    image.write(65_536, content)
    fd, offset = in_file(image, 65_536 + 512, 150_000)
    assert os.pread(fd, 150_000, offset) == content[512:150_512]
    assert in_file(image, 0, 512) is None
    assert in_file(image, 65_000, 1024) is None
    image.close()


def test_an_overlay_tells_of_the_image_behind_it_until_it_is_written_to(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT[:4096])
    image = open_disk(path, "nonpersistent")
    fd, offset = in_file(image, 512, 1024)
    assert os.pread(fd, 1024, offset) == CONTENT[512:1536]
    image.write(0, bytes(4096))
    fd, offset = in_file(image, 512, 1024)
    assert os.pread(fd, 1024, offset) == bytes(1024)
    image.close()
