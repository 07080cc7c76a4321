#!/usr/bin/env python3
"""Consoles: frames a second at a VNC client, what an idle viewer costs, what viewers cost a busy guest, and
how soon who waits for text hears of it.

    bench/consoles.py [--seconds N]

The guest (native/screen.asm) redraws 1024x768x32 thirty times a second and computes in the time left.  The
client takes updates as fast as it can and decodes nothing, as one with a processor of its own would.  What
the vCPU's thread waits for a processor that other processes have does not count as the guest's time.

The idle Linux is Debian's installer kernel at a shell (scripts/guests), with a driver for each USB device.  A
wait is measured from the guest's own word that it has drawn (native/draws.asm), in its thread, to the return.
"""

import argparse
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ring3 import Machine
from ring3.display.glyphs import find_fonts
from ring3.firmware import find
from ring3.testing.multiboot import multiboot

SCREEN, DRAWS = (Path(__file__).parent / "native" / name for name in ("screen.asm", "draws.asm"))
GUESTS = Path(__file__).parents[1] / "build/guests"
LINUX, INITRD = GUESTS / "linux-installer-amd64", GUESTS / "initrd-installer-amd64.gz"
DRAWS_HZ = 7
FONT_HEIGHT = 16
USB_IDLE_S = 3.0                        # after so long it is looked after least often
BOOT_TIMEOUT_S = 180.0
FRAMES_HZ = 30
COUNTS = 0x300000
SETTLE_S = 1.0
ENCODINGS = {"Raw": 0, "Tight": 7, "ZRLE": 16}
LAST_RECT = -224
WIDTH, HEIGHT = 1024, 768


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: 5)")
    seconds = parser.parse_args().seconds
    alone = None
    print("| viewer | frames drawn/s | frames sent/s | MB/s | spare time of the guest |")
    print("|---|---|---|---|---|")
    for name in ("none", *ENCODINGS):
        drawn, sent, rate, spare = busy(ENCODINGS.get(name), seconds)
        alone = alone or spare
        print(f"| {name} | {drawn:.1f} | {sent:.1f} | {rate / 1e6:.1f} | {100 * spare / alone:.0f} % |")
    print(f"\nidle with a viewer: {100 * idle(seconds):.2f} % of a core")
    if LINUX.exists() and INITRD.exists():
        print(f"idle Linux with a viewer: {100 * idle_linux(seconds):.2f} % of a core")
        print(f"… and a USB tablet: {100 * idle_linux(seconds, 'tablet'):.2f} %")
    for mode in ("text mode", "1024x768x32"):
        waits_ms = sorted(1000 * wait for wait in waits(seconds, text_mode=mode == "text mode"))
        print(f"{mode}: a wait returns {waits_ms[len(waits_ms) // 2]:.1f} ms after the guest drew the text; "
              f"at most {waits_ms[-1]:.1f} ms ({len(waits_ms)} times)")
    return 0


def guest(source: Path, *defines: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "guest"
        command = ["nasm", "-f", "bin", f"-I{source.parent}/", *defines, "-o", str(binary), str(source)]
        subprocess.run(command, check=True)
        return multiboot(binary.read_bytes())


def machine(*defines: str) -> Machine:
    """The guest is assembled for the host's TSC."""
    kernel = guest(SCREEN, f"-DTSC_PER_FRAME={tsc_hz() // FRAMES_HZ}", *defines)
    return Machine(memory="32M", serial="none", display="vnc", kernel=kernel)


def tsc_hz() -> int:
    with Machine(memory="16M", serial="none") as probe:
        return probe.vcpu.tsc_hz


def guest_counts(vm: Machine) -> tuple[float, float, float, float]:
    """Frames, loops, when (s), and how long the vCPU's thread had waited for a processor till then (s)."""
    (vcpu,) = (thread for thread in threading.enumerate() if thread.name == "vcpu-0")
    waited_ns = int(Path(f"/proc/self/task/{vcpu.native_id}/schedstat").read_text().split()[1])
    frames, loops = struct.unpack("<I4xQ", vm.memory.read(COUNTS, 16))
    return frames, loops, time.monotonic(), waited_ns / 1e9


def busy(encoding: int | None, seconds: float) -> tuple[float, float, float, float]:
    """Frames drawn and sent a second, bytes a second, loops in the guest's spare time a second."""
    with machine() as vm:
        client = Client(vm.consoles()[0], encoding) if encoding is not None else None
        time.sleep(SETTLE_S)
        guest_before, client_before = guest_counts(vm), client.counts() if client else (0, 0, 0)
        time.sleep(seconds)
        guest_after, client_after = guest_counts(vm), client.counts() if client else (0, 0, 1)
        if client is not None:
            client.close()
    frames, loops, took_s, waited_s = differences(guest_before, guest_after)
    updates, size, client_s = differences(client_before, client_after)
    return frames / took_s, updates / client_s, size / client_s, loops / (took_s - waited_s)


def differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [late - early for early, late in zip(before, after, strict=True)]


def idle(seconds: float) -> float:
    """CPU time of this process, with a viewer and a screen that stands still."""
    with machine("-DSTILL") as vm:
        return idle_share(vm, 2 * SETTLE_S, seconds)


def idle_linux(seconds: float, *usb: str) -> float:
    with Machine(kernel=str(LINUX), initrd=str(INITRD), append="console=ttyS0 quiet rdinit=/bin/sh",
                 memory="512M", serial="memory", usb=usb, display="vnc") as vm:
        console = vm.serial[0]
        console.expect("# ", timeout_s=BOOT_TIMEOUT_S)
        console.send("mount -t devtmpfs dev /dev; modprobe -a uhci-hcd usbhid hid-generic mousedev; sleep 2; "
                     "cat /dev/input/mice >/dev/null & echo rea''dy\n")
        console.expect("ready", timeout_s=BOOT_TIMEOUT_S)
        return idle_share(vm, USB_IDLE_S, seconds)


def idle_share(vm: Machine, settle_s: float, seconds: float) -> float:
    client = Client(vm.consoles()[0], ENCODINGS["Tight"])
    time.sleep(settle_s)
    before = time.process_time()
    time.sleep(seconds)
    used = time.process_time() - before
    client.close()
    return used / seconds


def waits(seconds: float, *, text_mode: bool) -> list[float]:
    """From the guest's word that it has drawn, to the return of who waited for the text (s)."""
    defines = [f"-DTSC_PER_DRAW={tsc_hz() // DRAWS_HZ}"]
    with tempfile.NamedTemporaryFile() as font:
        if not text_mode:
            font.write(find_fonts(find.seabios(find.VGA_BIOS))[FONT_HEIGHT])
            font.flush()
            defines.append(f'-DFONT="{font.name}"')
        kernel = guest(DRAWS, *defines)
    drawn: list[float] = []
    seen: list[float] = []
    with Machine(memory="16M", serial="memory", kernel=kernel) as vm:
        vm.serial[0].watch(lambda: drawn.append(time.monotonic()))
        for number in range(1, max(2, int(DRAWS_HZ * seconds))):
            vm.screen.wait(f"{number:04X}")
            seen.append(time.monotonic())
    return [late - early for early, late in zip(drawn, seen, strict=False)]


class Client:
    """A viewer in a process of its own, which tells its counts when it is asked."""

    def __init__(self, place: str, encoding: int) -> None:
        port = place.rpartition(":")[2]
        self._process = subprocess.Popen([sys.executable, __file__, "--client", port, str(encoding)],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def counts(self) -> tuple[float, float, float]:
        """Updates, bytes, and when (s)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        updates, size, when_s = self._process.stdout.readline().split()
        return int(updates), int(size), float(when_s)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


class Reader:
    """Takes updates and counts them."""

    def __init__(self, port: int, encoding: int) -> None:
        self.updates = self.size = 0
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._file = self._socket.makefile("rb", buffering=1 << 20)
        self._exact(12)
        self._socket.sendall(b"RFB 003.008\n\x01\x01")
        self._exact(2 + 4 + 20)
        self._exact(struct.unpack(">I", self._exact(4))[0])
        self._socket.sendall(struct.pack(">BxHii", 2, 2, encoding, LAST_RECT))

    def run(self) -> None:
        incremental = 0
        while True:
            self._socket.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, WIDTH, HEIGHT))
            incremental = 1
            self._update()
            self.updates += 1

    def _update(self) -> None:
        kind, count = struct.unpack(">BxH", self._exact(4))
        assert kind == 0
        while count:
            _, _, width, height, encoding = struct.unpack(">HHHHi", self._exact(12))
            match encoding:
                case 0:
                    self._exact(4 * width * height)
                case 7:
                    self._tight(width, height)
                case 16:
                    self._exact(struct.unpack(">I", self._exact(4))[0])
                case _ if encoding == LAST_RECT:
                    return
            count -= 1

    def _tight(self, width: int, height: int) -> None:
        control = self._exact(1)[0]
        if control == 0x80:
            self._exact(3)
            return
        bits = 24
        if control & 0x40:
            colours = self._exact(2)[1] + 1
            self._exact(3 * colours)
            bits = 1 if colours == 2 else 8
        size = (width * bits + 7) // 8 * height
        if size < 12:
            self._exact(size)
            return
        length = shift = 0
        while True:
            byte = self._exact(1)[0]
            length |= (byte if shift == 14 else byte & 0x7F) << shift
            shift += 7
            if shift == 21 or not byte & 0x80:
                break
        self._exact(length)

    def _exact(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            os._exit(0)
        self.size += length
        return data


def client(port: int, encoding: int) -> None:
    reader = Reader(port, encoding)
    threading.Thread(target=reader.run, daemon=True).start()
    for _ in sys.stdin:
        print(reader.updates, reader.size, time.monotonic(), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        client(int(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
