"""Text that a guest draws in a font of its own is read with a file of that font."""

import pytest

from guest_terminal import BOOT_TIMEOUT_S, image
from ring3 import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]


def test_the_installers_text_screen_on_a_frame_buffer_is_read_with_a_file_of_its_font():
    linux, initrd = image("linux-installer-amd64"), image("initrd-installer-amd64.gz")
    with Machine(kernel=linux, initrd=initrd, append="vga=788 quiet", memory="1G",
                 font=image("unifont.hex")) as machine:
        machine.screen.wait("┤ [!!] Select a language ├", timeout_s=BOOT_TIMEOUT_S)
        machine.screen.wait("Language:", timeout_s=BOOT_TIMEOUT_S)
        machine.screen.wait("<Go Back>", timeout_s=BOOT_TIMEOUT_S)
