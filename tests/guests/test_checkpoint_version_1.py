"""Checkpoints of version 1 of the format (docs/checkpoint-format.md): what they lack, later ones have at its
default, and the next checkpoint is of the newest version."""

import struct
from pathlib import Path

import msgspec
import pytest

import ring3
from ring3 import Machine
from ring3.checkpoint import format as checkpoint_format
from ring3.checkpoint import listing
from ring3.checkpoint.format import Reader, write
from ring3.checkpoint.machine import listed
from ring3.errors import CheckpointError

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

EMBEDDED = Path(ring3.__file__).with_name("firmware") / "embedded_guest.bin"
MEMORY = 8 << 20
CD_BYTES = 3 << 20                      # more than the MiB that version 1 has a hash of
CONTENTS_SINCE_2 = ("identity", "ancestors", "sources")
MEDIUM_IN_1 = ("drive", "path", "size_bytes", "head_hash")
EXTENT_1, EXTENT_2 = struct.Struct("<QQQ"), struct.Struct("<QQQQ")


def as_version_1(path, monkeypatch):
    """Writes a checkpoint that stands alone anew, as its machine would have been saved then."""
    with Reader(path) as reader:
        contents = msgspec.msgpack.decode(reader.section("machine"))
        for name in CONTENTS_SINCE_2:
            contents.pop(name)
        contents["media"] = [{name: each[name] for name in MEDIUM_IN_1} for each in contents["media"]]
        extents = EXTENT_2.iter_unpack(reader.section("extents"))
        sections = {
            "machine": [msgspec.msgpack.encode(contents)],
            "extents": [b"".join(EXTENT_1.pack(*extent[:3]) for extent in extents)],
            "pages": [bytes(reader.section("pages"))],
        }
    with monkeypatch.context() as then:
        then.setattr(checkpoint_format, "VERSION", 1)
        write(path, sections)


@pytest.fixture
def cd(tmp_path):
    path = tmp_path / "cd.iso"
    path.write_bytes(b"cd" * (CD_BYTES // 2))
    return path


@pytest.fixture
def old(cd, tmp_path, monkeypatch):
    """A checkpoint of version 1, and what was in memory."""
    (tmp_path / "checkpoints").mkdir()
    vm = Machine(kernel=EMBEDDED, memory="8M", cdrom=str(cd))
    vm.memory.write(4 << 20, bytes(range(256)) * 100)
    path = vm.checkpoint(tmp_path / "checkpoints" / "old.ring3")
    memory = vm.memory.read(0, MEMORY)
    vm.stop()
    as_version_1(path, monkeypatch)
    with Reader(path) as reader:
        assert reader.version == 1
    return path, memory


def test_a_machine_goes_on_from_it(old):
    path, memory = old
    vm = Machine.restored(path)
    assert vm.memory.read(0, MEMORY) == memory
    assert vm.media.images()["cdrom0"].read(0, 2) == b"cd"
    vm.stop()


def test_it_is_listed(old):
    path, _ = old
    (found,) = listing.checkpoints(path.parent)
    assert found.tag == "old"
    assert found.parent is None


def test_a_medium_that_was_changed_is_refused(old, cd):
    path, _ = old
    cd.write_bytes(b"CD" * (CD_BYTES // 2))
    with pytest.raises(CheckpointError, match="is not the image that was there"):
        Machine.restored(path)


def test_the_next_checkpoint_is_of_the_newest_version_and_stands_without_it(old):
    path, _ = old
    vm = Machine.restored(path, checkpoints=path.parent)
    vm.memory.write(5 << 20, b"later")
    memory = vm.memory.read(0, MEMORY)
    new = vm.checkpoint("new")
    vm.stop()
    path.unlink()
    with Reader(new) as reader:
        assert reader.version == checkpoint_format.VERSION
    contents = listed(new)
    assert contents.identity
    assert not contents.sources
    assert contents.media[0].files
    vm = Machine.restored(new)
    assert vm.memory.read(0, MEMORY) == memory
    vm.stop()
