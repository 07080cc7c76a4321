"""Images that mean harm, by the thousand: tests/disk_fuzz.py in a process of bounded memory and time."""

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ring3.disk import create_image, open_image, qcow2, tools
from ring3.errors import ConfigError, ImageError

FUZZ = Path(__file__).parents[1] / "disk_fuzz.py"
IMAGES = int(os.environ.get("RING3_FUZZ", "60"))        # for each seed


@pytest.mark.parametrize("seed", range(2))
def test_hostile_images_of_every_format_are_an_error_in_bounded_memory_and_time(tmp_path, seed):
    command = [sys.executable, FUZZ, tmp_path, str(seed), str(IMAGES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-100:]}\n{done.stderr[-2000:]}"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "evil.qcow2"
    create_image(path, 8 << 30, "qcow2")
    image = open_image(path)
    image.write(0, b"x" * 300_000)
    image.close()
    return path


def patch(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_refcount_block_behind_the_end_is_said(path):
    patch(path, (1 << 16) + 8, struct.pack(">Q", 1 << 40))
    with pytest.raises(ImageError, match="refcount block lies behind"):
        tools.verify(path)


def test_l1_entries_that_share_a_table_do_not_keep_a_check_busy(path):
    first = path.read_bytes()[3 << 16 : (3 << 16) + 8]
    patch(path, 3 << 16, first * 16)
    with pytest.raises(ImageError, match="two L1 entries lead to"):
        tools.verify(path)


def test_more_clusters_than_can_be_counted_are_not_counted(tmp_path):
    path = tmp_path / "evil.qcow2"
    path.write_bytes(qcow2.create(1 << 20, cluster_bits=9))
    with path.open("r+b") as file:
        file.truncate(1 << 42)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="too many to be counted"):
        tools.verify(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


def test_refcounts_that_count_everything_are_an_error_of_the_drive(path):
    """All blocks of the table are one that says that all is taken."""
    block = (path.stat().st_size >> 16) + 1 << 16
    patch(path, block, b"\0\1" * 32_768)
    patch(path, 1 << 16, struct.pack(">Q", block) * 8192)
    image = open_image(path)
    with pytest.raises(OSError, match="refcounts go far beyond"):
        image.write(1 << 30, bytes(1 << 16))
    image.file.close()


def test_a_dirty_image_that_cannot_be_counted_is_refused_before_it_is_written(path):
    first = path.read_bytes()[3 << 16 : (3 << 16) + 8]
    patch(path, 3 << 16, first * 16)
    patch(path, 72, struct.pack(">Q", 1))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="two L1 entries"):
        open_image(path)
    assert path.read_bytes() == before
