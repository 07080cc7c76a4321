"""A real guest's screen in every console: GRUB from its CD, its menu seen and worked by keys."""

import os
import subprocess
import sys

import pytest

from console_server import program, wait_until
from guest_terminal import image
from ring3 import Machine
from small_terminal import SmallTerminal

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]
PATIENCE_S = 120.0


@pytest.fixture
def grub():
    return image("grub-rescue-cdrom.iso")


def vncdo(place, *arguments):
    host, _, port = place.removeprefix("vnc://").rpartition(":")
    command = [sys.executable, "-m", "vncdotool.command", "-s", f"{host}::{port}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_vncdotool_sees_and_works_the_menu(grub, tmp_path):
    from PIL import Image, ImageChops
    with Machine(cdrom=grub, display="vnc", memory="64M") as vm:
        vm.screen.wait("GNU GRUB", timeout_s=PATIENCE_S)
        vncdo(vm.consoles()[0], "key", "down", "key", "c")
        vm.screen.wait("grub>", timeout_s=PATIENCE_S)
        vncdo(vm.consoles()[0], "type", "echo $prefix", "key", "enter")
        vm.screen.wait(r"\(hd\d+\)/boot/grub", regex=True, timeout_s=PATIENCE_S)
        vncdo(vm.consoles()[0], "capture", tmp_path / "vnc.png")
        with Image.open(tmp_path / "vnc.png") as seen:
            difference = ImageChops.difference(seen.convert("RGB"), vm.screen.image())
            # The blinking cursor is all that may differ.
            box = difference.getbbox()
            assert box is None or (box[2] - box[0] <= 9 and box[3] - box[1] <= 16)


def test_the_browser_sees_and_works_the_menu(grub):
    from playwright.sync_api import sync_playwright
    path = program("chromium")
    with Machine(cdrom=grub, display="browser", memory="64M") as vm, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(bypass_csp=True)
        page.goto(vm.consoles()[0])
        vm.screen.wait("GNU GRUB", timeout_s=PATIENCE_S)
        width, _ = vm.screen.size
        page.wait_for_function(
            f"document.querySelector('#screen canvas')?.width === {width}", timeout=1000 * PATIENCE_S)
        page.focus("#screen canvas")
        page.keyboard.press("c")
        vm.screen.wait("grub>", timeout_s=PATIENCE_S)
        page.click("#paste")
        page.fill("#paste-text", "echo Hello_World\n")
        page.click("#paste-dialog button.primary")
        vm.screen.wait("\nHello_World", timeout_s=PATIENCE_S)

        def same():
            page.wait_for_timeout(50)
            seen = page.evaluate(
                f"[...document.querySelector('#screen canvas').getContext('2d')"
                f".getImageData(0, 0, {width}, 1).data.filter((v, i) => i % 4 < 3)]")
            return bytes(seen) == vm.screen.image().crop((0, 0, width, 1)).tobytes()

        wait_until(same, "the machine's pixels")
        browser.close()


def test_the_terminal_sees_and_works_the_menu(grub):
    terminal = SmallTerminal(80, 25)
    process = subprocess.Popen(
        [sys.executable, "-m", "ring3", "run", "--display", "terminal", "--memory", "64M", "--cdrom", grub],
        stdin=terminal.slave, stdout=terminal.slave, stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm-256color"})

    def shows(text):
        return lambda: any(text in line for line in terminal.read().text)

    try:
        wait_until(shows("GNU GRUB"), "the menu", PATIENCE_S)
        terminal.type(b"c")
        wait_until(shows("grub>"), "the prompt", PATIENCE_S)
        terminal.type(b"echo $prefix\r")
        wait_until(shows(")/boot/grub"), "the answer", PATIENCE_S)
        terminal.type(b"\x1d")
        wait_until(shows("Ctrl-]: q quit"), "the menu", PATIENCE_S)
        terminal.type(b"q")
        assert process.wait(PATIENCE_S) == 0
        terminal.read()
        assert not terminal.other_screen
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        terminal.close()
