"""Each family of video modes, set by a real BIOS and drawn by a guest: every pixel as in the golden picture.

The pictures in tests/golden/video were looked at when they were made.  RING3_ACCEPT=1 makes them anew.
"""

import os
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from video_guest import boot_disk, machine_of, needs_bios

GOLDEN = Path(__file__).parents[2] / "golden/video"
PATIENCE_S = 60

DEFAULTS = {"BYTES": 80, "COLUMNS": 80, "SEGMENT": "0B800h", "SHIFT": 1, "BANKS": 1, "MODE": 3}
TEXT = {"DRAW": "text", "SEGMENT": "0B800h"}
MODES = {
    "text-40x25": TEXT | {"MODE": 1, "COLUMNS": 40},
    "text-80x25": TEXT | {"MODE": 3, "COLUMNS": 80},
    "text-mono": TEXT | {"MODE": 7, "COLUMNS": 80, "SEGMENT": "0B000h"},
    "cga-320x200x4": {"DRAW": "cga", "MODE": 4},
    "cga-640x200x2": {"DRAW": "cga", "MODE": 6},
    "ega-320x200x16": {"DRAW": "planar", "MODE": 0x0D, "BYTES": 40},
    "ega-640x200x16": {"DRAW": "planar", "MODE": 0x0E, "BYTES": 80},
    "ega-640x350x16": {"DRAW": "planar", "MODE": 0x10, "BYTES": 80},
    "vga-640x480x2": {"DRAW": "planar", "MODE": 0x11, "BYTES": 80},
    "vga-640x480x16": {"DRAW": "planar", "MODE": 0x12, "BYTES": 80},
    "vga-320x200x256": {"DRAW": "chain", "MODE": 0x13},
    "vga-320x240x256-unchained": {"DRAW": "modex", "MODE": 0x13},
    "vbe-800x600x4": {"DRAW": "planar", "VBE": 0x102, "BYTES": 100},
    "vbe-640x480x8": {"DRAW": "banks", "VBE": 0x101, "SHIFT": 6, "BANKS": 5},
    "vbe-640x480x15": {"DRAW": "banks", "VBE": 0x110, "SHIFT": 3, "BANKS": 10},
    "vbe-640x480x16": {"DRAW": "banks", "VBE": 0x111, "SHIFT": 3, "BANKS": 10},
    "vbe-640x480x24": {"DRAW": "banks", "VBE": 0x112, "SHIFT": 2, "BANKS": 15},
    "vbe-640x480x32": {"DRAW": "banks", "VBE": 0x142, "SHIFT": 2, "BANKS": 19},
}


@pytest.mark.guest
@needs_bios
@pytest.mark.parametrize("name", MODES)
def test_a_mode_shows_every_pixel_as_it_should(tmp_path, name):
    with machine_of(boot_disk(tmp_path, "modes.asm", DEFAULTS | MODES[name])) as machine:
        machine.serial[0].expect("K", timeout_s=PATIENCE_S)
        shown = machine.screen.image()
    path = GOLDEN / f"{name}.png"
    if os.environ.get("RING3_ACCEPT"):
        shown.save(path, optimize=True)
    golden = Image.open(path).convert("RGB")
    assert shown.size == golden.size
    assert ImageChops.difference(shown, golden).getbbox() is None, "pixels differ"
