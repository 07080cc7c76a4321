"""SCSI targets: what disks and CD drives have in common, and how host adapters speak to them.

T10: SAM-3 (tasks, status, unit attention), SPC-3 (the commands here); SBC-3 and MMC-6 are in `scsi_disk.py`
and `scsi_cd.py`.  Section signs (§) are SPC-3's.  Command, field and sense names are the standards'.

An adapter (BusLogic, ATAPI, AHCI) makes a `Task` of each command and calls `execute`.  The target moves the
data through the adapter's `Initiator` face in chunks, so a command of any length takes bounded memory, and
ends with `complete`.  An adapter that cannot move a chunk at once (PIO) says so and calls `resume` later.

1. A task is plain data, so that it can stand in a checkpoint while it waits for the adapter.
2. Nothing comes of a task after `abort`: answers of the host that arrive late are dropped.
3. Sense data goes with `complete` (autosense) and stays for REQUEST SENSE until the next command.

Not modelled: logical units but 0, persistent reservations, mode pages saved, log pages, ACA, linked commands.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol

from ring3 import trace
from ring3.devices.face import Drive
from ring3.devices.storage.request import PENDING, ask

CHUNK = 256 * 1024                      # bytes moved at a time
PARAMETERS_MAX = 64 * 1024              # bytes of a parameter list
UNLIMITED = 1 << 62
DRIVE_VENDOR = b"RING3   "
REVISION = b"1.0 "


class Status:  # SAM-3 §5.3
    GOOD, CHECK_CONDITION, BUSY, RESERVATION_CONFLICT, TASK_ABORTED = 0x00, 0x02, 0x08, 0x18, 0x40


class Key:  # sense keys (§4.5.6)
    NO_SENSE, RECOVERED_ERROR, NOT_READY, MEDIUM_ERROR, HARDWARE_ERROR = range(5)
    ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT = range(5, 8)
    ABORTED_COMMAND, MISCOMPARE = 0x0B, 0x0E


class Asc:  # additional sense code and qualifier (annex D)
    NONE = 0x0000
    UNRECOVERED_READ, WRITE_ERROR, PARAMETER_LIST_LENGTH = 0x1100, 0x0C00, 0x1A00
    MISCOMPARE = 0x1D00
    INVALID_OPCODE, LBA_OUT_OF_RANGE, INVALID_FIELD_IN_CDB = 0x2000, 0x2100, 0x2400
    LUN_NOT_SUPPORTED, INVALID_FIELD_IN_PARAMETERS, WRITE_PROTECTED = 0x2500, 0x2600, 0x2700
    MEDIUM_CHANGED, RESET, SAVING_NOT_SUPPORTED = 0x2800, 0x2900, 0x3900
    NO_MEDIUM, NO_MEDIUM_TRAY_CLOSED, NO_MEDIUM_TRAY_OPEN = 0x3A00, 0x3A01, 0x3A02
    REMOVAL_PREVENTED, EJECT_REQUESTED = 0x5302, 0x5A01
    NOT_READY_STOPPED, ILLEGAL_MODE_FOR_TRACK = 0x0402, 0x6400


class Op:  # operation codes (§6, SBC-3 §5, MMC-6 §6)
    TEST_UNIT_READY, REQUEST_SENSE, FORMAT_UNIT, READ_6, WRITE_6 = 0x00, 0x03, 0x04, 0x08, 0x0A
    INQUIRY, MODE_SELECT_6, RESERVE_6, RELEASE_6, MODE_SENSE_6 = 0x12, 0x15, 0x16, 0x17, 0x1A
    START_STOP_UNIT, SEND_DIAGNOSTIC, PREVENT_ALLOW = 0x1B, 0x1D, 0x1E
    READ_CAPACITY_10, READ_10, WRITE_10, SEEK_10 = 0x25, 0x28, 0x2A, 0x2B
    WRITE_AND_VERIFY_10, VERIFY_10, SYNCHRONIZE_CACHE_10 = 0x2E, 0x2F, 0x35
    WRITE_SAME_10, UNMAP, READ_SUBCHANNEL, READ_TOC, READ_HEADER = 0x41, 0x42, 0x42, 0x43, 0x44
    GET_CONFIGURATION, GET_EVENT_STATUS, PAUSE_RESUME, STOP_PLAY = 0x46, 0x4A, 0x4B, 0x4E
    READ_DISC_INFORMATION, READ_TRACK_INFORMATION = 0x51, 0x52
    MODE_SELECT_10, MODE_SENSE_10 = 0x55, 0x5A
    READ_16, WRITE_16, WRITE_AND_VERIFY_16, VERIFY_16 = 0x88, 0x8A, 0x8E, 0x8F
    SYNCHRONIZE_CACHE_16, WRITE_SAME_16, SERVICE_ACTION_IN_16 = 0x91, 0x93, 0x9E
    REPORT_LUNS, READ_12, WRITE_12, READ_DVD_STRUCTURE = 0xA0, 0xA8, 0xAA, 0xAD
    WRITE_AND_VERIFY_12, VERIFY_12 = 0xAE, 0xAF
    READ_CD_MSF, SET_CD_SPEED, MECHANISM_STATUS, READ_CD = 0xB9, 0xBB, 0xBD, 0xBE


# Commands that neither report nor clear a unit attention (SAM-3 §5.9.7, MMC-6 §4.1.6).
ATTENTIVE = (Op.INQUIRY, Op.REQUEST_SENSE, Op.REPORT_LUNS, Op.GET_CONFIGURATION, Op.GET_EVENT_STATUS)


class Phase:
    """What a task waits for."""

    NEW, HOST, LAST_DATA, READ, WRITE, RANGES, PARAMETERS, DONE = range(8)


@dataclass(slots=True)
class Task:
    """One command on its way (SAM-3 §4.7)."""

    cdb: bytes = b""
    lun: int = 0
    room: int = UNLIMITED               # bytes that the adapter still takes or gives
    phase: int = Phase.NEW
    offset: int = 0                     # on the medium, bytes
    left: int = 0                       # bytes of the medium, or of parameters, still to come
    layout: int = 0                     # of a CD's sectors (READ CD)
    flush: bool = False                 # before it ends well
    verify: bool = False                # the data is compared, not written
    ranges: list[tuple[int, int]] = field(default_factory=list)     # (offset, bytes) to fill …
    pattern: bytes = b""                # … with this block; without one they are discarded
    aborted: bool = False


class Initiator(Protocol):
    """A host adapter's side of its tasks."""

    def data_in(self, task: Task, data: bytes) -> bool:
        """Takes bytes for the host.  False: `resume` will be called when it can take more."""

    def data_out(self, task: Task, length: int) -> bytes | memoryview | None:
        """That many bytes from the host; None: `resume` will bring them."""

    def complete(self, task: Task, status: int, sense: bytes) -> None:
        """The last of it; `sense` is empty with GOOD."""


class CheckCondition(Exception):  # noqa: N818
    """Out of a command's handler: ends the task with sense data.  Never leaves this module's targets."""

    def __init__(self, key: int, asc: int) -> None:
        super().__init__(key, asc)
        self.key = key
        self.asc = asc


class Started:
    """A handler's answer: the task goes on by itself."""


STARTED = Started()
Answer = bytes | Started | None         # data for the host; a transfer; nothing to say
Handler = Callable[[Any, Task], Answer]


def invalid_field() -> CheckCondition:
    return CheckCondition(Key.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)


def sense_data(key: int, asc: int) -> bytes:
    """Fixed format (§4.5.3)."""
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc >> 8, asc & 0xFF, 0, 0, 0, 0))


def number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def cdb_length(opcode: int) -> int:
    """By group (§4.3.4); vendor specific ones as 12."""
    return (6, 10, 10, 12, 16, 12, 12, 12)[opcode >> 5]


@dataclass(slots=True)
class TargetState:
    """What every target keeps; chips' records derive from it."""

    sense: bytes = b""                  # of the last command, for REQUEST SENSE
    attentions: list[int] = field(default_factory=lambda: [Asc.RESET])
    locked: bool = False                # PREVENT ALLOW MEDIUM REMOVAL


class ScsiTarget:
    """Logical unit 0 of a target; `COMMANDS` says which handler an operation code has."""

    DEVICE_TYPE = 0x1F
    PRODUCT = b""                       # 16 bytes
    REMOVABLE = False
    QUEUES = False                      # commands may be queued with tags
    COMMANDS: ClassVar[Mapping[int, Handler]] = {}

    state: Any                          # a TargetState

    def __init__(self, drive: Drive | None, serial_number: str) -> None:
        self.drive = drive
        self.serial_number = serial_number

    # --- the adapter's side ---

    def execute(self, task: Task, initiator: Initiator) -> None:
        """Starts a task; `cdb` may be longer than the command."""
        cdb = task.cdb = task.cdb.ljust(16, b"\0")
        try:
            answer = self._dispatch(task, cdb[0])
        except CheckCondition as condition:
            self._fail(task, initiator, condition.key, condition.asc)
            return
        if isinstance(answer, bytes):
            self._deliver(task, initiator, answer[: task.room])
        elif answer is None:
            self._succeed(task, initiator)
        else:
            self.resume(task, initiator)

    def resume(self, task: Task, initiator: Initiator, data: bytes | memoryview = b"") -> None:
        """The adapter can go on: it has room again, or brings `data`."""
        if task.aborted:
            return
        match task.phase:
            case Phase.LAST_DATA:
                self._succeed(task, initiator)
            case Phase.READ:
                self._read(task, initiator)
            case Phase.WRITE:
                self._write(task, initiator, data)
            case Phase.RANGES:
                self._fill(task, initiator)
            case Phase.PARAMETERS:
                self._take_parameters(task, initiator, data)

    def abort(self, task: Task) -> None:
        """Nothing more comes of it, `complete` neither."""
        task.aborted = True

    def reset(self) -> None:
        """Bus device reset, or power-on.  The adapter aborts its tasks."""
        self.restore(type(self.state)())

    def restore(self, state: Any) -> None:
        self.state = state

    def attend(self, asc: int) -> None:
        """A unit attention: the next command hears of it."""
        if asc not in self.state.attentions:
            self.state.attentions.append(asc)

    # --- commands ---

    def _dispatch(self, task: Task, opcode: int) -> Answer:
        s = self.state
        if task.lun and opcode not in (Op.INQUIRY, Op.REQUEST_SENSE, Op.REPORT_LUNS):
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.LUN_NOT_SUPPORTED)
        if opcode != Op.REQUEST_SENSE:
            s.sense = b""
        if s.attentions and opcode not in ATTENTIVE:
            raise CheckCondition(Key.UNIT_ATTENTION, s.attentions.pop(0))
        handler = self.COMMANDS.get(opcode)
        if handler is None:
            trace.odd("scsi", "command %02Xh is not implemented", opcode)
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.INVALID_OPCODE)
        return handler(self, task)

    def ready_drive(self) -> Drive:
        """The medium, or NOT READY."""
        if self.drive is None:
            raise CheckCondition(Key.NOT_READY, Asc.NO_MEDIUM)
        return self.drive

    def test_unit_ready(self, task: Task) -> Answer:
        self.ready_drive()
        return None

    def request_sense(self, task: Task) -> Answer:
        s = self.state
        if task.lun:
            data = sense_data(Key.ILLEGAL_REQUEST, Asc.LUN_NOT_SUPPORTED)
        elif s.sense:
            data = s.sense
        elif s.attentions:
            data = sense_data(Key.UNIT_ATTENTION, s.attentions.pop(0))
        else:
            data = sense_data(Key.NO_SENSE, Asc.NONE)
        s.sense = b""
        return data[: task.cdb[4]]

    def inquiry(self, task: Task) -> Answer:
        cdb = task.cdb
        if cdb[1] & 1:
            data = self.vital_product_data(cdb[2])
        elif cdb[2]:
            raise invalid_field()
        else:
            data = self.standard_inquiry()
        if task.lun:
            data = b"\x7f" + data[1:]   # no device can be there (§6.4.2)
        return data[: number(cdb, 3, 2)]

    def standard_inquiry(self) -> bytes:
        head = bytes((self.DEVICE_TYPE, 0x80 if self.REMOVABLE else 0, 0x05, 0x02, 31, 0, 0))
        return head + bytes((0x02 if self.QUEUES else 0,)) + DRIVE_VENDOR + self.PRODUCT + REVISION

    def vital_product_data(self, page: int) -> bytes:
        pages = self.vital_product_pages()
        if page == 0:
            body = bytes((0, *sorted(pages)))
        elif page in pages:
            body = pages[page]
        else:
            raise invalid_field()
        return bytes((self.DEVICE_TYPE, page)) + len(body).to_bytes(2, "big") + body

    def vital_product_pages(self) -> dict[int, bytes]:
        serial = self.serial_number.encode("ascii", "replace")[:20]
        name = DRIVE_VENDOR + serial
        return {0x80: serial, 0x83: bytes((0x02, 0x01, 0x00, len(name))) + name}

    def report_luns(self, task: Task) -> Answer:
        return (bytes((0, 0, 0, 8)) + bytes(12))[: number(task.cdb, 6, 4)]

    def start_stop_unit(self, task: Task) -> Answer:
        return None

    def prevent_allow(self, task: Task) -> Answer:
        self.state.locked = bool(task.cdb[4] & 1)
        return None

    def accept(self, task: Task) -> Answer:
        """RESERVE, RELEASE, SEEK and others that need no deed here."""
        return None

    def send_diagnostic(self, task: Task) -> Answer:
        if not task.cdb[1] & 0x04:      # only the self test
            raise invalid_field()
        return None

    # --- mode pages (§7.4) ---

    def mode_pages(self, default: bool) -> dict[int, bytes]:
        """Page code → what follows the length byte."""
        raise NotImplementedError

    def mode_changeable(self) -> dict[int, bytes]:
        """Masks of the bits that MODE SELECT may change, for the pages that have any."""
        return {}

    def mode_header(self) -> tuple[int, int, bytes]:
        """Medium type, device-specific parameter, block descriptor."""
        raise NotImplementedError

    def set_mode_page(self, page: int, body: bytes) -> None:
        """A page of MODE SELECT, changed only where `mode_changeable` lets it."""

    def mode_sense(self, task: Task) -> Answer:
        cdb = task.cdb
        page, control = cdb[2] & 0x3F, cdb[2] >> 6
        if control == 3:
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.SAVING_NOT_SUPPORTED)
        pages = self.mode_pages(default=control == 2)
        if (page != 0x3F and page not in pages) or cdb[3] not in (0x00, 0xFF):
            raise invalid_field()
        wanted = sorted(pages) if page == 0x3F else [page]
        masks = self.mode_changeable()
        body = b""
        for code in wanted:
            data = masks.get(code, bytes(len(pages[code]))) if control == 1 else pages[code]
            body += bytes((code, len(data))) + data
        medium, specific, descriptor = self.mode_header()
        if cdb[1] & 0x08:               # DBD
            descriptor = b""
        if cdb[0] == Op.MODE_SENSE_6:
            head = bytes((3 + len(descriptor) + len(body), medium, specific, len(descriptor)))
            return (head + descriptor + body)[: cdb[4]]
        length = 6 + len(descriptor) + len(body)
        head = length.to_bytes(2, "big") + bytes((medium, specific, 0, 0, 0, len(descriptor)))
        return (head + descriptor + body)[: number(cdb, 7, 2)]

    def mode_select(self, task: Task) -> Answer:
        cdb = task.cdb
        length = cdb[4] if cdb[0] == Op.MODE_SELECT_6 else number(cdb, 7, 2)
        if cdb[1] & 0x01:               # SP
            raise invalid_field()
        return self.want_parameters(task, length)

    def mode_selected(self, task: Task, data: bytes) -> None:
        short = task.cdb[0] == Op.MODE_SELECT_6
        head = 4 if short else 8
        if len(data) < head:
            raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.PARAMETER_LIST_LENGTH)
        at = head + (data[3] if short else number(data, 6, 2))
        pages, masks = self.mode_pages(default=False), self.mode_changeable()
        changes: list[tuple[int, bytes]] = []
        while at < len(data):
            page, length = data[at] & 0x3F, data[at + 1] if at + 1 < len(data) else 0
            body = data[at + 2 : at + 2 + length]
            if page not in pages or len(body) != len(pages[page]):
                raise CheckCondition(Key.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_PARAMETERS)
            mask = masks.get(page, bytes(length))
            bits = zip(pages[page], body, mask, strict=True)
            changes.append((page, bytes(old & ~m | new & m for old, new, m in bits)))
            at += 2 + length
        for page, body in changes:
            self.set_mode_page(page, body)

    # --- transfers ---

    def want_parameters(self, task: Task, length: int) -> Answer:
        """The command goes on in `parameters` once the adapter has brought so many bytes."""
        length = min(length, task.room, PARAMETERS_MAX)
        if not length:
            return None
        task.phase, task.left = Phase.PARAMETERS, length
        return STARTED

    def parameters(self, task: Task, data: bytes) -> Answer:
        """The rest of a command that wanted parameters."""
        if task.cdb[0] in (Op.MODE_SELECT_6, Op.MODE_SELECT_10):
            self.mode_selected(task, data)
        return None

    def medium_data(self, task: Task, data: bytes) -> bytes:
        """Bytes read from the medium as the command wants them."""
        return data

    def transfer_error(self, writing: bool) -> tuple[int, int]:
        return Key.MEDIUM_ERROR, Asc.WRITE_ERROR if writing else Asc.UNRECOVERED_READ

    def _deliver(self, task: Task, initiator: Initiator, data: bytes) -> None:
        task.phase = Phase.LAST_DATA
        if not data or initiator.data_in(task, data):
            self._succeed(task, initiator)

    def _take_parameters(self, task: Task, initiator: Initiator, data: bytes | memoryview) -> None:
        if not data:
            offered = initiator.data_out(task, task.left)
            if offered is None:
                return
            data = offered
        try:
            answer = self.parameters(task, bytes(data))
        except CheckCondition as condition:
            self._fail(task, initiator, condition.key, condition.asc)
            return
        if isinstance(answer, Started):
            self.resume(task, initiator)
        else:
            self._succeed(task, initiator)

    def _read(self, task: Task, initiator: Initiator) -> None:
        """Chunk by chunk, until all is moved or the adapter or the host's disk needs time."""
        while task.left:
            if self.drive is None:
                self._fail(task, initiator, Key.NOT_READY, Asc.NO_MEDIUM)
                return
            length = min(task.left, CHUNK)
            task.phase = Phase.HOST
            request = partial(self.drive.read, task.offset, length)
            answer = ask(request, partial(self._read_later, task, initiator))
            if answer is PENDING or not self._was_read(task, initiator, answer):
                return
        self._succeed(task, initiator)

    def _read_later(self, task: Task, initiator: Initiator, answer: bytes | OSError) -> None:
        if not task.aborted and self._was_read(task, initiator, answer):
            self._read(task, initiator)

    def _was_read(self, task: Task, initiator: Initiator, answer: bytes | OSError) -> bool:
        """Hands a chunk on; whether the adapter can take the next at once."""
        if isinstance(answer, OSError):
            self._fail(task, initiator, *self.transfer_error(writing=False))
            return False
        task.offset += len(answer)
        task.left -= len(answer)
        data = self.medium_data(task, answer)[: task.room]
        task.room -= len(data)
        if not task.room:
            task.left = 0
        task.phase = Phase.READ
        return initiator.data_in(task, data)

    def _write(self, task: Task, initiator: Initiator, data: bytes | memoryview) -> None:
        while task.left:
            if not data:
                task.phase = Phase.WRITE
                offered = initiator.data_out(task, min(task.left, CHUNK))
                if offered is None:
                    return
                data = offered
            if self.drive is None or not data:
                self._fail(task, initiator, Key.NOT_READY, Asc.NO_MEDIUM)
                return
            task.phase = Phase.HOST
            later = partial(self._written_later, task, initiator, data)
            if task.verify:
                answer = ask(partial(self.drive.read, task.offset, len(data)), later)
            else:
                answer = ask(partial(self.drive.write, task.offset, data), later)
            if answer is PENDING or not self._was_written(task, initiator, data, answer):
                return
            data = b""
        self._finish(task, initiator)

    def _written_later(
        self, task: Task, initiator: Initiator, data: bytes | memoryview, answer: bytes | OSError | None
    ) -> None:
        if not task.aborted and self._was_written(task, initiator, data, answer):
            self._write(task, initiator, b"")

    def _was_written(
        self, task: Task, initiator: Initiator, data: bytes | memoryview, answer: bytes | OSError | None
    ) -> bool:
        if isinstance(answer, OSError):
            self._fail(task, initiator, *self.transfer_error(writing=not task.verify))
            return False
        if answer is not None and answer != data:
            self._fail(task, initiator, Key.MISCOMPARE, Asc.MISCOMPARE)
            return False
        task.offset += len(data)
        task.left -= len(data)
        return True

    def _fill(self, task: Task, initiator: Initiator) -> None:
        while task.ranges:
            if self.drive is None:
                self._fail(task, initiator, Key.NOT_READY, Asc.NO_MEDIUM)
                return
            offset, length = task.ranges[0]
            if task.pattern:
                length = min(length, CHUNK)
                data = task.pattern * (length // len(task.pattern))
                request = partial(self.drive.write, offset, data)
            else:
                request = partial(self.drive.discard, offset, length)
            task.phase = Phase.HOST
            answer = ask(request, partial(self._filled_later, task, initiator, length))
            if answer is PENDING or not self._was_filled(task, initiator, length, answer):
                return
        self._finish(task, initiator)

    def _filled_later(self, task: Task, initiator: Initiator, length: int, answer: OSError | None) -> None:
        if not task.aborted and self._was_filled(task, initiator, length, answer):
            self._fill(task, initiator)

    def _was_filled(self, task: Task, initiator: Initiator, length: int, answer: OSError | None) -> bool:
        if answer is not None:
            self._fail(task, initiator, *self.transfer_error(writing=True))
            return False
        offset, left = task.ranges.pop(0)
        if left > length:
            task.ranges.insert(0, (offset + length, left - length))
        return True

    def _finish(self, task: Task, initiator: Initiator) -> None:
        """After the last write: what must be on stable storage is flushed."""
        if not task.flush or self.drive is None:
            self._succeed(task, initiator)
            return
        self.on_drive(task, initiator, self.drive.flush)

    def on_drive(
        self, task: Task, initiator: Initiator, request: Callable[[Callable[[OSError | None], None]], None]
    ) -> None:
        """One request that moves no data, and with it the end of the task."""
        task.phase = Phase.HOST

        def done(error: OSError | None) -> None:
            if task.aborted:
                return
            if error is not None:
                self._fail(task, initiator, *self.transfer_error(writing=True))
            else:
                self._succeed(task, initiator)

        request(done)

    # --- ends ---

    def _succeed(self, task: Task, initiator: Initiator) -> None:
        task.phase = Phase.DONE
        initiator.complete(task, Status.GOOD, b"")

    def _fail(self, task: Task, initiator: Initiator, key: int, asc: int) -> None:
        task.phase = Phase.DONE
        sense = sense_data(key, asc)
        self.state.sense = sense
        initiator.complete(task, Status.CHECK_CONDITION, sense)


COMMON: Mapping[int, Handler] = {
    Op.TEST_UNIT_READY: ScsiTarget.test_unit_ready,
    Op.REQUEST_SENSE: ScsiTarget.request_sense,
    Op.INQUIRY: ScsiTarget.inquiry,
    Op.REPORT_LUNS: ScsiTarget.report_luns,
    Op.START_STOP_UNIT: lambda target, task: target.start_stop_unit(task),
    Op.PREVENT_ALLOW: lambda target, task: target.prevent_allow(task),
    Op.SEND_DIAGNOSTIC: ScsiTarget.send_diagnostic,
    Op.RESERVE_6: ScsiTarget.accept,
    Op.RELEASE_6: ScsiTarget.accept,
    Op.SEEK_10: ScsiTarget.accept,
    Op.MODE_SENSE_6: ScsiTarget.mode_sense,
    Op.MODE_SENSE_10: ScsiTarget.mode_sense,
    Op.MODE_SELECT_6: ScsiTarget.mode_select,
    Op.MODE_SELECT_10: ScsiTarget.mode_select,
}
