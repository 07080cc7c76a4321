"""Processor states that kernels are entered in: flat 32-bit protected mode and 64-bit mode.

SDM vol. 3: 3.4.5 (segment descriptors), 4.5 (4-level paging).  Attributes of a hidden descriptor cache have
the layout of VMX's access rights: bits 8–15 and 20–23 of the descriptor's upper doubleword at bits 0–7 and
12–15.
"""

import struct

PAGE = 4096
LARGE_PAGE = 2 << 20                    # bytes
CODE, DATA, TASK = 0x10, 0x18, 0x20     # selectors, as the Linux boot protocol wants them

GRANULARITY, DB, LONG = 1 << 15, 1 << 14, 1 << 13
CODE_RIGHTS = 0x9B                      # present, DPL 0, execute/read, accessed
DATA_RIGHTS = 0x93                      # present, DPL 0, read/write, accessed
TASK_RIGHTS = 0x8B                      # present, DPL 0, 32-bit or 64-bit TSS, busy


class Cr0:
    PE, MP, ET, NE, PG = 1 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 31


CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
PRESENT, WRITABLE, LARGE = 1 << 0, 1 << 1, 1 << 7    # page-table entries
RFLAGS_FIXED = 0x2


def descriptor(attributes: int, limit_pages: int = 0xFFFFF) -> bytes:
    """A descriptor of base 0; `limit_pages` is its 20-bit limit field."""
    upper = (attributes & 0xFF) << 8 | (limit_pages & 0xF0000) | (attributes & 0xF000) << 8
    return struct.pack("<II", limit_pages & 0xFFFF, upper)


def gdt(*, long_mode: bool) -> bytes:
    code = GRANULARITY | (LONG if long_mode else DB) | CODE_RIGHTS
    return bytes(16) + descriptor(code) + descriptor(GRANULARITY | DB | DATA_RIGHTS)


def segment(name: str, selector: int, attributes: int) -> dict[str, int]:
    return {
        name: selector,
        f"{name}_base": 0,
        f"{name}_limit": 0xFFFF_FFFF,
        f"{name}_attributes": attributes,
    }


def _common(gdt_base: int, table: bytes, code_attributes: int) -> dict[str, int]:
    registers = {"rflags": RFLAGS_FIXED, "gdtr_base": gdt_base, "gdtr_limit": len(table) - 1}
    registers |= {"idtr_base": 0, "idtr_limit": 0}
    registers |= segment("cs", CODE, GRANULARITY | code_attributes)
    for name in ("ds", "es", "fs", "gs", "ss"):
        registers |= segment(name, DATA, GRANULARITY | DB | DATA_RIGHTS)
    return registers


def protected_mode(gdt_base: int) -> dict[str, int]:
    """Paging off, interrupts off, all segments 4 GiB from 0; the GDT is to be written at `gdt_base`."""
    return _common(gdt_base, gdt(long_mode=False), DB | CODE_RIGHTS) | {"cr0": Cr0.PE | Cr0.ET}


def long_mode(gdt_base: int, page_tables: int) -> dict[str, int]:
    """64-bit mode on the tables of `identity_map`."""
    return _common(gdt_base, gdt(long_mode=True), LONG | CODE_RIGHTS) | {
        "cr0": Cr0.PE | Cr0.ET | Cr0.PG,
        "cr3": page_tables,
        "cr4": CR4_PAE,
        "efer": EFER_LME | EFER_LMA,
    }


def identity_map(base: int) -> bytes:
    """Page tables to be put at `base` that map the first 4 GiB to themselves: 6 pages."""
    pml4 = struct.pack("<Q", base + PAGE | PRESENT | WRITABLE).ljust(PAGE, b"\x00")
    directories = [base + (2 + n) * PAGE for n in range(4)]
    pdpt = struct.pack("<4Q", *(d | PRESENT | WRITABLE for d in directories)).ljust(PAGE, b"\x00")
    pages = range(0, 4 << 30, LARGE_PAGE)
    return pml4 + pdpt + struct.pack("<2048Q", *(page | PRESENT | WRITABLE | LARGE for page in pages))
