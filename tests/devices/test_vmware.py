"""VMware's backdoor and absolute pointer, as its drivers use them."""

import pytest

from ring3.devices.vmware.backdoor import MAGIC, PORT, Backdoor, Command
from ring3.devices.vmware.pointer import QUEUE_MAX, VERSION_ID, Flags, Request, Restrict, VmMouse

NOTHING = 0xFFFF_FFFF


@pytest.fixture
def door():
    return Backdoor(tsc_hz=5_000_000_000)


@pytest.fixture
def nudges():
    return []


@pytest.fixture
def mouse(door, nudges):
    return VmMouse(door, lambda: nudges.append(True))


@pytest.fixture
def enabled(door, mouse):
    """As Linux does it."""
    ask(door, Command.POINTER_COMMAND, Request.READ_ID)
    assert ask(door, Command.POINTER_STATUS)[0] == 1
    assert ask(door, Command.POINTER_DATA, 1)[0] == VERSION_ID
    ask(door, Command.POINTER_COMMAND, Request.ABSOLUTE)
    return mouse


def ask(door, command, ebx=0, cpl=0):
    return door.call(MAGIC, ebx, command, PORT, 0, 0, 0, cpl)


def packet(door):
    return ask(door, Command.POINTER_DATA, 4)[:4]


def test_version_returns_the_magic_number(door):
    assert ask(door, Command.GET_VERSION)[:2] == (6, MAGIC)


def test_frequency_is_in_two_halves(door):
    eax, ebx, *_ = ask(door, Command.GET_HZ)
    assert ebx << 32 | eax == 5_000_000_000
    assert ask(door, Command.GET_MHZ)[0] == 5000


def test_an_unknown_command_answers_with_ones(door):
    assert ask(door, 9999)[:2] == (NOTHING, NOTHING)


def test_registers_that_a_command_does_not_return_stay(door):
    assert door.call(MAGIC, 7, Command.GET_VERSION, 1, 2, 3, 4, 3)[3:] == (1, 2, 3, 4)


def test_the_pointer_is_off_until_enabled(door, mouse):
    assert ask(door, Command.POINTER_STATUS)[0] == 0xFFFF_0000
    mouse.point(1, 2, 0, 0)
    assert ask(door, Command.POINTER_STATUS)[0] == 0xFFFF_0000


def test_a_position_is_four_words_and_a_nudge(door, enabled, nudges):
    assert enabled.in_use
    enabled.point(0x1234, 0xFFFF, -1, 0x05)
    assert nudges == [True]
    assert ask(door, Command.POINTER_STATUS)[0] == 4
    assert packet(door) == (Flags.LEFT | Flags.MIDDLE, 0x1234, 0xFFFF, 0xFFFF_FFFF)
    assert not enabled.pending


def test_movement_not_read_gives_way_to_later_movement(door, enabled):
    enabled.point(1, 1, 0, 0)
    enabled.point(2, 2, 0, 0)
    assert ask(door, Command.POINTER_STATUS)[0] == 4
    assert packet(door)[1:3] == (2, 2)


def test_clicks_not_read_are_kept_in_order(door, enabled):
    for buttons in (0, 1, 0):
        enabled.point(5, 5, 0, buttons)
    assert [packet(door)[0] for _ in range(3)] == [0, Flags.LEFT, 0]


def test_a_guest_that_does_not_read_does_not_bloat_us(door, enabled):
    for n in range(1000):
        enabled.point(5, 5, 0, n % 2)
    assert ask(door, Command.POINTER_STATUS)[0] == 4 * QUEUE_MAX


def test_reading_more_than_there_is_switches_it_off(door, enabled):
    assert ask(door, Command.POINTER_DATA, 4)[0] == NOTHING
    assert ask(door, Command.POINTER_STATUS)[0] == 0xFFFF_0000
    assert not enabled.in_use


def test_relative_mode_leaves_movement_to_the_ps2_mouse(door, enabled):
    ask(door, Command.POINTER_COMMAND, Request.RELATIVE)
    assert not enabled.in_use


def test_restricted_to_ring_0_user_programs_are_refused(door, enabled):
    assert ask(door, Command.POINTER_STATUS, cpl=3)[0] == 0
    ask(door, Command.POINTER_RESTRICT, Restrict.CPL_0)
    assert ask(door, Command.POINTER_STATUS, cpl=3)[0] == NOTHING
    assert ask(door, Command.POINTER_STATUS)[0] == 0
