"""Viewers that others wrote: vncdotool, TigerVNC and TightVNC's Unix viewer."""

import subprocess
import sys

import pytest

from console_server import LoopThread, XServer, program, wait_until
from ring3.display.rfb.server import RfbServer
from ring3.display.screen import Rect

pytestmark = pytest.mark.timeout(120)
WIDTH, HEIGHT = 320, 200
CORNERS = {(0, 0): 0xFF0000, (WIDTH - 64, 0): 0x00FF00, (0, HEIGHT - 48): 0x0000FF,
           (WIDTH - 64, HEIGHT - 48): 0xFFFF00}


@pytest.fixture
def serve():
    thread = LoopThread(WIDTH, HEIGHT)
    for (x, y), colour in CORNERS.items():
        thread.call(thread.machine.screen.draw, Rect(x, y, 64, 48), colour)
    yield lambda **settings: (thread, thread.start(RfbServer(thread.hub, **settings)))
    thread.close()


@pytest.fixture
def x_server():
    server = XServer()
    yield server
    server.close()


def rgb(colour):
    return tuple(colour.to_bytes(3, "big"))


def vncdo(server, *arguments, password=None):
    host, _, port = server.address.rpartition(":")
    secret = ["-p", password] if password else []
    command = [sys.executable, "-m", "vncdotool.command", "-s", f"{host}::{port}", *secret]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_vncdotool_captures_the_screen(serve, tmp_path):
    from PIL import Image
    _, server = serve()
    vncdo(server, "capture", tmp_path / "screen.png")
    with Image.open(tmp_path / "screen.png") as picture:
        assert picture.size == (WIDTH, HEIGHT)
        for place, colour in CORNERS.items():
            assert picture.convert("RGB").getpixel(place) == rgb(colour)


def test_vncdotool_types_and_points_with_a_password(serve):
    thread, server = serve(password="secret")
    vncdo(server, "type", "aB", "key", "ctrl-alt-del", "move", 100, 50, "click", 3, password="secret")
    keys = [event[1:] for event in thread.machine.keyboard.events]
    assert keys[:4] == [(0x61, True), (0x61, False), (0x42, True), (0x42, False)]
    assert (0xFFE3, True) in keys
    assert (0xFFFF, False) in keys
    assert thread.machine.mouse.events[-2:] == [("move", 100, 50), ("buttons", 0)]
    assert ("buttons", 2) in thread.machine.mouse.events


VIEWERS = {
    "tigervnc-zrle": ("xtigervncviewer", "-AutoSelect=0", "-PreferredEncoding=ZRLE"),
    "tigervnc-tight": ("xtigervncviewer", "-AutoSelect=0", "-PreferredEncoding=Tight"),
    "tigervnc-256-colours": ("xtigervncviewer", "-FullColor=0", "-LowColorLevel=2"),
    "tightvnc": ("xtightvncviewer",),
    "tightvnc-8-bits": ("xtightvncviewer", "-bgr233"),
}


@pytest.mark.parametrize("viewer", VIEWERS)
def test_unix_viewers(serve, x_server, viewer):
    name, *options = VIEWERS[viewer]
    thread, server = serve()
    host, _, port = server.address.rpartition(":")
    process = subprocess.Popen([program(name), *options, f"{host}::{port}"],
                               env={"DISPLAY": x_server.display},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        left, top = wait_until(lambda: find(x_server, CORNERS), "the screen in the viewer's window")
        screen = thread.machine.screen
        thread.call(screen.draw, Rect(0, 0, 64, 48), 0x00FFFF)
        thread.call(screen.draw, Rect(100, 100, 64, 48), 0xFF00FF)
        wait_until(lambda: find(x_server, CORNERS | {(0, 0): 0x00FFFF, (100, 100): 0xFF00FF}), "a change")

        mouse, keyboard = thread.machine.mouse, thread.machine.keyboard
        x_server.do("mousemove", left + 30, top + 20, "click", 1)
        wait_until(lambda: ("move", 30, 20) in mouse.events, "the pointer")
        wait_until(lambda: ("buttons", 0) in mouse.events, f"the click: {mouse.events}")
        x_server.do("search", "--name", "test", "windowfocus", "--sync")
        x_server.do("key", "a")
        key = (0x1E, False) if name == "xtigervncviewer" else ("keysym", 0x61, False)
        wait_until(lambda: key in keyboard.events, "the key")

        # TightVNC's knows no other size than the first: it goes on showing the upper left part.
        thread.call(screen.resize, 400, 300)
        far = (336, 252) if name == "xtigervncviewer" else (200, 100)
        for x, y in ((0, 0), far):
            thread.call(screen.draw, Rect(x, y, 64, 48), 0xFF0000)
        wait_until(lambda: find(x_server, {(0, 0): 0xFF0000, far: 0xFF0000}), "the new size")
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()
    wait_until(lambda: not thread.hub.viewers, "the viewer's end")


def find(x_server, blocks):
    """Where on the X screen the guest's lies, by blocks of 64x48 pixels of plain colours; None: nowhere."""
    picture = x_server.picture()
    (x, y), colour = next(iter(blocks.items()))
    pixels, width = picture.tobytes(), picture.width
    at = pixels.find(bytes(rgb(colour)) * 64)
    while at >= 0 and at % 3:
        at = pixels.find(bytes(rgb(colour)) * 64, at + 1)
    if at < 0:
        return None
    left, top = at // 3 % width - x, at // 3 // width - y
    for (x, y), colour in blocks.items():
        for dx, dy in ((1, 1), (62, 46)):
            place = (left + x + dx, top + y + dy)
            if place[0] >= width or place[1] >= picture.height or picture.getpixel(place) != rgb(colour):
                return None
    return left, top
