"""Unmodified Linux kernels of Debian 12, to a shell on the serial port and to a clean power-off (ACPI S5)."""

import pytest

from guest_terminal import BOOT_TIMEOUT_S, busybox_root, image

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]

CONSOLE = "console=ttyS0"


def installer(architecture: str) -> list[str]:
    return ["--kernel", image(f"linux-installer-{architecture}"),
            "--initrd", image(f"initrd-installer-{architecture}.gz"),
            "--append", f"{CONSOLE} rdinit=/bin/sh", "--engine", "translate"]


@pytest.mark.parametrize(("architecture", "machine"), [("amd64", "x86_64"), ("i386", "i686")])
def test_the_installer_kernel_boots_to_a_shell_and_powers_off(guest, architecture, machine):
    linux = guest(*installer(architecture))
    linux.wait_for_shell()
    assert linux.run("uname -srm").split()[0::2] == ["Linux", machine]
    linux.type("poweroff -f")
    assert linux.exit_status() == 0


@pytest.mark.parametrize("memory", ["256M", "1536M"])
def test_a_686_pae_kernel_boots_to_a_shell_and_powers_off(guest, tmp_path, memory):
    (tmp_path / "initrd").write_bytes(busybox_root("i386"))
    linux = guest("--kernel", image("linux-686-pae"), "--initrd", str(tmp_path / "initrd"),
                  "--append", CONSOLE, "--memory", memory, "--engine", "translate")
    linux.wait_for_shell()
    assert linux.run("uname -srm").split()[0::2] == ["Linux", "i686"]
    assert "686-pae" in linux.run("cat /proc/version")
    linux.type("poweroff -f")
    assert linux.exit_status() == 0


def test_a_guest_sees_the_memory_it_was_given(guest, tmp_path):
    (tmp_path / "initrd").write_bytes(busybox_root("i386"))
    linux = guest("--kernel", image("linux-686-pae"), "--initrd", str(tmp_path / "initrd"),
                  "--append", CONSOLE, "--memory", "5G")
    linux.wait_for_shell()
    total_kib = int(linux.run("cat /proc/meminfo").split()[1])
    assert 4.8 * 2**20 < total_kib < 5 * 2**20


def test_a_reset_ends_the_machine_under_no_reboot(guest, tmp_path):
    (tmp_path / "initrd").write_bytes(busybox_root("i386"))
    linux = guest("--kernel", image("linux-686-pae"), "--initrd", str(tmp_path / "initrd"),
                  "--append", CONSOLE, "--no-reboot")
    linux.wait_for_shell()
    linux.type("reboot -f")
    assert linux.exit_status() == 0


def test_a_kernel_panic_with_panic_minus_one_resets_the_machine(guest, tmp_path):
    (tmp_path / "initrd").write_bytes(busybox_root("i386"))
    linux = guest("--kernel", image("linux-686-pae"), "--initrd", str(tmp_path / "initrd"),
                  "--append", f"{CONSOLE} panic=-1 rdinit=/no/such/init", "--no-reboot")
    linux.wait_for("Kernel panic", BOOT_TIMEOUT_S)
    assert linux.exit_status() == 0
