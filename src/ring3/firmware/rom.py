"""The system ROM of a machine that boots its kernel directly, and the BIOS data area that goes with it.

There is no BIOS behind it: each BIOS call answers with CF set, as one does that it does not know, and other
interrupts return at once.  The ROM holds the ACPI tables, and at the places where guests look for them the
entry that a jump to the reset vector takes (it resets the machine by port CF9h), the date and the model byte.

Layout of the BIOS data area: IBM PC/AT Technical Reference (1984), section 5.
"""

import struct

from ring3.errors import ConfigError
from ring3.firmware.e820 import EBDA, KIB, SYSTEM_ROM

SIZE = 64 * KIB
BIOS_DATA = 0x400                       # address
FACS = EBDA + 0x40                      # the first KiB of the EBDA starts with its size
RESET_ENTRY = 0xE05B                    # offset: where PCs have it
# mov dx,0CF9h; mov al,6; out dx,al; cli; hlt; jmp back to hlt
RESET_STUB = bytes.fromhex("BA F90C  B0 06  EE  FA  F4  EB FD")
JUMP_TO_ENTRY = bytes.fromhex("EA 5BE0 00F0")                       # jmp F000:E05B
DUMMY_RETURN = 0xFF53                   # offset: where PCs have an IRET
UNSUPPORTED = 0xE070                    # offset
# push bp; mov bp,sp; or byte [bp+6],1 (CF of the caller's FLAGS); pop bp; iret
UNSUPPORTED_STUB = bytes.fromhex("55  8BEC  804E0601  5D  CF")
IRET = b"\xcf"
DATE = b"11/22/26"
MODEL_AT = 0xFC


def build(tables: bytes) -> bytes:
    """64 KiB for `SYSTEM_ROM` and its alias below 4 GiB, with `tables` first."""
    if len(tables) > RESET_ENTRY:
        raise ConfigError(f"{len(tables)} bytes of ACPI tables do not fit the ROM: use fewer processors")
    rom = bytearray(b"\xff" * SIZE)
    rom[: len(tables)] = tables
    rom[RESET_ENTRY : RESET_ENTRY + len(RESET_STUB)] = RESET_STUB
    rom[UNSUPPORTED : UNSUPPORTED + len(UNSUPPORTED_STUB)] = UNSUPPORTED_STUB
    rom[DUMMY_RETURN : DUMMY_RETURN + 1] = IRET
    rom[0xFFF0:0xFFFF] = JUMP_TO_ENTRY + DATE + b"\x00" + bytes([MODEL_AT])
    return bytes(rom)


def interrupt_vectors() -> bytes:
    """What goes to address 0: 10h–1Fh and the like are BIOS calls, the rest exceptions and IRQs."""
    calls = {*range(0x10, 0x1D), 0x40, 0x41, 0x42, 0x46, 0x4A}
    return b"".join(
        struct.pack("<HH", UNSUPPORTED if vector in calls else DUMMY_RETURN, SYSTEM_ROM >> 4)
        for vector in range(256)
    )


def bios_data_area(
    serial_ports: tuple[int, ...], parallel_ports: tuple[int, ...] = (), video: int = 0
) -> bytes:
    """What goes to 400h: COM and LPT ports, the EBDA's segment, equipment, conventional memory in KiB.

    `video`: its bits in the equipment word.
    """
    com = [*serial_ports, 0, 0, 0, 0][:4]
    lpt = [*parallel_ports, 0, 0, 0][:3]
    equipment = len(parallel_ports) << 14 | len(serial_ports) << 9 | video | 0x0002     # an x87 is there
    return struct.pack("<4H3HHHBH", *com, *lpt, EBDA >> 4, equipment, 0, EBDA // KIB)


def extended_bios_data_area() -> bytes:
    """Its size in KiB is its first byte."""
    return bytes([(0xA0000 - EBDA) // KIB])
