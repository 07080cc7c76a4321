"""Flash with Intel's command set, driven as OVMF's driver does it."""

import pytest

from ring3.devices.flash import CfiFlash

SIZE = 0x3000


class Wires:
    def __init__(self):
        self.shown, self.programmed, self.saved = [], {}, {}

    def program(self, offset, data):
        self.programmed[offset] = data

    def save(self, offset, data):
        self.saved[offset] = data


@pytest.fixture
def wires():
    return Wires()


@pytest.fixture
def flash(wires):
    return CfiFlash(b"\x5a" * SIZE, wires.shown.append, wires.program, wires.save)


def test_it_is_known_by_its_cleared_status(flash):
    flash.write(0, 0x50, 1)
    flash.write(0, 0x70, 1)
    assert flash.read(0, 1) == 0x00
    flash.write(0, 0xFF, 1)
    assert flash.read(0, 1) == 0x5A


def test_programming_clears_bits_only(flash, wires):
    flash.write(0x123, 0x10, 1)
    flash.write(0x123, 0x0F, 1)
    assert flash.read(0x123, 1) == 0x80
    assert (wires.programmed, wires.saved) == ({0x123: b"\x0a"}, {0x123: b"\x0a"})


def test_erasing_sets_a_block(flash, wires):
    flash.write(0x1234, 0x20, 1)
    flash.write(0x1234, 0xD0, 1)
    flash.write(0, 0xFF, 1)
    assert [flash.read(at, 1) for at in (0xFFF, 0x1000, 0x1FFF, 0x2000)] == [0x5A, 0xFF, 0xFF, 0x5A]
    assert wires.saved == {0x1000: b"\xff" * 0x1000}


def test_erasing_without_confirmation_is_a_sequence_error(flash):
    flash.write(0, 0x20, 1)
    flash.write(0, 0xFF, 1)
    assert flash.read(0, 1) == 0xB0
    flash.write(0, 0xFF, 1)
    assert flash.read(0, 1) == 0x5A


def test_the_write_buffer_programs_once_confirmed(flash, wires):
    flash.write(0x10, 0xE8, 1)
    assert flash.read(0x10, 1) == 0x80
    for at, value in ((0x10, 1), (0x10, 0x1A), (0x11, 0x0A), (0x10, 0xD0)):
        flash.write(at, value, 1)
    assert wires.programmed == {0x10: b"\x1a", 0x11: b"\x0a"}


def test_memory_reads_the_array_until_a_command_shows_something_else(flash, wires):
    flash.write(0, 0x70, 1)
    flash.write(0, 0x90, 1)
    flash.write(0, 0xFF, 1)
    assert wires.shown == [False, True]


def test_identifiers(flash):
    flash.write(0, 0x90, 1)
    assert flash.read(0, 2) == 0x1889


def test_the_query_table_tells_size_and_blocks(flash):
    flash.write(0, 0x98, 1)
    assert bytes(flash.read(at, 1) for at in (0x10, 0x11, 0x12, 0x31, 0x32, 0x33)) == b"QRYPRI"
    assert (flash.read(0x27, 1), flash.read(0x2D, 2), flash.read(0x2F, 2)) == (14, 2, 16)


def test_a_reset_shows_the_array_and_keeps_it(flash, wires):
    flash.write(0, 0x10, 1)
    flash.write(0, 0x00, 1)
    flash.reset()
    assert (wires.shown[-1], flash.read(0, 1)) == (True, 0x00)


def test_accesses_beyond_its_end_meet_nothing(flash):
    flash.write(SIZE - 1, 0x70, 1)
    flash.write(SIZE + 5, 0x10, 1)
    flash.write(SIZE + 5, 0x00, 1)
    assert flash.read(SIZE + 5, 1) == 0xFF
