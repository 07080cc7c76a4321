"""Media of Debian's packages, booted by SeaBIOS and read off the screen."""

import contextlib
import os

import pytest

from guest_terminal import image
from ring3.firmware import find
from ring3.machine import Machine

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not find.present(find.BIOS), reason="SeaBIOS is not there: apt install seabios"),
]
BOOT_S = 60                             # on a machine that is busy with other tests
TESTS_S = 200                           # a quarter of a minute when it is not
PASS_S = 1500                           # of which two fades of 4 minutes each


def bios(**settings):
    return Machine(firmware="bios", memory="64M", **settings)


def test_the_bios_shows_itself_and_what_it_tries():
    with bios() as vm:
        vm.screen.wait("SeaBIOS (version", timeout_s=BOOT_S)
        vm.screen.wait("No bootable device", timeout_s=BOOT_S)
        assert "Booting from Hard Disk..." in vm.screen.text()


@pytest.mark.parametrize(
    ("order", "first"), [("cdrom,floppy", "ISOLINUX"), ("floppy,cdrom", "Welcome to GRUB!")]
)
def test_the_boot_order_is_as_asked(order, first):
    with bios(boot=order, floppy=image("grub-rescue-floppy.img"), cdrom=image("ipxe.iso")) as vm:
        vm.screen.wait(first, timeout_s=BOOT_S)


def test_the_boot_menu_waits_for_a_key():
    with bios(boot_menu=True) as vm:
        vm.screen.wait("Press ESC for boot menu", timeout_s=BOOT_S)
        vm.keyboard.press("esc")
        vm.screen.wait("Select boot device", timeout_s=BOOT_S)


@pytest.mark.parametrize(("drive", "name", "root"), [
    ("floppy", "grub-rescue-floppy.img", "(fd0)"),
    ("cdrom", "grub-rescue-cdrom.iso", "(cd)"),
])
def test_grub_shows_its_menu_and_lists_its_medium(drive, name, root):
    with bios(**{drive: image(name)}) as vm:
        vm.screen.wait("highlighted entry will be executed", timeout_s=BOOT_S)
        vm.keyboard.press("c")
        vm.screen.wait("grub>", timeout_s=BOOT_S)
        vm.keyboard.type(f"ls {root}/boot/grub\n")
        vm.screen.wait("i386-pc/", timeout_s=BOOT_S)


@pytest.mark.parametrize(("first", "second"), [("virtio", "ide"), ("ide", "virtio"), ("ahci", "ide")])
def test_the_first_disk_is_booted_whatever_its_bus(tmp_path, first, second):
    for name in "first", "second":
        (tmp_path / name).write_bytes(boot_sector(f"{name} disk"))
    disks = [f"{tmp_path}/first,bus={first}", f"{tmp_path}/second,bus={second}"]
    with bios(disk=disks) as vm:
        vm.screen.wait("first disk", timeout_s=BOOT_S)


def boot_sector(text):
    """A disk of 1 MiB whose boot sector says `text`."""
    # mov si, text; next: lodsb; test al, al; jz end; mov ah, 0Eh; int 10h; jmp next; end: hlt; jmp end
    code = bytes.fromhex("BE 12 7C  AC  84 C0  74 06  B4 0E  CD 10  EB F5  90  F4  EB FD")
    return (code + text.encode() + b"\0").ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512)


@pytest.mark.parametrize(
    "reset", [(0x64, 0xFE), (0x92, 0x01), (0xCF9, 0x06)], ids=["8042", "port 92h", "port CF9h"]
)
def test_resets_of_all_kinds_boot_again(reset):
    with bios(floppy=image("grub-rescue-floppy.img")) as vm:
        for _ in range(2):
            vm.screen.wait("highlighted entry will be executed", timeout_s=BOOT_S)
            vm.keyboard.press("c")
            vm.screen.wait("grub>", timeout_s=BOOT_S)
            vm.bus.write_port(*reset)
        vm.screen.wait("highlighted entry will be executed", timeout_s=BOOT_S)


def test_ipxe_comes_to_its_prompt():
    with bios(cdrom=image("ipxe.iso")) as vm:
        vm.screen.wait("iPXE initialising devices", timeout_s=BOOT_S)
        for _ in range(BOOT_S):
            vm.keyboard.press("ctrl-b")
            if vm.wait(timeout_s=0.5) is not None or "iPXE>" in vm.screen.text():
                break
        vm.keyboard.type("config -h\n")
        vm.screen.wait("Usage", timeout_s=BOOT_S)


@pytest.mark.parametrize("width", ["ia32", "x64"])
def test_memtest86_finds_64_mib_without_errors_in_tests_0_to_9(width):
    with memtest(width) as vm:
        vm.screen.wait(r"(?s)Test #10 .*Errors: 0$", regex=True, timeout_s=TESTS_S)


@pytest.mark.skipif("RING3_SOAK" not in os.environ, reason="takes 5 minutes or more each: set RING3_SOAK=1")
@pytest.mark.timeout(PASS_S + BOOT_S)
@pytest.mark.parametrize("width", ["ia32", "x64"])
def test_memtest86_passes_on_64_mib_with_the_bit_fade_test(width):
    with memtest(width) as vm:
        vm.screen.wait(r"Pass: +1 +Errors: 0$", regex=True, timeout_s=PASS_S)


@contextlib.contextmanager
def memtest(width):
    """A machine whose memory is being tested."""
    with bios(cdrom=image(f"memtest86+{width}.iso")) as vm:
        vm.screen.wait("<Enter> to start testing", timeout_s=BOOT_S)
        vm.keyboard.press("enter")
        yield vm


def test_gnu_mach_finds_the_machine_and_misses_its_boot_script():
    with Machine(kernel=image("gnumach-486"), memory="64M") as vm:
        vm.screen.wait("No bootstrap code loaded with t", timeout_s=BOOT_S)
        shown = vm.screen.text()
    assert "Intel 82371 PIIX3" in shown
    assert "RING3 CD-ROM" in shown
