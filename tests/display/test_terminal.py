"""The terminal console on a pseudo-terminal, drawn by a small terminal of our own."""

import os
import termios

import pytest

from console_fakes import fake_machine
from console_server import wait_until
from ring3.display.screen import Rect
from ring3.display.terminal import TerminalConsole
from ring3.errors import ConfigError
from small_terminal import SmallTerminal


@pytest.fixture
def terminal():
    terminal = SmallTerminal()
    yield terminal
    terminal.close()


@pytest.fixture
def machine():
    machine = fake_machine(720, 400)
    machine.screen.print(["Booting from Hard Disk...", "GRUB loading."], cursor=(13, 1))
    return machine


@pytest.fixture
def console(machine, terminal):
    console = TerminalConsole(machine, stdin_fd=terminal.slave, stdout_fd=terminal.slave)
    console.start()
    yield console
    console.stop()


def test_pipes_are_no_terminal(machine):
    read, write = os.pipe()
    with pytest.raises(ConfigError, match="are no terminal: give --display browser or vnc"):
        TerminalConsole(machine, stdin_fd=read, stdout_fd=write)
    os.close(read)
    os.close(write)


def test_the_text_screen_and_its_cursor(console, terminal):
    wait_until(lambda: terminal.read().text[:2] == ["Booting from Hard Disk...", "GRUB loading."], "the text")
    wait_until(lambda: terminal.read().cursor_shown, "the cursor")
    assert (terminal.x, terminal.y) == (13, 1)
    assert terminal.other_screen


def test_changes_are_drawn(console, terminal, machine):
    wait_until(lambda: "GRUB" in terminal.read().text[1], "the text")
    machine.screen.print(["login: root", "Password:"], attribute=0x4E)
    wait_until(lambda: terminal.read().text[:2] == ["login: root", "Password:"], "the change")
    assert terminal.styles[0, 0].startswith("0;93;41") or "48;2;170;0;0" in terminal.styles[0, 0]


def test_graphics_are_half_blocks(console, terminal, machine):
    machine.screen.text_cells = None
    machine.screen.draw(Rect(0, 0, 720, 400), 0xFF0000)
    wait_until(lambda: terminal.read().text[12].count("▀") > 40, "the picture")


def test_a_terminal_that_changes_its_size(console, terminal, machine):
    wait_until(lambda: "GRUB" in terminal.read().text[1], "the text")
    terminal.resize(30, 10)
    machine.screen.print(["a narrow line", "b"])
    wait_until(lambda: terminal.read().text[:2] == ["a narrow line", "b"], "the text")


def test_keys_are_passed_through(console, terminal, machine):
    terminal.type(b"ls\r\x03\x1b[A\x1bOP\x1bx")
    events = machine.keyboard.events
    wait_until(lambda: ("press", "alt-x") in events, "the keys")
    assert events == [("type", "ls"), *(("press", key) for key in ("enter", "ctrl-c", "up", "f1", "alt-x"))]


def test_escape_alone_is_escape(console, terminal, machine):
    terminal.type(b"\x1b")
    wait_until(lambda: ("press", "esc") in machine.keyboard.events, "the key")


def test_the_menu(console, terminal, machine):
    wait_until(lambda: "GRUB" in terminal.read().text[1], "the text")
    terminal.type(b"\x1d")
    wait_until(lambda: terminal.read().text[24].startswith("Ctrl-]: q quit"), "the menu")
    terminal.type(b"r")
    wait_until(lambda: machine.power.calls == ["reset"], "the reset")
    wait_until(lambda: terminal.read().text[24] == "", "the menu's end")
    terminal.type(b"\x1dp")
    wait_until(lambda: terminal.read().text[24].startswith("paused: "), "the pause")
    assert machine.power.paused
    terminal.type(b"\x1dp")
    wait_until(lambda: not machine.power.paused, "the machine")
    terminal.type(b"\x1d]")
    wait_until(lambda: ("press", "ctrl-rbracket") in machine.keyboard.events, "Ctrl-]")


def test_the_terminal_is_left_as_it_was(machine, terminal):
    before = termios.tcgetattr(terminal.slave)
    console = TerminalConsole(machine, stdin_fd=terminal.slave, stdout_fd=terminal.slave)
    console.start()
    wait_until(lambda: terminal.read().other_screen, "the other screen")
    assert termios.tcgetattr(terminal.slave) != before
    console.stop()
    terminal.read()
    assert not terminal.other_screen
    assert terminal.cursor_shown
    assert termios.tcgetattr(terminal.slave) == before
    assert machine.screen.watchers == []
