"""INT 13h of a machine's BIOS as a function: a boot sector (int13.asm) makes the calls."""

import struct
import subprocess
from pathlib import Path

from ring3.machine import Machine

SOURCE = Path(__file__).with_suffix(".asm")
BLOCK = 512                             # bytes
REGISTERS = 0x600                       # address; the layout is int13.asm's
NAMES = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "ds", "es", "flags", "sp")
LAYOUT = struct.Struct("<7I4H")
PACKET, ANSWER = 0x1000, 0x1100         # addresses
BUFFER = 0x2_0000
CARRY = 1
REPLY_S = 60


def boot_sector() -> bytes:
    """Of the disk that the machine boots; a partition table has room in it."""
    return subprocess.run(["nasm", "-f", "bin", "-o", "/dev/stdout", SOURCE], check=True,
                          stdout=subprocess.PIPE).stdout


class Result:
    """Registers as INT 13h left them."""

    def __init__(self, data: bytes) -> None:
        self.registers = dict(zip(NAMES, LAYOUT.unpack(data), strict=True))

    def __getattr__(self, name: str) -> int:
        """`ax`, `ah`, `al` and the like, `carry`, and the registers themselves."""
        registers = self.registers
        if name == "carry":
            return registers["flags"] & CARRY
        if name in registers:
            return registers[name]
        if name[1] == "x":
            return registers[f"e{name}"] & 0xFFFF
        return registers[f"e{name[0]}x"] >> (8 if name[1] == "h" else 0) & 0xFF


class Int13:
    """A machine with a `memory` serial port that has started the boot sector, or is about to."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        self.console = vm.serial[0]
        self.console.expect("!", REPLY_S)
        self.boot_drive = Result(vm.memory.read(REGISTERS, LAYOUT.size)).dl

    def __call__(self, ah: int, drive: int, **registers: int) -> Result:
        values = dict.fromkeys(NAMES, 0) | registers
        values["eax"] |= ah << 8
        values["edx"] |= drive
        self.vm.memory.write(REGISTERS, LAYOUT.pack(*values.values()))
        self.console.send("g")
        self.console.expect("!", REPLY_S)
        return Result(self.vm.memory.read(REGISTERS, LAYOUT.size))

    def blocks(self, ah: int, drive: int, block: int, count: int, *, buffer: int = BUFFER, al: int = 0,
               flat: int | None = None) -> Result:
        """An extended function with its packet, which `packet_count` reads after it."""
        far = 0xFFFF_FFFF if flat is not None else (buffer >> 4) << 16 | buffer & 15
        packet = struct.pack("<BBHIQQ", 24 if flat is not None else 16, 0, count, far, block, flat or 0)
        self.vm.memory.write(PACKET, packet)
        return self(ah, drive, eax=al, esi=PACKET)

    @property
    def packet_count(self) -> int:
        return int.from_bytes(self.vm.memory.read(PACKET + 2, 2), "little")

    def read(self, drive: int, block: int, count: int = 1) -> bytes:
        result = self.blocks(0x42, drive, block, count)
        assert (result.carry, result.ah) == (0, 0), f"status {result.ah:02X}h"
        return self.vm.memory.read(BUFFER, count * BLOCK)
