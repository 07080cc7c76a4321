"""Direct boot: finds out what a kernel file is and gives it to the loader of its format."""

import struct

from ring3.errors import ConfigError
from ring3.firmware import linux, multiboot
from ring3.firmware.handover import Boot, Kernel, Target

ELF_MACHINES = {
    2: "SPARC", 8: "MIPS", 20: "PowerPC", 21: "PowerPC 64", 22: "S/390", 40: "ARM", 43: "SPARC 64",
    50: "Itanium", 183: "ARM 64", 243: "RISC-V", 258: "LoongArch",
}
ELF_I386, ELF_X86_64 = 3, 62

MAGICS = (
    (b"\x1f\x8b", "is compressed with gzip: decompress it, or name the bzImage (vmlinuz) itself"),
    (b"\xfd7zXZ\x00", "is compressed with xz: decompress it, or name the bzImage (vmlinuz) itself"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: decompress it, or name the bzImage (vmlinuz) itself"),
    (b"BZh", "is compressed with bzip2: decompress it, or name the bzImage (vmlinuz) itself"),
    (b"0707", "is a cpio archive: an initrd, not a kernel"),
    (b"QFI\xfb", "is a qcow2 disk image, not a kernel"),
    (b"#!", "is a script, not a kernel"),
    (b"!<arch>", "is an archive or a Debian package: take the kernel out of it"),
)


def reject(data: bytes, name: str) -> ConfigError:
    """Why `data` is not a kernel that can be booted."""
    if not data:
        return ConfigError(f"kernel {name} is empty")
    if data.startswith(b"\x7fELF"):
        return ConfigError(f"kernel {name} {_elf_complaint(data)}")
    if data[0x38:0x3C] == b"ARMd":
        return ConfigError(f"kernel {name} is for ARM 64: an x86 kernel is needed")
    for magic, complaint in MAGICS:
        if data.startswith(magic):
            return ConfigError(f"kernel {name} {complaint}")
    return ConfigError(f"kernel {name} is neither a Linux bzImage nor a Multiboot 1 image")


def _elf_complaint(data: bytes) -> str:
    if len(data) < 52:
        return "is a truncated ELF file"
    machine = struct.unpack_from("<H" if data[5] == 1 else ">H", data, 18)[0]
    if machine not in (ELF_I386, ELF_X86_64):
        foreign = ELF_MACHINES.get(machine, f"machine {machine}")
        return f"is an ELF file for {foreign}: an x86 kernel is needed"
    return "is an ELF file without Multiboot header: for Linux, name the bzImage (vmlinuz), not vmlinux"


def load(kernel: Kernel, target: Target) -> Boot:
    """Finds the format and loads it."""
    if kernel.initrd is not None and not kernel.initrd:
        raise ConfigError(f"initrd {kernel.initrd_name} is empty")
    if linux.recognise(kernel.data):
        return linux.load(kernel, target)
    if multiboot.find_header(kernel.data) is not None:
        return multiboot.load(kernel, target)
    raise reject(kernel.data, kernel.name)
