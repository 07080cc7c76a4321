"""The Linux/x86 boot protocol: bzImage and zImage, by the 32-bit and the 64-bit entry.

Documentation/arch/x86/boot.rst of the Linux kernel, "The Linux/x86 Boot Protocol", whose field names these
are, and zero-page.rst.  The kernel's real-mode part is not run: this loader tells in `boot_params` what that
part would have asked the BIOS.  So protocols from 2.00 on work, and before 2.02 the command line goes the old
way.

Not handed over: video modes (there is no display), EDD, APM, setup_data.
"""

import struct
from dataclasses import dataclass

from ring3.errors import ConfigError
from ring3.firmware import flat, text_mode
from ring3.firmware.e820 import EXTENDED, KIB, Kind, Region
from ring3.firmware.handover import PAGE, Boot, Kernel, Target, encode_command_line, too_small

SECTOR = 512
PARAGRAPH = 16                          # bytes: the unit of the header's size

# Where the parts of the hand-over go, in conventional memory; kernels before 2.02 expect it at 90000h.
BOOT_PARAMS = 0x90000
GDT = 0x91000
COMMAND_LINE = 0x92000                  # up to 64 KiB of BOOT_PARAMS, as the old way of passing it requires
COMMAND_LINE_MAX = 0x7FF                # bytes
OLD_COMMAND_LINE_MAX = 255              # bytes: before 2.06
STACK = 0x90000                         # grows down
PAGE_TABLES = 0x94000                   # six pages

OLD_COMMAND_LINE_MAGIC = 0xA33F
OLD_INITRD_MAX = 0x37FF_FFFF           # highest address
E820_ENTRIES_MAX = 128
LOADER_UNREGISTERED = 0xFF


class Field:                            # offsets in the image's first sector and in boot_params
    EXT_MEM_K = 0x002
    OLD_COMMAND_LINE_MAGIC = 0x020
    OLD_COMMAND_LINE_OFFSET = 0x022
    ACPI_RSDP = 0x070
    ALT_MEM_K = 0x1E0
    E820_COUNT = 0x1E8
    SETUP_SECTS = 0x1F1
    SYSSIZE = 0x1F4                     # in paragraphs
    BOOT_FLAG = 0x1FE
    HEADER_END = 0x201                  # the header ends at 202h plus this byte
    SIGNATURE = 0x202
    VERSION = 0x206
    TYPE_OF_LOADER = 0x210
    LOADFLAGS = 0x211
    CODE32_START = 0x214
    RAMDISK_IMAGE = 0x218
    RAMDISK_SIZE = 0x21C
    CMD_LINE_PTR = 0x228
    INITRD_ADDR_MAX = 0x22C
    KERNEL_ALIGNMENT = 0x230
    RELOCATABLE_KERNEL = 0x234
    XLOADFLAGS = 0x236
    CMDLINE_SIZE = 0x238
    PREF_ADDRESS = 0x258
    INIT_SIZE = 0x260
    E820_TABLE = 0x2D0


LOADED_HIGH = 1 << 0                    # loadflags
XLF_KERNEL_64 = 1 << 0                  # xloadflags
ENTRY_64 = 0x200                        # bytes after the protected-mode part's start


@dataclass(frozen=True)
class Header:
    """The setup header's fields that a loader obeys, with the values older protocols imply."""

    version: int                        # as 0x020F
    setup_size: int                     # bytes of the real-mode part
    loaded_high: bool
    code32_start: int
    initrd_address_max: int
    command_line_max: int
    relocatable: bool
    alignment: int
    kernel_64: bool
    preferred_address: int
    init_size: int                      # bytes the kernel needs from where it runs; 0: not told
    raw: bytes                          # as it goes into boot_params at 1F1h


def recognise(data: bytes) -> bool:
    return data[Field.SIGNATURE : Field.SIGNATURE + 4] == b"HdrS"


def parse(data: bytes, name: str) -> Header:
    """The header of a kernel that `recognise` knows; a ConfigError where the file is cut short or damaged."""
    first = data[: 2 * SECTOR].ljust(2 * SECTOR, b"\x00")

    def number(offset: int, layout: str) -> int:
        value: int = struct.unpack_from("<" + layout, first, offset)[0]
        return value

    version = number(Field.VERSION, "H")
    if version < 0x200 or number(Field.BOOT_FLAG, "H") != 0xAA55:
        raise ConfigError(f"kernel {name} is damaged: its setup header makes no sense")
    setup_size = ((number(Field.SETUP_SECTS, "B") or 4) + 1) * SECTOR
    # Whole paragraphs, so the last may be short.  Before 2.04 the field is too narrow for a large kernel.
    system_size = number(Field.SYSSIZE, "I") * PARAGRAPH if version >= 0x204 else PARAGRAPH
    complete = setup_size + system_size
    if len(data) <= complete - PARAGRAPH:
        raise ConfigError(f"kernel {name} is truncated: {len(data)} bytes of {complete}; copy it again")
    loaded_high = bool(number(Field.LOADFLAGS, "B") & LOADED_HIGH)
    code32_start = number(Field.CODE32_START, "I")
    end = min(0x202 + number(Field.HEADER_END, "B"), Field.E820_TABLE)
    relocatable = version >= 0x205 and number(Field.RELOCATABLE_KERNEL, "B") != 0
    return Header(
        version=version,
        setup_size=setup_size,
        loaded_high=loaded_high,
        code32_start=code32_start,
        initrd_address_max=number(Field.INITRD_ADDR_MAX, "I") if version >= 0x203 else OLD_INITRD_MAX,
        command_line_max=number(Field.CMDLINE_SIZE, "I") if version >= 0x206 else OLD_COMMAND_LINE_MAX,
        relocatable=relocatable,
        alignment=number(Field.KERNEL_ALIGNMENT, "I") if relocatable else 1,
        kernel_64=version >= 0x20C and bool(number(Field.XLOADFLAGS, "H") & XLF_KERNEL_64),
        preferred_address=number(Field.PREF_ADDRESS, "Q") if version >= 0x20A else code32_start,
        init_size=number(Field.INIT_SIZE, "I") if version >= 0x20A else 0,
        raw=first[Field.SETUP_SECTS : end],
    )


def load(kernel: Kernel, target: Target) -> Boot:
    """The kernel, its initrd and its command line, in place; the CPU at the kernel's entry."""
    header = parse(kernel.data, kernel.name)
    if header.kernel_64 and not target.long_mode:
        raise ConfigError(
            f"kernel {kernel.name} is for x86-64, which this CPU model lacks: "
            "choose another --cpu or a 32-bit kernel"
        )
    limit = min(header.command_line_max, COMMAND_LINE_MAX)
    command_line = encode_command_line(kernel.command_line, limit, kernel.name)
    system = kernel.data[header.setup_size :]
    address, kernel_end = place_kernel(header, len(system), target, kernel.name)
    writes = [(address, system), (COMMAND_LINE, command_line)]
    initrd = (0, 0)
    if kernel.initrd is not None:
        initrd = (place_initrd(header, len(kernel.initrd), kernel_end, target), len(kernel.initrd))
        writes.append((initrd[0], kernel.initrd))
    writes.append((BOOT_PARAMS, boot_params(header, target, address, initrd)))
    writes.append((GDT, flat.gdt(long_mode=header.kernel_64)))
    registers = {"rsi": BOOT_PARAMS, "rsp": STACK, "rbp": 0, "rdi": 0, "rbx": 0}
    if header.kernel_64:
        writes.append((PAGE_TABLES, flat.identity_map(PAGE_TABLES)))
        registers |= flat.long_mode(GDT, PAGE_TABLES) | {"rip": address + ENTRY_64}
    else:
        registers |= flat.protected_mode(GDT) | {"rip": address}
    return Boot(writes, registers)


def place_kernel(header: Header, size: int, target: Target, name: str) -> tuple[int, int]:
    """Where the protected-mode part goes, and the end of what it may use before it reads the E820 map."""
    address = header.code32_start
    if header.relocatable:
        address = max(header.preferred_address, EXTENDED)
        address += -address % max(header.alignment, 1)
    if not header.loaded_high:
        limit = BOOT_PARAMS
    else:
        limit = target.low_memory
    end = address + max(size, header.init_size)
    if end > limit:
        if not header.loaded_high:
            raise ConfigError(f"kernel {name} is damaged: {size} bytes of zImage do not fit at {address:#x}")
        raise too_small(f"kernel {name}", end, target.memory)
    if header.loaded_high and address < EXTENDED:
        raise ConfigError(f"kernel {name} is damaged: it wants to be loaded at {address:#x}")
    return address, end


def place_initrd(header: Header, size: int, kernel_end: int, target: Target) -> int:
    """As high as the kernel takes it, on a page's boundary."""
    top = min(target.low_memory, header.initrd_address_max + 1)
    address = (top - size) // PAGE * PAGE
    lowest = max(kernel_end, EXTENDED)
    if address < lowest:
        if target.low_memory > header.initrd_address_max:
            raise ConfigError(
                f"initrd: {size // KIB} KiB do not fit between the kernel and the highest address that it "
                f"takes an initrd at, {header.initrd_address_max:#x}: use a smaller initrd"
            )
        raise too_small("kernel and initrd", lowest + size + PAGE, target.memory)
    return address


def boot_params(header: Header, target: Target, address: int, initrd: tuple[int, int]) -> bytes:
    """The zero page; `address` is where the kernel was put, `initrd` its address and size."""
    page = bytearray(PAGE)
    page[Field.SETUP_SECTS : Field.SETUP_SECTS + len(header.raw)] = header.raw
    if target.text_mode:
        info = text_mode.screen_info()
        page[: len(info)] = info

    def put(offset: int, layout: str, *values: int) -> None:
        struct.pack_into("<" + layout, page, offset, *values)

    extended_kib = extended_memory_kib(target.regions)
    put(Field.EXT_MEM_K, "H", min(extended_kib, 0xFFFF))
    put(Field.ALT_MEM_K, "I", extended_kib)
    put(Field.ACPI_RSDP, "Q", target.rsdp)
    put(Field.TYPE_OF_LOADER, "B", LOADER_UNREGISTERED)
    put(Field.CODE32_START, "I", address)
    put(Field.RAMDISK_IMAGE, "II", *initrd)
    if header.version >= 0x202:
        put(Field.CMD_LINE_PTR, "I", COMMAND_LINE)
    else:
        put(Field.OLD_COMMAND_LINE_MAGIC, "HH", OLD_COMMAND_LINE_MAGIC, COMMAND_LINE - BOOT_PARAMS)
    regions = target.regions[:E820_ENTRIES_MAX]
    put(Field.E820_COUNT, "B", len(regions))
    for index, region in enumerate(regions):
        put(Field.E820_TABLE + 20 * index, "QQI", *region)
    return bytes(page)


def extended_memory_kib(regions: list[Region]) -> int:
    """RAM from 1 MiB to its first hole, as INT 15h, AH=88h and AX=E801h count it."""
    return sum(r.length for r in regions if r.base == EXTENDED and r.kind == Kind.USABLE) // KIB
