"""ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, MADT and a DSDT, from the numbers that the board wired.

ACPI Specification 6.5, chapters 5 (tables), 6 (resources) and 7.4 (\\_S5).  The FADT is revision 3 (ACPI
2.0), the oldest that has a reset register and 64-bit pointers, so it suits guests of all ages.  Pure
functions of bytes: `build` returns an image to be put at `base`, with every pointer and checksum set.

Not described: sleep states other than S5, GPE1, thermal zones, processors' P and C states, hot plug.
"""

import struct
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from ring3.firmware import aml

OEM_ID = b"RING3 "
OEM_TABLE_ID = b"RING3PC "
CREATOR_ID = b"RNG3"
CHECKSUM = 9                            # offset in a table's header
RSDP_PLACE = 48                         # bytes kept for it
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
    parallel: tuple[tuple[int, int], ...] = ()      # and of each LPT port
    floppy: bool = False                            # a diskette controller at its usual place
    video: bool = False                             # something that answers as a VGA
    hpet: int = 0                                   # address; 0: none
    hpet_id: int = 0                                # the low half of its capabilities register
    gpe0: int = 0                                   # port of two bytes of status and two of enables; 0: none
    generation_id: int = 0                          # address (ring3.devices.generation_id); 0: none
    generation_id_event: int = 0                    # bit of GPE0


@dataclass(frozen=True)
class Tables:
    image: bytes                                    # to be put at the base given to `build`
    rsdp: int                                       # address
    facs: bytes                                     # to be put at the FACS address given


class Pointer(NamedTuple):
    """A little-endian address in a blob, of something in the blob or of the FACS."""

    at: int                                         # offset
    size: int                                       # bytes
    target: int | None                              # offset; None: the FACS


@dataclass(frozen=True)
class Blob:
    """Tables one after the other, not at an address yet: pointers and checksums are still to be filled in."""

    data: bytearray
    pointers: list[Pointer]
    tables: list[tuple[int, int]]                   # (offset, length)
    rsdt: int                                       # offsets
    xsdt: int

    def at(self, base: int, facs: int) -> bytes:
        """For a place that is known."""
        data = bytearray(self.data)
        for pointer in self.pointers:
            address = facs if pointer.target is None else base + pointer.target
            data[pointer.at : pointer.at + pointer.size] = address.to_bytes(pointer.size, "little")
        for offset, length in self.tables:
            data[offset + CHECKSUM] = 0
            data[offset + CHECKSUM] = checksum(data[offset : offset + length])
        return bytes(data)


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


def lay_out(platform: Platform) -> Blob:
    """All tables but the RSDP, which stands where guests look for it, and the FACS, which they write."""
    blob = Blob(bytearray(), [], [], 0, 0)

    def place(data: bytes, *pointers: Pointer) -> int:
        blob.data.extend(bytes(-len(blob.data) % ALIGNMENT))
        offset = len(blob.data)
        blob.data.extend(data)
        blob.tables.append((offset, len(data)))
        blob.pointers.extend(pointer._replace(at=offset + pointer.at) for pointer in pointers)
        return offset

    dsdt = place(table(b"DSDT", 2, dsdt_body(platform)))
    fadt_pointers = [Pointer(36, 4, None), Pointer(40, 4, dsdt), Pointer(132, 8, None), Pointer(140, 8, dsdt)]
    roots = [
        place(table(b"FACP", 3, fadt_body(platform)), *fadt_pointers),
        place(table(b"APIC", 3, madt_body(platform))),
    ]
    if platform.hpet:
        roots.append(place(table(b"HPET", 1, hpet_body(platform))))
    rsdt, xsdt = (
        place(table(signature, 1, bytes(size * len(roots))),
              *(Pointer(36 + size * n, size, root) for n, root in enumerate(roots)))
        for signature, size in ((b"RSDT", 4), (b"XSDT", 8))
    )
    return replace(blob, rsdt=rsdt, xsdt=xsdt)


@cache
def build(platform: Platform, *, base: int, facs: int) -> Tables:
    """The RSDP and all tables, to be put at `base`; the FACS, which the guest writes, into RAM at `facs`."""
    blob = lay_out(platform)
    first = base + RSDP_PLACE
    rsdp = rsdp_structure(first + blob.rsdt, first + blob.xsdt)
    return Tables(rsdp.ljust(RSDP_PLACE, b"\0") + blob.at(first, facs), base, facs_structure())


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


def fadt_body(platform: Platform) -> bytes:
    """§5.2.9, in the table's order; offsets of the specification count the header's 36 bytes.

    The addresses of FACS and DSDT are filled in later.
    """
    p = platform
    flags = (
        FadtFlag.WBINVD | FadtFlag.PROC_C1 | FadtFlag.SLP_BUTTON | FadtFlag.FIX_RTC | FadtFlag.RESET_REG_SUP
    )
    boot = BootArchitecture.LEGACY_DEVICES | BootArchitecture.I8042
    if not p.video:
        boot |= BootArchitecture.VGA_NOT_PRESENT
    absent = bytes(12)
    return b"".join(
        (
            struct.pack("<8xBBH", 0, 1, p.sci_irq),                     # profile 1: desktop
            struct.pack("<IBBBB", p.smi_command, p.acpi_enable, p.acpi_disable, 0, 0),
            struct.pack("<8I", p.pm1_event, 0, p.pm1_control, 0, 0, p.pm_timer, p.gpe0, 0),
            struct.pack("<8B", 4, 2, 0, 4, 4 if p.gpe0 else 0, 0, 0, 0),            # lengths of those blocks
            struct.pack("<HHHH", 0x0FFF, 0x0FFF, 0, 0),                             # no C2, no C3
            struct.pack("<BBBBB", 0, 0, 0, 0, 0x32),                                # century: CMOS byte 32h
            struct.pack("<HBI", boot, 0, flags),
            generic_address(p.reset_port, 8),
            struct.pack("<B3x", p.reset_value),
            bytes(16),
            generic_address(p.pm1_event, 32) + absent,
            generic_address(p.pm1_control, 16) + absent,
            absent,                                                                 # PM2 control
            generic_address(p.pm_timer, 32),
            (generic_address(p.gpe0, 32) if p.gpe0 else absent) + absent,           # GPE0, GPE1
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


def hpet_body(platform: Platform) -> bytes:
    """IA-PC HPET Specification 1.0a, §3.2.4: where the block is and its capabilities' low half."""
    memory = 0
    address = struct.pack("<BBBBQ", memory, 64, 0, 0, platform.hpet)
    return struct.pack("<I", platform.hpet_id) + address + struct.pack("<BHB", 0, 0x0080, 0)


# --- the DSDT ---


def dsdt_body(platform: Platform) -> bytes:
    parts = [pci_root(platform), *(interrupt_link(index, platform.link_irqs) for index in range(4))]
    events = b""
    if platform.generation_id:
        parts.append(generation_id(platform.generation_id))
        changed = aml.notify(aml.name_string("\\_SB.VGEN"), 0x80)
        events = aml.scope("\\_GPE", aml.method(f"_E{platform.generation_id_event:02X}", 0, changed))
    soft_off = aml.package(platform.soft_off_type, platform.soft_off_type, 0, 0)
    return aml.name("\\_S5", soft_off) + aml.scope("\\_SB", *parts) + events


def generation_id(address: int) -> bytes:
    """Microsoft's "Virtual Machine Generation ID".  Linux knows the shorter name of the two, too."""
    return aml.device(
        "VGEN",
        aml.name("_HID", aml.string("RNG30001")),
        aml.name("_CID", aml.package(aml.string("VM_Gen_Counter"), aml.string("VMGENCTR"))),
        aml.name("_DDN", aml.string("VM_Gen_Counter")),
        aml.name("ADDR", aml.package(address & 0xFFFF_FFFF, address >> 32)),
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
    ports = [serial_port(n, port, irq) for n, (port, irq) in enumerate(platform.serial)]
    ports += [parallel_port(n, port, irq) for n, (port, irq) in enumerate(platform.parallel)]
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
        isa_device(
            "DMA", "PNP0200",
            aml.io(0x00, 16), aml.io(0x81, 15), aml.io(0xC0, 32), aml.dma(4, bus_master=True),
        ),
        isa_device("FPU", "PNP0C04", aml.io(0xF0, 2), aml.irq_no_flags(13)),
        *(diskette_controller() if platform.floppy else ()),
        *(high_precision_timer(platform) if platform.hpet else ()),
        *ports,
    )


def diskette_controller() -> list[bytes]:
    return [
        isa_device(
            "FDC", "PNP0700", aml.io(0x3F0, 6), aml.io(0x3F7, 1), aml.irq_no_flags(6), aml.dma(2)
        )
    ]


def high_precision_timer(platform: Platform) -> list[bytes]:
    return [isa_device("HPET", "PNP0103", aml.memory32_fixed(platform.hpet, 0x400))]


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


def parallel_port(index: int, port: int, irq: int) -> bytes:
    return aml.device(
        f"LPT{index + 1}",
        aml.name("_HID", aml.eisa_id("PNP0400")),
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
