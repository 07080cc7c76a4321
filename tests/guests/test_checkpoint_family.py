"""Checkpoints that rest on others: small, whole whatever is removed, and never mixed up."""

import itertools
import os
import random
from pathlib import Path

import pytest

import ring3
from ring3 import Machine
from ring3.checkpoint import machine as checkpoint
from ring3.checkpoint.family import SOURCES_MAX
from ring3.cli.checkpoints import show
from ring3.errors import CheckpointError

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

EMBEDDED = Path(ring3.__file__).with_name("firmware") / "embedded_guest.bin"
MEMORY = 8 << 20
DATA_AT = 4 << 20
PAGE = 4096


class Guest:
    """A machine that stands still, and whose memory the test writes."""

    def __init__(self, directory):
        self.directory = directory
        self.vm = Machine(kernel=EMBEDDED, memory=f"{MEMORY >> 20}M", checkpoints=directory)
        self.rng = random.Random(1)
        self.expected = {}
        self.write(0, 200)

    def write(self, page, count=1):
        self.vm.memory.write(DATA_AT + page * PAGE, self.rng.randbytes(count * PAGE))

    def save(self, tag, **options):
        self.expected[tag] = self.vm.memory.read(0, MEMORY)
        return self.vm.checkpoint(tag, **options)

    def contents(self, tag):
        return checkpoint.listed(self.directory / f"{tag}.ring3")

    def sources(self, tag):
        return [Path(link.name).stem for link in self.contents(tag).sources]

    def remove(self, tag):
        checkpoint.remove(self.directory / f"{tag}.ring3")
        del self.expected[tag]

    def check(self):
        """All that are left have what was saved."""
        for tag, memory in self.expected.items():
            vm = Machine.restored(self.directory / f"{tag}.ring3")
            assert vm.memory.read(0, MEMORY) == memory, tag
            vm.stop()


@pytest.fixture
def guest(tmp_path):
    guest = Guest(tmp_path / "checkpoints")
    yield guest
    guest.vm.stop()


def test_the_second_stores_what_has_changed(guest):
    first = guest.save("first")
    guest.write(7)
    guest.write(300)
    guest.vm.memory.write(DATA_AT, bytes(PAGE))
    second = guest.save("second")
    assert second.stat().st_size < first.stat().st_size / 4
    assert guest.sources("second") == ["first"]
    guest.check()


def test_without_changes_it_stores_no_pages(guest):
    guest.save("first")
    guest.save("second")
    reader, _, sources = checkpoint.family.read(guest.directory / "second.ring3")
    assert len(reader.section("pages")) == 0
    for each in (reader, *sources):
        each.close()
    guest.check()


def test_after_a_restore_the_next_rests_on_what_was_restored(guest):
    guest.save("root")
    guest.write(1)
    guest.save("left")
    guest.vm.restore("root")
    guest.write(2)
    guest.save("right")
    assert guest.sources("right") == ["root"]
    assert [link.name for link in guest.contents("right").ancestors] == ["root.ring3"]
    guest.check()


def test_a_new_machine_goes_on_with_the_family(guest):
    guest.save("root")
    vm = Machine.restored(guest.directory / "root.ring3", checkpoints=guest.directory)
    vm.memory.write(DATA_AT, b"changed")
    guest.expected["child"] = vm.memory.read(0, MEMORY)
    vm.checkpoint("child")
    vm.stop()
    assert guest.sources("child") == ["root"]
    guest.check()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_removed_ones_leave_the_others_whole(guest, order):
    for number in range(4):
        guest.write(number * 10, 20)
        guest.save(f"{number}")
    assert guest.sources("3") == ["2", "1", "0"]
    for number in order:
        guest.remove(f"{number}")
        guest.check()
    assert os.listdir(guest.directory) == []


def test_one_in_the_place_of_another_leaves_those_that_rest_on_that(guest):
    guest.save("first")
    guest.write(1)
    guest.save("second")
    guest.write(2, 30)
    guest.save("first")
    guest.write(3)
    guest.save("second")
    guest.check()


def test_one_that_was_written_anew_is_no_basis_and_loses_nobody(guest):
    guest.save("root")
    guest.write(1)
    guest.save("child")
    guest.write(2)
    guest.save("grandchild")
    guest.remove("root")                # child and grandchild now hold its pages
    guest.write(3)
    guest.save("next")
    assert guest.sources("next") == []
    guest.check()


def test_a_family_has_bounds(guest):
    for number in range(2 * SOURCES_MAX):
        guest.write(number)
        guest.save(f"{number}")
        assert len(guest.sources(f"{number}")) <= SOURCES_MAX
    guest.check()


def test_compressed_ones_and_files_by_path_stand_alone(guest, tmp_path):
    guest.save("first")
    guest.save("packed", compress=True)
    guest.save("third")
    assert guest.sources("packed") == guest.sources("third") == []
    guest.vm.checkpoint(tmp_path / "alone.ring3")
    assert checkpoint.listed(tmp_path / "alone.ring3").sources == []


def test_a_source_that_is_missing_is_named(guest):
    guest.save("first")
    guest.write(1)
    child = guest.save("second")
    (guest.directory / "first.ring3").unlink()
    with pytest.raises(CheckpointError, match=r"second.ring3: it rests on another: .*first.ring3"):
        Machine.restored(child)


def test_a_source_that_is_another_one_is_refused(guest):
    guest.save("first")
    guest.write(1)
    child = guest.save("second")
    (guest.directory / "first.ring3").write_bytes((guest.directory / "second.ring3").read_bytes())
    with pytest.raises(CheckpointError, match="another checkpoint now"):
        Machine.restored(child)


def test_a_flipped_bit_in_a_source_is_noticed(guest):
    first = guest.save("first")
    guest.write(1)
    child = guest.save("second")
    data = bytearray(first.read_bytes())
    for at in range(5000, len(data), len(data) // 20):
        data[at] ^= 1
        first.write_bytes(data)
        data[at] ^= 1
        with pytest.raises(CheckpointError) as caught:
            Machine.restored(child)
        assert "\n" not in str(caught.value)


def test_they_are_listed_as_a_tree_that_closes_where_one_is_removed(guest, capsys):
    guest.save("root")
    guest.save("middle")
    guest.save("leaf")
    guest.vm.restore("root")
    guest.save("other")
    assert [(each.tag, each.parent) for each in guest.vm.list_checkpoints()] == [
        ("root", None), ("middle", "root"), ("leaf", "middle"), ("other", "root"),
    ]
    show(guest.vm.list_checkpoints(), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].rstrip() for line in lines] == ["TAG", "root", "├─ middle", "│", "└─ other"]
    guest.vm.remove_checkpoint("middle")
    assert [(each.tag, each.parent) for each in guest.vm.list_checkpoints()] == [
        ("root", None), ("leaf", "root"), ("other", "root"),
    ]


def test_a_damaged_one_is_listed_as_such(guest):
    path = guest.save("first")
    path.write_bytes(b"x")
    (found,) = guest.vm.list_checkpoints()
    assert "too short" in found.error


def test_the_screen_of_then_can_be_had(tmp_path):
    vm = Machine(memory="8M", video_memory="4M", firmware="bios", checkpoints=tmp_path)
    vm.checkpoint("first")
    (found,) = vm.list_checkpoints()
    assert found.has_picture
    assert vm.checkpoint_picture("first").startswith(b"\x89PNG")
    vm.stop()


def test_a_checkpoint_restored_200_times_is_200_times_the_same(guest):
    guest.save("root")
    guest.write(1)
    guest.save("child")
    for _ in range(200):
        guest.write(guest.rng.randrange(900))
        guest.vm.restore("child")
        assert guest.vm.memory.read(0, MEMORY) == guest.expected["child"]
