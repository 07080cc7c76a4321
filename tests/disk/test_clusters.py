"""Which clusters of a qcow2 image are taken: none twice, long pieces in a row."""

import itertools
import random
import shutil
import subprocess

import pytest

from ring3.disk import create_image, open_image, tools

SIZE, CLUSTER = 24 << 20, 65_536


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk.qcow2"
    create_image(path, SIZE, "qcow2")
    return path


def place(image, offset):
    l2 = image._load(0)
    return l2.table[offset // CLUSTER] & 0x00FF_FFFF_FFFF_FE00


@pytest.mark.parametrize("piece", [1, 2, 4, 16])
def test_what_is_written_in_sequence_lies_in_sequence(path, piece):
    image = open_image(path)
    for offset in range(0, SIZE, piece * CLUSTER):
        image.write(offset, b"\xa5" * piece * CLUSTER)
    places = [place(image, offset) for offset in range(0, SIZE, CLUSTER)]
    breaks = sum(after != before + CLUSTER for before, after in itertools.pairwise(places))
    assert breaks < 8
    image.close()
    assert path.stat().st_size < SIZE + 24 * CLUSTER


def test_long_pieces_begin_at_places_that_their_size_divides(path):
    image = open_image(path)
    for offset in range(0, SIZE, 4 * CLUSTER):
        image.write(offset, b"\xa5" * 4 * CLUSTER)
    assert all(place(image, offset) % (4 * CLUSTER) == 0 for offset in range(0, SIZE, 4 * CLUSTER))
    image.close()


@pytest.mark.parametrize("seed", range(12))
def test_no_cluster_is_taken_twice_however_it_is_written(path, seed):
    rng = random.Random(seed)
    expected = bytearray(SIZE)
    image = open_image(path)
    for _ in range(120):
        offset = rng.randrange(SIZE)
        length = min(rng.choice((512, 5000, CLUSTER, 3 * CLUSTER, 1 << 20)), SIZE - offset)
        match rng.randrange(12):
            case 0:
                image.flush()
            case 1:
                image.close()
                assert tools.verify(path) == tools.Verdict()
                image = open_image(path)
            case 2 | 3:
                image.discard(offset, length)
                expected[offset : offset + length] = bytes(length)
            case 4:
                offset -= offset % CLUSTER
                data = rng.randbytes(min(16 * CLUSTER, SIZE - offset))
                image.write(offset, data)
                expected[offset : offset + len(data)] = data
            case _:
                data = rng.randbytes(length)
                image.write(offset, data)
                expected[offset : offset + length] = data
    assert image.read(0, SIZE) == expected
    image.close()
    image = open_image(path, read_only=True)
    assert image.read(0, SIZE) == expected
    image.close()
    assert tools.verify(path) == tools.Verdict()
    if shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "check", "-q", path], check=True, timeout=60)
