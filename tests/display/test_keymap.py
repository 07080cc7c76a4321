"""Layouts, key names and the names others have for keys."""

import pytest

from ring3.display.keymap import (
    ALTGR,
    LAYOUTS,
    LEFT_ALT,
    LEFT_SHIFT,
    PAUSE,
    PRINT_SCREEN,
    SPACE,
    Stroke,
    chord,
    key_events,
    keysym_stroke,
    qemu_code,
)
from ring3.errors import ConfigError

SPACING_OF_DEAD = {"\u0300": "`", "\u0301": "´", "\u0302": "^", "\u0308": "¨"}


def down(events):
    return [code for code, pressed in events if pressed]


def test_a_small_letter_is_one_key():
    assert key_events("a") == [(0x1E, True), (0x1E, False)]


def test_shift_is_held_over_neighbours_that_want_it():
    assert down(key_events("ABc")) == [LEFT_SHIFT, 0x1E, 0x30, 0x2E]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_key_that_goes_down_comes_up(layout):
    characters = "".join(sorted(set("".join("".join(rows) for rows in LAYOUTS[layout]))))
    text = "".join(c for c in characters if not "\u0300" <= c <= "\u036f")
    held = set()
    for code, pressed in key_events(text, layout):
        assert (code in held) != pressed
        (held.add if pressed else held.discard)(code)
    assert not held


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"ru"}))
def test_every_layout_types_ascii(layout):
    for character in map(chr, range(32, 127)):
        assert key_events(character, layout)


def test_dead_keys_make_what_has_no_key():
    assert down(key_events("é", "de")) == [0x0D, 0x12]
    assert down(key_events("ê", "fr")) == [0x1A, 0x12]


def test_a_dead_key_and_space_make_the_accent_itself():
    assert down(key_events("^", "de")) == [0x29, SPACE]


def test_altgr_is_held_for_its_characters():
    assert down(key_events("@", "de")) == [ALTGR, 0x10]


def test_german_text():
    assert down(key_events("Grüße", "de")) == [LEFT_SHIFT, 0x22, 0x13, 0x1A, 0x0C, 0x12]


def test_line_ends_are_enter_once():
    assert down(key_events("a\r\nb\n")) == [0x1E, 0x1C, 0x30, 0x1C]


def test_text_of_two_alphabets_switches_between_layouts_and_back():
    switch = [LEFT_ALT, LEFT_SHIFT]
    assert down(key_events("ä, б", "de,ru")) == [0x28, 0x33, SPACE, *switch, 0x33, *switch]


def test_a_character_beyond_the_layout_names_one_that_has_it():
    with pytest.raises(ConfigError, match=r"'ж' \(U\+0436\) is not on a us keyboard: .*us,ru"):
        key_events("ж")


def test_an_unknown_layout_names_the_nearest():
    with pytest.raises(ConfigError, match="layout: 'uk' is no keyboard layout; there is"):
        key_events("a", "uk")


def test_chords_go_down_in_order():
    assert chord("ctrl-alt-del") == [0x1D, 0x38, 0xE053]
    assert chord("shift-tab") == [0x2A, 0x0F]
    assert chord("F12") == [0x58]


def test_a_single_character_is_the_key_that_makes_it():
    assert chord("ctrl-z", "de") == [0x1D, 0x15]
    assert chord("ctrl--") == [0x1D, 0x0C]
    assert chord("?") == [LEFT_SHIFT, 0x35]


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'delte' is no key; there is delete \(in 'ctrl-delte'\)"):
        chord("ctrl-delte")


def test_qemu_codes():
    assert qemu_code(0x1E) == 0x1E
    assert qemu_code(0xCB) == 0xE04B
    assert qemu_code(0xC6) == PAUSE
    assert qemu_code(0x54) == qemu_code(0xB7) == PRINT_SCREEN
    assert qemu_code(0) is qemu_code(0x1000) is None


def test_keysyms_of_keys_and_characters():
    assert keysym_stroke(0xFF0D) == Stroke(0x1C)
    assert keysym_stroke(0xFC, "de") == Stroke(0x1A, False, letter=True)
    assert keysym_stroke(0x06C1, "ru") == Stroke(0x21, False, letter=True)      # Cyrillic a
    assert keysym_stroke(0x0100_0416, "ru") == Stroke(0x27, True, letter=True)
    assert keysym_stroke(0x0123_4567) is None


@pytest.mark.parametrize("dead", SPACING_OF_DEAD)
def test_spacing_accents_can_be_typed_where_the_layout_has_them_dead(dead):
    for layout, levels in LAYOUTS.items():
        if any(dead in row for rows in levels for row in rows):
            assert key_events(SPACING_OF_DEAD[dead], layout)
