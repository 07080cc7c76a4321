"""What power-on self-test leaves in a PC's chips: the set-up a BIOS makes before it boots anything.

Pure data: CMOS bytes, and the port accesses in their order.  Where each chip's registers are is the board's
business, so those come as arguments.  Layout of CMOS memory: IBM PC/AT Technical Reference (1984), section 5,
and the extensions that all BIOSes share (15h–18h, 30h–35h, 5Bh–5Dh).
"""

from collections.abc import Sequence

from ring3.firmware.e820 import EBDA, EXTENDED, HIGH, KIB, MIB, PCI_HOLE, split

PortWrite = tuple[int, int, int]                    # (port, value, size in bytes)

PHYSICAL_BITS = 40                      # of an address, as CPUID has it
CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC


BOOT_DEVICE = {"floppy": 1, "disk": 2, "cdrom": 3, "network": 4}


def cmos(memory: int, boot: Sequence[str], diskettes: Sequence[int] = ()) -> dict[int, int]:
    """Bytes by index, with the checksum of 10h–2Dh in 2Eh–2Fh.

    `boot`: kinds of devices in their order.  `diskettes`: types of the drives A: and B: (byte 10h).
    """
    low, high = split(memory)
    conventional_kib = EBDA // KIB + 1
    extended_kib = min((low - EXTENDED) // KIB, 0xFFFF)
    above_16_mib = min(max(low - 16 * MIB, 0) // (64 * KIB), 0xFFFF)
    above_4_gib = high // (64 * KIB)
    equipment = 0x02                    # an x87 is there
    if diskettes:
        equipment |= 0x01 | (len(diskettes) - 1) << 6
    first_drive, second_drive = (*diskettes, 0, 0)[:2]
    words = {0x15: conventional_kib, 0x17: extended_kib, 0x30: extended_kib, 0x34: above_16_mib}
    values = {0x10: first_drive << 4 | second_drive, 0x14: equipment}
    for index, word in words.items():
        values |= {index: word & 0xFF, index + 1: word >> 8}
    values |= {0x5B + n: above_4_gib >> 8 * n & 0xFF for n in range(3)}
    first, second, third = ([BOOT_DEVICE[kind] for kind in boot] + [0, 0, 0])[:3]
    # Where Bochs's BIOS and its heirs have the order; bit 0: a diskette needs no signature to be booted.
    values |= {0x3D: first | second << 4, 0x38: third << 4 | 1}
    total = sum(values.get(index, 0) for index in range(0x10, 0x2E))
    return values | {0x2E: total >> 8 & 0xFF, 0x2F: total & 0xFF}


def config_write(device: int, function: int, register: int, value: int, size: int) -> list[PortWrite]:
    """One write to PCI configuration space by mechanism #1."""
    address = 1 << 31 | device << 11 | function << 8 | register & 0xFC
    return [(CONFIG_ADDRESS, address, 4), (CONFIG_DATA + (register & 3), value, size)]


def interrupt_controllers(primary: int, secondary: int, elcr: int, level: int) -> list[PortWrite]:
    """The 8259 pair at vectors 08h and 70h, all masked; `level` has a bit for each level-triggered IRQ."""
    writes = []
    for port, base, icw3 in ((primary, 0x08, 0x04), (secondary, 0x70, 0x02)):
        writes += [(port, 0x11, 1), (port + 1, base, 1), (port + 1, icw3, 1), (port + 1, 0x01, 1)]
        writes.append((port + 1, 0xFF, 1))
    return [*writes, (elcr, level & 0xFF, 1), (elcr + 1, level >> 8, 1)]


def dma_cascade(secondary: int) -> list[PortWrite]:
    """Channel 4 passes on what channels 0–3 ask for: cascade mode, not masked."""
    return [(secondary + 0x16, 0xC0, 1), (secondary + 0x14, 0x00, 1)]


def local_apic() -> list[tuple[int, int]]:
    """(register's offset, value): virtual wire mode, in which the 8259 pair's INTR comes in at LINT0.

    SDM vol. 3, 11.5.1 (local vector table), 11.9 (spurious interrupt), and MP Specification 1.4, 3.6.2.2.
    """
    enabled, ext_int, nmi = 0x100, 0x700, 0x400
    return [(0x0F0, enabled | 0x0F), (0x350, ext_int), (0x360, nmi)]


def keyboard_controller(command: int, data: int) -> list[PortWrite]:
    """The 8042's command byte: scan codes translated to set 1, both interrupts on, self-test passed."""
    return [(command, 0x60, 1), (data, 0x47, 1)]


def mtrrs() -> list[tuple[int, int]]:
    """(MSR, value): memory is write-back, video memory and the PCI hole uncached, ROMs write-protected.

    SDM vol. 3, 12.11 (memory type range registers).
    """
    uncached, write_protect, write_back = 0x00, 0x05, 0x06
    everywhere = 0x0101_0101_0101_0101
    conventional, video, roms = 0x250, 0x259, range(0x268, 0x270)
    found = [(conventional, write_back * everywhere), (0x258, write_back * everywhere)]
    found += [(video, uncached), *((number, write_protect * everywhere) for number in roms)]
    valid, enable, fixed = 1 << 11, 1 << 11, 1 << 10
    hole = (1 << PHYSICAL_BITS) - (HIGH - PCI_HOLE)
    return [*found, (0x200, PCI_HOLE | uncached), (0x201, hole | valid), (0x2FF, enable | fixed | write_back)]


def system_timer(pit: int) -> list[PortWrite]:
    """Counter 0 in mode 3 with 65536: 18.2 interrupts a second."""
    return [(pit + 3, 0x36, 1), (pit, 0, 1), (pit, 0, 1)]
