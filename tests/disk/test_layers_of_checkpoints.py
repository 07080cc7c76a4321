"""Disks that checkpoints hold: what is frozen stays as it was, and what nobody needs any more goes."""

import os
import random
import shutil
import subprocess

import pytest

from ring3.disk import open_image
from ring3.disk.modes import LAYERS_MAX, discard, keep, open_disk, store_of, undo_path
from ring3.disk.store import Store
from ring3.errors import ConfigError

SIZE = 4 << 20
KEEPING = ("persistent", "undoable")
MODES = (*KEEPING, "nonpersistent")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("RING3_SCRATCH", str(tmp_path))


class Saved:
    """What a checkpoint is to a disk: a file, a layer, and pins."""

    def __init__(self, disk, file):
        file.parent.mkdir(exist_ok=True)
        self.file = file
        frozen = disk.freeze(file)
        self.layer = frozen.layer
        disk.settle()
        file.touch()
        for pin in frozen.pins:
            pin.keep()

    def remove(self, path):
        stores = (store_of(path), Store(self.file.parent, "disk"))
        for store in stores:
            store.doubt(self.file)
        self.file.unlink()
        for store in stores:
            store.collect()


def shown(path, saved, length=SIZE, mode="nonpersistent"):
    disk = open_disk(path, mode, at=saved.layer)
    try:
        return disk.read(0, length)
    finally:
        disk.close()


def names(directory):
    return sorted(os.listdir(directory))


def check(path):
    if shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "check", "-q", path], check=True, timeout=60)


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_shows_the_disk_as_it_was(path, tmp_path, content, mode):
    disk = open_disk(path, mode)
    disk.write(0, b"before")
    saved = Saved(disk, tmp_path / "c/one.ring3")
    disk.write(0, b"after!")
    assert disk.read(0, 6) == b"after!"
    disk.close()
    assert shown(path, saved) == b"before" + content[6:]


@pytest.mark.parametrize("mode", MODES)
def test_a_running_machine_goes_back(path, tmp_path, mode):
    disk = open_disk(path, mode)
    disk.write(0, b"before")
    saved = Saved(disk, tmp_path / "c/one.ring3")
    disk.write(0, b"after!")
    again = open_disk(path, mode, at=saved.layer, instead_of=disk)
    assert (disk.read(0, 6), again.read(0, 6)) == (b"after!", b"before")
    again.take_place()
    disk.abandon()
    again.write(0, b"now it")
    again.close()
    assert shown(path, saved, 6) == b"before"
    if mode in KEEPING:
        disk = open_disk(path)
        assert disk.read(0, 6) == b"now it"
        disk.close()
        check(undo_path(path))


def test_until_it_takes_its_place_nothing_is_touched(path, tmp_path):
    disk = open_disk(path, "undoable")
    saved = Saved(disk, tmp_path / "c/one.ring3")
    disk.write(0, b"after!")
    disk.close()
    before = names(path.parent)
    open_disk(path, "undoable", at=saved.layer).close()
    assert names(path.parent) == before
    disk = open_disk(path)
    assert disk.read(0, 6) == b"after!"
    disk.close()


def test_a_disk_in_use_does_not_go_back_elsewhere(path, tmp_path):
    disk = open_disk(path, "undoable")
    saved = Saved(disk, tmp_path / "c/one.ring3")
    with pytest.raises(ConfigError, match="in use"):
        open_disk(path, "undoable", at=saved.layer)
    disk.close()


def test_the_image_of_a_persistent_disk_stays_as_it_was_at_its_first_checkpoint(path, tmp_path):
    disk = open_disk(path)
    Saved(disk, tmp_path / "c/one.ring3")
    before = path.read_bytes()
    disk.write(0, b"after")
    disk.close()
    disk = open_disk(path)
    disk.write(100, b"more")
    assert disk.read(0, 5) == b"after"
    disk.close()
    assert path.read_bytes() == before
    discard(path)
    disk = open_disk(path)
    disk.write(0, b"x")
    disk.close()
    assert path.read_bytes() == before


def test_changes_are_kept_only_by_force_while_a_checkpoint_needs_the_image(path, tmp_path):
    disk = open_disk(path)
    saved = Saved(disk, tmp_path / "c/one.ring3")
    disk.write(0, b"after")
    disk.close()
    with pytest.raises(ConfigError, match=r"a checkpoint needs .* as it was, .*one.ring3"):
        keep(path)
    saved.remove(path)
    keep(path)
    image = open_image(path, read_only=True)
    assert image.read(0, 5) == b"after"
    image.close()
    assert names(path.parent) == ["disk.img"]


def test_by_force_all_layers_are_kept(path, tmp_path):
    disk = open_disk(path, "undoable")
    disk.write(0, b"one")
    Saved(disk, tmp_path / "c/one.ring3")
    disk.write(1 << 20, b"two")
    disk.close()
    keep(path, force=True)
    image = open_image(path, read_only=True)
    assert (image.read(0, 3), image.read(1 << 20, 3)) == (b"one", b"two")
    image.close()


@pytest.mark.parametrize("mode", MODES)
def test_without_changes_there_is_no_further_layer(path, tmp_path, mode):
    disk = open_disk(path, mode)
    disk.write(0, b"x")
    layers = {Saved(disk, tmp_path / f"c/{n}.ring3").layer for n in range(3)}
    disk.close()
    assert len(layers) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_removed_checkpoints_leave_the_others_whole_and_in_the_end_nothing(path, tmp_path, mode, order):
    rng = random.Random(2)
    disk = open_disk(path, mode)
    saved, expected = [], []
    for n in range(3):
        disk.write(rng.randrange(SIZE // 2), rng.randbytes(300_000))
        disk.discard(rng.randrange(SIZE // 2), 200_000)
        expected.append(disk.read(0, SIZE))
        saved.append(Saved(disk, tmp_path / f"c/{n}.ring3"))
    disk.write(0, b"last")
    last = disk.read(0, SIZE)
    disk.close()
    left = {0, 1, 2}
    for gone in order:
        saved[gone].remove(path)
        left.remove(gone)
        for n in left:
            assert shown(path, saved[n]) == expected[n]
    assert names(tmp_path / "c") == []
    if mode in KEEPING:
        assert names(path.parent) == ["disk.img", "disk.img.undo"]
        disk = open_disk(path)
        assert disk.read(0, SIZE) == last
        disk.close()
        check(undo_path(path))


def test_a_layer_with_several_overlays_waits_for_one_of_them_to_go(path, tmp_path):
    disk = open_disk(path, "undoable")
    disk.write(0, b"root")
    saved = [Saved(disk, tmp_path / "c/root.ring3")]
    for name in (b"left", b"mine"):
        again = open_disk(path, "undoable", at=saved[0].layer, instead_of=disk)
        again.take_place()
        disk.abandon()
        disk = again
        disk.write(1 << 20, name)
        saved.append(Saved(disk, tmp_path / f"c/{name.decode()}.ring3"))
    disk.close()
    saved[0].remove(path)
    assert saved[0].layer.exists()
    assert shown(path, saved[1], 4) == shown(path, saved[2], 4) == b"root"
    saved[1].remove(path)
    assert not saved[0].layer.exists()
    assert shown(path, saved[2], 4) == b"root"


def test_what_a_machine_uses_is_not_removed_under_it(path, tmp_path):
    disk = open_disk(path, "undoable")
    disk.write(0, b"x")
    saved = Saved(disk, tmp_path / "c/one.ring3")
    saved.remove(path)
    assert saved.layer.exists()
    again = Saved(disk, tmp_path / "c/two.ring3")
    disk.close()
    assert shown(path, again, 1) == b"x"


def test_a_checkpoint_that_was_never_finished_needs_nothing(path, tmp_path):
    disk = open_disk(path, "undoable")
    disk.write(0, b"x")
    frozen = disk.freeze(tmp_path / "never.ring3")
    assert store_of(path).needs() != []             # while its maker lives
    for pin in frozen.pins:
        pin._file.close()                           # as a killed process does
    disk.close()
    disk = open_disk(path, "undoable")
    assert disk.read(0, 1) == b"x"
    disk.close()
    assert names(path.parent) == ["disk.img", "disk.img.undo"]


def test_killed_between_checkpoint_and_pin_the_pin_holds(path, tmp_path):
    disk = open_disk(path, "undoable")
    disk.write(0, b"x")
    frozen = disk.freeze(tmp_path / "whole.ring3")
    (tmp_path / "whole.ring3").touch()
    for pin in frozen.pins:
        pin._file.close()
    disk.close()
    store_of(path).collect()
    assert frozen.layer.exists()
    assert len(store_of(path).needs()) == 1


def test_a_checkpoint_in_the_place_of_another_lets_that_ones_layer_go(path, tmp_path):
    disk = open_disk(path, "undoable")
    disk.write(0, b"x")
    first = Saved(disk, tmp_path / "c/one.ring3")
    disk.write(0, b"y")
    second = Saved(disk, tmp_path / "c/one.ring3")
    disk.close()
    store_of(path).collect()
    assert not first.layer.exists()
    assert shown(path, second, 1) == b"y"


def test_a_nonpersistent_disk_is_frozen_onto_another_file_system(path, tmp_path, monkeypatch):
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    monkeypatch.setenv("RING3_SCRATCH", "/dev/shm")
    disk = open_disk(path, "nonpersistent")
    disk.write(1 << 20, b"before" * 20_000)
    disk.discard(2 << 20, 1 << 20)
    expected = disk.read(0, SIZE)
    saved = Saved(disk, tmp_path / "c/one.ring3")
    disk.write(0, b"after")
    disk.close()
    assert shown(path, saved) == expected
    check(saved.layer)


def test_layers_go_with_the_directory_of_their_checkpoints(path, tmp_path):
    disk = open_disk(path, "nonpersistent")
    disk.write(0, b"one")
    Saved(disk, tmp_path / "c/one.ring3")
    disk.write(3, b"two")
    saved = Saved(disk, tmp_path / "c/two.ring3")
    disk.close()
    (tmp_path / "c").rename(tmp_path / "moved")
    saved.layer = tmp_path / "moved" / saved.layer.name
    assert shown(path, saved, 6) == b"onetwo"


def test_checkpoints_in_two_directories_keep_each_others_layers(path, tmp_path):
    disk = open_disk(path, "nonpersistent")
    disk.write(0, b"one")
    first = Saved(disk, tmp_path / "a/one.ring3")
    disk.write(3, b"two")
    second = Saved(disk, tmp_path / "b/two.ring3")
    disk.write(6, b"three")
    third = Saved(disk, tmp_path / "b/three.ring3")
    disk.close()
    first.remove(path)
    second.remove(path)
    assert shown(path, third, 11) == b"onetwothree"


def test_many_layers_read_as_one_disk(path, tmp_path, content):
    expected = bytearray(content)
    rng = random.Random(3)
    disk = open_disk(path, "undoable")
    for number in range(LAYERS_MAX + 1):
        offset, data = rng.randrange(SIZE - 10_000), rng.randbytes(rng.randrange(1, 10_000))
        disk.write(offset, data)
        expected[offset : offset + len(data)] = data
        if number < LAYERS_MAX:
            disk.freeze(tmp_path / f"{number}.ring3")
    assert disk.read(0, SIZE) == expected
    with pytest.raises(ConfigError, match="remove some"):
        disk.freeze(tmp_path / "one-too-many.ring3")
    disk.close()
