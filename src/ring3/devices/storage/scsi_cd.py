"""CD and DVD drive: T10 MMC-6 over the targets of `scsi.py`; on ATAPI, AHCI and SCSI alike.

Section signs (§) are MMC-6's.  The medium is one data track in mode 1 with sectors of 2048 bytes; one that is
longer than a CD can be reports itself as a DVD-ROM.

The tray keeps its place over a reset, so a disc that an installer ejected before it restarts is not booted
again.  `insert` puts a medium in whatever the tray does, as a hand through the front would; the guest hears
of it as UNIT ATTENTION 28h and as an event.

Not modelled: audio (play commands answer that the track is data), recording, regions and copy protection,
changers, raw P–W subchannels.  READ CD returns EDC and ECC bytes as zeros.
"""

from collections.abc import Callable, Mapping
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

BLOCK = 2048                            # bytes
FRAMES_PER_S, LEAD_IN_FRAMES = 75, 150
CD_BLOCKS_MAX = 80 * 60 * FRAMES_PER_S
LEAD_OUT = 0xAA
SPEED_KB_S = 5540                       # CD 32×

CD_ROM, DVD_ROM = 0x0008, 0x0010        # profiles (§5.3.1)


class Event:  # media events (§6.6.2.5)
    NONE, EJECT_REQUEST, NEW_MEDIA, REMOVAL = range(4)


class Layout:  # which parts of a sector READ CD wants (§6.17.2.6)
    SYNC, HEADER, USER, EDC_ECC = 0x80, 0x20, 0x10, 0x08


@dataclass(slots=True)
class State(TargetState):
    """At its reset value; also the checkpoint record."""

    tray_open: bool = False
    event: int = Event.NONE             # not yet told by GET EVENT STATUS NOTIFICATION


def msf(lba: int) -> bytes:
    """Address on a CD as minute, second, frame; the first block is at 00:02:00."""
    frames = lba + LEAD_IN_FRAMES
    seconds, frame = divmod(frames, FRAMES_PER_S)
    minutes, second = divmod(seconds, 60)
    return bytes((min(minutes, 255), second, frame))


class ScsiCd(ScsiTarget):
    DEVICE_TYPE = 0x05
    PRODUCT = b"VIRTUAL CD-ROM  "
    REMOVABLE = True

    state: State

    def __init__(
        self, drive: Drive | None, serial_number: str = "0", on_eject: Callable[[], None] | None = None
    ) -> None:
        """`on_eject` hears of a tray that the guest opened."""
        super().__init__(drive, serial_number)
        self.on_eject = on_eject
        self.state = State()

    # --- the host's side ---

    @property
    def locked(self) -> bool:
        """The guest wants the medium to stay."""
        return self.state.locked

    def insert(self, drive: Drive | None) -> None:
        """Another medium, or none; the tray is closed then."""
        s = self.state
        had = self.drive is not None
        self.drive = drive
        s.tray_open = False
        if drive is not None:
            s.event = Event.NEW_MEDIA
            self.attend(Asc.MEDIUM_CHANGED)
        elif had:
            s.event = Event.REMOVAL

    def request_eject(self) -> bool:
        """The button at the front: opens the tray, or tells a guest that has locked it of the wish."""
        s = self.state
        if s.locked:
            s.event = Event.EJECT_REQUEST
            return False
        self._open_tray()
        return True

    def reset(self) -> None:
        self.restore(State(tray_open=self.state.tray_open))

    # --- medium ---

    @property
    def blocks(self) -> int:
        return -(-self.drive.size_bytes // BLOCK) if self.drive is not None else 0

    @property
    def present(self) -> bool:
        return self.drive is not None and not self.state.tray_open

    @property
    def profile(self) -> int:
        if not self.present:
            return 0
        return DVD_ROM if self.blocks > CD_BLOCKS_MAX else CD_ROM

    def ready_drive(self) -> Drive:
        if self.drive is None or self.state.tray_open:
            asc = Asc.NO_MEDIUM_TRAY_OPEN if self.state.tray_open else Asc.NO_MEDIUM_TRAY_CLOSED
            raise CheckCondition(Key.NOT_READY, asc)
        return self.drive

    def start_stop_unit(self, task: Task) -> Answer:
        action = task.cdb[4] & 0x03     # LoEj, Start
        if action == 2:
            if self.state.locked:
                raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.REMOVAL_PREVENTED)
            self._open_tray()
        elif action == 3 and self.state.tray_open:
            self.state.tray_open = False
            if self.drive is not None:
                self.state.event = Event.NEW_MEDIA
                self.attend(Asc.MEDIUM_CHANGED)
        return None

    def _open_tray(self) -> None:
        s = self.state
        if s.tray_open:
            return
        s.tray_open = True
        if self.drive is not None:
            s.event = Event.REMOVAL
        if self.on_eject is not None:
            self.on_eject()

    # --- reading ---

    def _start_read(self, task: Task, first: int, count: int, layout: int = Layout.USER) -> Answer:
        drive = self.ready_drive()
        if first + count > self.blocks:
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)
        if not count or not task.room or not layout:
            return None
        task.phase, task.layout, task.offset = Phase.READ, layout, first * BLOCK
        task.left = min(count * BLOCK, drive.size_bytes - task.offset)
        return STARTED

    def read(self, task: Task) -> Answer:
        cdb = task.cdb
        size = 4 if cdb[0] == Op.READ_12 else 2
        return self._start_read(task, number(cdb, 2, 4), number(cdb, 6 if size == 4 else 7, size))

    def read_cd(self, task: Task) -> Answer:
        cdb = task.cdb
        self._check_sector_type(cdb)
        return self._start_read(task, number(cdb, 2, 4), number(cdb, 6, 3), cdb[9] & 0xF8)

    def read_cd_msf(self, task: Task) -> Answer:
        cdb = task.cdb
        self._check_sector_type(cdb)
        first, last = (
            (cdb[at] * 60 + cdb[at + 1]) * FRAMES_PER_S + cdb[at + 2] - LEAD_IN_FRAMES for at in (3, 6)
        )
        if not 0 <= first <= last:
            raise invalid_field()
        return self._start_read(task, first, last - first, cdb[9] & 0xF8)

    def _check_sector_type(self, cdb: bytes) -> None:
        """Any type or mode 1 (§6.17.2.1); and no C2 errors or subchannels, which a good image has not."""
        if cdb[1] >> 2 & 7 not in (0, 2):
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.ILLEGAL_MODE_FOR_TRACK)
        if cdb[9] & 0x06 or cdb[10] & 0x07:
            raise invalid_field()

    def medium_data(self, task: Task, data: bytes) -> bytes:
        if len(data) % BLOCK:
            data += bytes(-len(data) % BLOCK)
        if task.layout == Layout.USER:
            return data
        first = -(-task.offset // BLOCK) - len(data) // BLOCK
        return b"".join(
            self._sector(first + n, data[n * BLOCK : (n + 1) * BLOCK], task.layout)
            for n in range(len(data) // BLOCK)
        )

    def _sector(self, lba: int, user: bytes, layout: int) -> bytes:
        """The parts of a mode 1 sector: sync, header, user data, EDC with 8 zeros and ECC."""
        parts = b""
        if layout & Layout.SYNC:
            parts += b"\0" + b"\xff" * 10 + b"\0"
        if layout & Layout.HEADER:
            parts += bytes(_bcd(value) for value in msf(lba)) + b"\1"
        if layout & Layout.USER:
            parts += user
        if layout & Layout.EDC_ECC:
            parts += bytes(288)
        return parts

    def read_capacity(self, task: Task) -> Answer:
        self.ready_drive()
        return (self.blocks - 1).to_bytes(4, "big") + BLOCK.to_bytes(4, "big")

    # --- what is on the disc ---

    def _address(self, lba: int, as_msf: int) -> bytes:
        return b"\0" + msf(lba) if as_msf else lba.to_bytes(4, "big")

    def read_toc(self, task: Task) -> Answer:
        """Formats 0 (tracks), 1 (sessions) and 2 (the lead-in's own), §6.26."""
        self.ready_drive()
        cdb = task.cdb
        as_msf, length = cdb[1] & 0x02, number(cdb, 7, 2)
        match cdb[2] & 0x0F or cdb[9] >> 6:     # old drives have the format in the control byte
            case 0:
                data = self._toc(as_msf, cdb[6])
            case 1:
                data = bytes((1, 1, 0, 0x14, 1, 0)) + self._address(0, as_msf)
            case 2:
                data = self._full_toc()
            case _:
                raise invalid_field()
        return (len(data).to_bytes(2, "big") + data)[:length]

    def _toc(self, as_msf: int, start: int) -> bytes:
        if start > 1 and start != LEAD_OUT:
            raise invalid_field()
        data = bytes((1, 1))            # first and last track
        if start <= 1:
            data += bytes((0, 0x14, 1, 0)) + self._address(0, as_msf)
        return data + bytes((0, 0x14, LEAD_OUT, 0)) + self._address(self.blocks, as_msf)

    def _full_toc(self) -> bytes:
        def entry(point: int, position: bytes) -> bytes:
            return bytes((1, 0x14, 0, point, 0, 0, 0, 0)) + position

        entries = entry(0xA0, b"\1\0\0") + entry(0xA1, b"\1\0\0") + entry(0xA2, msf(self.blocks))
        return bytes((1, 1)) + entries + entry(1, msf(0))

    def read_header(self, task: Task) -> Answer:
        self.ready_drive()
        lba = number(task.cdb, 2, 4)
        if lba >= self.blocks:
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)
        return (bytes((1, 0, 0, 0)) + self._address(lba, task.cdb[1] & 0x02))[: number(task.cdb, 7, 2)]

    def read_subchannel(self, task: Task) -> Answer:
        """Where an audio play stands: there is none (§6.25)."""
        self.ready_drive()
        cdb = task.cdb
        head = bytes((0, 0x15))
        if not cdb[2] & 0x40:           # SubQ
            return (head + bytes(2))[: number(cdb, 7, 2)]
        match cdb[3]:
            case 1:
                body = bytes((1, 0x14, 1, 1)) + self._address(0, cdb[1] & 2) * 2
            case 2 | 3:
                body = bytes((cdb[3], 0x14, 1, 0)) + bytes(16)
            case _:
                raise invalid_field()
        return (head + len(body).to_bytes(2, "big") + body)[: number(cdb, 7, 2)]

    def read_disc_information(self, task: Task) -> Answer:
        self.ready_drive()
        # Complete, last session complete, not erasable; one session, one track.
        data = bytes((0x0E, 1, 1, 1, 1, 0x20, 0, 0, 0, 0)) + bytes(4) + b"\xff" * 8 + bytes(10)
        return (len(data).to_bytes(2, "big") + data)[: number(task.cdb, 7, 2)]

    def read_track_information(self, task: Task) -> Answer:
        self.ready_drive()
        cdb = task.cdb
        where = number(cdb, 2, 4)
        known = {0: where < self.blocks, 1: where in (1, 0xFF), 2: where == 1}
        if not known.get(cdb[1] & 3, False):
            raise invalid_field()
        data = bytes((1, 1, 0, 0x04, 0x01, 0)) + bytes(16) + self.blocks.to_bytes(4, "big") + bytes(8)
        return (len(data).to_bytes(2, "big") + data)[: number(cdb, 7, 2)]

    def read_dvd_structure(self, task: Task) -> Answer:
        self.ready_drive()
        cdb = task.cdb
        if self.profile != DVD_ROM:
            raise CheckCondition(Key.ILLEGAL_REQUEST, 0x3002)   # cannot read medium, incompatible format
        if cdb[6]:                      # layer
            raise invalid_field()
        first = 0x3_0000
        match cdb[7]:
            case 0:                     # physical format: one layer, read-only, 120 mm
                last = first + self.blocks - 1
                data = bytes((0x01, 0x0F, 0x01, 0, 0)) + first.to_bytes(3, "big") + b"\0"
                data += last.to_bytes(3, "big") + bytes(2048 - 12)
            case 1:                     # copyright: none
                data = bytes(4)
            case 4:                     # disc manufacturing
                data = bytes(2048)
            case _:
                raise invalid_field()
        return ((len(data) + 2).to_bytes(2, "big") + bytes(2) + data)[: number(cdb, 8, 2)]

    # --- what the drive is ---

    def get_configuration(self, task: Task) -> Answer:
        cdb = task.cdb
        kind, start = cdb[1] & 3, number(cdb, 2, 2)
        body = b""
        for code, (current, data) in sorted(self._features().items()):
            wanted = code == start if kind == 2 else code >= start and (kind == 0 or current)
            if wanted:
                lasting = 3 if code in (0x0000, 0x0001, 0x0002, 0x0003, 0x0100, 0x0105) else int(current)
                version = 1 << 2 if code in (0x0001, 0x0002) else 0
                body += code.to_bytes(2, "big") + bytes((version | lasting, len(data))) + data
        head = (len(body) + 4).to_bytes(4, "big") + bytes(2) + self.profile.to_bytes(2, "big")
        return (head + body)[: number(cdb, 7, 2)]

    def _features(self) -> dict[int, tuple[bool, bytes]]:
        """Feature code → (current, its data), §5.3."""
        profile = self.profile
        profiles = b"".join(
            code.to_bytes(2, "big") + bytes((int(code == profile), 0)) for code in (DVD_ROM, CD_ROM)
        )
        return {
            0x0000: (True, profiles),
            0x0001: (True, bytes((0, 0, 0, 2, 1, 0, 0, 0))),    # core: ATAPI; DBE
            0x0002: (True, bytes((0x02, 0, 0, 0))),             # morphing: OCEvent
            0x0003: (True, bytes((0x39, 0, 0, 0))),             # removable medium: tray, eject, load, lock
            0x0010: (profile != 0, BLOCK.to_bytes(4, "big") + bytes((0, 1, 0, 0))),     # random readable
            0x001D: (True, b""),                                # multi-read
            0x001E: (profile == CD_ROM, bytes(4)),              # CD read
            0x001F: (profile == DVD_ROM, bytes(4)),             # DVD read
            0x0100: (True, b""),                                # power management
            0x0105: (True, bytes(4)),                           # timeout
        }

    def get_event_status(self, task: Task) -> Answer:
        """Polled only (§6.6): media and operational change events."""
        cdb = task.cdb
        if not cdb[1] & 1:
            raise invalid_field()
        supported = 0x10
        if not cdb[4] & supported:
            return bytes((0, 2, 0x80, supported))[: number(cdb, 7, 2)]      # NEA
        s = self.state
        event, s.event = s.event, Event.NONE
        status = (2 if self.present else 0) | int(s.tray_open)
        return bytes((0, 6, 4, supported, event, status, 0, 0))[: number(cdb, 7, 2)]

    def mechanism_status(self, task: Task) -> Answer:
        door = 0x10 if self.state.tray_open else 0
        return bytes((0, door, 0, 0, 0, 0, 0, 0))[: number(task.cdb, 8, 2)]

    def audio(self, task: Task) -> Answer:
        self.ready_drive()
        raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.ILLEGAL_MODE_FOR_TRACK)

    def stop_play(self, task: Task) -> Answer:
        self.ready_drive()
        return None

    def mode_header(self) -> tuple[int, int, bytes]:
        if self.state.tray_open:
            return 0x71, 0, b""
        if self.drive is None:
            return 0x70, 0, b""
        return 0x01, 0, b""             # 120 mm data disc

    def mode_pages(self, default: bool) -> dict[int, bytes]:
        lock = 0x02 if self.state.locked else 0
        speed = SPEED_KB_S.to_bytes(2, "big")
        return {
            0x01: bytes(10),                                    # error recovery
            0x0D: bytes((0, 0x0D, 0, 60, 0, 75)),               # CD: seconds a minute, frames a second
            0x0E: bytes((0x04, 0, 0, 0, 0, 75)) + bytes((1, 255, 2, 255)) + bytes(4),      # audio control
            0x1A: bytes(10),                                    # power condition
            0x1D: bytes(2) + (2).to_bytes(2, "big") + (30).to_bytes(2, "big") + (15).to_bytes(2, "big"),
            # Capabilities: reads CD-R, CD-RW, DVD-ROM; multi-session, mode 2; lock, eject, tray.
            0x2A: bytes((0x3B, 0, 0x70, 0x00, 0x29 | lock, 0)) + speed + bytes((0, 2)) + bytes((2, 0)) + speed
            + bytes(6),
        }

    COMMANDS: ClassVar[Mapping[int, Handler]] = {
        **COMMON,
        Op.READ_10: read,
        Op.READ_12: read,
        Op.READ_CD: read_cd,
        Op.READ_CD_MSF: read_cd_msf,
        Op.READ_CAPACITY_10: read_capacity,
        Op.READ_TOC: read_toc,
        Op.READ_HEADER: read_header,
        Op.READ_SUBCHANNEL: read_subchannel,
        Op.READ_DISC_INFORMATION: read_disc_information,
        Op.READ_TRACK_INFORMATION: read_track_information,
        Op.READ_DVD_STRUCTURE: read_dvd_structure,
        Op.GET_CONFIGURATION: get_configuration,
        Op.GET_EVENT_STATUS: get_event_status,
        Op.MECHANISM_STATUS: mechanism_status,
        Op.SET_CD_SPEED: ScsiTarget.accept,
        Op.VERIFY_10: ScsiTarget.test_unit_ready,
        Op.PAUSE_RESUME: audio,
        Op.STOP_PLAY: stop_play,
    }


def _bcd(value: int) -> int:
    return value // 10 % 10 << 4 | value % 10
