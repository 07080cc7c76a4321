"""Disks with data in them, for tests of what reads and writes them; `SIZE` of a test's file says how much."""

import random

import pytest

from ring3.disk import create_image, open_image


@pytest.fixture(scope="module")
def content(request):
    return random.Random(1).randbytes(request.module.SIZE)


@pytest.fixture(params=["raw", "qcow2"])
def path(request, tmp_path, content):
    """A disk with that in it, in a directory of its own."""
    path = tmp_path / "images/disk.img"
    path.parent.mkdir()
    create_image(path, len(content), request.param)
    image = open_image(path)
    image.write(0, content)
    image.close()
    return path
