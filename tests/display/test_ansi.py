"""Escape sequences and keys, as text and as bytes."""

import pytest

from ring3.display.ansi import Canvas, Chord, KeyParser, Text, colours_of
from ring3.display.screen import TextCells


def cells(*lines, attribute=0x07, cursor=None):
    columns = max(map(len, lines))
    codes = b"".join(line.encode("cp437").ljust(columns) for line in lines)
    return TextCells(columns, len(lines), codes, bytes((attribute,)) * len(codes), cursor)


@pytest.mark.parametrize(("environ", "colours"), [
    ({"TERM": "xterm", "COLORTERM": "truecolor"}, "true"),
    ({"TERM": "xterm-256color"}, "256"),
    ({"TERM": "linux"}, "16"),
    ({}, "16"),
])
def test_colours_that_a_terminal_says_it_has(environ, colours):
    assert colours_of(environ) == colours


def test_text_with_16_colours():
    assert Canvas(4, 2, "16").draw_text(cells("ab", attribute=0x1E)) == (
        "\x1b[1;1H\x1b[0;93;44mab\x1b[0m\x1b[?25l")


def test_text_in_true_colour():
    assert Canvas(4, 1, "true").draw_text(cells("x", attribute=0x4A)) == (
        "\x1b[1;1H\x1b[0;38;2;85;255;85;48;2;170;0;0mx\x1b[0m\x1b[?25l")


def test_blinking():
    assert ";5m" in Canvas(4, 1, "16").draw_text(cells("x", attribute=0x87))


def test_characters_of_code_page_437():
    assert "─█é" in Canvas(4, 1, "16").draw_text(cells("─█é"))


def test_nothing_new_is_nothing_written():
    canvas = Canvas(4, 2, "16")
    canvas.draw_text(cells("ab", cursor=(1, 0)))
    assert canvas.draw_text(cells("ab", cursor=(1, 0))) == ""


def test_only_what_differs_is_written():
    canvas = Canvas(20, 2, "16")
    canvas.draw_text(cells("hello, world", "two"))
    assert canvas.draw_text(cells("hello, World", "two")) == "\x1b[1;8H\x1b[0;37;40mW\x1b[0m\x1b[?25l"


def test_the_cursor():
    canvas = Canvas(20, 2, "16")
    assert canvas.draw_text(cells("$ ", cursor=(2, 0))).endswith("\x1b[1;3H\x1b[?25h")
    assert canvas.draw_text(cells("$ ", cursor=(0, 0))) == "\x1b[0m\x1b[1;1H\x1b[?25h"
    assert canvas.draw_text(cells("$ ")) == "\x1b[0m\x1b[?25l"


def test_a_small_terminal_shows_the_part_with_the_cursor():
    canvas = Canvas(4, 2, "16")
    lines = [f"line{n}" for n in range(5)]
    assert "ine4" in canvas.draw_text(cells(*lines, cursor=(4, 4)))
    assert "line" in canvas.draw_text(cells(*lines, cursor=(0, 0)))


def test_a_message_takes_the_last_line():
    canvas = Canvas(10, 2, "16")
    assert "\x1b[2;1H\x1b[0;7mmenu" in canvas.draw_text(cells("a", "b"), "menu")
    assert "\x1b[2;1H" in canvas.draw_text(cells("a", "b"))


@pytest.mark.parametrize(("colours", "style"), [
    ("true", "38;2;255;0;0;48;2;0;0;170"), ("256", "38;5;196;48;5;19"), ("16", "91;44")])
def test_a_picture_is_half_blocks(colours, style):
    drawn = Canvas(1, 1, colours).draw_pixels(b"\xff\0\0" + b"\0\0\xaa", 1, 2)
    assert drawn == f"\x1b[1;1H\x1b[{style}m▀\x1b[0m\x1b[?25l"


def test_a_picture_stands_in_the_middle():
    assert "\x1b[2;3H" in Canvas(6, 3, "true").draw_pixels(bytes(2 * 2 * 3), 2, 2)


def test_another_size_starts_anew():
    canvas = Canvas(4, 2, "16")
    canvas.draw_text(cells("ab"))
    assert canvas.resize(10, 3) == "\x1b[0m\x1b[2J\x1b[?25l"
    assert "ab" in canvas.draw_text(cells("ab"))


@pytest.mark.parametrize(("data", "action"), [
    (b"a", Text("a")),
    ("ß€".encode(), Text("ß€")),
    (b"\r", Chord("enter")),
    (b"\t", Chord("tab")),
    (b"\x7f", Chord("backspace")),
    (b"\x03", Chord("ctrl-c")),
    (b"\x1b[A", Chord("up")),
    (b"\x1bOB", Chord("down")),
    (b"\x1b[1;5C", Chord("ctrl-right")),
    (b"\x1b[3~", Chord("del")),
    (b"\x1b[3;3~", Chord("alt-del")),
    (b"\x1b[5~", Chord("pgup")),
    (b"\x1bOP", Chord("f1")),
    (b"\x1b[11~", Chord("f1")),
    (b"\x1b[15~", Chord("f5")),
    (b"\x1b[17~", Chord("f6")),
    (b"\x1b[21~", Chord("f10")),
    (b"\x1b[24~", Chord("f12")),
    (b"\x1b[[E", Chord("f5")),
    (b"\x1b[1;6P", Chord("ctrl-shift-f1")),
    (b"\x1b[Z", Chord("shift-tab")),
    (b"\x1bx", Chord("alt-x")),
    (b"\x1b ", Chord("alt-space")),
    (b"\x1b\r", Chord("alt-enter")),
    (b"\x1b\x1b[A", Chord("alt-up")),
])
def test_keys(data, action):
    parser = KeyParser()
    assert parser.feed(data) == [action]
    assert not parser.pending


@pytest.mark.parametrize("data", [b"\x1b[1;5C", "€".encode(), b"\x1bOP", b"\x1b[[A"])
def test_keys_byte_by_byte(data):
    whole, parser = KeyParser().feed(data), KeyParser()
    assert [action for byte in data for action in parser.feed(bytes((byte,)))] == whole


def test_escape_alone():
    parser = KeyParser()
    assert parser.feed(b"\x1b") == []
    assert parser.pending
    assert parser.flush() == [Chord("esc")]
    assert parser.feed(b"a") == [Text("a")]


def test_characters_in_a_row_are_one_text():
    assert KeyParser().feed(b"ls -l\rx") == [Text("ls -l"), Chord("enter"), Text("x")]


def test_a_paste_is_text_whatever_it_holds():
    data = b"\x1b[200~a\rb\x1b[A\x1b[201~c"
    assert KeyParser().feed(data) == [Text("a\nb\x1b[Ac")]
    parser = KeyParser()
    actions = [action for byte in data for action in parser.feed(bytes((byte,)))]
    assert actions == [Text("a\nb\x1b[A"), Text("c")]


def test_a_paste_is_bounded():
    (text,) = KeyParser().feed(b"\x1b[200~" + b"x" * 1_000_000 + b"\x1b[201~")
    assert len(text.text) == 65536


@pytest.mark.parametrize("data", [
    b"\x1b[99~", b"\x1b[" + b"1;" * 100 + b"A", b"\xff\xfe", b"\x1bOz", b"\x1b[?1;2c"])
def test_unknown_sequences_are_no_keys(data):
    parser = KeyParser()
    parser.feed(data)
    parser.flush()
    assert parser.feed(b"a")[-1] == Text("a")
