"""The window console with SDL's dummy driver, in a thread; and in real windows under Xvfb."""

import contextlib
import os
import signal
import socket
import threading
from multiprocessing.connection import Connection

import pytest

from console_fakes import fake_machine
from console_server import XServer, wait_until
from ring3.display.screen import Rect
from ring3.display.window import WindowConsole
from ring3.display.window_sdl import KEYS, SdlWindow
from ring3.errors import ConfigError

pygame = pytest.importorskip("pygame", reason="no pygame-ce: extra `window`")


class Thread:
    """SDL's end of a window, in this process."""

    def __init__(self, link, name, size):
        self.sdl = SdlWindow(Connection(os.dup(link.fileno())), name, size)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        self.sdl.run()
        with socket.socket(fileno=os.dup(self.sdl._link.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)      # as the end of a process would

    def wait(self, timeout):
        self.thread.join(timeout)
        assert not self.thread.is_alive()

    def kill(self):
        raise AssertionError("the window doesn't end")


@pytest.fixture
def machine():
    return fake_machine(320, 200)


@pytest.fixture
def console(machine, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    console = WindowConsole(machine, Thread)
    console.start()
    yield console
    console.stop()


@contextlib.contextmanager
def x_window(machine, monkeypatch):
    """A console in a window of an X server."""
    with contextlib.ExitStack() as stack:
        x_server = XServer()
        stack.callback(x_server.close)
        monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
        monkeypatch.setenv("DISPLAY", x_server.display)
        console = WindowConsole(machine)
        console.start()
        stack.callback(console.stop)
        yield x_server, console


def post(kind, **values):
    pygame.event.post(pygame.event.Event(kind, values))


def shown(console, x, y):
    return tuple(console._window.sdl._window.get_at((x, y))[:3])


def test_each_key_of_a_pc_keyboard_is_there():
    assert len(KEYS) == 26 + 10 + 18 + 12 + 13 + 19 + 5 + 8
    assert KEYS[0x04] == 0x1E
    assert KEYS[0x48] == 0xE11D
    assert KEYS[0x52] == 0xE048


def test_the_screen_is_shown_and_follows(console, machine):
    machine.screen.draw(Rect(0, 0, 320, 200), 0x102030)
    machine.screen.draw(Rect(10, 10, 20, 20), 0xFF8040)
    wait_until(lambda: shown(console, 15, 15) == (0xFF, 0x80, 0x40), "the picture")
    assert shown(console, 100, 100) == (0x10, 0x20, 0x30)


def test_another_size(console, machine):
    machine.screen.resize(640, 480)
    machine.screen.draw(Rect(600, 440, 40, 40), 0x00FF00)
    wait_until(lambda: console._window.sdl._window.get_size() == (640, 480), "the new size")
    wait_until(lambda: shown(console, 620, 460) == (0, 0xFF, 0), "the picture")


def test_keys(console, machine):
    post(pygame.KEYDOWN, scancode=0x04)
    post(pygame.KEYUP, scancode=0x04)
    wait_until(lambda: machine.keyboard.events == [(0x1E, True), (0x1E, False)], "the key")


def test_ctrl_alt_d_is_ctrl_alt_del(console, machine):
    for scancode in (0xE0, 0xE2, 0x07):
        post(pygame.KEYDOWN, scancode=scancode)
    wait_until(lambda: ("press", "ctrl-alt-del") in machine.keyboard.events, "the keys")


def test_an_absolute_mouse(console, machine):
    post(pygame.MOUSEBUTTONDOWN, pos=(50, 60), button=3)
    post(pygame.MOUSEBUTTONUP, pos=(50, 60), button=3)
    post(pygame.MOUSEWHEEL, y=1)
    wait_until(lambda: machine.mouse.events[-1:] == [("scroll", -1)], "the mouse")
    assert machine.mouse.events[:-1] == [
        ("move", 50, 60), ("buttons", 2), ("move", 50, 60), ("buttons", 0)]


def test_a_relative_mouse_is_captured_by_a_click_and_given_back(console, machine):
    machine.mouse.absolute = False
    post(pygame.MOUSEWHEEL, y=1)        # with whatever the user does the window learns of it
    wait_until(lambda: not console._window.sdl._absolute, "the guest's choice")
    machine.mouse.events.clear()
    post(pygame.MOUSEMOTION, pos=(5, 5), rel=(5, 5))
    post(pygame.MOUSEBUTTONDOWN, pos=(5, 5), button=1)
    post(pygame.MOUSEMOTION, pos=(9, 8), rel=(4, 3))
    wait_until(lambda: machine.mouse.events == [("by", 4, 3)], "the movement")
    post(pygame.KEYDOWN, scancode=0xE0)
    post(pygame.KEYDOWN, scancode=0xE2)
    wait_until(lambda: (0x38, True) in machine.keyboard.events, "the keys")
    assert not console._window.sdl._captured


def test_keys_held_when_the_user_leaves_come_up(console, machine):
    post(pygame.KEYDOWN, scancode=0x04)
    post(pygame.WINDOWFOCUSLOST)
    wait_until(lambda: machine.keyboard.events == [(0x1E, True), (0x1E, False)], "the release")


def test_closing_the_window_pulls_the_plug(console, machine):
    post(pygame.QUIT)
    wait_until(lambda: machine.power.calls == ["quit"], "the end")


def test_stop_does_not(machine, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    console = WindowConsole(machine)
    console.start()
    console.stop()
    assert machine.power.calls == []
    assert machine.screen.watchers == []


def test_no_screen_is_a_config_error(machine, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.setenv("DISPLAY", ":99999")
    with pytest.raises(ConfigError, match=r"no window can be opened \(.*\): give --display browser"):
        WindowConsole(machine).start()


def test_a_real_window(machine, monkeypatch):
    machine.screen.draw(Rect(0, 0, 320, 200), 0x2468AC)
    with x_window(machine, monkeypatch) as (x_server, _):
        wait_until(lambda: (0x24, 0x68, 0xAC) in colours(x_server), "the window")
        x_server.do("search", "--class", ".", "windowfocus", "--sync")
        x_server.do("key", "b")
        wait_until(lambda: (0x30, False) in machine.keyboard.events, "a key")
        machine.screen.draw(Rect(0, 0, 320, 200), 0xCA8642)
        wait_until(lambda: (0xCA, 0x86, 0x42) in colours(x_server), "another picture")


def test_an_x_server_that_goes_takes_the_window_along_and_nothing_else(machine, monkeypatch):
    with x_window(machine, monkeypatch) as (x_server, _):
        x_server.do("search", "--class", ".", "windowfocus", "--sync")
        x_server.do("keydown", "b")
        wait_until(lambda: machine.keyboard.events == [(0x30, True)], "a key")
        x_server.close()
        wait_until(lambda: not machine.screen.watchers, "the window's end")
        wait_until(lambda: machine.keyboard.events == [(0x30, True), (0x30, False)], "the key's release")
    assert machine.power.calls == []
    machine.screen.draw(Rect(0, 0, 320, 200), 0x2468AC)
    with x_window(machine, monkeypatch) as (x_server, _):
        wait_until(lambda: (0x24, 0x68, 0xAC) in colours(x_server), "another window")


def test_a_window_that_is_stopped_holds_nothing_up(machine, monkeypatch):
    with x_window(machine, monkeypatch) as (_, console):
        os.kill(console._window.pid, signal.SIGSTOP)
        for colour in range(200):
            machine.screen.draw(Rect(0, 0, 1, 1), colour)
        console.stop()
    assert machine.screen.watchers == []


def colours(x_server):
    return {colour for _, colour in x_server.picture().getcolors(1 << 16)}
