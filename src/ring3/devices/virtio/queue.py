"""Split virtqueues: the rings in guest memory through which a virtio driver hands out buffers.

OASIS "Virtual I/O Device (VIRTIO) Version 1.2", §2.6 (virtqueues) and §2.7 (split virtqueues).  Names are the
specification's: descriptor table, available ring (the driver's), used ring (the device's).  Indirect
descriptors (§2.7.5.3) and the event index (§2.7.7.2) are there.

Not modelled: packed rings (§2.8) and in-order use (§2.7.9), which are never offered.

All of it lies in memory that the guest may change at any time, so everything is checked as it is read, and
read once.  What a driver must not do (loops, chains longer than any queue, descriptors out of range, an index
that runs ahead) breaks the queue: nothing more is taken from it until the device is reset (§2.1.2).
Lengths and addresses are bytes.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from ring3.devices.face import InFile, Memory

SIZE_MAX = 1024                         # entries of a queue, and descriptors of a chain
NO_VECTOR = 0xFFFF

DESCRIPTOR = struct.Struct("<QIHH")     # address, length, flags, next (§2.7.5)
USED_ELEMENT = struct.Struct("<II")     # head of the chain, bytes written (§2.7.8)
RING_HEAD = 4                           # bytes before a ring's elements: flags and index

Segments = list[tuple[int, int]]        # (address, length)


class Descriptor:
    NEXT, WRITE, INDIRECT = 0x1, 0x2, 0x4


NO_INTERRUPT = 0x1                      # in the available ring's flags (§2.7.6)


@dataclass(slots=True)
class QueueState:
    """Where the rings are and how far both sides got; also the checkpoint record."""

    size: int                           # entries
    enabled: bool = False
    vector: int = NO_VECTOR             # of MSI-X
    descriptors: int = 0                # addresses
    available: int = 0
    used: int = 0
    next_available: int = 0             # the next available entry to take, modulo 2¹⁶
    next_used: int = 0                  # the used ring's index, modulo 2¹⁶
    signalled: int = 0                  # `next_used` when the driver was last interrupted
    broken: bool = False
    in_flight: list[int] = field(default_factory=list)  # heads of chains taken and not yet used


class Chain:
    """A buffer of the driver's: what the device may read, and what it may write."""

    __slots__ = ("_memory", "head", "readable", "writable")

    def __init__(self, memory: Memory, head: int, readable: Segments, writable: Segments) -> None:
        self._memory = memory
        self.head = head
        self.readable = readable
        self.writable = writable

    @property
    def readable_bytes(self) -> int:
        return sum(length for _, length in self.readable)

    @property
    def writable_bytes(self) -> int:
        return sum(length for _, length in self.writable)

    def gather(self, start: int, length: int) -> bytes:
        """Up to `length` bytes of the readable part, from `start` on."""
        read = self._memory.read
        pieces = [read(address, count) for address, count in _part(self.readable, start, length)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def scatter(self, start: int, data: bytes) -> None:
        """Writes `data` into the writable part from `start` on, as far as it goes."""
        if start == 0 and len(self.writable) == 1 and len(data) <= self.writable[0][1]:
            self._memory.write(self.writable[0][0], data)
        else:
            self._memory.scatter(_part(self.writable, start, len(data)), data)

    def fill(self, length: int, place: InFile) -> bool:
        """The first `length` writable bytes from a file of the host; False: it cannot now."""
        return self._memory.fill(_part(self.writable, 0, length), place)


def _part(segments: Segments, start: int, length: int) -> Segments:
    """The `length` bytes from `start` on, less what lies beyond the end."""
    part = []
    for address, count in segments:
        if start >= count:
            start -= count
            continue
        count = min(count - start, length)
        if count <= 0:
            break
        part.append((address + start, count))
        length -= count
        start = 0
    return part


class Queue:
    def __init__(
        self, memory: Memory, state: QueueState, broke: Callable[[str], None], event_index: bool
    ) -> None:
        """`broke` is told why nothing more is taken.  `event_index`: that feature is negotiated."""
        self.state = state
        self._memory = memory
        self._broke = broke
        self._event_index = event_index
        self._seen = state.next_available       # the available ring's index as we read it last

    @property
    def usable(self) -> bool:
        return self.state.enabled and not self.state.broken

    def empty(self) -> bool:
        """Whether the driver has made nothing more available; then it is asked to tell when it does."""
        s = self.state
        if not self.usable:
            return True
        if s.next_available != self._seen:
            return False
        if self._look() and self._event_index:
            # Ask first, look again after: else what is made available in between would wait for ever.
            self._write16(s.used + RING_HEAD + 8 * s.size, s.next_available)
            self._look()
        return s.broken or s.next_available == self._seen

    def take(self) -> Chain | None:
        """The next chain the driver made available; it stays in flight until `use`."""
        if self.empty():
            return None
        s = self.state
        if len(s.in_flight) >= s.size:
            return self.fail(f"more than {s.size} chains in flight")
        head = self._read16(s.available + RING_HEAD + 2 * (s.next_available % s.size))
        chain = self.chain(head)
        if chain is not None:
            s.next_available = s.next_available + 1 & 0xFFFF
            s.in_flight.append(head)
        return chain

    def in_flight(self) -> list[Chain]:
        """What was taken and not used, in order: after a restore it is to be done again."""
        chains = (self.chain(head) for head in self.state.in_flight)
        return [chain for chain in chains if chain is not None]

    def use(self, chain: Chain, written: int) -> None:
        """Hands a chain back, with how many bytes were written into it."""
        s = self.state
        if chain.head in s.in_flight:
            s.in_flight.remove(chain.head)
        element = USED_ELEMENT.pack(chain.head, written)
        self._memory.write(s.used + RING_HEAD + 8 * (s.next_used % s.size), element)
        s.next_used = s.next_used + 1 & 0xFFFF
        self._write16(s.used + 2, s.next_used)

    def interrupt_wanted(self) -> bool:
        """Whether the driver is to be interrupted for what was used since the last time (§2.7.7)."""
        s = self.state
        if not self._event_index:
            return not self._read16(s.available) & NO_INTERRUPT
        new, old = s.next_used, s.signalled
        event = self._read16(s.available + RING_HEAD + 2 * s.size)
        s.signalled = new
        return (new - event - 1 & 0xFFFF) < (new - old & 0xFFFF)

    # --- reading what the driver wrote ---

    def chain(self, head: int) -> Chain | None:
        """The chain of descriptors that starts at `head`; None breaks the queue."""
        s = self.state
        if head >= s.size:
            return self.fail(f"descriptor {head} of {s.size}")
        entry = self._memory.read(s.descriptors + 16 * head, 16)
        address, length, flags, _ = DESCRIPTOR.unpack(entry)
        if flags & Descriptor.INDIRECT:
            return self._indirect(head, address, length, flags)
        return self._walk(head, entry, s.descriptors, s.size, b"")

    def _indirect(self, head: int, address: int, length: int, flags: int) -> Chain | None:
        if flags & Descriptor.NEXT or not length or length % 16 or length > 16 * SIZE_MAX:
            return self.fail(f"indirect table of {length} bytes")
        table = self._memory.read(address, length)
        return self._walk(head, table[:16], address, length // 16, table)

    def _walk(self, head: int, entry: bytes, base: int, count: int, table: bytes) -> Chain | None:
        """Follows a chain from its first entry through `table`, or without one through memory at `base`."""
        readable: Segments = []
        writable: Segments = []
        for _ in range(count):
            address, length, flags, following = DESCRIPTOR.unpack(entry)
            if flags & Descriptor.INDIRECT:
                return self.fail("an indirect table in a chain")
            if flags & Descriptor.WRITE:
                writable.append((address, length))
            elif writable:
                return self.fail("a readable descriptor after a writable one")
            else:
                readable.append((address, length))
            if not flags & Descriptor.NEXT:
                return Chain(self._memory, head, readable, writable)
            if following >= count:
                return self.fail(f"descriptor {following} of {count}")
            at = 16 * following
            entry = table[at : at + 16] if table else self._memory.read(base + at, 16)
        return self.fail("a loop of descriptors")

    def _look(self) -> bool:
        """Reads the driver's index anew; whether it still shows nothing more."""
        s = self.state
        self._seen = self._read16(s.available + 2)
        ahead = self._seen - s.next_available & 0xFFFF
        if ahead > s.size:
            self.fail(f"{ahead} entries available in a queue of {s.size}")
        return ahead == 0

    def fail(self, why: str) -> Chain | None:
        """The driver made no sense: the queue is broken."""
        self.state.broken = True
        self._broke(why)
        return None

    def _read16(self, address: int) -> int:
        return int.from_bytes(self._memory.read(address, 2), "little")

    def _write16(self, address: int, value: int) -> None:
        self._memory.write(address, value.to_bytes(2, "little"))
