"""Virtio block device: a disk.

OASIS "Virtual I/O Device (VIRTIO) Version 1.2", §5.2.  Names are the specification's.  A sector is 512 bytes,
whatever `blk_size` says.

One queue.  Requests may be in segments of any shape and number; discard and write zeroes may name several
ranges.  Writes are cached by the drive until a flush if the driver negotiated VIRTIO_BLK_F_FLUSH and left the
cache on; otherwise each is flushed before it is reported done (§5.2.6.2).

Zeroes are written by discarding, since a `Drive` reads as zeros where it was told to discard; so a range is
given back to the host whether or not it says unmap.

Not modelled: several queues, SCSI commands (obsolete), secure erase, zones, and lifetime information.

A guest's request costs host memory for its data while it is under way.  So one of more than REQUEST_MAX fails
as an I/O error, and while more than IN_FLIGHT_MAX is under way no more are taken.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from ring3.devices.face import Drive
from ring3.devices.pci.msix import MsixState
from ring3.devices.virtio import pci
from ring3.devices.virtio.pci import Identity, VirtioPci, Wires
from ring3.devices.virtio.queue import Chain, QueueState

SECTOR = 512                            # bytes
QUEUE_SIZE = 256                        # entries
SEGMENTS_MAX = QUEUE_SIZE - 2           # of data: header and status take two descriptors
REQUEST_MAX = 32 << 20                  # bytes of data
IN_FLIGHT_MAX = 32 << 20
TURN = 1024                             # requests taken before the rest of the machine gets a turn
RANGES_MAX = 64                         # of one discard or write zeroes request
RANGE_SECTORS_MAX = 1 << 22             # 2 GiB

IDENTITY = Identity(device=2, pci_device=0x1001, pci_class=0x01_00_00, queues=(QUEUE_SIZE,))

HEADER = struct.Struct("<IIQ")          # type, reserved, sector
RANGE = struct.Struct("<QII")           # sector, sectors, flags


class Feature:                          # §5.2.3
    SEG_MAX, GEOMETRY, RO, BLK_SIZE, FLUSH = 1 << 2, 1 << 4, 1 << 5, 1 << 6, 1 << 9
    TOPOLOGY, CONFIG_WCE, DISCARD, WRITE_ZEROES = 1 << 10, 1 << 11, 1 << 13, 1 << 14


class Kind:                             # of a request (§5.2.6)
    IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13


class Result:                           # the status byte
    OK, IOERR, UNSUPP = 0, 1, 2


CONFIG = struct.Struct("<QIIHBBIBBHIBBHIIIIIB3x")
WRITEBACK = 32                          # offset in it


@dataclass(slots=True)
class State(pci.State):
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    config: bytearray = field(default_factory=IDENTITY.config)
    msix: MsixState = field(default_factory=IDENTITY.msix)
    queues: list[QueueState] = field(default_factory=IDENTITY.queue_states)
    writeback: bool = True              # the cache is on


class VirtioBlk(VirtioPci):
    state: State

    def __init__(self, wires: Wires, drive: Drive, serial: str = "") -> None:
        """`serial`: what the request GET_ID answers, at most 20 bytes of ASCII."""
        super().__init__(IDENTITY, State(), wires)
        self.drive = drive
        self.serial = serial.encode("ascii", "replace")[:20]
        self._bytes_in_flight = 0
        self._serving = False
        self._used = False              # chains were used since the driver was last told

    # --- what it is ---

    def features(self) -> int:
        offered = Feature.SEG_MAX | Feature.GEOMETRY | Feature.BLK_SIZE | Feature.FLUSH
        offered |= Feature.TOPOLOGY | Feature.CONFIG_WCE
        if self.drive.read_only:
            return offered | Feature.RO
        return offered | Feature.DISCARD | Feature.WRITE_ZEROES

    def device_config(self) -> bytes:
        sectors = self.drive.size_bytes // SECTOR
        cylinders = min(sectors // (16 * 63), 0xFFFF)
        return CONFIG.pack(
            sectors,
            0, SEGMENTS_MAX,                            # size_max (not offered), seg_max
            cylinders, 16, 63,
            SECTOR, 3, 0, 1, 0,                         # blk_size; topology: blocks of 4 KiB underneath
            self.state.writeback,
            0, 1,                                       # num_queues
            RANGE_SECTORS_MAX, RANGES_MAX, 1,           # discard
            RANGE_SECTORS_MAX, RANGES_MAX, 1,           # write zeroes, which may unmap
        )

    def write_device_config(self, offset: int, value: int, size: int) -> None:
        if offset == WRITEBACK and size == 1 and self.has(Feature.CONFIG_WCE):
            self.state.writeback = bool(value & 1)
        else:
            super().write_device_config(offset, value, size)

    def device_reset(self) -> None:
        self.state.writeback = True
        self._forget()

    def reset(self) -> None:
        self.restore(State())

    # --- requests ---

    def notified(self, number: int) -> None:
        self._serve()

    def resume(self) -> None:
        self._forget()
        self._serving = True
        for chain in self.queues[0].in_flight():
            self._begin(chain)
        self._serving = False
        super().resume()

    def _forget(self) -> None:
        """What is under way is no longer ours: its answers come with an old generation."""
        self._bytes_in_flight = 0
        self._used = False

    def _serve(self) -> None:
        """Takes requests as long as there are any and not too much is under way."""
        if self._serving:               # an answer that came at once: the loop below goes on
            return
        self._serving = True
        for _ in range(TURN):
            chain = self.take(0) if self._bytes_in_flight <= IN_FLIGHT_MAX else None
            if chain is None:
                break
            self._begin(chain)
        else:
            self.later(0)
        self._serving = False
        if self._used:
            self._used = False
            self.interrupt(0)

    def _begin(self, chain: Chain) -> None:
        header = chain.gather(0, HEADER.size)
        if len(header) < HEADER.size or not chain.writable_bytes:
            self.queues[0].fail("a request without header or status")
            return
        kind, _, sector = HEADER.unpack(header)
        match kind:
            case Kind.IN:
                self._read(chain, sector)
            case Kind.OUT:
                self._write(chain, sector)
            case Kind.FLUSH:
                self.drive.flush(self._answer(chain))
            case Kind.GET_ID:
                name = self.serial.ljust(20, b"\0")[: chain.writable_bytes - 1]
                chain.scatter(0, name)
                self._finish(chain, Result.OK, len(name))
            case Kind.DISCARD | Kind.WRITE_ZEROES if not self.drive.read_only:
                self._discard(chain)
            case _:
                self._finish(chain, Result.UNSUPP)

    def _read(self, chain: Chain, sector: int) -> None:
        length = chain.writable_bytes - 1
        if not self._within(sector, length):
            self._finish(chain, Result.IOERR)
            return
        place = self.drive.in_file(sector * SECTOR, length)
        if place is not None and chain.fill(length, place):
            self._finish(chain, Result.OK, length)
            return
        generation = self.generation
        self._bytes_in_flight += length

        def done(outcome: bytes | OSError) -> None:
            if generation != self.generation:
                return
            self._bytes_in_flight -= length
            if isinstance(outcome, OSError):
                self._finish(chain, Result.IOERR)
            else:
                chain.scatter(0, outcome)
                self._finish(chain, Result.OK, length)
            self._serve()

        self.drive.read(sector * SECTOR, length, done)

    def _write(self, chain: Chain, sector: int) -> None:
        length = chain.readable_bytes - HEADER.size
        if self.drive.read_only or not self._within(sector, length):
            self._finish(chain, Result.IOERR)
            return
        generation = self.generation
        self._bytes_in_flight += length

        def done(outcome: OSError | None) -> None:
            if generation != self.generation:
                return
            self._bytes_in_flight -= length
            if outcome is None and not self._cached:
                self.drive.flush(self._answer(chain))
                return
            self._finish(chain, Result.OK if outcome is None else Result.IOERR)
            self._serve()

        self.drive.write(sector * SECTOR, chain.gather(HEADER.size, length), done)

    def _discard(self, chain: Chain) -> None:
        """Also for zeroes.  One bad range fails the request before any is done."""
        data = chain.gather(HEADER.size, RANGE.size * RANGES_MAX + 1)
        if not data or len(data) % RANGE.size or len(data) > RANGE.size * RANGES_MAX:
            self._finish(chain, Result.IOERR)
            return
        ranges = [(sector, sectors) for sector, sectors, _ in RANGE.iter_unpack(data) if sectors]
        if not all(n <= RANGE_SECTORS_MAX and self._on_disk(at, n) for at, n in ranges):
            self._finish(chain, Result.IOERR)
            return
        if not ranges:
            self._finish(chain, Result.OK)
        done = self._answer(chain, len(ranges))
        for sector, sectors in ranges:
            self.drive.discard(sector * SECTOR, sectors * SECTOR, done)

    def _answer(self, chain: Chain, parts: int = 1) -> Callable[[OSError | None], None]:
        """What a request without data is done with: after its last part, with the first error."""
        generation = self.generation
        outcomes: list[OSError | None] = []

        def done(outcome: OSError | None) -> None:
            outcomes.append(outcome)
            if generation != self.generation or len(outcomes) < parts:
                return
            self._finish(chain, Result.IOERR if any(outcomes) else Result.OK)
            self._serve()

        return done

    def _finish(self, chain: Chain, result: int, written: int = 0) -> None:
        """The status goes into the last byte the driver left for us to write."""
        chain.scatter(chain.writable_bytes - 1, bytes((result,)))
        self.queues[0].use(chain, written + 1)
        self._used = True

    def _within(self, sector: int, length: int) -> bool:
        """Whether a transfer can be made: whole sectors, not too many, all on the disk."""
        whole = length >= 0 and length % SECTOR == 0 and length <= REQUEST_MAX
        return whole and self._on_disk(sector, length // SECTOR)

    def _on_disk(self, sector: int, sectors: int) -> bool:
        return sector + sectors <= self.drive.size_bytes // SECTOR

    @property
    def _cached(self) -> bool:
        return self.has(Feature.FLUSH) and self.state.writeback
