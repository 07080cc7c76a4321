"""Directories of layers that machines and their copies share (ring3.disk.shared)."""

import os

from ring3.disk.shared import PREFIX, SharedLayers, remove_if_left, remove_left


def left(scratch):
    """One that a machine had that was killed."""
    path = scratch / f"{PREFIX}0123456789abcdef"
    path.mkdir()
    return path


def test_a_machine_that_never_shares_makes_none(tmp_path):
    SharedLayers(tmp_path).close()
    assert os.listdir(tmp_path) == []


def test_it_goes_with_its_machine(tmp_path):
    shared = SharedLayers(tmp_path)
    shared.hold()
    assert shared.path.is_dir()
    shared.close()
    assert os.listdir(tmp_path) == []


def test_one_that_was_left_goes_when_the_next_is_made(tmp_path):
    path = left(tmp_path)
    shared = SharedLayers(tmp_path)
    shared.hold()
    assert not path.exists()
    shared.close()


def test_one_of_a_machine_that_runs_stays_though_it_is_empty(tmp_path):
    shared = SharedLayers(tmp_path)
    shared.hold()
    remove_left(tmp_path)
    assert shared.path.is_dir()
    shared.close()


def test_a_copy_that_ends_leaves_it_to_its_machine(tmp_path):
    shared = SharedLayers(tmp_path)
    shared.hold()
    remove_if_left(shared.path)
    assert shared.path.is_dir()
    shared.close()
    assert os.listdir(tmp_path) == []


def test_one_with_something_that_is_no_layer_stays(tmp_path):
    path = left(tmp_path)
    (path / "notes").write_text("mine")
    remove_left(tmp_path)
    assert (path / "notes").read_text() == "mine"


def test_a_link_of_that_name_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / f"{PREFIX}0123456789abcdef"
    link.symlink_to(target)
    remove_left(tmp_path)
    assert target.is_dir()
    assert link.is_symlink()


def test_nothing_is_wrong_where_there_is_no_such_place(tmp_path):
    remove_left(tmp_path / "nowhere")
