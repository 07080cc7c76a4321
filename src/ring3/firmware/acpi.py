"""ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, MADT and a DSDT, from the numbers that the board wired.

ACPI Specification 6.5, chapters 5 (tables), 6 (resources) and 7.4 (\\_S5).  The FADT is revision 3 (ACPI
2.0), the oldest that has a reset register and 64-bit pointers, so it suits guests of all ages.  Pure
functions of bytes: `build` returns an image to be put at `base`, with every pointer and checksum set.

Not described: sleep states other than S5, GPEs, thermal zones, processors' P and C states, hot plug.
"""

import struct
from dataclasses import dataclass

from ring3.firmware import aml

OEM_ID = b"RING3 "
OEM_TABLE_ID = b"RING3PC "
CREATOR_ID = b"RNG3"
ALIGNMENT = 16                          # bytes: what the RSDP needs (§5.2.5.1)
FACS_LENGTH = 64                        # bytes; its address must be a multiple of that (§5.2.10)


class FadtFlag:                         # §5.2.9, table 5.10
    WBINVD, PROC_C1, SLP_BUTTON, FIX_RTC, RESET_REG_SUP = 1 << 0, 1 << 2, 1 << 5, 1 << 6, 1 << 10


class BootArchitecture:                 # IAPC_BOOT_ARCH (§5.2.9.3)
    LEGACY_DEVICES, I8042, VGA_NOT_PRESENT = 1 << 0, 1 << 1, 1 << 2


class MadtType:                         # §5.2.12
    LOCAL_APIC, IO_APIC, INTERRUPT_SOURCE_OVERRIDE, LOCAL_APIC_NMI = 0, 1, 2, 4


class Polarity:                         # MPS INTI flags (§5.2.12.5)
    CONFORMS, ACTIVE_HIGH, ACTIVE_LOW = 0, 1, 3


class Trigger:
    CONFORMS, EDGE, LEVEL = 0 << 2, 1 << 2, 3 << 2


@dataclass(frozen=True)
class Platform:
    """The board's numbers that the tables repeat."""

    processors: int
    local_apic: int                                 # address
    io_apic: int                                    # address
    io_apic_id: int
    overrides: tuple[tuple[int, int, int], ...]     # (ISA IRQ, global system interrupt, Polarity | Trigger)
    sci_irq: int
    smi_command: int                                # port; 0: the machine is always in ACPI mode
    acpi_enable: int                                # values for that port
    acpi_disable: int
    pm1_event: int                                  # ports
    pm1_control: int
    pm_timer: int
    pm_ports: tuple[int, int]                       # (first, count) that power management decodes
    soft_off_type: int                              # SLP_TYP of S5
    reset_port: int
    reset_value: int
    isa_bridge: int                                 # PCI device number; its PIRQRC registers are at 60h–63h
    link_irqs: tuple[int, ...]                      # ISA IRQs the PCI interrupt links may use
    pci_hole: tuple[int, int]                       # first and last address
    serial: tuple[tuple[int, int], ...]             # (port, IRQ) of each COM port


@dataclass(frozen=True)
class Tables:
    image: bytes                                    # to be put at the base given to `build`
    rsdp: int                                       # address
    facs: bytes                                     # to be put at the FACS address given


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes 0 mod 256."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A body under the common header (§5.2.6)."""
    header = struct.pack(
        "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, OEM_ID, OEM_TABLE_ID, 1, CREATOR_ID, 1
    )
    data = bytearray(header + body)
    data[9] = checksum(data)
    return bytes(data)


def build(platform: Platform, *, base: int, facs: int) -> Tables:
    """All tables, to be put at `base`; the FACS, which the guest writes, goes into RAM at `facs`."""
    image = bytearray(48)                           # the RSDP's place: it needs the others' addresses

    def place(data: bytes) -> int:
        image.extend(bytes(-len(image) % ALIGNMENT))
        address = base + len(image)
        image.extend(data)
        return address

    dsdt = place(table(b"DSDT", 2, dsdt_body(platform)))
    roots = [
        place(table(b"FACP", 3, fadt_body(platform, facs=facs, dsdt=dsdt))),
        place(table(b"APIC", 3, madt_body(platform))),
    ]
    rsdt = place(table(b"RSDT", 1, b"".join(struct.pack("<I", root) for root in roots)))
    xsdt = place(table(b"XSDT", 1, b"".join(struct.pack("<Q", root) for root in roots)))
    rsdp = rsdp_structure(rsdt, xsdt)
    image[: len(rsdp)] = rsdp
    return Tables(bytes(image), base, facs_structure())


def rsdp_structure(rsdt: int, xsdt: int) -> bytes:
    """§5.2.5.3: the first checksum covers the 20 bytes of ACPI 1.0, the second all 36."""
    data = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, rsdt, 36, xsdt, 0))
    data[8] = checksum(data[:20])
    data[32] = checksum(data)
    return bytes(data)


def facs_structure() -> bytes:
    """§5.2.10: version 1, no waking vector, the global lock free."""
    return struct.pack("<4sIIIIIQB31x", b"FACS", FACS_LENGTH, 0, 0, 0, 0, 0, 1)


def generic_address(port: int, width_bits: int) -> bytes:
    """Generic Address Structure of an I/O port (§5.2.3.2)."""
    access = {8: 1, 16: 2, 32: 3}[width_bits]
    return struct.pack("<BBBBQ", 1, width_bits, 0, access, port)


def fadt_body(platform: Platform, *, facs: int, dsdt: int) -> bytes:
    """§5.2.9, in the table's order; offsets of the specification count the header's 36 bytes."""
    p = platform
    flags = (
        FadtFlag.WBINVD | FadtFlag.PROC_C1 | FadtFlag.SLP_BUTTON | FadtFlag.FIX_RTC | FadtFlag.RESET_REG_SUP
    )
    boot = BootArchitecture.LEGACY_DEVICES | BootArchitecture.I8042 | BootArchitecture.VGA_NOT_PRESENT
    absent = bytes(12)
    return b"".join(
        (
            struct.pack("<IIBBH", facs, dsdt, 0, 1, p.sci_irq),                     # profile 1: desktop
            struct.pack("<IBBBB", p.smi_command, p.acpi_enable, p.acpi_disable, 0, 0),
            struct.pack("<8I", p.pm1_event, 0, p.pm1_control, 0, 0, p.pm_timer, 0, 0),
            struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0),                             # lengths of those blocks
            struct.pack("<HHHH", 0x0FFF, 0x0FFF, 0, 0),                             # no C2, no C3
            struct.pack("<BBBBB", 0, 0, 0, 0, 0x32),                                # century: CMOS byte 32h
            struct.pack("<HBI", boot, 0, flags),
            generic_address(p.reset_port, 8),
            struct.pack("<B3x", p.reset_value),
            struct.pack("<QQ", facs, dsdt),
            generic_address(p.pm1_event, 32) + absent,
            generic_address(p.pm1_control, 16) + absent,
            absent,                                                                 # PM2 control
            generic_address(p.pm_timer, 32),
            absent + absent,                                                        # GPE0, GPE1
        )
    )


def madt_body(platform: Platform) -> bytes:
    """§5.2.12: every processor's local APIC, the I/O APIC, where ISA IRQs arrive, NMI on LINT1."""
    p = platform
    pcat_compatible = 1                             # an 8259 pair is there too
    entries = [struct.pack("<II", p.local_apic, pcat_compatible)]
    entries += [struct.pack("<BBBBI", MadtType.LOCAL_APIC, 8, n, n, 1) for n in range(p.processors)]
    entries.append(struct.pack("<BBBBII", MadtType.IO_APIC, 12, p.io_apic_id, 0, p.io_apic, 0))
    entries += [
        struct.pack("<BBBBIH", MadtType.INTERRUPT_SOURCE_OVERRIDE, 10, 0, irq, gsi, flags)
        for irq, gsi, flags in p.overrides
    ]
    all_processors, lint1 = 0xFF, 1
    entries.append(struct.pack("<BBBHB", MadtType.LOCAL_APIC_NMI, 6, all_processors, 0, lint1))
    return b"".join(entries)


# --- the DSDT ---


def dsdt_body(platform: Platform) -> bytes:
    links = [interrupt_link(index, platform.link_irqs) for index in range(4)]
    return aml.name("\\_S5", aml.package(platform.soft_off_type, platform.soft_off_type, 0, 0)) + aml.scope(
        "\\_SB", pci_root(platform), *links
    )


def pci_root(platform: Platform) -> bytes:
    hole_first, hole_last = platform.pci_hole
    windows = aml.resource_template(
        aml.address_range(aml.AddressSpace.BUS, 0x00, 0xFF, 2),
        aml.io(0xCF8, 8),
        aml.address_range(aml.AddressSpace.IO, 0x0000, 0x0CF7, 2),
        aml.address_range(aml.AddressSpace.IO, 0x0D00, 0xFFFF, 2),
        aml.address_range(aml.AddressSpace.MEMORY, 0x000A_0000, 0x000B_FFFF, 4),
        aml.address_range(aml.AddressSpace.MEMORY, hole_first, hole_last, 4),
    )
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", 0),
        aml.name("_CRS", windows),
        aml.name("_PRT", pci_routing()),
        isa_bridge(platform),
    )


def pci_routing() -> bytes:
    """_PRT (§6.2.13): INTA–INTD of each slot, rotated by its number, so slots share the links evenly.

    Device 1, the ISA bridge, has its INTA on link A.
    """
    link = "ABCD"
    entries = [
        aml.package(slot << 16 | 0xFFFF, pin, aml.name_string(f"\\_SB.LNK{link[(slot - 1 + pin) % 4]}"), 0)
        for slot in range(1, 32)
        for pin in range(4)
    ]
    return aml.package(*entries)


def isa_bridge(platform: Platform) -> bytes:
    """The bridge's PIRQ route control registers and the devices that no bus can enumerate."""
    com = [serial_port(n, port, irq) for n, (port, irq) in enumerate(platform.serial)]
    return aml.device(
        "ISA",
        aml.name("_ADR", platform.isa_bridge << 16),
        aml.operation_region("PIRQ", aml.Space.PCI_CONFIG, 0x60, 4),
        aml.byte_field("PIRQ", "PRQA", "PRQB", "PRQC", "PRQD"),
        isa_device(
            "PIC", "PNP0000", aml.io(0x20, 2), aml.io(0xA0, 2), aml.io(0x4D0, 2), aml.irq_no_flags(2)
        ),
        isa_device("TMR", "PNP0100", aml.io(0x40, 4), aml.irq_no_flags(0)),
        isa_device("SPKR", "PNP0800", aml.io(0x61, 1)),
        isa_device("RTC", "PNP0B00", aml.io(0x70, 2), aml.irq_no_flags(8)),
        isa_device("KBD", "PNP0303", aml.io(0x60, 1), aml.io(0x64, 1), aml.irq_no_flags(1)),
        isa_device("MOU", "PNP0F13", aml.irq_no_flags(12)),
        isa_device("PM", "PNP0C02", aml.io(*platform.pm_ports), *smi_command_ports(platform)),
        *com,
    )


def smi_command_ports(platform: Platform) -> list[bytes]:
    return [aml.io(platform.smi_command, 2)] if platform.smi_command else []


def isa_device(path: str, hardware_id: str, *resources: bytes) -> bytes:
    return aml.device(
        path,
        aml.name("_HID", aml.eisa_id(hardware_id)),
        aml.name("_CRS", aml.resource_template(*resources)),
    )


def serial_port(index: int, port: int, irq: int) -> bytes:
    return aml.device(
        f"COM{index + 1}",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", index + 1),
        aml.name("_CRS", aml.resource_template(aml.io(port, 8, alignment=8), aml.irq_no_flags(irq))),
    )


def interrupt_link(index: int, irqs: tuple[int, ...]) -> bytes:
    """PNP0C0F: one PIRQ input, whose route register holds the ISA IRQ and, in bit 7, "not routed"."""
    letter = "ABCD"[index]
    route = aml.name_string(f"\\_SB.PCI0.ISA.PRQ{letter}")
    chosen = aml.name_string("LINE")
    first_irq = 5                                   # byte offset of the first interrupt in the descriptor
    return aml.device(
        f"LNK{letter}",
        aml.name("_HID", aml.eisa_id("PNP0C0F")),
        aml.name("_UID", index + 1),
        aml.name("_PRS", aml.resource_template(aml.interrupt_level_high_shared(irqs))),
        aml.name("CURR", aml.resource_template(aml.interrupt_level_high_shared([0]))),
        aml.create_dword_field(aml.name_string("CURR"), first_irq, "LINE"),
        aml.method(
            "_STA",
            0,
            aml.if_(aml.and_(route, 0x80), aml.return_(0x09)),      # present, not enabled
            aml.return_(0x0B),
        ),
        aml.method(
            "_CRS",
            0,
            aml.store(aml.and_(route, 0x0F), chosen),
            aml.return_(aml.name_string("CURR")),
            serialized=True,
        ),
        aml.method(
            "_SRS",
            1,
            aml.create_dword_field(aml.argument(0), first_irq, "WANT"),
            aml.store(aml.and_(aml.name_string("WANT"), 0x0F), route),
            serialized=True,
        ),
        aml.method("_DIS", 0, aml.or_(route, 0x80, route)),
    )
