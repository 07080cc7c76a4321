"""qcow2 images, compared with qemu-img and with a plain bytearray."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from ring3.disk import create_image, open_image
from ring3.disk.qcow2 import Qcow2
from ring3.disk.qcow2.check import Check, check
from ring3.errors import ConfigError

SIZE = 4 << 20
CLUSTER = 64 << 10
OFFSETS = (0, 1, 512, CLUSTER - 1, CLUSTER, CLUSTER + 512, 5 * CLUSTER, SIZE - 512)


@pytest.fixture
def qemu_img(tmp_path):
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed: scripts/setup test installs it")

    def run(*arguments):
        command = ["qemu-img", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)

    return run


@pytest.fixture
def path(tmp_path):
    return tmp_path / "disk.qcow2"


@pytest.fixture
def raw(tmp_path, content):
    raw = tmp_path / "content.raw"
    raw.write_bytes(content)
    return raw


def close(*images):
    for image in images:
        image.close()


def scribble(image, expected, rng, steps=60, flush=True):
    """Random writes and discards of both."""
    for _ in range(steps):
        offset = rng.randrange(len(expected))
        length = min(rng.choice((1, 511, 512, 4096, 70_000, 300_000)), len(expected) - offset)
        match rng.randrange(6):
            case 0:
                image.discard(offset, length)
                expected[offset : offset + length] = bytes(length)
            case 1 if flush:
                image.flush()
            case _:
                data = rng.randbytes(length)
                image.write(offset, data)
                expected[offset : offset + length] = data


def test_a_new_image_is_zeros_and_small(path, qemu_img):
    create_image(path, 1 << 40, "qcow2")
    image = open_image(path)
    assert image.size_bytes == 1 << 40
    assert image.read((1 << 40) - 4096, 4096) == bytes(4096)
    image.close()
    assert path.stat().st_blocks < 1024
    qemu_img("check", path)


@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10",
        "compat=1.1",
        "compat=1.1,cluster_size=512",
        "compat=1.1,cluster_size=2M",
        "compat=1.1,lazy_refcounts=on",
        *(f"compat=1.1,refcount_bits={bits},cluster_size=4k" for bits in (1, 2, 4, 8, 32, 64)),
    ],
)
def test_what_is_written_reads_back_here_and_in_qemu(tmp_path, path, qemu_img, options):
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, SIZE)
    rng = random.Random(options)
    expected = bytearray(SIZE)
    for _ in range(2):
        image = open_image(path)
        scribble(image, expected, rng)
        assert image.read(0, SIZE) == expected
        image.close()
        (tmp_path / "expected").write_bytes(expected)
        assert "No errors were found" in qemu_img("check", path).stdout
        qemu_img("compare", "-f", "raw", "-F", "qcow2", tmp_path / "expected", path)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed_clusters_are_read_and_replaced(path, raw, content, qemu_img, compression):
    raw.write_bytes(text := (content[:1000] * (SIZE // 1000 + 1))[:SIZE])
    options = f"compression_type={compression}"
    qemu_img("convert", "-c", "-O", "qcow2", "-o", options, raw, path)
    image = open_image(path)
    assert image.read(0, SIZE) == text
    expected = bytearray(text)
    scribble(image, expected, random.Random(1))
    assert image.read(0, SIZE) == expected
    image.close()
    raw.write_bytes(expected)
    qemu_img("check", path)
    qemu_img("compare", raw, path)


def test_a_backing_image_shows_through_and_is_never_written(tmp_path, path, content, qemu_img):
    (tmp_path / "base.raw").write_bytes(content)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", path, SIZE + CLUSTER)
    expected = bytearray(content + bytes(CLUSTER))
    image = open_image(path)
    assert image.read(0, len(expected)) == expected
    scribble(image, expected, random.Random(2))
    assert image.read(0, len(expected)) == expected
    image.close()
    assert (tmp_path / "base.raw").read_bytes() == content
    (tmp_path / "expected").write_bytes(expected)
    qemu_img("check", path)
    qemu_img("compare", tmp_path / "expected", path)


def test_version_2_over_a_backing_image_discards_by_writing_zeros(tmp_path, path, content, qemu_img):
    (tmp_path / "base.raw").write_bytes(content)
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", "base.raw", "-F", "raw", path)
    expected = bytearray(content)
    image = open_image(path)
    scribble(image, expected, random.Random(3))
    assert image.read(0, SIZE) == expected
    image.close()
    qemu_img("check", path)


def test_a_chain_of_three(tmp_path, path, content, qemu_img):
    (tmp_path / "base.raw").write_bytes(content)
    create_image(tmp_path / "middle.qcow2", SIZE, "qcow2", backing="base.raw", backing_format="raw")
    middle = open_image(tmp_path / "middle.qcow2")
    middle.write(CLUSTER, b"middle")
    middle.close()
    create_image(path, SIZE, "qcow2", backing="middle.qcow2", backing_format="qcow2")
    top = open_image(path)
    around = content[CLUSTER - 2 : CLUSTER], content[CLUSTER + 6 : CLUSTER + 8]
    assert top.read(CLUSTER - 2, 10) == b"middle".join(around)
    top.close()
    qemu_img("check", path)


def test_internal_snapshots_are_read_and_survive_writing(tmp_path, path, raw, content, qemu_img):
    qemu_img("convert", "-O", "qcow2", raw, path)
    qemu_img("snapshot", "-c", "before", path)
    expected = bytearray(content)
    image = open_image(path)
    scribble(image, expected, random.Random(4))
    image.close()
    qemu_img("check", path)
    image = open_image(path)
    assert image.read(0, SIZE) == expected
    image.close()
    for name in ("before", "1"):
        image = open_image(path, read_only=True, snapshot=name)
        assert image.read(0, SIZE) == content
        image.close()
    qemu_img("snapshot", "-a", "before", path)
    qemu_img("compare", raw, path)
    with pytest.raises(ConfigError, match="has no snapshot 'after'; there are: before"):
        open_image(path, read_only=True, snapshot="after")


@pytest.mark.parametrize("is_raw", ["on", "off"])
def test_an_external_data_file(tmp_path, path, qemu_img, is_raw):
    options = f"data_file={tmp_path}/data,data_file_raw={is_raw}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, SIZE)
    qemu_img("amend", "-f", "qcow2", "-o", "data_file=data", path)
    expected = bytearray(SIZE)
    image = open_image(path)
    scribble(image, expected, random.Random(6))
    assert image.read(0, SIZE) == expected
    image.close()
    (tmp_path / "expected").write_bytes(expected)
    qemu_img("check", path)
    qemu_img("compare", tmp_path / "expected", path)
    if is_raw == "on":
        assert (tmp_path / "data").read_bytes().ljust(SIZE, b"\0") == expected


def test_discarded_clusters_are_given_back_and_used_again(path, content):
    create_image(path, SIZE, "qcow2")
    image = open_image(path)
    image.write(0, content)
    image.flush()
    full = path.stat().st_blocks
    image.discard(0, SIZE)
    image.flush()
    assert path.stat().st_blocks < full // 8
    for at in range(0, SIZE, CLUSTER):
        image.write(at, content[at : at + CLUSTER])
    image.close()
    assert path.stat().st_size < SIZE + 24 * CLUSTER


def test_a_dirty_image_gets_its_refcounts_anew(path, qemu_img, content):
    create_image(path, SIZE, "qcow2")
    image = open_image(path)
    image.write(0, content)
    image.close()
    with open(path, "r+b") as file:
        file.seek(2 * CLUSTER)
        file.write(bytes(CLUSTER))          # counts nothing …
        file.seek(79)
        file.write(b"\x01")                 # … and says so
    image = open_image(path, read_only=True)
    assert image.read(0, SIZE) == content
    image.close()
    image = open_image(path)
    image.write(0, b"x")
    image.close()
    assert "No errors" in qemu_img("check", path).stdout


class Recorder:
    """A host file whose writes and waits are noted, so that every crash can be played."""

    def __init__(self, file):
        self.file = file
        self.log = []

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, offset, data):
        self.log.append((offset, bytes(data)))
        self.file.write(offset, data)

    def flush(self):
        self.log.append(None)

    def punch(self, offset, length):
        return True


def test_a_crash_leaves_a_whole_image_at_every_point(tmp_path, path, qemu_img):
    """Of the writes since the last wait any may be missing; flushed data must be there."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, 1 << 20)
    before = path.read_bytes()
    image = open_image(path)
    assert isinstance(image, Qcow2)
    recorder = Recorder(image.file)
    image.file = image.data = image.refcounts.file = recorder
    rng = random.Random(7)
    expected = bytearray(1 << 20)
    marks = []                              # (length of the log, the flushed content)
    for _ in range(25):
        scribble(image, expected, rng, steps=3, flush=False)
        image.flush()
        marks.append((len(recorder.log), bytes(expected)))
    os.close(recorder.file.fd)
    cuts = [rng.randrange(len(recorder.log)) for _ in range(60)] + [mark for mark, _ in marks]
    for cut in cuts:
        crashed = replay(before, recorder.log, cut, rng)
        path.write_bytes(crashed)
        reopened = open_image(path, read_only=True)
        assert check(reopened).errors == 0
        for _, content in [mark for mark in marks if mark[0] == cut]:
            assert reopened.read(0, 1 << 20) == content
        reopened.close()


def replay(before, log, cut, rng):
    """The file after the first `cut` operations; those since the last wait reach the disk by chance."""
    data = bytearray(before)
    last_wait = max((n for n in range(cut) if log[n] is None), default=-1)
    for n, operation in enumerate(log[:cut]):
        if operation is None or (n > last_wait and rng.random() < 0.5):
            continue
        offset, content = operation
        data.extend(bytes(max(offset + len(content) - len(data), 0)))
        data[offset : offset + len(content)] = content
    return data


def test_a_write_that_the_host_refuses_leaves_the_image_whole(path, qemu_img, monkeypatch):
    create_image(path, SIZE, "qcow2")
    image = open_image(path)
    image.write(0, b"first")
    real = image.file.write

    def full(offset, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image.file, "write", full)
    with pytest.raises(OSError, match="No space left"):
        image.write(3 * CLUSTER, b"second")
    monkeypatch.setattr(image.file, "write", real)
    image.write(5 * CLUSTER, b"third")
    assert image.read(3 * CLUSTER, 6) == bytes(6)
    image.close()
    assert "No errors" in qemu_img("check", path).stdout


def test_a_cached_read_needs_no_waiting(path, content):
    create_image(path, SIZE, "qcow2")
    image = open_image(path)
    image.write(0, content)
    image.close()
    image = open_image(path)
    assert image.read_now(CLUSTER - 5, 2 * CLUSTER) in (None, content[CLUSTER - 5 : 3 * CLUSTER - 5])
    image.close()


def header_of(path):
    return bytearray(path.read_bytes()[:112])


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (7, b"\x09", "is qcow2 version 9"),
        (23, b"\x40", "damaged header: clusters of 2\\^64 bytes"),
        (35, b"\x01", "is encrypted"),
        (79, b"\x10", "needs a feature that is not known here: extended L2 entries"),
        (78, b"\x80", "needs a feature that is not known here: bit 15"),
        (79, b"\x02", "is marked as corrupt"),
        (24, b"\x7f", "L1 table does not fit its size"),
        (47, b"\x01", "L1 table is not at a cluster's start"),
        (44, b"\x7f", "is truncated: its L1 table ends at byte"),
        (99, b"\x09", "its refcounts make no sense"),
        (104, b"\x07", "compressed in a way that is not known here: type 7"),
    ],
)
def test_a_damaged_header_is_one_line(path, qemu_img, at, value, message):
    qemu_img("create", "-q", "-f", "qcow2", path, SIZE)
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message) as error:
        open_image(path)
    assert "\n" not in str(error.value)
    open_image(path, format="raw").close()  # and nothing stays locked


def test_a_truncated_image_is_one_line(path, content):
    create_image(path, SIZE, "qcow2")
    image = open_image(path)
    image.write(0, content)
    image.close()
    for size in (4 * CLUSTER, 2 * CLUSTER, 50):
        os.truncate(path, size)
        with pytest.raises(ConfigError, match=r"is truncated|is cut off"):
            open_image(path)


def test_data_beyond_a_truncated_file_is_an_error_of_the_medium(path, content):
    create_image(path, SIZE, "qcow2")
    image = open_image(path)
    image.write(0, content)
    image.close()
    os.truncate(path, path.stat().st_size - 4 * CLUSTER)
    image = open_image(path, read_only=True)
    with pytest.raises(OSError, match="the file was truncated"):
        image.read(0, SIZE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "at /etc/passwd, outside its own directory: add backing_anywhere"),
        ("../../../../../../etc/passwd", "outside its own directory"),
        ("nbd://host/disk", "only files are followed"),
        ("json:{}", "only files are followed"),
        ("missing.raw", "No such file"),
        ("disk.qcow2", "is its own backing file"),
        ("link", "outside its own directory"),
    ],
)
def test_names_in_an_image_lead_nowhere_else(tmp_path, path, name, message):
    (tmp_path / "link").symlink_to("/etc/passwd")
    create_image(path, SIZE, "qcow2", backing=name, backing_format="raw")
    with pytest.raises(ConfigError, match=message):
        open_image(path)
    open_image(path, format="raw").close()


def test_with_leave_a_backing_image_may_be_anywhere(tmp_path, content):
    (tmp_path / "base").write_bytes(content)
    (tmp_path / "vm").mkdir()
    path = tmp_path / "vm/disk.qcow2"
    create_image(path, SIZE, "qcow2", backing=str(tmp_path / "base"), backing_format="raw")
    image = open_image(path, backing_anywhere=True)
    assert image.read(0, 100) == content[:100]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"QED\0", "is a QED image: convert it"),
        (b"\x1f\x8b\x08", "is compressed with gzip: unpack it first"),
        (bytes(0x40) + b"\x7f\x10\xda\xbe", "is a VDI image"),
    ],
)
def test_other_formats_are_named(tmp_path, start, message):
    path = tmp_path / "other"
    path.write_bytes(start.ljust(4096, b"\0"))
    with pytest.raises(ConfigError, match=message):
        open_image(path)
    open_image(path, format="raw").close()


def test_random_damage_never_raises_anything_unexpected(path, content):
    """Metadata overwritten at random: a ConfigError at opening, an OSError later, or wrong data."""
    create_image(path, SIZE, "qcow2")
    image = open_image(path)
    image.write(0, content)
    image.close()
    good = path.read_bytes()
    rng = random.Random(8)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            at = rng.choice((rng.randrange(112), rng.randrange(CLUSTER, 5 * CLUSTER)))
            data[at] = rng.randrange(256)
        path.write_bytes(data)
        try:
            image = open_image(path)
        except ConfigError:
            continue
        try:
            for at in range(0, min(image.size_bytes, SIZE) - 4096, 300_000):
                image.read(at, 4096)
                image.write(at, b"new")
            image.flush()
        except OSError:
            pass
        finally:
            try:
                image.close()
            except OSError:
                os.close(image.file.fd) if image.file.fd >= 0 else None


def test_check_counts_leaks(path, content):
    create_image(path, SIZE, "qcow2")
    image = open_image(path)
    assert isinstance(image, Qcow2)
    image.write(0, content)
    offset, _ = image.refcounts.take(3)
    image.file.write(offset, bytes(3 * CLUSTER))
    image.close()
    reopened = open_image(path, read_only=True)
    assert isinstance(reopened, Qcow2)
    assert check(reopened) == Check(leaks=3, errors=0)
    assert Path(path).exists()
