"""The escape key (ring3.char.escape)."""

import pytest

from ring3.char.escape import Command, EscapeFilter


def test_other_keys_pass_untouched():
    assert EscapeFilter().feed(b"ls\r\x03\x1b[A") == [b"ls\r\x03\x1b[A"]


@pytest.mark.parametrize(("key", "command"), [
    (b"q", Command.QUIT), (b"Q", Command.QUIT), (b"r", Command.RESET), (b"p", Command.PAUSE),
    (b"h", Command.HELP), (b"?", Command.HELP)])
def test_a_key_after_the_escape_key_is_a_command(key, command):
    assert EscapeFilter().feed(b"\x1d" + key) == [Command.MENU, command]


@pytest.mark.parametrize("key", [b"]", b"\x1d"])
def test_the_escape_key_itself_can_be_sent(key):
    assert EscapeFilter().feed(b"a\x1d" + key + b"b") == [b"a", Command.MENU, b"\x1db"]


def test_an_unknown_key_goes_back_and_is_swallowed():
    assert EscapeFilter().feed(b"\x1dxy") == [Command.MENU, b"y"]


def test_the_escape_key_may_end_one_read_and_the_command_begin_the_next():
    escape = EscapeFilter()
    assert escape.feed(b"a\x1d") == [b"a", Command.MENU]
    assert escape.feed(b"qb") == [Command.QUIT, b"b"]
