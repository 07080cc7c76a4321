"""A writer for ACPI Machine Language: just the terms a PC's DSDT needs.

ACPI Specification 6.5, chapter 20 ("AML Specification"); each function is named for the ASL operator or the
grammar's term it encodes and returns its bytes, so a table is an expression.  Terms are plain `bytes`; where
ASL takes an integer, these functions take an `int`.

Resource descriptors (chapter 6.4) are here too: `resource_template` puts them in a buffer with its end tag.
"""

from collections.abc import Sequence

Term = bytes | int

NULL_NAME = b"\x00"


def local(index: int) -> bytes:
    return bytes([0x60 + index])


def argument(index: int) -> bytes:
    return bytes([0x68 + index])


def package_length(body_length: int) -> bytes:
    """PkgLength (§20.2.4): counts itself; 1 to 4 bytes."""
    if body_length + 1 < 0x40:
        return bytes([body_length + 1])
    for extra in (1, 2, 3):
        total = body_length + 1 + extra
        if total < 1 << (4 + 8 * extra):
            return bytes([extra << 6 | total & 0x0F]) + (total >> 4).to_bytes(extra, "little")
    raise ValueError(f"an AML package of {body_length} bytes is too long")


def name_string(path: str) -> bytes:
    """NameString (§20.2.2): an optional root or parent prefix and segments of up to four characters."""
    rest = path.lstrip("\\^")
    prefix = path[: len(path) - len(rest)].encode("ascii")
    segments = [segment.ljust(4, "_").encode("ascii") for segment in rest.split(".") if segment]
    if any(len(segment) != 4 for segment in segments):
        raise ValueError(f"{path!r}: an AML name segment has at most four characters")
    match len(segments):
        case 0:
            return prefix + NULL_NAME
        case 1:
            return prefix + segments[0]
        case 2:
            return prefix + b"\x2e" + b"".join(segments)
        case count:
            return prefix + b"\x2f" + bytes([count]) + b"".join(segments)


def integer(value: int) -> bytes:
    """The shortest constant (§20.2.3)."""
    if value in (0, 1):
        return bytes([value])
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if value < 1 << (8 * size):
            return bytes([prefix]) + value.to_bytes(size, "little")
    raise ValueError(f"{value:#x} does not fit an AML integer")


def term(value: Term) -> bytes:
    return integer(value) if isinstance(value, int) else value


def string(text: str) -> bytes:
    return b"\x0d" + text.encode("ascii") + b"\x00"


def eisa_id(text: str) -> int:
    """EISAID("PNP0A03"): three letters of five bits and four hex digits, big-endian."""
    a, b, c = (ord(letter) - 0x40 for letter in text[:3])
    packed = a << 26 | b << 21 | c << 16 | int(text[3:], 16)
    return int.from_bytes(packed.to_bytes(4, "big"), "little")


def _sized(opcode: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return opcode + package_length(len(body)) + body


def buffer(data: bytes) -> bytes:
    return _sized(b"\x11", integer(len(data)), data)


def package(*elements: Term) -> bytes:
    return _sized(b"\x12", bytes([len(elements)]), *map(term, elements))


# --- named objects ---


def name(path: str, value: Term) -> bytes:
    return b"\x08" + name_string(path) + term(value)


def scope(path: str, *body: bytes) -> bytes:
    return _sized(b"\x10", name_string(path), *body)


def device(path: str, *body: bytes) -> bytes:
    return _sized(b"\x5b\x82", name_string(path), *body)


def method(path: str, arguments: int, *body: bytes, serialized: bool = False) -> bytes:
    return _sized(b"\x14", name_string(path), bytes([arguments | (0x08 if serialized else 0)]), *body)


class Space:  # RegionSpace of OperationRegion
    SYSTEM_MEMORY, SYSTEM_IO, PCI_CONFIG = 0x00, 0x01, 0x02


def operation_region(path: str, space: int, offset: int, length: int) -> bytes:
    return b"\x5b\x80" + name_string(path) + bytes([space]) + integer(offset) + integer(length)


def byte_field(region: str, *names: str) -> bytes:
    """Field (region, ByteAcc, NoLock, Preserve) of one named byte after the other."""
    elements = b"".join(name_string(unit) + package_length_bits(8) for unit in names)
    return _sized(b"\x5b\x81", name_string(region), b"\x01", elements)


def package_length_bits(bits: int) -> bytes:
    """A field unit's width uses PkgLength's form, but does not count itself."""
    return bytes([bits]) if bits < 0x40 else bytes([0x40 | bits & 0x0F, bits >> 4])


# --- statements and operators ---


def return_(value: Term) -> bytes:
    return b"\xa4" + term(value)


def store(value: Term, target: bytes) -> bytes:
    return b"\x70" + term(value) + target


def and_(left: Term, right: Term, target: bytes = NULL_NAME) -> bytes:
    return b"\x7b" + term(left) + term(right) + target


def or_(left: Term, right: Term, target: bytes = NULL_NAME) -> bytes:
    return b"\x7d" + term(left) + term(right) + target


def if_(condition: Term, *body: bytes) -> bytes:
    return _sized(b"\xa0", term(condition), *body)


def notify(target: bytes, value: Term) -> bytes:
    return b"\x86" + target + term(value)


def create_dword_field(source: bytes, byte_index: int, field_name: str) -> bytes:
    return b"\x8a" + source + integer(byte_index) + name_string(field_name)


# --- resource descriptors (§6.4) ---


def io(first: int, length: int, alignment: int = 1) -> bytes:
    """I/O port descriptor, 16-bit decode, at a fixed base."""
    return b"\x47\x01" + first.to_bytes(2, "little") * 2 + bytes([alignment, length])


def irq_no_flags(line: int) -> bytes:
    """IRQ descriptor: edge triggered, active high."""
    return b"\x22" + (1 << line).to_bytes(2, "little")


def dma(channel: int, *, bus_master: bool = False) -> bytes:
    """DMA descriptor: compatibility timing, 8-bit transfers."""
    return bytes([0x2A, 1 << channel, 0x04 if bus_master else 0x00])


def memory32_fixed(base: int, length: int) -> bytes:
    """32-bit fixed memory range descriptor, not writable as the device's registers have it."""
    return b"\x86\x09\x00\x00" + base.to_bytes(4, "little") + length.to_bytes(4, "little")


def interrupt_level_high_shared(lines: Sequence[int]) -> bytes:
    """Extended interrupt descriptor, as a PCI interrupt link uses it; its first line is at byte 5."""
    numbers = b"".join(line.to_bytes(4, "little") for line in lines)
    return b"\x89" + (len(numbers) + 2).to_bytes(2, "little") + bytes([0x09, len(lines)]) + numbers


class AddressSpace:  # resource type and type-specific flags of the address space descriptors
    MEMORY, IO, BUS = (0, 0x01), (1, 0x03), (2, 0x00)  # read/write non-cacheable; entire range; none


def address_range(kind: tuple[int, int], first: int, last: int, size: int) -> bytes:
    """Word, DWord or QWord address space descriptor (§6.4.3.5): produced by a bridge, both ends fixed."""
    tag = {2: 0x88, 4: 0x87, 8: 0x8A}[size]
    resource_type, specific = kind
    numbers = (0, first, last, 0, last - first + 1)
    body = bytes([resource_type, 0x0C, specific])
    body += b"".join(number.to_bytes(size, "little") for number in numbers)
    return bytes([tag]) + len(body).to_bytes(2, "little") + body


def resource_template(*descriptors: bytes) -> bytes:
    return buffer(b"".join(descriptors) + b"\x79\x00")
