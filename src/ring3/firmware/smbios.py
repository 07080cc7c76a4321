"""SMBIOS tables: BIOS, system, chassis, processor, memory and boot information.

Specification: DMTF DSP0134, version 2.8, clauses 5.2.1 (entry point) and 7 (structures).  Lengths and sizes
in bytes unless a name says otherwise.  A structure's strings follow it, and its fields hold their numbers.
"""

import struct
import uuid as uuids
from dataclasses import dataclass

MIB = 1 << 20
VERSION = (2, 8)
ENTRY_POINT = 31                        # bytes

BIOS, SYSTEM, CHASSIS, PROCESSOR, MEMORY_ARRAY, MEMORY_DEVICE, MAPPED_ARRAY, BOOT, END = (
    0, 1, 3, 4, 16, 17, 19, 32, 127,
)
DEVICE_MAX = 16 << 30                   # bytes of RAM on one memory device


@dataclass(frozen=True)
class Entry:
    """The two files of firmware configuration: firmware places them and sets the address and the sums."""

    anchor: bytes
    tables: bytes


def build(memory: int, processors: int, uuid: bytes = bytes(16)) -> Entry:
    """`memory` in bytes; `uuid` in the order of its text."""
    structures = [bios(), system(uuid), chassis()]
    structures += [processor(n) for n in range(processors)]
    structures += memory_structures(memory)
    structures += [structure(BOOT, 0x2000, bytes(7)), structure(END, 0x7F00, b"")]
    tables = b"".join(structures)
    return Entry(entry_point(tables, len(structures), max(map(len, structures))), tables)


def structure(kind: int, handle: int, body: bytes, *strings: str) -> bytes:
    """§6.1.2 and §6.1.3: header and formatted area, then the strings, ended by an empty one."""
    text = b"".join(each.encode("ascii") + b"\0" for each in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), handle) + body + text + b"\0"


def entry_point(tables: bytes, count: int, largest: int) -> bytes:
    """§5.2.1: the 32-bit one, its table address and both its checksums still 0."""
    return struct.pack(
        "<4sBBBBHB5s5sBHIHB",
        b"_SM_", 0, ENTRY_POINT, *VERSION, largest, 0, bytes(5),
        b"_DMI_", 0, len(tables), 0, count, VERSION[0] << 4 | VERSION[1],
    )


def bios() -> bytes:
    characteristics = 1 << 7 | 1 << 15 | 1 << 16            # PCI, boot from CD, selectable boot
    extension = (0x01, 0x04)                                # ACPI; targeted content distribution
    body = struct.pack("<BBHBBQBBBBBB", 1, 2, 0xF000, 3, 0, characteristics, *extension, 0, 0, 0xFF, 0xFF)
    return structure(BIOS, 0x0000, body, "Ring3", "1.0", "11/22/2026")


def system(uuid: bytes) -> bytes:
    little_endian = uuids.UUID(bytes=uuid).bytes_le
    body = struct.pack("<BBBB16sBBB", 1, 2, 3, 0, little_endian, 0x06, 0, 0)    # woken by the power switch
    return structure(SYSTEM, 0x0100, body, "Ring3", "Ring3 Virtual PC", "1.0")


def chassis() -> bytes:
    safe, none = 0x03, 0x03
    body = struct.pack("<BBBBBBBBBIBBBB", 1, 0x01, 0, 0, 0, safe, safe, safe, none, 0, 0, 0, 0, 0)
    return structure(CHASSIS, 0x0300, body, "Ring3")


def processor(number: int) -> bytes:
    central, populated, other, unknown = 0x03, 0x41, 0x01, 0x02
    body = struct.pack(
        "<BBBBQBBHHHBBHHHBBBBBBHH",
        1, central, 0x01, 2, 0, 0, 0, 0, 0, 0, populated, other,
        0xFFFF, 0xFFFF, 0xFFFF, 0, 0, 0, 1, 1, 1, unknown, 0x01,
    )
    return structure(PROCESSOR, 0x0400 + number, body, f"CPU {number}", "Ring3")


def memory_structures(memory: int) -> list[bytes]:
    """The array, its devices, and the addresses that it answers at."""
    sizes = [min(DEVICE_MAX, memory - at) for at in range(0, memory, DEVICE_MAX)]
    board, system_memory, multibit = 0x01, 0x03, 0x06
    kib = memory >> 10
    short, extended = (kib, 0) if kib < 0x8000_0000 else (0x8000_0000, memory)
    array = struct.pack("<BBBIHHQ", board, system_memory, multibit, short, 0xFFFE, len(sizes), extended)
    found = [structure(MEMORY_ARRAY, 0x1000, array)]
    found += [memory_device(n, size) for n, size in enumerate(sizes)]
    ends = (memory,) if memory <= 0xC000_0000 else (0xC000_0000, memory + 0x4000_0000)
    for n, (first, end) in enumerate(zip((0, 1 << 32), ends, strict=False)):
        mapped = struct.pack("<IIHBQQ", first >> 10, (end >> 10) - 1, 0x1000, 1, 0, 0)
        found.append(structure(MAPPED_ARRAY, 0x1300 + n, mapped))
    return found


def memory_device(number: int, size: int) -> bytes:
    mib = -(-size // MIB)
    short, extended = (mib, 0) if mib < 0x7FFF else (0x7FFF, mib)
    dimm, ram, other = 0x09, 0x07, 0x0002
    body = struct.pack(
        "<HHHHHBBBBBHHBBBBBIH",
        0x1000, 0xFFFE, 0xFFFF, 0xFFFF, short, dimm, 0, 1, 0, ram, other, 0, 2, 0, 0, 0, 0, extended, 0,
    )
    return structure(MEMORY_DEVICE, 0x1100 + number, body, f"DIMM {number}", "Ring3")
