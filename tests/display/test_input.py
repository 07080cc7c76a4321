"""Keyboard and Mouse: pacing, and the way to the device that the guest uses."""

import threading

import pytest

from ring3.clock import ManualClock
from ring3.display.input import ABSOLUTE_MAX, PACE_NS, Keyboard, Mouse
from ring3.errors import ConfigError


class Keys:
    def __init__(self, in_use=True):
        self.in_use, self.pending, self.leds = in_use, False, 0
        self.heard = []

    def key(self, code, pressed):
        self.heard.append((code, pressed))

    def down(self):
        return [code for code, pressed in self.heard if pressed]


class Pointer:
    def __init__(self, in_use=True):
        self.in_use, self.pending = in_use, False
        self.heard = []

    def move(self, *report):
        self.heard.append(report)

    point = move


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def keys():
    return Keys()


@pytest.fixture
def keyboard(clock, keys):
    return Keyboard(clock, threading.RLock(), [Keys(in_use=False), keys])


@pytest.fixture
def ps2():
    return Pointer()


@pytest.fixture
def tablet():
    return Pointer(in_use=False)


@pytest.fixture
def mouse(clock, ps2, tablet):
    return Mouse(clock, threading.RLock(), ps2, [tablet], lambda: (640, 480))


def test_a_users_key_goes_through_at_once(keyboard, keys):
    keyboard.key(0x1E, True)
    assert keys.heard == [(0x1E, True)]


def test_typed_text_is_paced(clock, keyboard, keys):
    keyboard.type("ab", wait=False)
    clock.advance(0)
    assert keys.heard == [(0x1E, True)]
    clock.advance(PACE_NS)
    assert keys.heard == [(0x1E, True), (0x1E, False)]
    clock.advance(2 * PACE_NS)
    assert keys.down() == [0x1E, 0x30]


def test_typing_waits_for_a_guest_that_has_not_taken_the_last_key(clock, keyboard, keys):
    keys.pending = True
    keyboard.type("a", wait=False)
    clock.advance(100 * PACE_NS)
    assert keys.heard == []
    keys.pending = False
    clock.advance(2 * PACE_NS)
    assert keys.heard == [(0x1E, True), (0x1E, False)]


def test_a_users_key_goes_behind_what_is_being_typed(clock, keyboard, keys):
    keyboard.type("a", wait=False)
    keyboard.key(0x30, True)
    clock.advance(10 * PACE_NS)
    assert keys.down() == [0x1E, 0x30]


def test_a_guest_that_takes_nothing_is_a_timeout(keyboard, keys):
    keys.pending = True
    with pytest.raises(TimeoutError, match="has taken no keys"):
        keyboard.type("a", timeout_s=0.01)


def test_a_user_who_types_at_a_deaf_guest_does_not_bloat_us(clock, keyboard, keys):
    keys.pending = True
    for _ in range(10_000):
        keyboard.key(0x1E, True)
    keys.pending = False
    clock.advance(10_000 * PACE_NS)
    assert len(keys.heard) == 256


def test_text_beyond_all_bounds_is_refused(keyboard):
    with pytest.raises(ConfigError, match="send them in parts"):
        keyboard.type("a" * 100_000)


def test_reset_forgets_what_waits(clock, keyboard, keys):
    keyboard.type("a", wait=False)
    keyboard.reset()
    clock.advance(10 * PACE_NS)
    assert keys.heard == []


def test_chords_come_up_in_reverse(clock, keyboard, keys):
    keyboard.press("ctrl-c", wait=False)
    clock.advance(10 * PACE_NS)
    assert keys.heard == [(0x1D, True), (0x2E, True), (0x2E, False), (0x1D, False)]


def test_caps_lock_is_undone_for_typed_text(clock, keyboard, keys):
    keys.leds = 4
    keyboard.type("a", wait=False)
    clock.advance(10 * PACE_NS)
    assert keys.down() == [0x3A, 0x1E, 0x3A]


def test_release_all_lets_go(keyboard, keys):
    keyboard.key(0x1D, True)
    keyboard.key(0x1E, True)
    keyboard.release_all()
    assert keys.heard[2:] == [(0x1D, False), (0x1E, False)]


def test_keys_come_up_on_the_keyboard_where_they_went_down(clock):
    usb, ps2 = Keys(in_use=False), Keys()
    keyboard = Keyboard(clock, threading.RLock(), [usb, ps2])
    keyboard.key(0x1E, True)
    usb.in_use = True
    keyboard.key(0x1E, False)
    assert (usb.heard, ps2.heard) == ([], [(0x1E, True), (0x1E, False)])


def test_a_keysym_turns_shift_to_what_the_layout_wants(keyboard, keys):
    keyboard.layout = "de"
    keyboard.keysym(0xFFE1, True)               # Shift: the viewer's keyboard has " there, the guest's '
    keyboard.keysym(0x27, True)
    keyboard.keysym(ord("#"), True)
    assert keys.heard == [(0x2A, True), (0x2B, True), (0x2A, False), (0x2B, True), (0x2A, True)]


def test_a_keysym_released_under_another_name_comes_up(keyboard, keys):
    keyboard.keysym(ord("A"), True)
    keyboard.keysym(ord("@"), False)
    assert keys.heard[-1] == (0x1E, False)


def test_without_a_tablet_pointing_is_relative(mouse, ps2):
    mouse.move(10, 20)
    mouse.move(15, 18)
    assert not mouse.absolute
    assert ps2.heard == [(10, -20, 0, 0), (5, 2, 0, 0)]


def test_a_tablet_in_use_gets_positions(mouse, tablet, ps2):
    tablet.in_use = True
    mouse.move(639, 0)
    mouse.button("right", True)
    assert mouse.absolute
    assert tablet.heard == [(65484, 68, 0, 0), (65484, 68, 0, 2)]
    assert ps2.heard == []


def test_points_beyond_the_screen_are_its_edges(mouse, tablet):
    tablet.in_use = True
    mouse.move(-5, 9999)
    x, y, *_ = tablet.heard[0]
    assert x == 51
    assert ABSOLUTE_MAX - 69 <= y <= ABSOLUTE_MAX


def test_a_click_is_down_and_up_with_time_between(clock, mouse, ps2):
    mouse.click("middle", wait=False)
    clock.advance(0)
    assert ps2.heard == [(0, 0, 0, 4)]
    clock.advance(PACE_NS)
    assert ps2.heard == [(0, 0, 0, 4), (0, 0, 0, 0)]


def test_movement_that_waits_is_one_movement(clock, mouse, ps2):
    ps2.pending = True
    for x in range(1000):
        mouse.move(x // 2, 5)
    mouse.button("left", True)
    ps2.pending = False
    clock.advance(10 * PACE_NS)
    assert ps2.heard == [(499, -5, 0, 0), (0, 0, 0, 1)]


def test_the_wheel(mouse, ps2):
    mouse.scroll(-2)
    assert ps2.heard == [(0, 0, -2, 0)]


def test_an_unknown_button_is_named():
    with pytest.raises(ConfigError, match="'lft' is no mouse button: give one of left, right"):
        Mouse(ManualClock(), threading.RLock(), Pointer(), [], lambda: (1, 1)).click("lft")
