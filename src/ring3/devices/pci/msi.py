"""MSI: a PCI function's interrupt as one write to memory.

PCI Local Bus Specification 3.0, §6.8.1 (capability); Intel SDM vol. 3, 11.11 (what the address FEEx_xxxxh and
the value mean to local APICs).  One message, addresses of 32 bits, no mask bits.

The capability lies in the function's configuration space; nothing else is kept.
"""

from ring3.devices.face import Memory
from ring3.devices.pci.msix import Message, send

CAPABILITY_ID = 0x05
CAPABILITY_BYTES = 10
ENABLE = 0x0001                         # message control, at offset 2 of the capability
CONTROL, ADDRESS, DATA = 2, 4, 8        # offsets in it


def capability(following: int) -> bytes:
    """At its reset value; `following` is the offset of the next capability, or 0."""
    return bytes((CAPABILITY_ID, following)) + bytes(CAPABILITY_BYTES - 2)


def writable() -> bytes:
    """The bits of the capability that can be written."""
    return bytes(2) + ENABLE.to_bytes(2, "little") + b"\xfc\xff\xff\xff" + b"\xff\xff"


class Msi:
    def __init__(self, at: int, memory: Memory, message: Message) -> None:
        """`at`: the capability's offset in configuration space."""
        self._at = at
        self._memory = memory
        self._message = message

    def enabled(self, config: bytearray) -> bool:
        return bool(config[self._at + CONTROL] & ENABLE)

    def fire(self, config: bytearray) -> None:
        at = self._at
        address = int.from_bytes(config[at + ADDRESS : at + DATA], "little")
        send(self._memory, self._message, address, config[at + DATA] | config[at + DATA + 1] << 8)
