"""Linux with the memory of all its code in windows (rust/engine/src/translate/window.rs)."""

import hashlib

import pytest

from guest_terminal import BOOT_TIMEOUT_S, busybox, image
from ring3 import Machine
from ring3.testing.initramfs import Initramfs

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]

ZEROS_BYTES = 3_000_000
# Processes that come and go, pipes between them, files that are mapped, memory that grows.
INIT = f"""#!/bin/sh
for n in 1 2 3; do gzip -c /bin/busybox | gunzip -c | cmp - /bin/busybox && echo same; done
for n in $(seq 40); do (true); done
awk 'BEGIN {{ for (i = 0; i < 100000; i++) {{ s += i; a[i % 977] = s }} print s, length(a) }}'
seq 20000 | sort -r | sort -n | tail -n 1
head -c {ZEROS_BYTES} /dev/zero | sha256sum
poweroff -f
"""
SAID = ["same"] * 3 + ["4999950000 977", "20000", hashlib.sha256(bytes(ZEROS_BYTES)).hexdigest() + "  -"]


@pytest.mark.parametrize(
    ("architecture", "kernel"), [("amd64", "linux-installer-amd64"), ("i386", "linux-686-pae")]
)
def test_programs_run_right_in_windows(architecture, kernel):
    root = Initramfs()
    busybox(root, architecture, "gzip", "gunzip", "cmp", "seq", "awk", "sort", "tail", "head")
    root.device("/dev/zero", 1, 5, mode=0o666)
    root.file("/init", INIT.encode(), mode=0o755)
    vm = Machine(kernel=image(kernel), initrd=root.build(), memory="512M", serial="memory",
                 append="console=ttyS0 quiet")
    vm.vcpu.set_windows("always")
    with vm:
        line = vm.serial[0]
        said = []
        while not said or said[-1] != SAID[-1]:
            said.append(line.expect(r"([^\r\n]+)\r?\n", timeout_s=BOOT_TIMEOUT_S)[1].decode())
        vm.wait(BOOT_TIMEOUT_S)
    assert said[-len(SAID):] == SAID
    assert vm.stats()["window_faults"] > 100
