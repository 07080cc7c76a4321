"""The browser console in a real Chromium, with noVNC and xterm.js as they are."""

import os
from pathlib import Path

import pytest

from console_server import LoopThread, program, wait_until
from ring3.audio.stream import Broadcast
from ring3.display.screen import Rect
from ring3.display.web import assets

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not (assets.VENDOR / "novnc").is_dir() or assets.xterm() is None,
                       reason="no noVNC or xterm.js: scripts/web fetches them"),
]
WIDTH, HEIGHT = 640, 400


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright
    path = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"])
        yield browser
        browser.close()


@pytest.fixture
def console():
    from ring3.display.web.server import BrowserConsole
    thread = LoopThread(WIDTH, HEIGHT)
    thread.machine.sound = Broadcast()
    thread.call(thread.machine.screen.draw, Rect(0, 0, WIDTH, HEIGHT), 0x203040)
    for number, colour in enumerate((0xFF0000, 0x00FF00, 0x0000FF)):
        thread.call(thread.machine.screen.draw, Rect(200 * number, 100, 120, 120), colour)
    thread.console = thread.start(BrowserConsole(thread.hub))
    yield thread
    thread.close()


@pytest.fixture
def page(chromium, console):
    # Playwright's own functions are evaluated strings, which the page's policy forbids.
    context = chromium.new_context(viewport={"width": 1100, "height": 700}, bypass_csp=True)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.goto(console.console.url)
    page.wait_for_function("document.querySelector('#screen canvas')?.width === 640")
    page.wait_for_function("document.querySelector('#light').className === 'running'")
    yield page
    context.close()
    assert page.problems == []


def settled(page, condition, what="it"):
    """As wait_until, while the page goes on."""
    def look():
        page.wait_for_timeout(20)
        return condition()
    return wait_until(look, what)


def colour_at(page, x, y):
    return page.evaluate(
        "([x, y]) => [...document.querySelector('#screen canvas').getContext('2d')"
        ".getImageData(x, y, 1, 1).data.slice(0, 3)]", [x, y])


def test_the_screen_is_shown_and_follows(page, console):
    settled(page, lambda: colour_at(page, 10, 110) == [255, 0, 0], "the first picture")
    assert colour_at(page, 410, 110) == [0, 0, 255]
    console.call(console.machine.screen.draw, Rect(0, 0, 50, 50), 0xFFFF00)
    settled(page, lambda: colour_at(page, 10, 10) == [255, 255, 0], "a change")
    console.call(console.machine.screen.resize, 320, 240)
    page.wait_for_function("document.querySelector('#screen canvas').width === 320")


def test_a_picture_of_the_page(page, console, tmp_path):
    settled(page, lambda: colour_at(page, 10, 110) == [255, 0, 0], "the first picture")
    folder = Path(os.environ.get("RING3_PICTURES", tmp_path))
    page.screenshot(path=folder / "console.png")
    page.click("#power")
    page.screenshot(path=folder / "console-power.png")
    page.keyboard.press("Escape")
    page.click("[data-tab=serial-1]")
    page.wait_for_selector(".serial .xterm-rows")
    page.screenshot(path=folder / "console-serial.png")
    assert (folder / "console.png").stat().st_size > 5000


def test_the_token_is_not_left_in_the_address(page, console):
    assert page.url == console.console.url.partition("?")[0]


def test_keys_and_pointer_reach_the_machine(page, console):
    keyboard, mouse = console.machine.keyboard, console.machine.mouse
    page.mouse.click(550, 350)
    settled(page, lambda: ("buttons", 1) in mouse.events and mouse.events[-1] == ("buttons", 0), "a click")
    place = next(event for event in mouse.events if event[0] == "move")
    assert abs(place[1] - WIDTH // 2) < 5
    page.keyboard.press("a")
    page.keyboard.press("F10")
    page.keyboard.press("ArrowLeft")
    settled(page, lambda: (0xE04B, False) in keyboard.events, "the keys")
    assert keyboard.events[:2] == [(0x1E, True), (0x1E, False)]
    assert (0x44, True) in keyboard.events


def test_a_relative_mouse_is_captured(page, console):
    mouse = console.machine.mouse
    mouse.absolute = False
    page.wait_for_selector("text=Click to give the machine the mouse")
    page.mouse.click(500, 300)
    page.wait_for_selector("text=Escape releases the mouse")
    page.mouse.move(510, 305)
    page.mouse.move(530, 300)
    settled(page, lambda: any(event[0] == "by" for event in mouse.events), "movements")
    page.mouse.down()
    page.mouse.up()
    settled(page, lambda: {("buttons", 1), ("buttons", 0)} <= set(mouse.events), "a click")
    assert not any(event[0] == "move" for event in mouse.events)


def test_buttons(page, console):
    power, keyboard = console.machine.power, console.machine.keyboard
    page.click("#cad")
    settled(page, lambda: ("press", "ctrl-alt-del") in keyboard.events, "Ctrl-Alt-Del")
    page.click("#pause")
    page.wait_for_selector("text=Paused")
    assert power.paused
    page.click("#pause")
    page.wait_for_selector("#veil", state="hidden")
    page.click("#power")
    page.click("text=Reset")
    settled(page, lambda: "reset" in power.calls, "reset")
    page.click("#power")
    page.click("text=Pull the plug")
    page.click("#confirm-dialog >> text=Cancel")
    page.click("#power")
    page.click("text=Press the power button")
    settled(page, lambda: "power_off" in power.calls, "the power button")
    assert power.calls == ["reset", "power_off"]


def test_text_is_pasted_as_keys(page, console):
    page.click("#paste")
    page.fill("#paste-text", "Grüße\nand more")
    page.click("#paste-dialog >> text=Type >> nth=-1")
    settled(page, lambda: ("type", "Grüße\nand more") in console.machine.keyboard.events, "the text")


def test_media_are_changed(page, console):
    media = console.machine.power.media
    page.click("#media")
    page.wait_for_selector("text=debian.iso")
    page.click(".drive:has-text('CD') >> text=Eject")
    settled(page, lambda: media["cdrom0"] is None, "the ejection")
    page.click("#media")
    page.click(".drive:has-text('Diskette') >> text=Insert")
    page.fill("#insert-path", "/tmp/dos.img")
    page.click("#insert-dialog >> button.primary")
    settled(page, lambda: media["floppy0"] == "/tmp/dos.img", "the diskette")


def test_a_screenshot_is_saved(page, console, tmp_path):
    from PIL import Image
    with page.expect_download() as download:
        page.click("#screenshot")
    download.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as picture:
        assert picture.size == (WIDTH, HEIGHT)
        assert picture.getpixel((210, 110)) == (0, 255, 0)


def test_a_serial_port(page, console):
    line = console.machine.serial_lines[0]
    page.click("[data-tab=serial-1]")
    page.wait_for_selector(".serial .xterm-rows >> text=earlier")
    line.say(b"login: ")
    page.wait_for_selector(".serial .xterm-rows >> text=login:")
    page.keyboard.type("root\n")
    settled(page, lambda: b"".join(line.sent) == b"root\r", "what was typed")


def test_sound_is_played(page, console):
    page.click("#sound")
    page.wait_for_selector("#sound[aria-pressed=true]")
    sound = console.machine.sound
    settled(page, lambda: sound._listeners, "the listener")
    streams = [sound.open(44100, 2, 2), sound.open(11025, 1, 1)]
    for stream in streams:
        stream.write(bytes(20_000))
    streams[1].close()
    page.click("#sound")
    settled(page, lambda: not sound._listeners, "the end of listening")


def test_full_screen_and_scaling(page, console):
    before = page.locator("#screen canvas").bounding_box()
    assert before["width"] > WIDTH
    page.click("#scale")
    settled(page, lambda: page.locator("#screen canvas").bounding_box()["width"] == WIDTH, "its own size")
    page.click("#full")
    page.wait_for_function("document.fullscreenElement !== null")


def test_a_page_that_vanishes_is_forgotten(chromium, console):
    context = chromium.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(console.console.url)
    page.wait_for_function("document.querySelector('#screen canvas')?.width === 640")
    assert len(console.hub.viewers) == 1
    context.close()
    wait_until(lambda: not console.hub.viewers, "the viewer's end")
