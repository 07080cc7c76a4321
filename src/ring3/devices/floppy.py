"""82077AA diskette controller, in its AT mode, with up to four drives.

Datasheet: Intel, "82077AA CHMOS Single-Chip Floppy Disk Controller", 290166.  Register, command and bit names
are the datasheet's; section signs (§) are its sections.  Data goes by DMA (channel 2 on a PC) or, after a
SPECIFY with ND, byte by byte through the FIFO.

A medium is an image of sectors of 512 bytes in one of the usual layouts (`MEDIA`); an image of any other size
is taken as the smallest of 1.44M and 2.88M that holds it, and reads as zeros after its end.  Drives have the
data rates of their type, so a system that tries rates finds what is in the drive, and a 40-cylinder medium
in an 80-cylinder drive has to be stepped over twice.  The change line is set by a change of the medium and
cleared by a step with a medium in the drive.

Time is hardly modelled: a step takes STEP_NS, whatever SPECIFY says, a command EXECUTION_NS, and a diskette
turns only to tell which sector READ ID sees.

Not modelled: scan commands, FM, deleted data marks (written as ordinary data), formatting in another layout
than the medium's, precompensation, tape drives, and the registers SRA and SRB, which the AT mode hides.

Sizes are bytes unless their name says otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ring3 import trace
from ring3.clock import Clock, Timer
from ring3.devices.face import Drive
from ring3.irq import IrqLine

SECTOR = 512
SIZE_CODE = 2                           # N of such sectors
STEP_NS = 100_000
EXECUTION_NS = 50_000
EMPTY_NS = 400_000_000                  # two turns without an address mark
TURN_NS = 200_000_000
FIFO_IDLE = 0x00                        # what a read finds when nothing is to be read


class Reg:                              # offsets (§2.1)
    SRA, SRB, DOR, TDR, MSR_DSR, FIFO, RESERVED, DIR_CCR = range(8)


class Dor:                              # digital output (§2.1.2)
    SELECT, NOT_RESET, DMA_GATE, MOTOR = 0x03, 0x04, 0x08, 0x10


class Msr:                              # main status (§2.1.5)
    BUSY, NON_DMA, DIO, RQM = 0x10, 0x20, 0x40, 0x80


DSR_RESET = 0x80
DSKCHG = 0x80                           # in DIR


class St0:                              # status registers (§5.2)
    SELECT, HEAD, EQUIPMENT, SEEK_END, ABNORMAL, INVALID = 0x03, 0x04, 0x10, 0x20, 0x40, 0x80
    READY_CHANGED = 0xC0


class St1:
    MISSING_MARK, NOT_WRITABLE, NO_DATA, OVERRUN, DATA_ERROR, END = 0x01, 0x02, 0x04, 0x10, 0x20, 0x80


class St2:
    WRONG_CYLINDER, DATA_ERROR, CONTROL_MARK = 0x10, 0x20, 0x40


class St3:
    HEAD, TWO_SIDES, TRACK0, ALWAYS, PROTECTED = 0x04, 0x08, 0x10, 0x20, 0x40


class Op:                               # commands, without their flags (§5.1)
    READ_TRACK, SPECIFY, SENSE_DRIVE, WRITE, READ, RECALIBRATE, SENSE_INTERRUPT = range(2, 9)
    WRITE_DELETED, READ_ID, READ_DELETED, FORMAT, DUMP_REGISTERS, SEEK, VERSION = 9, 10, 12, 13, 14, 15, 16
    PERPENDICULAR, CONFIGURE, LOCK, VERIFY = 18, 19, 20, 22


class Flag:                             # of the command byte
    CODE, SKIP, MFM, MULTITRACK = 0x1F, 0x20, 0x40, 0x80
    RELATIVE, INWARD, LOCK = 0x80, 0x40, 0x80


# Bytes of each command, and the flags it may have.
COMMANDS = {
    Op.READ_TRACK: (9, 0x40), Op.SPECIFY: (3, 0), Op.SENSE_DRIVE: (2, 0), Op.WRITE: (9, 0xC0),
    Op.READ: (9, 0xE0), Op.RECALIBRATE: (2, 0), Op.SENSE_INTERRUPT: (1, 0), Op.WRITE_DELETED: (9, 0xC0),
    Op.READ_ID: (2, 0x40), Op.READ_DELETED: (9, 0xE0), Op.FORMAT: (6, 0x40), Op.DUMP_REGISTERS: (1, 0),
    Op.SEEK: (3, 0xC0), Op.VERSION: (1, 0), Op.PERPENDICULAR: (2, 0), Op.CONFIGURE: (4, 0),
    Op.LOCK: (1, 0x80), Op.VERIFY: (9, 0xE0),
}  # fmt: skip
READS = (Op.READ, Op.READ_DELETED, Op.READ_TRACK)
WRITES = (Op.WRITE, Op.WRITE_DELETED)
TRANSFERS = (*READS, *WRITES, Op.VERIFY)
CHIP_VERSION = 0x90                     # 82077AA


class Config:                           # CONFIGURE's second byte (§5.2.7)
    THRESHOLD, NO_FIFO, IMPLIED_SEEK = 0x0F, 0x20, 0x40


class Stage:
    """Where the execution of a command is."""

    NONE, WAIT, READ, TO_HOST, FROM_HOST, WRITE = range(6)


# Data rates in kbit/s, by the two bits of DSR and CCR (§2.1.6).
RATES = (500, 300, 250, 1000)


@dataclass(frozen=True)
class Medium:
    """A diskette's layout."""

    cylinders: int
    heads: int
    sectors: int                        # of a track

    @property
    def size_bytes(self) -> int:
        return self.cylinders * self.heads * self.sectors * SECTOR

    @property
    def rate(self) -> int:
        """kbit/s at 300 turns a minute; 1.2M turns faster, which its drive allows for."""
        return 1000 if self.sectors > 24 else 500 if self.sectors > 10 else 250


MEDIA = {
    "160K": Medium(40, 1, 8),
    "180K": Medium(40, 1, 9),
    "320K": Medium(40, 2, 8),
    "360K": Medium(40, 2, 9),
    "720K": Medium(80, 2, 9),
    "1.2M": Medium(80, 2, 15),
    "1.44M": Medium(80, 2, 18),
    "1.68M": Medium(80, 2, 21),
    "1.72M": Medium(82, 2, 21),
    "2.88M": Medium(80, 2, 36),
}


def medium_of(size_bytes: int) -> Medium | None:
    """The layout of an image of that size; None: no diskette is that large."""
    exact = next((m for m in MEDIA.values() if m.size_bytes == size_bytes), None)
    usual = (MEDIA["1.44M"], MEDIA["2.88M"])
    return exact or next((m for m in usual if m.size_bytes >= size_bytes), None)


@dataclass(frozen=True)
class DriveType:
    cylinders: int
    rates: tuple[int, ...]              # kbit/s of the media it reads
    cmos: int                           # its number in CMOS byte 10h
    slow: int = 250                     # kbit/s that media of 250 have in it: 300 where it turns faster


DRIVE_TYPES = {
    "360K": DriveType(40, (250,), 1),
    "1.2M": DriveType(80, (250, 500), 2, slow=300),
    "720K": DriveType(80, (250,), 3),
    "1.44M": DriveType(80, (250, 500), 4),
    "2.88M": DriveType(80, (250, 500, 1000), 5),
}
BEYOND = 2                              # cylinders a head can go beyond its drive's last


def drive_type_for(size_bytes: int | None) -> str:
    """The drive that a medium of that size belongs in; 1.44M for none."""
    medium = medium_of(size_bytes) if size_bytes is not None else None
    if medium is None:
        return "1.44M"
    if medium.sectors == 15:
        return "1.2M"
    return "360K" if medium.cylinders == 40 else "2.88M" if medium.sectors > 24 else "1.44M"


class DmaChannel(Protocol):
    """What we need of a DMA controller."""

    @property
    def remaining(self) -> int: ...

    def request(self, level: bool) -> None: ...

    def to_memory(self, data: bytes) -> tuple[int, bool]: ...

    def from_memory(self, limit: int) -> tuple[bytes, bool]: ...


@dataclass(slots=True)
class FloppyState:
    """Where its head is, and what its change line shows, the controller keeps (`DriveState`)."""


class FloppyDrive:
    """One drive, and what is in it."""

    def __init__(self, kind: str, drive: Drive | None) -> None:
        """`kind`: of DRIVE_TYPES."""
        self.kind = kind
        self.type = DRIVE_TYPES[kind]
        self.locked = False             # a diskette can always be taken out
        self.on_change: Callable[[], None] | None = None        # the controller's
        self.state = FloppyState()
        self.drive: Drive | None = None
        self.medium: Medium | None = None
        self._fill(drive)

    def insert(self, drive: Drive | None) -> None:
        """Another medium, or none."""
        self._fill(drive)
        if self.on_change is not None:
            self.on_change()

    def _fill(self, drive: Drive | None) -> None:
        self.medium = medium_of(drive.size_bytes) if drive is not None else None
        self.drive = drive if self.medium is not None else None

    def reset(self) -> None:
        self.restore(FloppyState())

    def restore(self, state: FloppyState) -> None:
        self.state = state

    def track_of(self, cylinder: int) -> int:
        """The medium's cylinder under a head that stands at one of the drive's."""
        wide = self.medium is not None and self.medium.cylinders == 40 and self.type.cylinders == 80
        return cylinder // 2 if wide else cylinder

    def reads_at(self, rate: int) -> bool:
        """Whether the medium's bits come at that rate, in kbit/s."""
        if self.medium is None or self.medium.rate not in self.type.rates:
            return False
        return rate == (self.type.slow if self.medium.rate == 250 else self.medium.rate)

    @property
    def read_only(self) -> bool:
        return self.drive is not None and self.drive.read_only


@dataclass(slots=True)
class DriveState:
    """One drive as the controller left it."""

    cylinder: int = 0                   # where the head is
    present_cylinder: int = 0           # where the controller thinks it is (PCN)
    changed: bool = True                # the change line
    pending: int = -1                   # ST0 that SENSE INTERRUPT will tell, or none
    target: int = -1                    # of a seek under way, or none
    arrives_ns: int = 0
    failed: bool = False                # that seek: no track 0 found


@dataclass(slots=True)
class Execution:
    """The command that is being executed: all that a checkpoint needs to go on."""

    stage: int = Stage.NONE
    starts_ns: int = 0
    head: int = 0
    sector: int = 0                     # the next one
    count: int = 0                      # sectors asked of the drive at once
    done: int = 0                       # sectors so far
    ended: bool = False                 # TC came
    buffer: bytearray = field(default_factory=bytearray)    # on its way between host and drive


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    dor: int = 0
    tdr: int = 0
    rate: int = 2                       # bits of DSR and CCR
    command: bytearray = field(default_factory=bytearray)   # bytes so far, or of what is executed
    result: bytearray = field(default_factory=bytearray)    # bytes not read yet
    interrupt: bool = False
    specify: list[int] = field(default_factory=lambda: [0, 0])
    config: int = Config.NO_FIFO
    precompensation_track: int = 0
    perpendicular: int = 0
    locked: bool = False
    last_sectors: int = 0               # EOT of the last transfer, for DUMPREG
    drives: list[DriveState] = field(default_factory=lambda: [DriveState() for _ in range(4)])
    execution: Execution = field(default_factory=Execution)


class I82077AA:
    def __init__(
        self, clock: Clock, irq: IrqLine, dma: DmaChannel, drives: Sequence[FloppyDrive | None]
    ) -> None:
        """`drives`: up to four, None where there is no drive."""
        self._clock = clock
        self._irq = irq
        self._dma = dma
        self._drives = [*drives, None, None, None, None][:4]
        self._generation = 0            # answers of drives from before a reset are dropped
        self._timer = Timer(clock, self._tick)
        self.state = State()
        for number, drive in enumerate(self._drives):
            if drive is not None:
                drive.on_change = self._change_of(number)

    # --- registers ---

    def read(self, offset: int) -> int:
        s = self.state
        match offset:
            case Reg.DOR:
                return s.dor
            case Reg.TDR:
                return s.tdr
            case Reg.MSR_DSR:
                return self._main_status()
            case Reg.FIFO:
                return self._read_fifo()
            case Reg.DIR_CCR:
                number = s.dor & Dor.SELECT
                return DSKCHG if self._drives[number] is not None and s.drives[number].changed else 0
        return 0xFF

    def write(self, offset: int, value: int) -> None:
        s = self.state
        match offset:
            case Reg.DOR:
                self._write_dor(value)
            case Reg.TDR:
                s.tdr = value & 0x03
            case Reg.MSR_DSR:
                s.rate = value & 0x03
                if value & DSR_RESET and s.dor & Dor.NOT_RESET:
                    self._enter_reset()
                    self._leave_reset()
            case Reg.FIFO:
                self._write_fifo(value)
            case Reg.DIR_CCR:
                s.rate = value & 0x03
            case _:
                trace.odd("floppy", "write of %02Xh to register %d", value, offset)
        self._update_irq()

    def _write_dor(self, value: int) -> None:
        before, self.state.dor = self.state.dor, value
        if not value & Dor.NOT_RESET:
            self._enter_reset()
        elif not before & Dor.NOT_RESET:
            self._leave_reset()

    def _main_status(self) -> int:
        s = self.state
        if not s.dor & Dor.NOT_RESET:
            return 0
        seeking = sum(1 << n for n, d in enumerate(s.drives) if d.target >= 0)
        if s.result:
            return seeking | Msr.RQM | Msr.DIO | Msr.BUSY
        stage = s.execution.stage
        if stage == Stage.NONE:
            return seeking | Msr.RQM | (Msr.BUSY if s.command else 0)
        status = seeking | Msr.BUSY | (Msr.NON_DMA if self._non_dma else 0)
        if stage == Stage.TO_HOST:
            return status | Msr.RQM | Msr.DIO
        return status | Msr.RQM if stage == Stage.FROM_HOST else status

    @property
    def _non_dma(self) -> bool:
        return bool(self.state.specify[1] & 1)

    # --- resets ---

    def _enter_reset(self) -> None:
        s = self.state
        self._generation += 1
        s.command.clear()
        s.result.clear()
        s.interrupt = False
        s.execution = Execution()
        for drive in s.drives:
            drive.pending = drive.target = -1
        self._dma.request(False)
        self._arm()

    def _leave_reset(self) -> None:
        """The chip says that all four drives became ready (§6.5).

        Linux turns polling off and waits for this interrupt after each reset all the same.
        """
        s = self.state
        if not s.locked:
            s.config = s.config & ~(Config.THRESHOLD | Config.NO_FIFO) | Config.NO_FIFO
            s.precompensation_track = 0
        s.interrupt = True
        for number, drive in enumerate(s.drives):
            drive.pending = St0.READY_CHANGED | number

    def reset(self) -> None:
        """The RESET pin; heads, media and their change lines stay as they are."""
        drives = [DriveState(d.cylinder, changed=d.changed) for d in self.state.drives]
        self.restore(State(drives=drives))

    def restore(self, state: State) -> None:
        """What a drive was asked for is asked again."""
        self._generation += 1
        self.state = state
        self._arm()
        match state.execution.stage:
            case Stage.READ:
                self._ask_to_read()
            case Stage.WRITE:
                self._ask_to_write()
        self._update_irq()

    def _update_irq(self) -> None:
        s = self.state
        waits = s.execution.stage in (Stage.TO_HOST, Stage.FROM_HOST)
        self._irq.set(bool(s.dor & Dor.DMA_GATE) and (s.interrupt or waits))

    # --- media ---

    def _change_of(self, number: int) -> Callable[[], None]:
        def changed() -> None:
            self.state.drives[number].changed = True

        return changed

    # --- the FIFO: command bytes in, data both ways, result bytes out ---

    def _write_fifo(self, value: int) -> None:
        s = self.state
        if not s.dor & Dor.NOT_RESET or s.result:
            trace.odd("floppy", "write of %02Xh to the FIFO, which takes none", value)
            return
        if s.execution.stage == Stage.FROM_HOST:
            s.execution.buffer.append(value)
            if len(s.execution.buffer) == self._expected():
                self._got_from_host()
            return
        if s.execution.stage != Stage.NONE:
            trace.odd("floppy", "write of %02Xh to the FIFO while a command is executed", value)
            return
        s.command.append(value)
        length, flags = COMMANDS.get(s.command[0] & Flag.CODE, (1, -1))
        if flags < 0 or s.command[0] & ~Flag.CODE & ~flags:
            trace.odd("floppy", "command %02Xh is not implemented", s.command[0])
            self._answer(St0.INVALID)
        elif len(s.command) == length:
            self._execute(s.command[0] & Flag.CODE)

    def _read_fifo(self) -> int:
        s = self.state
        if s.execution.stage == Stage.TO_HOST:
            value = s.execution.buffer.pop(0)
            if not s.execution.buffer:
                self._host_took_all()
            self._update_irq()
            return value
        if not s.result:
            return FIFO_IDLE
        s.interrupt = False
        self._update_irq()
        return s.result.pop(0)

    def _answer(self, *result: int) -> None:
        """The result phase, of commands that don't interrupt for it."""
        self.state.command.clear()
        self.state.result[:] = bytes(result)

    # --- commands that are done at once ---

    def _execute(self, code: int) -> None:
        s = self.state
        command = bytes(s.command)
        if code in TRANSFERS or code in (Op.FORMAT, Op.READ_ID):
            self._begin(code, command)
            return
        s.command.clear()
        match code:
            case Op.SPECIFY:
                s.specify = [command[1], command[2]]
            case Op.SENSE_DRIVE:
                self._answer(self._st3(command[1]))
            case Op.SENSE_INTERRUPT:
                self._sense_interrupt()
            case Op.RECALIBRATE:
                self._seek(command[1] & St0.SELECT, 0, recalibrate=True)
            case Op.SEEK:
                self._seek(command[1] & St0.SELECT, self._seek_target(command))
            case Op.DUMP_REGISTERS:
                self._answer(*self._registers())
            case Op.VERSION:
                self._answer(CHIP_VERSION)
            case Op.PERPENDICULAR:
                # Bits 5:2 change only when the top bit lets them (§5.2.8).
                keep = 0 if command[1] & 0x80 else 0x3C
                s.perpendicular = s.perpendicular & keep | command[1] & ~keep & 0x3F
            case Op.CONFIGURE:
                s.config, s.precompensation_track = command[2] & 0x7F, command[3]
            case Op.LOCK:
                s.locked = bool(command[0] & Flag.LOCK)
                self._answer(0x10 if s.locked else 0)

    def _st3(self, select: int) -> int:
        number = select & St0.SELECT
        drive, state = self._drives[number], self.state.drives[number]
        status = select & (St0.SELECT | St3.HEAD) | St3.ALWAYS | St3.TWO_SIDES
        if drive is not None:
            status |= St3.TRACK0 if state.cylinder == 0 else 0
            status |= St3.PROTECTED if drive.read_only else 0
        return status

    def _registers(self) -> bytes:
        s = self.state
        cylinders = bytes(d.present_cylinder & 0xFF for d in s.drives)
        lock = 0x80 if s.locked else 0
        rest = (*s.specify, s.last_sectors, lock | s.perpendicular, s.config, s.precompensation_track)
        return cylinders + bytes(rest)

    def _sense_interrupt(self) -> None:
        s = self.state
        s.interrupt = False
        number = next((n for n, d in enumerate(s.drives) if d.pending >= 0), None)
        if number is None:
            self._answer(St0.INVALID)
            return
        drive = s.drives[number]
        status, drive.pending = drive.pending, -1
        # After a reset one interrupt stands for all four drives; each seek has its own.
        s.interrupt = any(d.pending & St0.SEEK_END for d in s.drives if d.pending >= 0)
        self._answer(status, drive.present_cylinder & 0xFF)

    # --- seeks ---

    def _seek_target(self, command: bytes) -> int:
        if not command[0] & Flag.RELATIVE:
            return command[2]
        here = self.state.drives[command[1] & St0.SELECT].present_cylinder
        return max(here + command[2] if command[0] & Flag.INWARD else here - command[2], 0)

    def _seek(self, number: int, target: int, *, recalibrate: bool = False) -> None:
        state, drive = self.state.drives[number], self._drives[number]
        # Recalibrating steps outward until the drive says track 0, 79 times at most.
        state.failed = recalibrate and (drive is None or state.cylinder > 79)
        steps = state.cylinder if recalibrate else abs(target - state.present_cylinder)
        state.target = target
        state.arrives_ns = self._clock.now() + EXECUTION_NS + steps * STEP_NS
        self._arm()

    def _arrive(self, number: int) -> None:
        state = self.state.drives[number]
        status = St0.SEEK_END | number
        if state.failed:
            status |= St0.ABNORMAL | St0.EQUIPMENT
        self._move(number, max(state.cylinder - 79, 0) if state.failed else state.target)
        state.present_cylinder = state.target
        state.target, state.pending = -1, status
        self.state.interrupt = True

    def _move(self, number: int, target: int) -> None:
        """The head goes to a cylinder, or as far as its drive lets it."""
        state, drive = self.state.drives[number], self._drives[number]
        if drive is None:
            return
        target = min(target, drive.type.cylinders - 1 + BEYOND)
        if target != state.cylinder and drive.medium is not None:
            state.changed = False
        state.cylinder = target

    # --- time ---

    def _arm(self) -> None:
        s = self.state
        times = [d.arrives_ns for d in s.drives if d.target >= 0]
        if s.execution.stage == Stage.WAIT:
            times.append(s.execution.starts_ns)
        if times:
            self._timer.arm(min(times))
        else:
            self._timer.cancel()

    def _tick(self) -> None:
        s, now = self.state, self._clock.now()
        for number, drive in enumerate(s.drives):
            if drive.target >= 0 and drive.arrives_ns <= now:
                self._arrive(number)
        if s.execution.stage == Stage.WAIT and s.execution.starts_ns <= now:
            self._transfer()
        self._arm()
        self._update_irq()

    # --- transfers: command = code, head and drive, C, H, R, N, EOT, GPL, DTL ---

    def _begin(self, code: int, command: bytes) -> None:
        s = self.state
        number = command[1] & St0.SELECT
        if code in TRANSFERS:
            if s.config & Config.IMPLIED_SEEK:
                self._move(number, command[2])
                s.drives[number].present_cylinder = command[2]
            s.last_sectors = command[6]
        sector = command[4] if code in TRANSFERS and code != Op.READ_TRACK else 1
        wait = EXECUTION_NS if self._drive_turns(number) else EMPTY_NS
        s.execution = Execution(
            Stage.WAIT, self._clock.now() + wait, head=command[1] >> 2 & 1, sector=sector
        )
        self._dma.request(not self._non_dma)
        self._arm()

    def _drive_turns(self, number: int) -> bool:
        drive = self._drives[number]
        motor = self.state.dor & Dor.MOTOR << number
        return drive is not None and drive.medium is not None and bool(motor)

    def _transfer(self) -> None:
        """The next sectors of the command, or its end."""
        s = self.state
        code = s.command[0] & Flag.CODE
        if code == Op.READ_ID:
            self._read_id()
        elif code == Op.FORMAT:
            self._format()
        else:
            errors = self._find_sector()
            if errors is not None:
                self._finish(*errors)
                return
            s.execution.count = self._sectors_at_once()
            if code in WRITES:
                self._take_from_host(s.execution.count * SECTOR)
            else:
                self._ask_to_read()

    def _find_track(self) -> tuple[int, int] | None:
        """ST1 and ST2 when there are no sectors under the head, or they can't be read at this rate."""
        s, e = self.state, self.state.execution
        number = s.command[1] & St0.SELECT
        drive = self._drives[number]
        if drive is None or drive.medium is None or not self._drive_turns(number):
            return St1.MISSING_MARK, 0
        track = drive.track_of(s.drives[number].cylinder)
        readable = drive.reads_at(RATES[s.rate]) and s.command[0] & Flag.MFM
        if not readable or e.head >= drive.medium.heads or track >= drive.medium.cylinders:
            return St1.MISSING_MARK, 0
        return None

    def _find_sector(self) -> tuple[int, int] | None:
        """ST1 and ST2 when the next sector can't be found, or may not be written."""
        errors = self._find_track()
        if errors is not None:
            return errors
        s, e = self.state, self.state.execution
        drive, medium, cylinder = self._fitted()
        if s.command[0] & Flag.CODE in WRITES and drive.read_only:
            return St1.NOT_WRITABLE, 0
        if s.command[2] != cylinder:
            return St1.NO_DATA, St2.WRONG_CYLINDER
        first_head = s.command[1] >> 2 & 1
        right_id = s.command[3] & 1 == first_head and s.command[3] < 2 and s.command[5] == SIZE_CODE
        if not right_id or not 1 <= e.sector <= medium.sectors:
            return St1.NO_DATA, 0
        return None

    def _fitted(self) -> tuple[FloppyDrive, Medium, int]:
        """Drive and medium of the command, and the medium's cylinder under the head; after _find_track."""
        number = self.state.command[1] & St0.SELECT
        drive = self._drives[number]
        assert drive is not None
        assert drive.medium is not None
        return drive, drive.medium, drive.track_of(self.state.drives[number].cylinder)

    def _sectors_at_once(self) -> int:
        """How many sectors from the next one on are moved at once: to the end of the track at most."""
        s, e = self.state, self.state.execution
        code = s.command[0] & Flag.CODE
        if self._non_dma and code != Op.VERIFY:
            return 1
        _, medium, _ = self._fitted()
        last = min(self._last_sector(), medium.sectors)
        left = last - e.sector + 1
        if code == Op.VERIFY:
            return min(left, (s.command[8] or 256) - e.done) if s.command[1] & 0x80 else left
        if code == Op.READ_DELETED:
            return 1
        return min(left, -(-self._dma.remaining // SECTOR))

    def _last_sector(self) -> int:
        """EOT; one that lies before the first sector is never met."""
        s = self.state
        return s.command[6] if s.command[6] >= s.execution.sector else 255

    def _offset(self) -> int:
        _, medium, cylinder = self._fitted()
        e = self.state.execution
        return ((cylinder * medium.heads + e.head) * medium.sectors + e.sector - 1) * SECTOR

    def _go_on(self) -> None:
        """After `count` sectors: the next ones, on the other side even, or the end of the command."""
        s, e = self.state, self.state.execution
        code = s.command[0] & Flag.CODE
        if code == Op.FORMAT:
            self._finish(0)
            return
        last = self._last_sector()
        e.sector += e.count
        e.done += e.count
        if e.ended:
            self._finish(0)
        elif code == Op.READ_DELETED:
            self._finish(0, St2.CONTROL_MARK)           # what is there is not deleted
        elif code == Op.VERIFY and s.command[1] & 0x80 and e.done >= (s.command[8] or 256):
            self._finish(0)
        elif e.sector <= last:
            self._transfer()
        elif s.command[0] & Flag.MULTITRACK and e.head == 0:
            e.head, e.sector = 1, 1
            self._transfer()
        else:
            self._finish(0 if code == Op.VERIFY else St1.END)

    def _finish(self, st1: int, st2: int = 0) -> None:
        """The result phase of a transfer: ST0–ST2 and the ID of the sector after the last one."""
        s, e = self.state, self.state.execution
        bad = st1 or st2 & St2.WRONG_CYLINDER
        st0 = (St0.ABNORMAL if bad else 0) | s.command[1] & St0.SELECT | (St0.HEAD if e.head else 0)
        if s.command[0] & Flag.CODE in TRANSFERS:
            cylinder, head, sector, size = s.command[2], s.command[3] & ~1 | e.head, e.sector, s.command[5]
            if sector > s.command[6] and e.done:
                sector = 1
                if not s.command[0] & Flag.MULTITRACK:
                    cylinder += 1
                elif e.head:
                    cylinder, head = cylinder + 1, head & ~1
                else:
                    head |= 1
            identity = (cylinder & 0xFF, head, sector & 0xFF, size)
        else:
            identity = self._identity()
        self._end(st0, st1, st2, *identity)

    def _end(self, *result: int) -> None:
        s = self.state
        s.execution = Execution()
        self._dma.request(False)
        self._irq.set(False)            # a new interrupt, also where the FIFO's was up for data
        self._answer(*result)
        s.interrupt = True
        self._update_irq()

    def _identity(self) -> tuple[int, int, int, int]:
        """C, H, R and N of the sector that comes by now."""
        number = self.state.command[1] & St0.SELECT
        drive = self._drives[number]
        head = self.state.execution.head
        if drive is None or drive.medium is None:
            return 0, head, 1, SIZE_CODE
        turned = self._clock.now() % TURN_NS
        sector = turned * drive.medium.sectors // TURN_NS + 1
        return drive.track_of(self.state.drives[number].cylinder), head, sector, SIZE_CODE

    def _read_id(self) -> None:
        errors = self._find_track()
        self._finish(*(errors or (0, 0)))

    def _source(self) -> Drive | None:
        """The image to ask; None ended the command: the medium was taken out meanwhile."""
        errors = self._find_track()
        if errors is not None:
            self._finish(*errors)
            return None
        return self._fitted()[0].drive

    # --- from the medium to the host ---

    def _ask_to_read(self) -> None:
        e = self.state.execution
        e.stage = Stage.READ
        source = self._source()
        if source is None:
            return
        generation, offset, length = self._generation, self._offset(), e.count * SECTOR
        there = max(min(length, source.size_bytes - offset), 0)

        def done(outcome: bytes | OSError) -> None:
            if generation == self._generation:
                self._was_read(outcome, length)
                self._update_irq()

        if there:
            source.read(offset, there, done)
        else:
            done(b"")

    def _was_read(self, outcome: bytes | OSError, length: int) -> None:
        s, e = self.state, self.state.execution
        if isinstance(outcome, OSError):
            self._finish(St1.DATA_ERROR, St2.DATA_ERROR)
            return
        data = outcome.ljust(length, b"\0")
        if s.command[0] & Flag.CODE == Op.VERIFY:
            self._go_on()
        elif self._non_dma:
            e.stage = Stage.TO_HOST
            e.buffer[:] = data
        else:
            taken, e.ended = self._dma.to_memory(data)
            if taken < len(data) and not e.ended:
                self._finish(St1.OVERRUN)
            else:
                e.count = -(-taken // SECTOR)
                self._go_on()

    def _host_took_all(self) -> None:
        self.state.execution.stage = Stage.WAIT
        self._go_on()

    # --- from the host to the medium ---

    def _expected(self) -> int:
        """Bytes that the host has to bring without DMA."""
        s = self.state
        return 4 * s.command[3] if s.command[0] & Flag.CODE == Op.FORMAT else s.execution.count * SECTOR

    def _take_from_host(self, length: int) -> None:
        e = self.state.execution
        if self._non_dma:
            e.stage = Stage.FROM_HOST
            e.buffer.clear()
            return
        data, e.ended = self._dma.from_memory(length)
        if len(data) < length and not e.ended:
            self._finish(St1.OVERRUN)
            return
        e.buffer[:] = data
        self._got_from_host()

    def _got_from_host(self) -> None:
        s, e = self.state, self.state.execution
        if s.command[0] & Flag.CODE == Op.FORMAT:
            self._format_track()
            return
        e.count = -(-len(e.buffer) // SECTOR)
        e.buffer += bytes(e.count * SECTOR - len(e.buffer))     # TC in a sector: the rest is zeros
        self._ask_to_write()

    def _ask_to_write(self) -> None:
        e = self.state.execution
        e.stage = Stage.WRITE
        source = self._source()
        if source is None:
            return
        if source.read_only:            # another medium than the one that was checked
            self._finish(St1.NOT_WRITABLE)
            return
        generation, offset = self._generation, self._offset()
        data = bytes(e.buffer)[: max(source.size_bytes - offset, 0)]
        whole = len(data) == len(e.buffer)

        def done(outcome: OSError | None) -> None:
            if generation == self._generation:
                if outcome is not None or not whole:
                    self._finish(St1.DATA_ERROR, St2.DATA_ERROR)
                else:
                    self._go_on()
                self._update_irq()

        if data:
            source.write(offset, data, done)
        else:
            done(None)

    # --- FORMAT: command = code, head and drive, N, SC, GPL, D ---

    def _format(self) -> None:
        s = self.state
        errors = self._find_track()
        if errors is not None:
            self._finish(*errors)
        elif self._fitted()[0].read_only:
            self._finish(St1.NOT_WRITABLE)
        elif not s.command[3]:
            self._finish(0)
        else:
            self._take_from_host(4 * s.command[3])

    def _format_track(self) -> None:
        """The host gave C, H, R and N of each sector: fills them, if they are the medium's."""
        s, e = self.state, self.state.execution
        errors = self._find_track()
        if errors is not None:
            self._finish(*errors)
            return
        _, medium, cylinder = self._fitted()
        ids = {tuple(e.buffer[at : at + 4]) for at in range(0, len(e.buffer) - 3, 4)}
        if ids != {(cylinder, e.head, n, SIZE_CODE) for n in range(1, medium.sectors + 1)}:
            trace.odd("floppy", "format with another layout than the medium's")
            self._finish(St1.NOT_WRITABLE)
            return
        e.sector, e.count = 1, medium.sectors
        e.buffer[:] = bytes((s.command[5],)) * (medium.sectors * SECTOR)
        self._ask_to_write()
