"""MSI-X: a PCI function's interrupts as writes to memory, each with an address and a value of its own.

PCI Local Bus Specification 3.0, §6.8.2 (capability, table and pending bits); Intel SDM vol. 3, 11.11 (what
the address FEEx_xxxxh and the value mean to local APICs).

The table and the pending bits share one region of 4096 bytes: the table at 0, the pending bits at 800h.
Writes narrower than 32 bits store the bytes they carry.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ring3.devices.face import Memory

Message = Callable[[int, int, int, bool, bool], None]
"""(vector, delivery mode, destination, logical, level triggered): how the CPU's pin takes interrupts."""

REGION = 4096                           # bytes
PENDING = 0x800                         # offset of the pending bits
VECTORS_MAX = PENDING // 16
CAPABILITY_ID = 0x11
CAPABILITY_BYTES = 12

LOCAL_APICS = 0xFEE0_0000               # the MiB of addresses that are interrupt messages


class Control:                          # message control, at offset 2 of the capability (§6.8.2.3)
    ENABLE, MASK_ALL = 0x8000, 0x4000


class Entry:                            # of the table (§6.8.2.9): address, value, vector control
    BYTES, DATA, CONTROL, MASKED = 16, 8, 12, 0x1


def capability(vectors: int, bar: int, following: int) -> bytes:
    """The capability at its reset value; `following` is the offset of the next one, or 0."""
    fields = ((CAPABILITY_ID, 1), (following, 1), (vectors - 1, 2), (bar, 4), (PENDING | bar, 4))
    return b"".join(value.to_bytes(size, "little") for value, size in fields)


@dataclass(slots=True)
class MsixState:
    """Table and pending bits; also the checkpoint record.  The capability is in configuration space."""

    table: bytearray
    pending: int = 0                    # a bit for each vector


def reset_state(vectors: int) -> MsixState:
    return MsixState(bytearray(b"".join([bytes(Entry.CONTROL) + b"\x01\0\0\0"] * vectors)))


class Msix:
    """The region's face, and the way out for a chip's interrupts."""

    def __init__(self, state: MsixState, memory: Memory, message: Message) -> None:
        self.state = state
        self.control = 0                # the capability's message control, kept up to date by the chip
        self._memory = memory
        self._message = message

    @property
    def enabled(self) -> bool:
        return bool(self.control & Control.ENABLE)

    def fire(self, vector: int) -> None:
        """The chip interrupts through an entry of the table; one that isn't there is no interrupt."""
        if vector >= len(self.state.table) // Entry.BYTES:
            return
        if self._masked(vector):
            self.state.pending |= 1 << vector
        else:
            self._send(vector)

    def set_control(self, control: int) -> None:
        """Message control changed: what waited and may go now, goes."""
        self.control = control
        self._send_pending()

    def read(self, offset: int, size: int) -> int:
        s = self.state
        if offset < PENDING:
            return int.from_bytes(s.table[offset : offset + size], "little")
        return s.pending >> 8 * (offset - PENDING) & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        table = self.state.table
        end = min(offset + size, len(table))
        if offset < end:
            table[offset:end] = value.to_bytes(size, "little")[: end - offset]
            self._send_pending()

    def _masked(self, vector: int) -> bool:
        if self.control & (Control.ENABLE | Control.MASK_ALL) != Control.ENABLE:
            return True
        return bool(self.state.table[Entry.BYTES * vector + Entry.CONTROL] & Entry.MASKED)

    def _send_pending(self) -> None:
        s = self.state
        if not s.pending:
            return
        for vector in range(len(s.table) // Entry.BYTES):
            if s.pending >> vector & 1 and not self._masked(vector):
                s.pending &= ~(1 << vector)
                self._send(vector)

    def _send(self, vector: int) -> None:
        at = Entry.BYTES * vector
        entry = self.state.table[at : at + Entry.CONTROL]
        address = int.from_bytes(entry[: Entry.DATA], "little") & ~3
        send(self._memory, self._message, address, int.from_bytes(entry[Entry.DATA :], "little"))


def send(memory: Memory, message: Message, address: int, value: int) -> None:
    """An interrupt as it goes out: to the local APICs, or wherever else the guest wants it written."""
    if address & ~0xF_FFFF != LOCAL_APICS:
        memory.write(address, value.to_bytes(4, "little"))
        return
    logical, level = bool(address & 4), bool(value & 0x8000)
    message(value & 0xFF, value >> 8 & 7, address >> 12 & 0xFF, logical, level)
