"""`ring3 disk`: what it makes is what qemu-img makes of it."""

import random
import shutil
import subprocess

import pytest

from ring3.cli.main import invoke
from ring3.config import configure
from ring3.control import home
from ring3.disk import open_image
from ring3.disk.modes import open_disk, undecided

SIZE = 3 << 20


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, with a raw disk of data and zeros in it."""
    monkeypatch.chdir(tmp_path)
    data = random.Random(2).randbytes(SIZE)
    (tmp_path / "raw.img").write_bytes(data[: 1 << 20] + bytes(1 << 20) + data[2 << 20 :])
    return tmp_path


@pytest.fixture
def ring3(here):
    def run(*arguments, status=0):
        assert invoke(["disk", *map(str, arguments)]) == status

    return run


def qemu_img(*arguments):
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed: scripts/setup test installs it")
    command = ["qemu-img", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def patch(path, offset, data):
    image = open_image(path)
    image.write(offset, data)
    image.close()


@pytest.mark.parametrize("to", ["raw", "qcow2"])
def test_a_converted_disk_shows_the_same(ring3, to):
    ring3("convert", "raw.img", "other", "--to", to)
    qemu_img("compare", "raw.img", "other")
    ring3("compare", "raw.img", "other")


def test_zeros_take_no_space_in_a_converted_disk(ring3, here):
    ring3("convert", "raw.img", "sparse", "--to", "raw")
    assert (here / "sparse").stat().st_blocks * 512 < 2.2 * (1 << 20)


def test_converting_leaves_what_is_there_alone(ring3, here, capsys):
    (here / "there").write_text("mine")
    ring3("convert", "raw.img", "there", status=2)
    assert (here / "there").read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_a_difference_is_told_to_the_byte(ring3, capsys):
    ring3("convert", "raw.img", "other", "--to", "raw")
    patch("other", 2_000_000, b"!")
    ring3("compare", "raw.img", "other", status=1)
    assert "different from byte 2000000 on" in capsys.readouterr().out


def test_an_overlay_is_committed_to_what_is_behind_it(ring3):
    ring3("create", "top.qcow2", "--backing", "raw.img")
    patch("top.qcow2", 100, b"from the overlay")
    ring3("convert", "top.qcow2", "expected")
    ring3("commit", "top.qcow2")
    qemu_img("compare", "raw.img", "expected")
    qemu_img("check", "top.qcow2")


def test_rebased_on_another_image_a_disk_shows_the_same(ring3):
    ring3("create", "top.qcow2", "--backing", "raw.img")
    patch("top.qcow2", 5 << 18, b"from the overlay")
    ring3("convert", "top.qcow2", "expected")
    ring3("create", "empty.qcow2", "2M")
    for backing in ("empty.qcow2", "", "raw.img"):
        ring3("rebase", "top.qcow2", "--backing", backing)
        qemu_img("check", "top.qcow2")
        qemu_img("compare", "top.qcow2", "expected")


@pytest.mark.parametrize("to", ["raw", "qcow2"])
def test_a_larger_disk_ends_in_zeros(ring3, to):
    ring3("convert", "raw.img", "disk", "--to", to)
    ring3("resize", "disk", "2G")
    ring3("compare", "disk", "raw.img")
    image = open_image("disk")
    assert image.size_bytes == 2 << 30
    image.write((2 << 30) - 3, b"end")
    image.close()
    if to == "qcow2":
        qemu_img("check", "disk")
        assert '"virtual-size": 2147483648' in qemu_img("info", "--output=json", "disk")


def test_what_is_behind_does_not_show_in_the_grown_part(ring3):
    ring3("create", "top.qcow2", "1M", "--backing", "raw.img")
    ring3("resize", "top.qcow2", "3M")
    image = open_image("top.qcow2")
    assert image.read(1 << 20, 2 << 20) == bytes(2 << 20)
    image.close()
    qemu_img("check", "top.qcow2")


def test_a_qcow2_disk_of_many_terabytes_can_grow_from_a_small_one(ring3):
    ring3("create", "disk", "1M")
    ring3("resize", "disk", "10000G")
    patch("disk", 9000 << 30, b"far")
    qemu_img("check", "disk")


def test_shrinking_has_to_be_said(ring3):
    ring3("convert", "raw.img", "disk")
    ring3("resize", "disk", "1M", status=2)
    ring3("resize", "disk", "1M", "--shrink")
    qemu_img("check", "disk")
    image = open_image("disk", read_only=True)
    assert image.size_bytes == 1 << 20
    image.close()


def test_the_map_says_where_data_is(ring3, capsys):
    ring3("create", "top.qcow2", "--backing", "raw.img")
    patch("top.qcow2", 0, b"x")
    ring3("map", "top.qcow2")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["0x0", "0x10000", "data", "0"]
    assert rows[1][2:] == ["data", "1"]
    assert sum(int(row[1], 16) for row in rows) == SIZE


def test_info_tells_what_an_image_is(ring3, capsys):
    ring3("create", "top.qcow2", "--backing", "raw.img")
    ring3("info", "top.qcow2")
    out = capsys.readouterr().out
    assert "qcow2" in out
    assert "3M (3145728 bytes)" in out
    assert "raw.img" in out


def test_leaked_clusters_are_found_and_repaired(ring3, capsys):
    ring3("create", "disk", "1M")
    image = open_image("disk")
    leaked, _ = image.refcounts.take(3)
    image.file.write(leaked, bytes(3 * 65_536))
    image.close()
    ring3("check", "disk")
    assert "3 leaked" in capsys.readouterr().out
    ring3("check", "disk", "--repair")
    assert "no errors" in capsys.readouterr().out
    qemu_img("check", "disk")


@pytest.mark.parametrize("verb", ["commit", "discard"])
def test_a_machines_changes_are_decided_by_its_name(ring3, here, monkeypatch, verb):
    monkeypatch.setenv("RING3_HOME", str(here / "home"))
    home.named("m").create(configure({"disk": f"{here}/raw.img,mode=undoable"}))
    before = (here / "raw.img").read_bytes()
    disk = open_disk("raw.img", "undoable")
    disk.write(0, b"new")
    disk.close()
    ring3(verb, "m")
    assert undecided("raw.img") is None
    assert (here / "raw.img").read_bytes() == (b"new" + before[3:] if verb == "commit" else before)
    ring3(verb, "m", status=2)


def test_names_that_lead_out_of_an_images_directory_are_followed_only_when_asked(ring3, here, capsys):
    (here / "sub").mkdir()
    ring3("create", "sub/top.qcow2", "1M")
    ring3("rebase", "sub/top.qcow2", "--backing", "../raw.img", "--contents-equal")
    ring3("convert", "sub/top.qcow2", "copy", status=2)
    assert "outside its own directory" in capsys.readouterr().err
    ring3("map", "sub/top.qcow2", "--backing-anywhere")
