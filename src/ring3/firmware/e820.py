"""The PC's physical memory map: where RAM is, and what INT 15h, AX=E820h would tell of it.

ACPI Specification 6.5, chapter 15 (address range types).  RAM fills addresses from 0 up to the PCI hole; what
remains of it goes on at 4 GiB.  Addresses and lengths are in bytes.
"""

from typing import NamedTuple

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

EBDA = 0x9FC00                          # extended BIOS data area: the last KiB of conventional memory
VIDEO = 0xA0000                         # video memory's window
OPTION_ROMS = 0xC0000
SYSTEM_ROM = 0xF0000
EXTENDED = 0x100000                     # RAM goes on at 1 MiB
PCI_HOLE = 0xC000_0000                  # at most 3 GiB of RAM lie below 4 GiB
PCI_HOLE_LAST = 0xFEBF_FFFF             # above it: I/O APIC, local APIC, the system ROM's upper alias
IO_APIC = 0xFEC0_0000
HPET = 0xFED0_0000
GENERATION_ID = 0xFEF0_0000             # a page; described to nobody but by the ACPI device
LOCAL_APIC = 0xFEE0_0000
UPPER_ROM = 0xFFFF_0000
HIGH = 4 * GIB


class Kind:                             # address range types
    USABLE, RESERVED, ACPI_RECLAIM, ACPI_NVS = 1, 2, 3, 4


class Region(NamedTuple):
    base: int
    length: int
    kind: int

    @property
    def end(self) -> int:
        return self.base + self.length


def split(memory: int) -> tuple[int, int]:
    """RAM below the PCI hole and RAM from 4 GiB up."""
    low = min(memory, PCI_HOLE)
    return low, memory - low


def memory_map(memory: int) -> list[Region]:
    """Ascending, without overlaps; addresses in none of the regions are free for devices."""
    low, high = split(memory)
    regions = [
        Region(0, EBDA, Kind.USABLE),
        Region(EBDA, VIDEO - EBDA, Kind.RESERVED),
        Region(SYSTEM_ROM, EXTENDED - SYSTEM_ROM, Kind.RESERVED),
    ]
    if low > EXTENDED:
        regions.append(Region(EXTENDED, low - EXTENDED, Kind.USABLE))
    regions += [
        Region(IO_APIC, 0x1000, Kind.RESERVED),
        Region(HPET, 0x1000, Kind.RESERVED),
        Region(LOCAL_APIC, 0x1000, Kind.RESERVED),
        Region(UPPER_ROM, HIGH - UPPER_ROM, Kind.RESERVED),
    ]
    if high:
        regions.append(Region(HIGH, high, Kind.USABLE))
    return regions
