"""Screens of unmodified guests, and how soon a screen's watcher hears of them."""

import threading
import time

import pytest

from guest_terminal import BOOT_TIMEOUT_S, image
from ring3 import Machine
from ring3.display.screen import Damage, Rect
from ring3.firmware import find
from video_guest import boot_disk, machine_of, needs_bios

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]

SELECTED = (500, 438)                   # in the line of the list that is selected, English
BEIGE = (237, 234, 227)


def wait_for_pixel(machine, place, wanted):
    """Waits for a change that makes the pixel what is wanted of it."""
    changed = threading.Event()
    unwatch = machine.screen.watch(lambda damage: changed.set())
    deadline_s = time.monotonic() + BOOT_TIMEOUT_S
    try:
        while True:
            changed.clear()
            width, height = machine.screen.size
            if place[0] < width and place[1] < height:
                blue, green, red, _ = machine.screen.pixels(Rect(*place, 1, 1))
                if wanted((red, green, blue)):
                    return
            assert changed.wait(deadline_s - time.monotonic()), "the pixel did not become what was wanted"
    finally:
        unwatch()


def test_the_graphical_installer_shows_its_first_screen():
    linux, initrd = image("linux-installer-amd64"), image("initrd-gtk-amd64.gz")
    with Machine(kernel=linux, initrd=initrd, append="vga=788 quiet", memory="1024M") as machine:
        teal = lambda c: c[0] < 80 and c[1] > 110 and c[2] > 100  # noqa: E731
        wait_for_pixel(machine, SELECTED, teal)
        shown = machine.screen.image()
        assert shown.size == (1024, 768)
        assert all(abs(a - b) < 6 for a, b in zip(shown.getpixel((1000, 100)), BEIGE, strict=True))
        assert shown.getpixel((200, 200)) == (255, 255, 255)
        machine.keyboard.press("down")
        wait_for_pixel(machine, (SELECTED[0], SELECTED[1] + 23), teal)


def test_the_kernels_own_console_is_read_in_its_own_font():
    """Linux draws in a font of which some glyphs differ from the video BIOS's: 7 and t, for two."""
    linux, initrd = image("linux-installer-amd64"), image("initrd-gtk-amd64.gz")
    with Machine(kernel=linux, initrd=initrd, append="rdinit=/bin/sh", memory="1024M") as machine:
        machine.screen.wait("tty", timeout_s=BOOT_TIMEOUT_S)


REDRAW = {"VBE": 0x144, "LINES": 768, "BYTES": 4096, "PERIOD_US": 25_000}
LAST_PIXEL = Rect(1023, 767, 1, 1)


@needs_bios
def test_a_guest_that_redraws_1024x768_at_30_frames_a_second_is_seen_at_25(tmp_path):
    """The watcher takes every pixel of every change; each frame is in a colour of its own."""
    colors = set()
    with machine_of(boot_disk(tmp_path, "redraw.asm", REDRAW)) as machine:
        console, screen = machine.serial[0], machine.screen
        console.expect("[.]", timeout_s=BOOT_TIMEOUT_S)

        def look(damage: Damage) -> None:
            for rect in damage.rects:
                screen.pixels(rect)
            colors.add(screen.pixels(LAST_PIXEL))

        before = len(console.output)
        unwatch = screen.watch(look)
        console.expect("[.]{90}", timeout_s=BOOT_TIMEOUT_S)
        unwatch()
        drawn = len(console.output) - before
    assert len(colors) >= drawn * 25 / 30


def test_an_installer_on_the_kernels_console_is_read_with_its_frames():
    """With little memory it stays on that console instead of drawing in a font of its own."""
    linux, initrd = image("linux-installer-amd64"), image("initrd-installer-amd64.gz")
    with Machine(kernel=linux, initrd=initrd, append="quiet", memory="512M") as machine:
        machine.screen.wait("│ +Entering low memory mode +│", regex=True, timeout_s=BOOT_TIMEOUT_S)
        assert "<Continue>" in machine.screen.text()


@pytest.mark.skipif(not find.present(find.OVMF), reason="OVMF is not there: apt install ovmf")
def test_uefis_console_is_read_in_its_own_font_from_the_middle_of_the_screen():
    with Machine(firmware="uefi", memory="256M", serial="memory") as machine:
        machine.screen.wait("^UEFI Interactive Shell", regex=True, timeout_s=BOOT_TIMEOUT_S)
        machine.screen.wait("^Shell>", regex=True, timeout_s=BOOT_TIMEOUT_S)
