"""A real guest through the verbs and the control socket: GRUB from a diskette and a CD."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from PIL import Image

import ring3
from ring3.control import home
from ring3.firmware import find

GUESTS = Path(__file__).resolve().parents[2] / "build/guests"
FLOPPY, CD = GUESTS / "grub-rescue-floppy.img", GUESTS / "grub-rescue-cdrom.iso"

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not find.present(find.BIOS), reason="SeaBIOS is not there: apt install seabios"),
    pytest.mark.skipif(not (FLOPPY.exists() and CD.exists()), reason="no grub-rescue images: scripts/guests"),
]


MISTAKES = [
    (("press", "grub", "hyper-x"), "hyper"),
    (("type", "grub", "日"), "日"),
    (("type", "grub", "x", "--layout", "dvorak"), "dvorak"),
    (("mouse", "grub", "1", "1", "--click", "fourth"), "fourth"),
    (("screenshot", "grub", "/no/such/x.png"), "/no/such/x.png"),
    (("screenshot", "grub", "screen.xyz"), "screen.xyz"),
    (("insert", "grub", "cdrom0", "/no/such.iso"), "/no/such.iso"),
    (("insert", "grub", "cdrom1", str(CD)), "there is cdrom0"),
    (("eject", "grub", "disk0"), "no such removable drive"),
    (("wait", "grub", "(", "--regex"), "no regular expression"),
    (("serial", "grub", "--port", "3"), "no serial port 3"),
]


def command(*arguments, status=0):
    process = subprocess.run([sys.executable, "-m", "ring3", *map(str, arguments)], capture_output=True,
                             text=True, check=False, timeout=150, stdin=subprocess.DEVNULL)
    assert process.returncode == status, process.stderr
    return process.stdout if status == 0 else process.stderr


@pytest.fixture
def grub(own_home):
    """A background machine at GRUB's prompt."""
    command("start", "grub", "--floppy", f"{FLOPPY},readonly", "--memory", "64M", "--display", "none")
    yield "grub"
    directory = home.named("grub")
    state = directory.state()
    if directory.running and state is not None:
        os.kill(state.pid, signal.SIGKILL)


@pytest.fixture
def prompt(grub):
    command("wait", grub, "GNU GRUB", "--timeout", "120")
    command("press", grub, "c")
    command("wait", grub, "grub>")
    return grub


def test_verbs_read_the_screen_and_type(prompt, tmp_path):
    command("type", prompt, "ls\n")
    command("wait", prompt, r"\(fd0\)", "--regex")
    command("type", prompt, 'echo "a_b" | {x}\n')           # with and without Shift
    assert 'echo "a_b" | {x}' in command("text", prompt)
    command("screenshot", prompt, tmp_path / "screen.png")
    with Image.open(tmp_path / "screen.png") as picture:
        assert picture.size == (720, 400)
        assert len(picture.getcolors()) > 1
    command("mouse", prompt, 100, 100, "--click", "left")


def test_a_wait_in_vain_has_status_1_and_the_screen_on_standard_error(prompt):
    error = command("wait", prompt, "login:", "--timeout", "0.5", status=1)
    assert "grub>" in error


def test_mistakes_at_a_running_machine_are_one_line(grub):
    for arguments, says in MISTAKES:
        error = command(*arguments, status=2)
        assert says in error
        assert error.count("\n") == 1


def test_media_change(prompt):
    command("insert", prompt, "cdrom0", CD)
    with ring3.connect(prompt) as vm:
        assert vm.info()["drives"] == {"cdrom0": str(CD), "floppy0": str(FLOPPY)}
        vm.eject("floppy0")
        assert vm.info()["drives"]["floppy0"] is None
        vm.reset()
        vm.screen.wait("Booting from DVD/CD", timeout_s=120)
        vm.screen.wait("GNU GRUB", timeout_s=120)


def test_attach_shows_the_screen_and_types(prompt):
    terminal = os.environ | {"TERM": "xterm-256color"}
    attached = pexpect.spawn(sys.executable, ["-m", "ring3", "attach", prompt], dimensions=(30, 100),
                             encoding="utf-8", env=terminal, timeout=60)
    with contextlib.closing(attached):
        attached.expect("grub>")
        attached.send("ls\r")
        attached.expect(r"\(fd0\)")
        attached.send("\x1dq")
        attached.expect(pexpect.EOF)
        attached.wait()
        assert attached.exitstatus == 0
    assert home.named(prompt).running


def test_attach_ends_with_the_machine(grub):
    terminal = os.environ | {"TERM": "xterm-256color"}
    attached = pexpect.spawn(sys.executable, ["-m", "ring3", "attach", grub], dimensions=(30, 100),
                             encoding="utf-8", env=terminal, timeout=60)
    with contextlib.closing(attached):
        attached.expect("GNU GRUB")
        command("stop", grub, "--force")
        attached.expect(pexpect.EOF)
        attached.wait()
        assert attached.exitstatus == 0


def test_view_opens_a_console_where_there_is_none(grub):
    assert command("view", grub, "--vnc").startswith("vnc://127.0.0.1:")
    with ring3.connect(grub) as vm:
        assert len(vm.info()["consoles"]) == 1
    command("view", grub, "--vnc")
    with ring3.connect(grub) as vm:
        assert len(vm.info()["consoles"]) == 1
