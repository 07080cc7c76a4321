"""Keyboard and pointers as an unmodified Linux kernel sees them."""

import hashlib
import re
import time

import pytest

from guest_modules import root_with
from guest_terminal import BOOT_TIMEOUT_S, image
from ring3 import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]

# Prints the names of input devices, then every event of all of them.
EVENTS = r"""
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
    struct pollfd files[16];
    char path[32], name[64];
    int count = 0;
    for (int n = 0; n < 16; n++) {
        sprintf(path, "/dev/input/event%d", n);
        int file = open(path, O_RDONLY);
        if (file < 0)
            continue;
        ioctl(file, EVIOCGNAME(sizeof name), name);
        printf("device %d: %s\n", count, name);
        files[count].fd = file;
        files[count++].events = POLLIN;
    }
    puts("listening");
    fflush(stdout);
    while (poll(files, count, -1) > 0)
        for (int n = 0; n < count; n++) {
            struct input_event event;
            if (!(files[n].revents & POLLIN) || read(files[n].fd, &event, sizeof event) != sizeof event)
                continue;
            if (event.type == EV_SYN || event.type == EV_MSC)
                continue;
            printf("event %d %d %d %d\n", n, event.type, event.code, event.value);
            fflush(stdout);
            if (event.type == EV_KEY && event.code == KEY_F12)
                return 0;
        }
    return 1;
}
"""
KEY, RELATIVE, ABSOLUTE = 1, 2, 3
LEFT, RIGHT, MIDDLE, F11, F12 = 0x110, 0x111, 0x112, 87, 88


@pytest.fixture
def linux(tmp_path):
    """Starts a machine with the 686-pae kernel, its input drivers and `events`."""
    machines = []

    def start(**settings):
        drivers = ("evdev", "psmouse", "usbhid", "hid-generic", "uhci-hcd")
        (tmp_path / "initrd").write_bytes(root_with(drivers, {"events": EVENTS}, ("grep",)))
        machine = Machine(kernel=image("linux-686-pae"), initrd=str(tmp_path / "initrd"),
                          append="console=ttyS0", memory="256M", serial="memory", **settings)
        machines.append(machine)
        machine.start()
        machine.serial[0].expect("# ", timeout_s=BOOT_TIMEOUT_S)
        return machine

    yield start
    for machine in machines:
        machine.stop()


def until(machine, pattern: str) -> str:
    """What the guest prints up to and with the pattern."""
    return machine.serial[0].expect(f"(?s).*?{pattern}").group().decode()


def listen(machine, *wanted: str) -> list[str]:
    """Starts `events` once there are devices of such names; all names."""
    for name in ("AT Translated", *wanted):
        machine.serial[0].send(f"until grep -q '{name}' /proc/bus/input/devices; do sleep 1; done\n")
    machine.serial[0].send("/bin/events\n")
    text = until(machine, "listening")
    return [line.split(": ", 1)[1].strip() for line in text.splitlines() if line.startswith("device ")]


def finish(machine) -> list[tuple[int, int, int, int]]:
    """Presses F12, with which `events` ends: (device, type, code, value) of all events before.

    F11 before it gives those of other devices time: their interrupts are less urgent.
    """
    wait_until(lambda: not machine.mouse.pending)
    machine.keyboard.press("f11")
    text = until(machine, f"event [0-9]+ 1 {F11} 0")
    machine.keyboard.press("f12")
    text += until(machine, "# ")
    events = [tuple(map(int, line.split()[1:])) for line in text.splitlines() if line.startswith("event ")]
    return [event for event in events if event[1:3] not in ((KEY, F11), (KEY, F12))]


def wait_until(condition, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_typed_text_arrives_on_the_virtual_terminal(linux):
    machine = linux()
    text = "The quick brown fox; 'jumps' over {13} lazy_dogs & <more>!"
    machine.serial[0].send("read line </dev/tty1; echo \"<$line>\"\n")
    machine.serial[0].expect("\n")
    machine.keyboard.type(text + "\n")
    machine.serial[0].expect(re.escape(f"<{text}>"))


def test_a_long_text_arrives_without_loss(linux):
    machine = linux()
    machine.serial[0].send("sha256sum </dev/tty1\n")
    machine.serial[0].expect("\n")
    lines = "".join(f"line {n}: abcdefghijklmnopqrstuvwxyz 0123456789 ABCDEFG\n" for n in range(8))
    machine.keyboard.type(lines)
    machine.keyboard.press("ctrl-d")
    machine.serial[0].expect(hashlib.sha256(lines.encode()).hexdigest())


def test_keys_of_the_at_keyboard(linux):
    machine = linux()
    names = listen(machine)
    keyboard = next(n for n, name in enumerate(names) if "AT Translated" in name)
    machine.keyboard.press("a", "left", "ctrl-pause", "prtsc", "menu")
    events = [event[2:] for event in finish(machine) if event[0] == keyboard and event[1] == KEY]
    pressed = [code for code, value in events if value == 1]
    assert pressed == [30, 105, 29, 119, 99, 127]


def test_the_ps2_mouse_moves_scrolls_and_clicks(linux):
    machine = linux(hypervisor="ring3")     # else Linux takes it for VMware's
    listen(machine, "ImExPS/2 Generic Explorer Mouse")
    machine.mouse.move_by(30, -20)
    machine.mouse.scroll(1)
    machine.mouse.click("right")
    events = [event[1:] for event in finish(machine)]
    assert (sum(v for t, c, v in events if (t, c) == (RELATIVE, 0)),
            sum(v for t, c, v in events if (t, c) == (RELATIVE, 1))) == (30, -20)
    assert (RELATIVE, 8, -1) in events
    assert [e for e in events if e[1] == RIGHT] == [(KEY, RIGHT, 1), (KEY, RIGHT, 0)]


def test_the_usb_tablet_tells_where_it_points(linux):
    machine = linux(usb="tablet", hypervisor="ring3")
    listen(machine, "Tablet")
    wait_until(lambda: machine.mouse.absolute)
    width, height = 720, 400
    machine.mouse.move(width // 2, height // 4)
    machine.mouse.click()
    events = [event[1:] for event in finish(machine)]
    assert any(t == ABSOLUTE and c == 0 and abs(v - 0x4000) < 64 for t, c, v in events)
    assert any(t == ABSOLUTE and c == 1 and abs(v - 0x2000) < 64 for t, c, v in events)
    assert [e for e in events if e[1] == LEFT] == [(KEY, LEFT, 1), (KEY, LEFT, 0)]


def test_vmwares_pointer_tells_where_it_points(linux):
    machine = linux()
    listen(machine, "VirtualPS/2 VMware VMMouse")
    wait_until(lambda: machine.mouse.absolute)
    machine.mouse.move(360, 300)
    machine.mouse.click("middle")
    machine.mouse.scroll(-1)
    events = [event[1:] for event in finish(machine)]
    assert any(t == ABSOLUTE and c == 0 and abs(v - 0x8000) < 128 for t, c, v in events)
    assert any(t == ABSOLUTE and c == 1 and abs(v - 0xC000) < 128 for t, c, v in events)
    assert [e for e in events if e[1] == MIDDLE] == [(KEY, MIDDLE, 1), (KEY, MIDDLE, 0)]
    assert (RELATIVE, 8, 1) in events


def test_the_usb_keyboard_types(linux):
    machine = linux(usb="keyboard")
    names = listen(machine, "Ring3 Keyboard")
    keyboard = next(n for n, name in enumerate(names) if "Ring3" in name)
    wait_until(lambda: machine.devices["usb_keyboard"].in_use)
    machine.keyboard.type("A")
    events = [event[2:] for event in finish(machine) if event[0] == keyboard and event[1] == KEY]
    assert [code for code, value in events if value == 1] == [42, 30]
