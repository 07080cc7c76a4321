"""The file: what goes in comes out, and what is damaged does not."""

import os

import pytest

from ring3._native import Vm
from ring3.checkpoint.format import PAGE, Reader, write
from ring3.checkpoint.pages import Extents, Packed
from ring3.errors import CheckpointError, HostError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.ring3"
    write(path, {"machine": [b"abc", b"def"], "pages": [b"x" * PAGE, b"y" * PAGE]})
    return path


@pytest.fixture
def vm():
    """16 pages, with some in use: two of them equal."""
    vm = Vm(16 * PAGE, 16 * PAGE)
    for page, letter in ((1, b"a"), (2, b"b"), (3, b"\0"), (5, b"a"), (15, b"c")):
        vm.write_physical(page * PAGE, letter * PAGE)
    return vm


def pack(vm, path, **options):
    packed = Packed(vm.freeze())
    write(path, packed.sections, **options)
    return sum(map(len, packed.pieces)) // PAGE


@pytest.mark.parametrize("compress", [False, True])
def test_sections_come_back(tmp_path, compress):
    path = tmp_path / "a.ring3"
    write(path, {"machine": [b"abc", b"def"], "pages": [b"x" * PAGE] * 3}, compress=compress)
    with Reader(path) as reader:
        assert bytes(reader.section("machine")) == b"abcdef"
        assert bytes(reader.section("pages")) == b"x" * 3 * PAGE


def test_it_is_its_owners_alone(file):
    assert file.stat().st_mode & 0o777 == 0o600


def test_every_bit_counts(file):
    data = bytearray(file.read_bytes())
    for at in range(0, len(data), 13):
        data[at] ^= 1 << at % 8
        file.write_bytes(data)
        data[at] ^= 1 << at % 8
        with pytest.raises(CheckpointError):
            Reader(file)


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, 2 * PAGE, 3 * PAGE])
def test_a_part_is_refused(file, size):
    os.truncate(file, size)
    with pytest.raises(CheckpointError):
        Reader(file)


def test_what_is_none_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"hello" * PAGE)
    with pytest.raises(CheckpointError, match="no checkpoint of Ring3"):
        Reader(tmp_path / "x")


def test_a_newer_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("ring3.checkpoint.format.VERSION", 7)
    write(tmp_path / "x", {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="version 7"):
        Reader(tmp_path / "x")


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot be written"):
        write(tmp_path / "file" / "x", {})


def test_a_failed_write_leaves_the_one_before(file):
    def pieces():
        yield b"x"
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    with pytest.raises(HostError, match="No space"):
        write(file, {"machine": pieces()})
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize("compress", [False, True])
def test_memory_comes_back(vm, tmp_path, compress):
    before = vm.read_physical(0, 16 * PAGE)
    stored = pack(vm, tmp_path / "x", compress=compress)
    assert stored == 3                  # no zeros, equal ones between them once
    vm.write_physical(3 * PAGE, b"z" * 4 * PAGE)
    with Reader(tmp_path / "x") as reader:
        Extents(reader, 16 * PAGE).adopted_by(vm)
    assert vm.read_physical(0, 16 * PAGE) == before


def test_memory_that_does_not_fit_is_refused(vm, tmp_path):
    pack(vm, tmp_path / "x")
    with Reader(tmp_path / "x") as reader, pytest.raises(CheckpointError, match="impossible"):
        Extents(reader, 15 * PAGE)
