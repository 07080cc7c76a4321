"""SCSI disk: T10 SBC-3 direct-access block device, over the targets of `scsi.py`.

Section signs (§) are SBC-3's.  Sectors have 512 bytes.  The write cache can be switched off by the caching
mode page, and then each write is flushed before it ends; FUA does the same for one.

Not modelled: protection information, defect lists (FORMAT UNIT changes nothing), READ LONG and WRITE LONG,
thresholds of thin provisioning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ring3.devices.face import Drive
from ring3.devices.storage.scsi import (
    COMMON,
    STARTED,
    Answer,
    Asc,
    CheckCondition,
    Handler,
    Key,
    Op,
    Phase,
    ScsiTarget,
    TargetState,
    Task,
    invalid_field,
    number,
)

BLOCK = 512                             # bytes
HEADS, SECTORS_PER_TRACK = 255, 63      # told in mode pages; no meaning here
WRITE_SAME_MAX = 1 << 22                # blocks, of one WRITE SAME or UNMAP
UNMAP_DESCRIPTORS_MAX = 255
FUA = 0x08
WCE = 0x04                              # caching page: write cache enabled
SERVICE_READ_CAPACITY_16 = 0x10

READS = (Op.READ_6, Op.READ_10, Op.READ_12, Op.READ_16)
WRITES = (Op.WRITE_6, Op.WRITE_10, Op.WRITE_12, Op.WRITE_16)
VERIFIED_WRITES = (Op.WRITE_AND_VERIFY_10, Op.WRITE_AND_VERIFY_12, Op.WRITE_AND_VERIFY_16)
VERIFIES = (Op.VERIFY_10, Op.VERIFY_12, Op.VERIFY_16)


@dataclass(slots=True)
class State(TargetState):
    """At its reset value; also the checkpoint record."""

    write_cache: bool = True


def extent(cdb: bytes) -> tuple[int, int]:
    """First block and number of blocks of a READ, WRITE or the like, by the group of its code."""
    match cdb[0] >> 5:
        case 0:
            return number(cdb, 1, 3) & 0x1F_FFFF, cdb[4] or 256
        case 5:
            return number(cdb, 2, 4), number(cdb, 6, 4)
        case 4:
            return number(cdb, 2, 8), number(cdb, 10, 4)
    return number(cdb, 2, 4), number(cdb, 7, 2)


class ScsiDisk(ScsiTarget):
    DEVICE_TYPE = 0x00
    PRODUCT = b"VIRTUAL DISK    "
    QUEUES = True

    state: State

    def __init__(self, drive: Drive, serial_number: str = "0") -> None:
        super().__init__(drive, serial_number)
        self.state = State()

    @property
    def blocks(self) -> int:
        return self.drive.size_bytes // BLOCK if self.drive is not None else 0

    # --- transfers ---

    def check_extent(self, first: int, count: int) -> None:
        if first + count > self.blocks:
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)

    def check_writable(self) -> None:
        if self.ready_drive().read_only:
            raise CheckCondition(Key.DATA_PROTECT, Asc.WRITE_PROTECTED)

    def _aim(self, task: Task, phase: int) -> bool:
        """Points the task at its blocks; whether there are any."""
        first, count = extent(task.cdb)
        self.check_extent(first, count)
        task.phase, task.offset, task.left = phase, first * BLOCK, count * BLOCK
        return count > 0

    def read(self, task: Task) -> Answer:
        self.ready_drive()
        if self._aim(task, Phase.READ) and task.room:
            return STARTED
        return None

    def write(self, task: Task) -> Answer:
        self.check_writable()
        some = self._aim(task, Phase.WRITE)
        task.left = min(task.left, task.room // BLOCK * BLOCK)
        fua = task.cdb[0] != Op.WRITE_6 and task.cdb[1] & FUA
        task.flush = bool(fua) or not self.state.write_cache or task.cdb[0] in VERIFIED_WRITES
        return STARTED if some and task.left else None

    def verify(self, task: Task) -> Answer:
        """Without BYTCHK the blocks are right if they can be read; a host's disk says so when it must."""
        self.ready_drive()
        some = self._aim(task, Phase.WRITE)
        check = task.cdb[1] >> 1 & 3
        if check == 0:
            return None
        if check != 1:
            raise invalid_field()
        task.verify = True
        task.left = min(task.left, task.room // BLOCK * BLOCK)
        return STARTED if some and task.left else None

    # --- the whole device ---

    def read_capacity_10(self, task: Task) -> Answer:
        if not task.cdb[8] & 1 and number(task.cdb, 2, 4):      # an address without PMI (§5.15)
            raise invalid_field()
        last = min(self.blocks - 1, 0xFFFF_FFFF)
        return last.to_bytes(4, "big") + BLOCK.to_bytes(4, "big")

    def service_action_in(self, task: Task) -> Answer:
        if task.cdb[1] & 0x1F != SERVICE_READ_CAPACITY_16:
            raise invalid_field()
        thin = 0xC000                   # LBPME, LBPRZ: unmapped blocks read as zeros
        head = (self.blocks - 1).to_bytes(8, "big") + BLOCK.to_bytes(4, "big")
        return (head + bytes(2) + thin.to_bytes(2, "big") + bytes(16))[: number(task.cdb, 10, 4)]

    def synchronize_cache(self, task: Task) -> Answer:
        task.flush = True
        task.phase = Phase.WRITE        # of nothing
        return STARTED

    def format_unit(self, task: Task) -> Answer:
        self.check_writable()
        if task.cdb[1] & 0x10:          # FMTDATA: a parameter list of four bytes at least
            return self.want_parameters(task, 4)
        return None

    def write_same(self, task: Task) -> Answer:
        """One block again and again; of zeros, or with UNMAP, it is a discard."""
        self.check_writable()
        first, count = extent(task.cdb)
        count = count or max(self.blocks - first, 0)
        self.check_extent(first, count)
        if count > WRITE_SAME_MAX or task.cdb[1] & 0x06:        # PBDATA, LBDATA: obsolete
            raise invalid_field()
        return self.want_parameters(task, BLOCK)

    def unmap(self, task: Task) -> Answer:
        self.check_writable()
        if task.cdb[1] & 1:             # ANCHOR
            raise invalid_field()
        return self.want_parameters(task, number(task.cdb, 7, 2))

    def parameters(self, task: Task, data: bytes) -> Answer:
        match task.cdb[0]:
            case Op.WRITE_SAME_10 | Op.WRITE_SAME_16:
                return self._write_same_block(task, data)
            case Op.UNMAP:
                return self._unmap_list(task, data)
        return super().parameters(task, data)

    def _write_same_block(self, task: Task, data: bytes) -> Answer:
        first, count = extent(task.cdb)
        count = count or max(self.blocks - first, 0)
        if len(data) < BLOCK:
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.PARAMETER_LIST_LENGTH)
        task.ranges = [(first * BLOCK, count * BLOCK)]
        task.phase = Phase.RANGES
        task.pattern = b"" if not any(data) else data
        return STARTED

    def _unmap_list(self, task: Task, data: bytes) -> Answer:
        ranges = []
        for at in range(8, min(8 + number(data, 2, 2), len(data)) - 15, 16):
            first, count = number(data, at, 8), number(data, at + 8, 4)
            self.check_extent(first, count)
            if count:
                ranges.append((first * BLOCK, count * BLOCK))
        if len(ranges) > UNMAP_DESCRIPTORS_MAX:
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_PARAMETERS)
        task.ranges = ranges
        task.phase = Phase.RANGES
        return STARTED

    # --- mode pages ---

    def mode_header(self) -> tuple[int, int, bytes]:
        drive = self.ready_drive()
        specific = (0x80 if drive.read_only else 0) | 0x10      # WP, DPOFUA
        count = min(self.blocks, 0xFFFF_FFFF)
        return 0, specific, count.to_bytes(4, "big") + BLOCK.to_bytes(4, "big")

    def mode_pages(self, default: bool) -> dict[int, bytes]:
        cylinders = min(max(self.blocks // (HEADS * SECTORS_PER_TRACK), 1), 0xFF_FFFF)
        cache = WCE if default or self.state.write_cache else 0
        return {
            0x01: bytes((0xC0, 3)) + bytes(8),                  # read-write error recovery: AWRE, ARRE
            0x03: bytes(8) + SECTORS_PER_TRACK.to_bytes(2, "big") + BLOCK.to_bytes(2, "big")
            + bytes((0, 1)) + bytes(4) + bytes((0x40, 0, 0, 0)),    # format device: HSEC
            0x04: cylinders.to_bytes(3, "big") + bytes((HEADS,)) + bytes(14) + (7200).to_bytes(2, "big")
            + bytes(2),                                         # rigid disk geometry
            0x08: bytes((cache,)) + bytes(17),                  # caching
            0x0A: bytes((0x02, 0x10)) + bytes(8),               # control: unrestricted reordering
        }

    def mode_changeable(self) -> dict[int, bytes]:
        return {0x08: bytes((WCE,)) + bytes(17)}

    def set_mode_page(self, page: int, body: bytes) -> None:
        if page == 0x08:
            self.state.write_cache = bool(body[0] & WCE)

    def vital_product_pages(self) -> dict[int, bytes]:
        most = WRITE_SAME_MAX.to_bytes(4, "big")
        descriptors, granularity = UNMAP_DESCRIPTORS_MAX.to_bytes(4, "big"), (8).to_bytes(4, "big")
        limits = bytes(16) + most + descriptors + granularity + bytes(4)
        return super().vital_product_pages() | {
            0xB0: limits + WRITE_SAME_MAX.to_bytes(8, "big") + bytes(20),
            0xB1: bytes((0, 1)) + bytes(58),                    # non-rotating
            0xB2: bytes((0, 0xE4, 0x02, 0)),                    # UNMAP and WRITE SAME; thin; LBPRZ
        }

    COMMANDS: ClassVar[Mapping[int, Handler]] = {
        **COMMON,
        **dict.fromkeys(READS, read),
        **dict.fromkeys((*WRITES, *VERIFIED_WRITES), write),
        **dict.fromkeys(VERIFIES, verify),
        Op.READ_CAPACITY_10: read_capacity_10,
        Op.SERVICE_ACTION_IN_16: service_action_in,
        Op.SYNCHRONIZE_CACHE_10: synchronize_cache,
        Op.SYNCHRONIZE_CACHE_16: synchronize_cache,
        Op.FORMAT_UNIT: format_unit,
        Op.WRITE_SAME_10: write_same,
        Op.WRITE_SAME_16: write_same,
        Op.UNMAP: unmap,
    }
