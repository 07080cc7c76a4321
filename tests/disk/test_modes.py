"""Modes of disks: what becomes of what the guest wrote."""

import os
import shutil
import subprocess

import pytest

from ring3.disk import open_image
from ring3.disk.modes import discard, keep, keep_path, open_disk, undecided, undo_path
from ring3.errors import ConfigError

SIZE = 4 << 20
MODES = ("undoable", "nonpersistent")


def change(path, mode, offset=1000, data=b"changed"):
    disk = open_disk(path, mode)
    disk.write(offset, data)
    disk.flush()
    disk.close()


def read(path, offset, length):
    disk = open_disk(path, read_only=True)
    try:
        return disk.read(offset, length)
    finally:
        disk.close()


def check(path):
    if shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "check", "-q", path], check=True, timeout=60)


def test_persistent_changes_are_in_the_image(path):
    change(path, "persistent")
    assert read(path, 1000, 7) == b"changed"
    assert undecided(path) is None


def test_undoable_changes_wait_beside_the_image(path):
    before = path.read_bytes()
    change(path, "undoable")
    assert path.read_bytes() == before
    check(undo_path(path))
    assert undecided(path) > 0


def test_postponed_changes_are_there_the_next_time(path):
    change(path, "undoable")
    disk = open_disk(path, "undoable")
    assert disk.read(1000, 7) == b"changed"
    disk.close()


def test_postponed_changes_are_part_of_the_disk_in_other_modes(path):
    change(path, "undoable")
    for mode in ("persistent", "nonpersistent"):
        disk = open_disk(path, mode)
        assert disk.read(1000, 7) == b"changed"
        disk.close()


def test_kept_changes_are_in_the_image(path, content):
    change(path, "undoable", data=b"x" * 100_000)
    keep(path)
    assert undecided(path) is None
    image = open_image(path, read_only=True)
    assert image.read(0, SIZE) == content[:1000] + b"x" * 100_000 + content[101_000:]
    image.close()


def test_kept_discards_are_zeros_in_the_image(path):
    disk = open_disk(path, "undoable")
    disk.discard(0, 1 << 20)
    disk.close()
    keep(path)
    assert read(path, 0, 1 << 20) == bytes(1 << 20)


def test_discarded_changes_are_gone(path, content):
    change(path, "undoable")
    discard(path)
    assert undecided(path) is None
    assert read(path, 1000, 7) == content[1000:1007]


def test_without_changes_there_is_nothing_to_decide(path):
    for decide in (keep, discard):
        with pytest.raises(ConfigError, match="no undecided changes"):
            decide(path)


def test_changes_of_a_machine_that_runs_are_not_decided(path):
    disk = open_disk(path, "undoable")
    for decide in (keep, discard):
        with pytest.raises(ConfigError, match="in use"):
            decide(path)
    disk.close()


def test_stopped_keeping_is_never_discarded_and_can_go_on(path):
    change(path, "undoable")
    undo_path(path).rename(keep_path(path))     # as keeping does first
    with pytest.raises(ConfigError, match="ring3 disk commit"):
        open_disk(path)
    with pytest.raises(ConfigError, match="has begun"):
        discard(path)
    keep(path)
    assert read(path, 1000, 7) == b"changed"


def test_nonpersistent_changes_are_gone_and_leave_nothing(path, tmp_path, monkeypatch):
    monkeypatch.setenv("RING3_SCRATCH", str(tmp_path))
    before = path.read_bytes()
    disk = open_disk(path, "nonpersistent")
    disk.write(0, b"mine")
    assert disk.read(0, 4) == b"mine"
    disk.close()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["images"]
    assert os.listdir(path.parent) == ["disk.img"]


def test_any_number_of_nonpersistent_disks_share_an_image(path):
    disks = [open_disk(path, "nonpersistent") for _ in range(5)]
    for number, disk in enumerate(disks):
        disk.write(0, bytes([number]))
    assert [disk.read(0, 1)[0] for disk in disks] == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="in use"):
        open_image(path)
    for disk in disks:
        disk.close()


def test_an_undoable_disk_belongs_to_one_machine(path):
    disk = open_disk(path, "undoable")
    with pytest.raises(ConfigError, match="in use"):
        open_disk(path, "undoable")
    disk.close()


def test_overlays_of_one_image_are_found_through_every_name_of_it(path, tmp_path):
    change(path, "undoable")
    link = tmp_path / "link.img"
    link.symlink_to(path)
    disk = open_disk(link)
    assert disk.read(1000, 7) == b"changed"
    disk.close()


def test_a_disk_that_is_only_read_has_no_mode(path):
    for mode in MODES:
        with pytest.raises(ConfigError, match="readonly"):
            open_disk(path, mode, read_only=True)


def test_with_the_unsafe_cache_flushes_are_not_waited_for(path, monkeypatch):
    disk = open_disk(path, cache="unsafe")
    monkeypatch.setattr(os, "fdatasync", lambda fd: pytest.fail("waited"))
    disk.write(0, b"x")
    disk.flush()
    monkeypatch.undo()
    disk.close()
    assert read(path, 0, 1) == b"x"
