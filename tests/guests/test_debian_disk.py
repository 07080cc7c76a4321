"""A disk of Debian 12 made from its packages: firmware, GRUB, systemd, logins on screen and serial port."""

import pytest

from guest_terminal import BOOT_TIMEOUT_S, image
from ring3.disk import create_image, open_image
from ring3.disk.qcow2.check import Check, check
from ring3.firmware import find
from ring3.machine import ExitReason, Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]
LOGIN_S, REPLY_S = BOOT_TIMEOUT_S, 60
FIRMWARE = {"bios": find.BIOS, "uefi": find.OVMF}


@pytest.mark.parametrize(("firmware", "bus"), [
    ("bios", "ide"), ("bios", "ahci"), ("bios", "scsi"), ("bios", "virtio"),
    ("uefi", "ide"), ("uefi", "ahci"),
])
def test_it_boots_to_its_logins_and_powers_off(tmp_path, firmware, bus):
    base = image("debian.img")
    if not find.present(FIRMWARE[firmware]):
        pytest.skip(f"no firmware for {firmware}")
    overlay = tmp_path / "overlay.qcow2"
    create_image(overlay, 1536 << 20, "qcow2", backing=base, backing_format="raw")
    disk = f"{overlay},bus={bus},backing_anywhere"
    with Machine(disk=disk, firmware=firmware, memory="512M", serial="memory") as vm:
        console = vm.serial[0]
        console.expect("Debian GNU/Linux", LOGIN_S)         # GRUB's menu
        console.expect("debian login: ", LOGIN_S)
        vm.screen.wait("Debian GNU/Linux 12 debian tty1\n\ndebian login:", timeout_s=LOGIN_S)
        console.send("root\n")
        console.expect("Password: ", REPLY_S)
        console.send("root\n")
        console.expect("debian:~# ", REPLY_S)
        console.send("dd if=/dev/urandom of=noise bs=1M count=32 status=none && sha256sum noise\n")
        before = console.expect(r"([0-9a-f]{64})", REPLY_S)[1]
        console.send("sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum noise\n")
        assert console.expect(r"([0-9a-f]{64})", REPLY_S)[1] == before
        console.send("poweroff\n")
        assert vm.wait(timeout_s=LOGIN_S).reason is ExitReason.POWER_OFF
    written = open_image(overlay, read_only=True, backing_anywhere=True)
    assert check(written) == Check(leaks=0, errors=0)
    written.close()
