"""Multiboot 1: kernels that bring their own loader's header, in ELF or at fixed addresses ("a.out kludge").

Multiboot Specification version 0.6.96, sections 3.1 (header), 3.2 (machine state), 3.3 (boot information),
whose field names these are.  The initrd is passed as the one module.

Not handed over: drives, the configuration table, APM, VBE and the frame buffer (there is no display; a kernel
that asks for a video mode gets none, as the specification allows).
"""

import struct
from dataclasses import dataclass

from ring3.errors import ConfigError
from ring3.firmware import flat
from ring3.firmware.e820 import EXTENDED, KIB, Kind
from ring3.firmware.handover import PAGE, Boot, Kernel, Target, encode_command_line, too_small
from ring3.firmware.linux import extended_memory_kib

HEADER_MAGIC = 0x1BADB002
BOOTED_MAGIC = 0x2BADB002
SEARCH = 8192                           # bytes: the header lies wholly in them, on a 4-byte boundary
COMMAND_LINE_MAX = 4095                 # bytes

INFO = 0x9000                           # in conventional memory, below what kernels are linked to
INFO_SPACE = 0x7000                     # bytes: information, map, strings, GDT


class HeaderFlag:
    PAGE_ALIGN, MEMORY_INFO, VIDEO_MODE, AOUT_KLUDGE = 1 << 0, 1 << 1, 1 << 2, 1 << 16
    UNDERSTOOD = PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE      # of bits 0–15, which a loader must know


class InfoFlag:
    MEMORY, COMMAND_LINE, MODULES, MEMORY_MAP, LOADER_NAME = 1 << 0, 1 << 2, 1 << 3, 1 << 6, 1 << 9


class Elf:
    PT_LOAD, I386, X86_64 = 1, 3, 62


@dataclass(frozen=True)
class Segment:
    address: int                        # physical
    data: bytes
    memory_size: int                    # bytes; what exceeds `data` is zeroed

    @property
    def end(self) -> int:
        return self.address + self.memory_size


def find_header(data: bytes) -> int | None:
    """The header's offset in the file, if there is one with a right checksum."""
    searched = data[:SEARCH]
    for offset in range(0, len(searched) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", searched, offset)
        if magic == HEADER_MAGIC and (magic + flags + checksum) & 0xFFFF_FFFF == 0:
            return offset
    return None


def load(kernel: Kernel, target: Target) -> Boot:
    data, name = kernel.data, kernel.name
    offset = find_header(data)
    if offset is None:
        raise ConfigError(f"kernel {name} has no Multiboot header")
    flags = struct.unpack_from("<I", data, offset + 4)[0]
    if unknown := flags & 0xFFFF & ~HeaderFlag.UNDERSTOOD:
        raise ConfigError(f"kernel {name} requires Multiboot features that do not exist (flags {unknown:#x})")
    if flags & HeaderFlag.AOUT_KLUDGE:
        segments, entry = aout_segments(data, offset, name)
    else:
        segments, entry = elf_segments(data, name)
    check_placement(segments, target, name)
    end = max(max(segment.end for segment in segments), EXTENDED)
    writes = [(s.address, s.data.ljust(s.memory_size, b"\x00")) for s in segments]
    module = None
    if kernel.initrd is not None:
        start = end + -end % PAGE
        if start + len(kernel.initrd) > target.low_memory:
            raise too_small("kernel and initrd", start + len(kernel.initrd), target.memory)
        module = (start, start + len(kernel.initrd))
        writes.append((start, kernel.initrd))
    information, gdt_base = boot_information(kernel, target, module)
    writes.append((INFO, information))
    registers = flat.protected_mode(gdt_base)
    return Boot(writes, registers | {"rax": BOOTED_MAGIC, "rbx": INFO, "rip": entry})


# --- reading the image ---


def aout_segments(data: bytes, offset: int, name: str) -> tuple[list[Segment], int]:
    """One run of the file at the addresses that the header tells (3.1.3)."""
    if len(data) < offset + 32:
        raise ConfigError(f"kernel {name} is truncated: its Multiboot header is cut short")
    header, load_at, load_end, bss_end, entry = struct.unpack_from("<5I", data, offset + 12)
    start = offset - (header - load_at)
    size = load_end - load_at if load_end else len(data) - start
    if header < load_at or start < 0 or size < 0 or (bss_end and bss_end < load_at + size):
        raise ConfigError(f"kernel {name} is damaged: its Multiboot header's addresses are contradictory")
    if start + size > len(data):
        raise ConfigError(f"kernel {name} is truncated: {len(data)} bytes of {start + size}; copy it again")
    memory_size = bss_end - load_at if bss_end else size
    return [Segment(load_at, data[start : start + size], memory_size)], entry


def elf_segments(data: bytes, name: str) -> tuple[list[Segment], int]:
    """The PT_LOAD segments at their physical addresses, and the entry's physical address."""
    truncated = ConfigError(f"kernel {name} is truncated: not all its ELF segments are there; copy it again")
    if data[:4] != b"\x7fELF":
        raise ConfigError(f"kernel {name} is no ELF file, and its Multiboot header tells no load addresses")
    wide = data[4:5] == b"\x02"
    layout = "<16xHHIQQQIHHH" if wide else "<16xHHIIIIIHHH"
    if len(data) < struct.calcsize(layout):
        raise truncated
    _, machine, _, entry, table, _, _, _, entry_size, count = struct.unpack_from(layout, data)
    if machine not in (Elf.I386, Elf.X86_64):
        raise ConfigError(f"kernel {name} is an ELF file for machine {machine}: an x86 kernel is needed")
    segments = []
    physical_entry = entry
    for index in range(count):
        at = table + index * entry_size
        if at + (56 if wide else 32) > len(data):
            raise truncated
        kind, start, virtual, physical, size, memory_size = _program_header(data, at, wide)
        if kind != Elf.PT_LOAD or memory_size == 0:
            continue
        if start + size > len(data):
            raise truncated
        if virtual <= entry < virtual + memory_size:
            physical_entry = entry - virtual + physical
        segments.append(Segment(physical, data[start : start + size], memory_size))
    if not segments:
        raise ConfigError(f"kernel {name} is an ELF file with nothing to load: link it as an executable")
    return segments, physical_entry


def _program_header(data: bytes, at: int, wide: bool) -> tuple[int, int, int, int, int, int]:
    """p_type, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz."""
    if wide:
        kind, _, offset, virtual, physical, size, memory_size = struct.unpack_from("<IIQQQQQ", data, at)
    else:
        kind, offset, virtual, physical, size, memory_size = struct.unpack_from("<IIIIII", data, at)
    return kind, offset, virtual, physical, size, memory_size


def check_placement(segments: list[Segment], target: Target, name: str) -> None:
    """Every segment in RAM, none over the boot information, none larger in the file than in memory."""
    usable = [r for r in target.regions if r.kind == Kind.USABLE]
    for s in segments:
        if len(s.data) > s.memory_size:
            raise ConfigError(f"kernel {name} is damaged: a segment is larger in the file than in memory")
        if s.address < INFO + INFO_SPACE and s.end > INFO:
            raise ConfigError(f"kernel {name} is linked to {s.address:#x}, where boot information goes")
        if any(r.base <= s.address and s.end <= r.end for r in usable):
            continue
        if s.address >= EXTENDED and target.low_memory < s.end <= 0xC000_0000:
            raise too_small(f"kernel {name}", s.end, target.memory)
        raise ConfigError(f"kernel {name} is linked to {s.address:#x}–{s.end:#x}, where there is no RAM")


# --- boot information ---


def boot_information(kernel: Kernel, target: Target, module: tuple[int, int] | None) -> tuple[bytes, int]:
    """What goes to INFO, and the address of the GDT in it."""
    image = bytearray(128)              # the structure itself takes 116 bytes

    def place(data: bytes) -> int:
        image.extend(bytes(-len(image) % 8))
        address = INFO + len(image)
        image.extend(data)
        return address

    text = f"{kernel.name} {kernel.command_line}".rstrip()
    command_line = place(encode_command_line(text, COMMAND_LINE_MAX, kernel.name))
    loader_name = place(b"Ring3\x00")
    memory_map = b"".join(struct.pack("<IQQI", 20, *region) for region in target.regions)
    map_address = place(memory_map)
    modules = 0
    if module is not None:
        module_name = place(encode_command_line(kernel.initrd_name, COMMAND_LINE_MAX, kernel.name))
        modules = place(struct.pack("<4I", *module, module_name, 0))
    gdt_base = place(flat.gdt(long_mode=False))
    flags = InfoFlag.MEMORY | InfoFlag.COMMAND_LINE | InfoFlag.MEMORY_MAP | InfoFlag.LOADER_NAME
    flags |= InfoFlag.MODULES if module else 0
    lower_kib = next(r.length for r in target.regions if r.base == 0) // KIB
    struct.pack_into("<3I", image, 0, flags, lower_kib, extended_memory_kib(target.regions))
    struct.pack_into("<3I", image, 16, command_line, 1 if module else 0, modules)
    struct.pack_into("<2I", image, 44, len(memory_map), map_address)
    struct.pack_into("<I", image, 64, loader_name)
    return bytes(image), gdt_base
