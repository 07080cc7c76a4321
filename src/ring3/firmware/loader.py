"""Tables that the firmware places: files in firmware configuration, and the script that links them.

Format: QEMU, "ACPI table loader" (the comment of hw/acpi/bios-linker-loader), which SeaBIOS and OVMF run:
records of 128 bytes, little-endian, that allocate a file's place in memory, add one file's address to a
pointer in another, and compute checksums.  Pointers hold offsets before they are patched.
"""

import struct

from ring3.firmware import acpi

RECORD = 128                            # bytes
ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3
HIGH, LOW = 1, 2                        # zones: anywhere, or where the RSDP is looked for (F0000h–FFFFFh)

SCRIPT, RSDP, TABLES, FACS = "etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables", "etc/acpi/facs"


def files(blob: acpi.Blob) -> dict[str, bytes]:
    rsdp = bytearray(acpi.rsdp_structure(blob.rsdt, blob.xsdt))
    data = bytearray(blob.data)
    script = [allocate(TABLES, 64, HIGH), allocate(FACS, 64, HIGH), allocate(RSDP, 16, LOW)]
    for pointer in blob.pointers:
        target = pointer.target or 0
        data[pointer.at : pointer.at + pointer.size] = target.to_bytes(pointer.size, "little")
        name = FACS if pointer.target is None else TABLES
        script.append(add_pointer(TABLES, name, pointer.at, pointer.size))
    for offset, length in blob.tables:
        data[offset + acpi.CHECKSUM] = 0
        script.append(add_checksum(TABLES, offset + acpi.CHECKSUM, offset, length))
    for at, size, checksum in ((16, 4, 8), (24, 8, 32)):
        rsdp[checksum] = 0
        script.append(add_pointer(RSDP, TABLES, at, size))
    script += [add_checksum(RSDP, 8, 0, 20), add_checksum(RSDP, 32, 0, 36)]
    return {SCRIPT: b"".join(script), RSDP: bytes(rsdp), TABLES: bytes(data), FACS: acpi.facs_structure()}


def allocate(name: str, alignment: int, zone: int) -> bytes:
    return _record(ALLOCATE, struct.pack("<56sIB", name.encode("ascii"), alignment, zone))


def add_pointer(name: str, pointee: str, offset: int, size: int) -> bytes:
    names = (name.encode("ascii"), pointee.encode("ascii"))
    return _record(ADD_POINTER, struct.pack("<56s56sIB", *names, offset, size))


def add_checksum(name: str, offset: int, first: int, length: int) -> bytes:
    return _record(ADD_CHECKSUM, struct.pack("<56sIII", name.encode("ascii"), offset, first, length))


def _record(command: int, body: bytes) -> bytes:
    return (struct.pack("<I", command) + body).ljust(RECORD, b"\0")
