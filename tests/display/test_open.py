"""A machine's consoles, opened as its description says."""

import importlib.util
import os
import subprocess
import sys

import pytest

from console_fakes import fake_machine
from console_server import LoopThread
from ring3.config import DisplayConfig
from ring3.display.open import Consoles, auto_kind, face_of
from ring3.display.web import assets
from ring3.errors import ConfigError

needs_novnc = pytest.mark.skipif(
    not (assets.VENDOR / "novnc").is_dir() and not assets.DEBIAN_NOVNC.is_dir(),
    reason="no noVNC: scripts/web fetches it")


@pytest.fixture
def thread():
    thread = LoopThread()
    yield thread
    thread.close()


def started(thread, displays, **settings):
    consoles = Consoles(thread.machine, displays, **settings)
    consoles.start(thread.loop)
    return consoles


def test_none():
    assert Consoles(fake_machine(), [DisplayConfig("none")]).where() == []


@needs_novnc
def test_several_at_once(thread, tmp_path):
    path = tmp_path / "vnc"
    consoles = started(thread, [DisplayConfig("browser"), DisplayConfig("vnc", address=f"unix:{path}")])
    browser, vnc = consoles.where()
    assert browser.startswith("http://127.0.0.1:87")
    assert vnc == f"vnc://unix:{path}"
    consoles.stop()
    assert not path.exists()


def test_one_more_later(thread):
    consoles = started(thread, [])
    assert consoles.open(DisplayConfig("vnc")).startswith("vnc://127.0.0.1:59")
    consoles.stop()


def test_a_mistake_in_one_closes_the_others(tmp_path):
    path = tmp_path / "vnc"
    with pytest.raises(ConfigError, match="no address"):
        Consoles(fake_machine(), [DisplayConfig("vnc", address=f"unix:{path}"),
                                  DisplayConfig("vnc", address="nonsense:nonsense")])
    assert not path.exists()


def test_auto_is_nothing_unless_somebody_looks(thread):
    consoles = started(thread, [DisplayConfig("auto")])
    assert consoles.where() == []
    consoles.stop()


@needs_novnc
def test_auto_is_the_browser_where_no_window_can_be_opened(thread, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.setenv("DISPLAY", ":99999")
    consoles = started(thread, [DisplayConfig("auto")], auto="window")
    assert [place[:7] for place in consoles.where()] == ["http://"]
    consoles.stop()


def test_auto_says_what_is_missing(thread, monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "VENDOR", tmp_path)
    monkeypatch.setattr(assets, "DEBIAN_NOVNC", tmp_path)
    consoles = started(thread, [DisplayConfig("auto")], auto="browser")
    assert consoles.where() == [
        "no console: display browser: noVNC is missing: run scripts/web, or apt-get install novnc"]
    consoles.stop()


@pytest.mark.parametrize(("environ", "kind"), [
    ({}, "browser"), ({"DISPLAY": ":0"}, "window"), ({"WAYLAND_DISPLAY": "wayland-0"}, "window")])
def test_what_auto_is_for_somebody_at_a_terminal(environ, kind, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert auto_kind(environ) == kind


def test_without_pygame_there_are_no_windows(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert auto_kind({"DISPLAY": ":0"}) == "browser"


def test_opening_imports_no_console_that_is_not_wanted():
    code = "import ring3.machine, sys; sys.exit(bool({'aiohttp', 'pygame', 'PIL'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_machine_as_its_consoles_see_it():
    pc = fake_machine()
    pc.paused = True
    for name in ("reset", "power_off", "request_stop", "pause", "resume", "drives", "insert", "eject"):
        setattr(pc, name, lambda *arguments, name=name: (name, *arguments))
    face = face_of(pc, "test", pc.codec, [], None)
    assert face.power.paused
    assert face.power.quit() == ("request_stop",)
    assert face.power.insert("cdrom0", os.devnull) == ("insert", "cdrom0", os.devnull)
