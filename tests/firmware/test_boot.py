"""What is said of files that are no kernels."""

import struct

import pytest

from ring3.errors import ConfigError
from ring3.firmware import boot
from ring3.firmware.e820 import MIB, memory_map
from ring3.firmware.handover import Kernel, Target

ARM_ELF = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HH", 2, 40) + bytes(40)
VMLINUX = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 62) + bytes(40)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is empty"),
        (ARM_ELF, "for ARM"),
        (ARM_ELF[:30], "truncated"),
        (VMLINUX, "bzImage"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"070701" + bytes(100), "cpio"),
        (b"MZ\x00\x91" + bytes(0x34) + b"ARMd" + bytes(100), "ARM 64"),
        (b"hello world", "neither a Linux bzImage nor a Multiboot 1 image"),
    ],
)
def test_a_foreign_kernel_is_named_for_what_it_is(data, complaint):
    with pytest.raises(ConfigError, match=f"^kernel vmlinuz .*{complaint}"):
        boot.load(Kernel(data, name="vmlinuz"), Target(64 * MIB, memory_map(64 * MIB), 0, True))


def test_an_empty_initrd_is_refused():
    with pytest.raises(ConfigError, match=r"initrd i\.gz is empty"):
        boot.load(
            Kernel(b"x", initrd=b"", initrd_name="i.gz"), Target(64 * MIB, memory_map(64 * MIB), 0, True)
        )
