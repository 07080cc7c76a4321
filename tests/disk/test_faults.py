"""Processes that die, hosts that refuse, and images that mean harm: nothing is lost, nothing gets out."""

import contextlib
import errno
import itertools
import os
import random
import shutil
import struct
import subprocess
import threading
import time

import pytest

from disk_killed import SIZE
from kills import CYCLES, killed
from ring3.disk import DiskWorker, create_image, modes, open_image, qcow2, tools
from ring3.errors import ConfigError, VmError


@pytest.fixture
def base(tmp_path, content):
    path = tmp_path / "base.img"
    path.write_bytes(content)
    return path


def sound(path):
    """No errors; leaks may be."""
    assert tools.verify(path, anywhere=True).errors == 0
    if shutil.which("qemu-img"):
        check = subprocess.run(["qemu-img", "check", "-q", path], check=False, timeout=60)
        assert check.returncode in (0, 3, 63)           # fine, leaks, a format without checks


@pytest.mark.parametrize("seed", range(CYCLES))
def test_killed_while_an_overlay_grows_image_and_overlay_are_whole(tmp_path, base, content, seed):
    killed("grow", tmp_path, seed)
    assert base.read_bytes() == content
    if modes.undo_path(base).exists():
        sound(modes.undo_path(base))
    modes.open_disk(base).close()


@pytest.mark.parametrize("seed", range(CYCLES))
def test_killed_while_changes_are_kept_all_are_there_in_the_end(tmp_path, base, content, seed):
    expected = bytearray(content)
    disk = modes.open_disk(base, "undoable")
    rng = random.Random(seed)
    for _ in range(100):
        offset, data = rng.randrange(SIZE - 200_000), rng.randbytes(200_000)
        disk.write(offset, data)
        expected[offset : offset + len(data)] = data
    disk.close()
    killed("commit", tmp_path, seed)
    if modes.undecided(base) is not None:
        modes.keep(base)
    assert base.read_bytes() == expected


@pytest.mark.parametrize("seed", range(CYCLES))
def test_killed_while_converting_the_copy_is_whole_or_not_there(tmp_path, base, content, seed):
    done = killed("convert", tmp_path, seed)
    assert base.read_bytes() == content
    assert done <= (tmp_path / "converted").exists()
    assert set(os.listdir(tmp_path)) <= {"base.img", "converted"}
    if (tmp_path / "converted").exists():
        copy = open_image(tmp_path / "converted", read_only=True)
        assert copy.read(0, SIZE) == content
        copy.close()


@pytest.mark.parametrize("seed", range(CYCLES))
def test_killed_while_images_are_made_each_is_whole_or_not_there(tmp_path, seed):
    killed("create", tmp_path, seed)
    for number in itertools.count():
        path = tmp_path / f"created{number}"
        if not path.exists():
            break
    made = sorted(tmp_path.iterdir())
    assert len(made) == number
    for path in made[-3:]:
        sound(path)


@pytest.mark.parametrize("seed", range(CYCLES))
def test_killed_while_freezing_disk_and_checkpoints_are_whole(tmp_path, base, content, seed):
    killed("freeze", tmp_path, seed)
    assert base.read_bytes() == content
    if modes.undo_path(base).exists():
        sound(modes.undo_path(base))
    with contextlib.closing(modes.open_disk(base, "undoable")) as disk:
        disk.read(0, SIZE)
    for checkpoint in tmp_path.glob("*.ring3"):
        layer = tmp_path / checkpoint.with_suffix(".names").read_text()
        with contextlib.closing(modes.open_disk(base, "nonpersistent", at=layer)) as disk:
            disk.read(0, SIZE)
        modes.store_of(base).doubt(checkpoint)
        checkpoint.unlink()
    modes.store_of(base).collect()
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".names"}
    assert left <= {"base.img", "base.img.undo", ".base.img.undo.new"}      # the last is used again


# --- a host that refuses ---


class Refusing:
    """An image on a disk that fails."""

    def __init__(self, error):
        self.error = error
        self.size_bytes, self.read_only = 1 << 20, False
        self.closed = False

    def read_now(self, offset, length):
        return None

    def read(self, *_):
        raise OSError(self.error, os.strerror(self.error))

    write = discard = flush = read

    def close(self):
        self.closed = True


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("request_of", [
    lambda drive, done: drive.read(0, 512, done), lambda drive, done: drive.write(0, b"x", done),
    lambda drive, done: drive.flush(done), lambda drive, done: drive.discard(0, 512, done),
], ids=["read", "write", "flush", "discard"])
def test_what_the_host_refuses_is_the_drives_error(error, request_of):
    drive = DiskWorker(Refusing(error), threading.Lock())
    answers = []
    request_of(drive, answers.append)
    drive.drain()
    assert [answer.errno for answer in answers] == [error]
    drive.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of 4 MiB")
@pytest.mark.parametrize("mode", ["persistent", "undoable"])
def test_on_a_full_file_system_what_was_written_stays(tmp_path, mode):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], check=False).returncode:
        pytest.skip("no file systems can be mounted here")
    try:
        path = small / "disk.qcow2"
        create_image(path, 64 << 20, "qcow2")
        disk = modes.open_disk(path, mode)
        piece = b"\xa5" * 65_536
        written = fill(disk, piece)
        assert disk.read(0, written) == b"\xa5" * written
        subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
        disk.write(written, piece)
        disk.close()
        sound(modes.undo_path(path) if mode == "undoable" else path)
        disk = modes.open_disk(path)
        assert disk.read(0, written + len(piece)) == b"\xa5" * (written + len(piece))
        disk.close()
    finally:
        subprocess.run(["umount", small], check=True)


def fill(disk, piece):
    """Bytes written until there was no space."""
    for written in range(0, disk.size_bytes, len(piece)):
        try:
            disk.write(written, piece)
        except OSError as error:
            refused = error
            break
    assert refused.errno == errno.ENOSPC
    return written


# --- images that mean harm ---


def harmed(tmp_path, change):
    """A qcow2 image with data, changed by `change(bytearray)`."""
    path = tmp_path / "evil.qcow2"
    create_image(path, 8 << 20, "qcow2")
    image = open_image(path)
    image.write(0, b"x" * 300_000)
    image.close()
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def put(at, form, *values):
    return lambda data: struct.pack_into(form, data, at, *values)


@pytest.mark.parametrize("change", [
    put(36, ">I", 0xFFFF_FFFF),                         # entries of the L1 table
    put(40, ">Q", 1 << 62),                             # where it is
    put(56, ">I", 0xFFFF_FFFF),                         # clusters of the refcount table
    put(60, ">I", 0xFFFF_FFFF),                         # snapshots
    put(20, ">I", 40),                                  # bits of a cluster
    put(24, ">Q", (1 << 63) - 512),                     # size
    put(96, ">I", 63),                                  # bits of a refcount
    put(100, ">I", 0xFFFF_FFF8),                        # length of the header
], ids=["l1-entries", "l1-offset", "refcounts", "snapshots", "cluster", "size", "order", "length"])
def test_huge_tables_are_refused_at_once(tmp_path, change):
    path = harmed(tmp_path, change)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"evil\.qcow2"):
        open_image(path, read_only=True)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("table", ["l1", "l2"])
def test_tables_that_lead_to_themselves_are_no_loop(tmp_path, table):
    def loop(data):
        l1 = int.from_bytes(data[40:48], "big")
        l2 = int.from_bytes(data[l1 : l1 + 8], "big") & qcow2.image.OFFSET
        at, to = (l1, l1) if table == "l1" else (l2, l2)
        struct.pack_into(">Q", data, at, to | 1 << 63)

    path = harmed(tmp_path, loop)
    image = open_image(path, read_only=True)
    for offset in range(0, 8 << 20, 1 << 20):
        with contextlib.suppress(OSError):              # the drive's error
            image.read(offset, 65_536)
    image.close()


@pytest.mark.parametrize("name", [
    "/etc/shadow", "../../../../etc/shadow", "nbd:localhost:1", "nbd://x/y", "json:{}", "http://x/", "fd:0",
    "/dev/zero", "/proc/self/mem",
])
def test_backing_names_that_lead_elsewhere_are_not_followed(tmp_path, name):
    path = tmp_path / "evil.qcow2"
    path.write_bytes(qcow2.create(1 << 20, backing=name, backing_format="raw"))
    for use in (open_image, modes.open_disk, tools.info, tools.mapped):
        with pytest.raises(ConfigError, match=r"outside its own directory|only files are followed"):
            use(path)


def test_a_chain_that_comes_back_to_itself_is_refused(tmp_path):
    for own, other in (("a", "b"), ("b", "a"), ("self", "self")):
        (tmp_path / own).write_bytes(qcow2.create(1 << 20, backing=other, backing_format="qcow2"))
    for name in ("a", "self"):
        with pytest.raises(ConfigError, match="its own backing file"):
            open_image(tmp_path / name, read_only=True)


def seeds(tmp_path):
    """A small image of each format, as far as there is somebody to make it."""
    source = tmp_path / "source.raw"
    source.write_bytes(random.Random(9).randbytes(200_000) + bytes(824_000 // 512 * 512))
    image = open_image(source, read_only=True)
    for known, kind in (("qcow2", ""), ("vmdk", "sparse"), ("vmdk", "stream")):
        tools.convert(image, tmp_path / f"{known}{kind}", known, type=kind)
        yield (tmp_path / f"{known}{kind}").read_bytes()
    image.close()
    for known in ("vdi", "vpc", "vhdx") if shutil.which("qemu-img") else ():
        path = tmp_path / known
        subprocess.run(["qemu-img", "convert", "-O", known, source, path], check=True, timeout=60)
        yield path.read_bytes()


def test_damaged_images_of_every_format_are_an_error_and_nothing_else(tmp_path):
    rng = random.Random(11)
    path = tmp_path / "fuzzed"
    for seed in list(seeds(tmp_path)):
        hot = [n for n in range(0, min(len(seed), 1 << 20), 4) if any(seed[n : n + 4])][:4096]
        for _ in range(60):
            data = bytearray(seed)
            for _ in range(rng.randrange(1, 6)):
                at = rng.choice(hot) if rng.randrange(3) else rng.randrange(min(len(data), 4096))
                values = (rng.randbytes(4), bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff")
                data[at : at + 4] = rng.choice(values)
            path.write_bytes(data[: rng.randrange(1, len(data))] if not rng.randrange(5) else data)
            exercise(path, rng)


def exercise(path, rng):
    try:
        image = open_image(path, read_only=True)
    except VmError:
        return
    try:
        for _ in range(8):
            offset = rng.randrange(image.size_bytes)
            try:
                length = min(70_000, image.size_bytes - offset)
                assert len(image.read(offset, length)) == length
            except OSError:
                continue
    finally:
        image.close()
