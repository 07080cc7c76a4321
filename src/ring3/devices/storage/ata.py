"""ATA devices: the registers and protocols of every one, and the disk.  PACKET devices are in `atapi.py`.

T13 ATA/ATAPI-7 volumes 1 and 2 (section signs, §), ATA8-ACS for queued commands and TRIM.  Register, bit and
command names are the standards'.

A device is told commands by its host (`ide.py`, `ahci.py`) and moves data through the host's `AtaHost` face:
block by block for PIO, in chunks for DMA.  What waits for the guest (a block of PIO, a DMA not yet started)
stands in the state; answers of the drive that come after a reset are dropped by a generation number.

Modelled: 28- and 48-bit LBA, CHS with translation, PIO single and multiple, DMA, queued commands, write
cache, TRIM, SMART status and attributes, host protected area (reading only), logs of queued errors.
Not modelled: security, streaming, general purpose logs but two, power states (all commands are accepted and
none spins anything down), transfer timing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from ring3 import trace
from ring3.devices.face import Drive, InFile
from ring3.devices.storage.request import PENDING, ask

SECTOR = 512                            # bytes
CHUNK = 256 * 1024                      # bytes moved at a time by DMA
PIO_CHUNK = 64 * 1024                   # bytes read ahead or gathered by PIO
LBA28_MAX, LBA48_MAX = (1 << 28) - 1, (1 << 48) - 1     # numbers of sectors that can be told
MULTIPLE_MAX = 16                       # sectors
HEADS, SECTORS_PER_TRACK, CYLINDERS_MAX = 16, 63, 16383
TRIM_BLOCKS_MAX = 8                     # of 512 bytes, of one DATA SET MANAGEMENT
QUEUE_DEPTH = 32
FIRMWARE = "1.0"


class Reg:  # offsets of the command block
    DATA, ERROR_FEATURES, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, STATUS_COMMAND = range(8)


DEVICE_REGISTER = Reg.DEVICE
PAIRED = ("", "features", "count", "lba_low", "lba_mid", "lba_high")     # by offset: they keep two values


class Status:
    ERR, DRQ, DSC, DF, DRDY, BSY = 0x01, 0x08, 0x10, 0x20, 0x40, 0x80
    READY = DRDY | DSC


BUSY_OR_DRQ = Status.BSY | Status.DRQ


class Error:
    ABRT, IDNF, UNC, ICRC = 0x04, 0x10, 0x40, 0x80
    DIAGNOSTIC_PASSED = 0x01


class Device:  # the device register
    LBA, DEV, HEAD = 0x40, 0x10, 0x0F


class Phase:
    IDLE, HOST, PIO_IN, PIO_OUT, DMA, PACKET = range(6)


@dataclass(slots=True)
class Job:
    """A transfer between medium and host."""

    write: bool = False
    offset: int = 0                     # on the medium, bytes
    left: int = 0                       # bytes
    flush: bool = False                 # before it ends
    tag: int = -1                       # of a queued command


@dataclass(slots=True)
class AtaState:
    """What every device keeps, at its reset value; also part of the checkpoint record.

    Registers with a 48-bit counterpart hold the previous value in their high byte.
    """

    features: int = 0
    count: int = 1
    lba_low: int = 1
    lba_mid: int = 0
    lba_high: int = 0
    device: int = 0
    status: int = Status.READY
    error: int = Error.DIAGNOSTIC_PASSED
    command: int = 0
    interrupt: bool = False             # INTRQ, before nIEN
    phase: int = Phase.IDLE
    buffer: bytearray = field(default_factory=bytearray)    # of PIO …
    position: int = 0                   # … read or written so far
    block_end: int = 0                  # … where the present DRQ block ends
    transfer_mode: int = 0x08           # SET FEATURES 03h


class AtaHost(Protocol):
    """The controller's side."""

    def data_request(self, device: Any, interrupt: bool) -> None:
        """A PIO block is there to be read or written; on IDE it comes with an interrupt or without."""

    def dma_request(self, device: Any) -> None:
        """The device wants DMA: `dma_start` is called when the host is ready, perhaps at once."""

    def dma_ready(self, device: Any) -> bool:
        """Whether the host has its DMA started."""

    def dma_in(self, device: Any, tag: int, data: bytes) -> bool:
        """Bytes into the guest's memory.  False: no room is described; the command hangs until a reset."""

    def dma_fill(self, device: Any, tag: int, length: int, place: InFile) -> bool:
        """The same from a file of the host.  False: it cannot, and nothing of the room is used up."""

    def dma_out(self, device: Any, tag: int, length: int) -> bytes | None: ...

    def finished(self, device: Any) -> None:
        """The command is over: `status` and `error` tell how."""

    def queued_finished(self, device: Any, tag: int, failed: bool) -> None: ...

    def update(self, device: Any) -> None:
        """INTRQ may be another: the device was reset or restored."""


class Aborted(Exception):  # noqa: N818
    """Out of a command's handler: it ends with these error bits.  Never leaves a device."""

    def __init__(self, error: int = Error.ABRT) -> None:
        super().__init__(error)
        self.error = error


class AtaDevice:
    SIGNATURE = (0x00, 0x00)            # LBA mid and high after a reset

    state: Any                          # an AtaState

    def __init__(self) -> None:
        self.host: AtaHost | None = None
        self._generation = 0
        self._commands = self.commands()

    # --- the host's side ---

    def register(self, offset: int, hob: bool) -> int:
        """Count and LBA registers; `hob`: their previous contents."""
        s = self.state
        match offset:
            case Reg.COUNT:
                value = s.count
            case Reg.LBA_LOW:
                value = s.lba_low
            case Reg.LBA_MID:
                value = s.lba_mid
            case Reg.LBA_HIGH:
                value = s.lba_high
            case Reg.ERROR_FEATURES:
                return int(s.error)
            case Reg.DEVICE:
                return int(s.device)
            case _:
                return int(s.status)
        return int(value >> 8 if hob else value & 0xFF)

    def set_register(self, offset: int, value: int) -> None:
        """Ignored while the device is busy (§5.15)."""
        s = self.state
        if s.status & BUSY_OR_DRQ:
            return
        if offset == DEVICE_REGISTER:
            s.device = value
        else:
            name = PAIRED[offset]
            setattr(s, name, getattr(s, name) << 8 & 0xFF00 | value)

    def execute(self, command: int) -> None:
        s = self.state
        s.interrupt = False
        if s.status & (Status.BSY | Status.DRQ) and command != DEVICE_RESET:
            trace.odd("ata", "command %02Xh while busy", command)
            return
        s.command = command
        s.status, s.error = Status.READY, 0
        handler = self._commands.get(command)
        try:
            if handler is None:
                trace.odd("ata", "command %02Xh is not implemented", command)
                raise Aborted
            handler()
        except Aborted as aborted:
            self.finish(aborted.error)

    def pio_read(self, length: int) -> bytes:
        """Bytes of the data register; beyond the block they float."""
        s = self.state
        if s.phase != Phase.PIO_IN:
            return b"\xff" * length
        end = min(s.position + length, s.block_end)
        data = bytes(s.buffer[s.position : end])
        s.position = end
        if end == s.block_end:
            self._block_read()
        return data if len(data) == length else data.ljust(length, b"\xff")

    def pio_write(self, data: bytes) -> None:
        s = self.state
        if s.phase not in (Phase.PIO_OUT, Phase.PACKET):
            return
        part = data[: s.block_end - s.position]
        s.buffer[s.position : s.position + len(part)] = part
        s.position += len(part)
        if s.position == s.block_end:
            self._block_written()

    @property
    def block_left(self) -> int:
        """Bytes of the present PIO block that are still to be moved."""
        s = self.state
        return int(s.block_end - s.position) if s.status & Status.DRQ else 0

    def block(self) -> bytes:
        """What is left of the present block for the host, without taking it."""
        s = self.state
        return bytes(s.buffer[s.position : s.block_end])

    def dma_start(self) -> None:
        """The host is ready for the DMA that was requested."""

    @property
    def wants_dma(self) -> bool:
        return bool(self.state.phase == Phase.DMA)

    def soft_reset(self) -> None:
        """SRST, or DEVICE RESET: registers as after power-on, settings kept (§5.11)."""
        s = self.state
        self._generation += 1
        s.phase, s.interrupt = Phase.IDLE, False
        s.buffer.clear()
        s.position = s.block_end = 0
        s.status, s.error = self.ready_status(), Error.DIAGNOSTIC_PASSED
        self.set_signature()

    def reset(self) -> None:
        self.restore(type(self.state)())

    def restore(self, state: Any) -> None:
        self._generation += 1
        self.state = state
        if self.host is not None:
            self.host.update(self)

    # --- for the kinds of devices ---

    def commands(self) -> dict[int, Callable[[], None]]:
        raise NotImplementedError

    def ready_status(self) -> int:
        return Status.READY

    def set_signature(self) -> None:
        s = self.state
        s.count = s.lba_low = 1
        s.lba_mid, s.lba_high = self.SIGNATURE
        s.device &= Device.DEV

    def present(self, start: int, length: int, *, out: bool, interrupt: bool) -> None:
        """Offers a DRQ block of the buffer."""
        s = self.state
        s.phase = Phase.PIO_OUT if out else Phase.PIO_IN
        s.status = Status.READY | Status.DRQ
        s.position, s.block_end = start, start + length
        if self.host is not None:
            s.interrupt |= interrupt
            self.host.data_request(self, interrupt)

    def busy(self) -> None:
        s = self.state
        s.phase = Phase.HOST
        s.status = Status.BSY | Status.DRDY

    def finish(self, error: int = 0, *, quiet: bool = False, passed: bool = False) -> None:
        """The command's end.  `quiet`: without an interrupt, as after the last block of PIO in.

        `passed`: the error register has the diagnostic's result, and the status is that after a reset.
        """
        s = self.state
        s.phase = Phase.IDLE
        s.status = Status.READY | (Status.ERR if error else 0)
        s.error = error
        if passed:
            s.status, s.error = self.ready_status(), Error.DIAGNOSTIC_PASSED
        s.buffer.clear()
        s.position = s.block_end = 0
        s.interrupt |= not quiet
        if self.host is not None:
            self.host.finished(self)

    def request(self, make: Callable[[Callable[[Any], None]], None], then: Callable[[Any], None]) -> None:
        """Asks the drive; its answer goes to `then` unless a reset comes first."""
        generation = self._generation
        self.busy()

        def done(answer: Any) -> None:
            if generation == self._generation:
                then(answer)

        make(done)

    def send_block(self, data: bytes) -> None:
        """A command whose answer is one block of PIO."""
        self.state.buffer[:] = data
        self.present(0, len(data), out=False, interrupt=True)

    def _block_read(self) -> None:
        raise NotImplementedError

    def _block_written(self) -> None:
        raise NotImplementedError

    def set_transfer_mode(self) -> None:
        """SET FEATURES 03h: PIO, multiword DMA or Ultra DMA, all of the same speed here (§6.49.3)."""
        mode = self.state.count & 0xFF
        if mode >> 3 not in (0, 1, 4, 8):
            raise Aborted
        if mode >> 3 > 1:
            self.state.transfer_mode = mode


DEVICE_RESET = 0x08


def identify_string(text: str, length: int) -> bytes:
    """ASCII with the bytes of each word swapped, filled with spaces (§6.17.2)."""
    data = text.encode("ascii", "replace")[:length].ljust(length)
    return b"".join(bytes((data[n + 1], data[n])) for n in range(0, length, 2))


def with_checksum(words: dict[int, int], strings: dict[int, bytes]) -> bytes:
    """512 bytes of IDENTIFY data with the integrity word."""
    data = bytearray(SECTOR)
    for word, value in words.items():
        data[2 * word : 2 * word + 2] = (value & 0xFFFF).to_bytes(2, "little")
    for word, text in strings.items():
        data[2 * word : 2 * word + len(text)] = text
    data[510] = 0xA5
    data[511] = -sum(data) & 0xFF
    return bytes(data)


def dma_words(transfer_mode: int) -> dict[int, int]:
    """Words 63 and 88: multiword DMA 0–2 and Ultra DMA 0–5, with the one that is selected."""
    kind, number = transfer_mode >> 3, transfer_mode & 7
    return {
        63: 0x07 | (0x100 << number if kind == 4 else 0),
        88: 0x3F | (0x100 << number if kind == 8 else 0),
    }


@dataclass(slots=True)
class State(AtaState):
    """A disk's; also the checkpoint record."""

    job: Job = field(default_factory=Job)
    multiple: int = MULTIPLE_MAX        # sectors a block of READ and WRITE MULTIPLE; 0: not allowed
    block: int = 1                      # sectors a DRQ block of the present command
    write_cache: bool = True
    heads: int = HEADS                  # of the current translation …
    sectors: int = SECTORS_PER_TRACK    # … a track
    smart: bool = True
    failed_tag: int = -1                # of the queued command that failed last, for its log …
    failed_error: int = 0               # … with its error register


class AtaDisk(AtaDevice):
    state: State

    def __init__(
        self, drive: Drive, serial_number: str = "0", model: str = "RING3 DISK", sata: bool = False
    ) -> None:
        """`sata`: with queued commands, on AHCI."""
        super().__init__()
        self.drive = drive
        self.serial_number = serial_number
        self.model = model
        self.sata = sata
        self.state = State()

    @property
    def sectors(self) -> int:
        return min(self.drive.size_bytes // SECTOR, LBA48_MAX)

    @property
    def cylinders(self) -> int:
        return min(max(self.sectors // (HEADS * SECTORS_PER_TRACK), 1), CYLINDERS_MAX)

    def commands(self) -> dict[int, Callable[[], None]]:
        table: dict[int, Callable[[], None]] = {
            0x06: self._data_set_management,
            0x27: partial(self._native_max, ext=True),
            0x2F: self._read_log,
            0x40: partial(self._verify, ext=False),
            0x41: partial(self._verify, ext=False),
            0x42: partial(self._verify, ext=True),
            0x90: self._diagnostic,
            0x91: self._initialize_parameters,
            0xB0: self._smart,
            0xC6: self._set_multiple,
            0xE4: lambda: self.send_block(bytes(SECTOR)),       # READ BUFFER
            0xE5: self._check_power_mode,
            0x98: self._check_power_mode,
            0xE7: self._flush,
            0xEA: self._flush,
            0xEC: lambda: self.send_block(self.identify()),
            0xEF: self._set_features,
            0xF8: partial(self._native_max, ext=False),
        }
        for code in (0x20, 0x21):
            table[code] = partial(self._pio, write=False, ext=False, multiple=False)
        for code in (0x30, 0x31):
            table[code] = partial(self._pio, write=True, ext=False, multiple=False)
        table[0x24] = partial(self._pio, write=False, ext=True, multiple=False)
        table[0x34] = partial(self._pio, write=True, ext=True, multiple=False)
        table[0xC4] = partial(self._pio, write=False, ext=False, multiple=True)
        table[0xC5] = partial(self._pio, write=True, ext=False, multiple=True)
        table[0x29] = partial(self._pio, write=False, ext=True, multiple=True)
        table[0x39] = partial(self._pio, write=True, ext=True, multiple=True)
        table[0xCE] = partial(self._pio, write=True, ext=True, multiple=True, fua=True)
        for code in (0xC8, 0xC9):
            table[code] = partial(self._dma, write=False, ext=False)
        for code in (0xCA, 0xCB):
            table[code] = partial(self._dma, write=True, ext=False)
        table[0x25] = partial(self._dma, write=False, ext=True)
        table[0x35] = partial(self._dma, write=True, ext=True)
        table[0x3D] = partial(self._dma, write=True, ext=True, fua=True)
        table |= dict.fromkeys((*range(0x10, 0x20), *range(0x70, 0x80)), self.finish)   # RECALIBRATE, SEEK
        for code in (*range(0x94, 0x98), 0x99, *range(0xE0, 0xE4), 0xE6):       # STANDBY, IDLE, SLEEP
            table[code] = self.finish
        return table

    # --- addresses ---

    def extent(self, ext: bool) -> tuple[int, int]:
        """First sector and number of sectors of the present command."""
        s = self.state
        if ext:
            low = s.lba_low & 0xFF | (s.lba_mid & 0xFF) << 8 | (s.lba_high & 0xFF) << 16
            high = s.lba_low >> 8 | (s.lba_mid >> 8) << 8 | (s.lba_high >> 8) << 16
            return high << 24 | low, s.count or 0x1_0000
        count = s.count & 0xFF or 0x100
        if s.device & Device.LBA:
            low = s.lba_low & 0xFF | (s.lba_mid & 0xFF) << 8 | (s.lba_high & 0xFF) << 16
            return (s.device & Device.HEAD) << 24 | low, count
        cylinder = s.lba_mid & 0xFF | (s.lba_high & 0xFF) << 8
        head, sector = s.device & Device.HEAD, s.lba_low & 0xFF
        if not 1 <= sector <= s.sectors or head >= s.heads:
            raise Aborted(Error.IDNF)
        return (cylinder * s.heads + head) * s.sectors + sector - 1, count

    def set_address(self, lba: int, ext: bool) -> None:
        s = self.state
        if ext:
            s.lba_low = lba & 0xFF | (lba >> 24 & 0xFF) << 8
            s.lba_mid = lba >> 8 & 0xFF | (lba >> 32 & 0xFF) << 8
            s.lba_high = lba >> 16 & 0xFF | (lba >> 40 & 0xFF) << 8
        elif s.device & Device.LBA:
            s.lba_low, s.lba_mid, s.lba_high = lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF
            s.device = s.device & ~Device.HEAD | lba >> 24 & Device.HEAD
        else:
            track, sector = divmod(lba, s.sectors)
            cylinder, head = divmod(track, s.heads)
            s.lba_low, s.lba_mid, s.lba_high = sector + 1, cylinder & 0xFF, cylinder >> 8 & 0xFF
            s.device = s.device & ~Device.HEAD | head

    def _job(self, write: bool, ext: bool, fua: bool = False) -> Job:
        first, count = self.extent(ext)
        if write and self.drive.read_only:
            raise Aborted
        if first + count > self.sectors:
            raise Aborted(Error.IDNF)
        self.set_address(first + count - 1, ext)
        flush = write and (fua or not self.state.write_cache)
        return Job(write, first * SECTOR, count * SECTOR, flush)

    # --- PIO ---

    def _pio(self, *, write: bool, ext: bool, multiple: bool, fua: bool = False) -> None:
        s = self.state
        if multiple and not s.multiple:
            raise Aborted
        s.job = self._job(write, ext, fua)
        s.block = s.multiple if multiple else 1
        if write:
            s.buffer[:] = b""
            self._want_block(interrupt=False)
        else:
            self._fetch()

    def _fetch(self) -> None:
        job = self.state.job
        length = min(job.left, PIO_CHUNK)
        self.request(partial(self.drive.read, job.offset, length), self._fetched)

    def _fetched(self, answer: bytes | OSError) -> None:
        s = self.state
        if isinstance(answer, OSError):
            self.finish(Error.UNC)
            return
        s.buffer[:] = answer
        s.job.offset += len(answer)
        s.job.left -= len(answer)
        self._offer(0)

    def _offer(self, start: int) -> None:
        s = self.state
        length = min(s.block * SECTOR, len(s.buffer) - start)
        self.present(start, length, out=False, interrupt=True)

    def _block_read(self) -> None:
        s = self.state
        if s.block_end < len(s.buffer):
            self._offer(s.block_end)
        elif s.job.left:
            self._fetch()
        else:
            self.finish(quiet=True)

    def _want_block(self, interrupt: bool) -> None:
        """The next block goes behind what is gathered in the buffer."""
        s = self.state
        start = len(s.buffer)
        length = min(s.block * SECTOR, s.job.left - start)
        s.buffer += bytes(length)
        self.present(start, length, out=True, interrupt=interrupt)

    def _block_written(self) -> None:
        s = self.state
        if s.command == 0x06:
            self._trim()
        elif len(s.buffer) < min(s.job.left, PIO_CHUNK):
            self._want_block(interrupt=True)
        else:
            self.request(partial(self.drive.write, s.job.offset, bytes(s.buffer)), self._stored)

    def _stored(self, error: OSError | None) -> None:
        s = self.state
        if error is not None:
            self.finish(Error.ABRT)
            return
        s.job.offset += len(s.buffer)
        s.job.left -= len(s.buffer)
        s.buffer.clear()
        if s.job.left:
            self._want_block(interrupt=True)
        elif s.job.flush:
            self._flush()
        else:
            self.finish()

    # --- DMA ---

    def _dma(self, *, write: bool, ext: bool, fua: bool = False) -> None:
        s = self.state
        s.job = self._job(write, ext, fua)
        s.phase = Phase.DMA
        s.status = Status.READY | Status.DRQ
        if self.host is not None:
            self.host.dma_request(self)

    def dma_start(self) -> None:
        s = self.state
        if s.phase != Phase.DMA:
            return
        s.phase = Phase.HOST
        if s.command == 0x06:
            self._trim_by_dma()
        else:
            self._move(s.job)

    def queued(self, job: Job) -> None:
        """A queued command of SATA: several at once, each with its tag."""
        if job.offset + job.left > self.sectors * SECTOR or (job.write and self.drive.read_only):
            self._end_job(job, Error.IDNF)
            return
        job.flush |= job.write and not self.state.write_cache
        self._move(job)

    def _move(self, job: Job) -> None:
        """Chunk by chunk, until all is moved, the guest's table ends or the drive needs time."""
        host = self.host
        while job.left and host is not None:
            length = min(job.left, CHUNK)
            if not job.write and self._filled(host, job, length):
                continue
            if job.write:
                data = host.dma_out(self, job.tag, length)
                if data is None:
                    self._stall(job)
                    return
                make = partial(self.drive.write, job.offset, data)
            else:
                make = partial(self.drive.read, job.offset, length)
            answer = ask(make, partial(self._moved_later, job, self._generation, length))
            if answer is PENDING or not self._moved(job, length, answer):
                return
        if job.flush:
            generation = self._generation
            self.drive.flush(lambda error: self._flushed_job(job, generation, error))
        else:
            self._end_job(job, 0)

    def _filled(self, host: AtaHost, job: Job, length: int) -> bool:
        """Reads straight into the guest's memory, if what is wanted is at hand in a file."""
        place = self.drive.in_file(job.offset, length)
        if place is None or not host.dma_fill(self, job.tag, length, place):
            return False
        job.offset += length
        job.left -= length
        return True

    def _moved_later(self, job: Job, generation: int, length: int, answer: Any) -> None:
        if generation == self._generation and self._moved(job, length, answer):
            self._move(job)

    def _moved(self, job: Job, length: int, answer: bytes | OSError | None) -> bool:
        if isinstance(answer, OSError):
            self._end_job(job, Error.ABRT if job.write else Error.UNC)
            return False
        job.offset += length
        job.left -= length
        if answer is not None and self.host is not None and not self.host.dma_in(self, job.tag, answer):
            self._stall(job)
            return False
        return True

    def _stall(self, job: Job) -> None:
        """The guest described too little memory: the device goes on asking for DMA, in vain."""
        trace.odd("ata", "DMA of command %02Xh has no memory left", self.state.command)
        if job.tag >= 0:
            self._end_job(job, Error.ABRT)

    def _flushed_job(self, job: Job, generation: int, error: OSError | None) -> None:
        if generation == self._generation:
            self._end_job(job, Error.ABRT if error is not None else 0)

    def _end_job(self, job: Job, error: int) -> None:
        if job.tag < 0:
            self.finish(error)
            return
        s = self.state
        if error:
            s.failed_tag, s.failed_error = job.tag, error
            s.status, s.error = Status.READY | Status.ERR, error
        if self.host is not None:
            self.host.queued_finished(self, job.tag, bool(error))

    # --- commands without data, or with a block of it ---

    def _verify(self, *, ext: bool) -> None:
        self._job(False, ext)
        self.finish()

    def _flush(self) -> None:
        self.request(self.drive.flush, self._flushed)

    def _flushed(self, error: OSError | None) -> None:
        self.finish(Error.ABRT if error is not None else 0)

    def _diagnostic(self) -> None:
        self.set_signature()
        self.finish(passed=True)

    def _initialize_parameters(self) -> None:
        s = self.state
        sectors, heads = s.count & 0xFF, (s.device & Device.HEAD) + 1
        if not sectors:
            raise Aborted
        s.sectors, s.heads = sectors, heads
        self.finish()

    def _set_multiple(self) -> None:
        sectors = self.state.count & 0xFF
        if sectors > MULTIPLE_MAX or sectors & (sectors - 1):
            raise Aborted
        self.state.multiple = sectors
        self.finish()

    def _check_power_mode(self) -> None:
        self.state.count = 0xFF         # active or idle
        self.finish()

    def _native_max(self, *, ext: bool) -> None:
        last = self.sectors - 1
        self.set_address(last if ext else min(last, LBA28_MAX), ext)
        self.finish()

    def _set_features(self) -> None:
        s = self.state
        match s.features & 0xFF:
            case 0x02:
                s.write_cache = True
            case 0x82:
                s.write_cache = False
                self._flush()
                return
            case 0x03:
                self.set_transfer_mode()
            case 0x55 | 0xAA | 0x66 | 0xCC | 0x05 | 0x85:       # look-ahead, defaults, power: nothing to do
                pass
            case _:
                raise Aborted
        self.finish()

    def _read_log(self) -> None:
        """Log 00h, the directory, and 10h, the queued command that failed (ACS §A.9)."""
        s = self.state
        data = bytearray(SECTOR)
        match s.lba_low & 0xFF:
            case 0x00:
                data[0] = 1
                data[0x20] = 1
            case 0x10 if self.sata:
                data[0] = s.failed_tag if s.failed_tag >= 0 else 0x80
                data[2], data[3] = Status.READY | Status.ERR, s.failed_error
                s.failed_tag = -1
            case _:
                raise Aborted
        data[511] = -sum(data) & 0xFF
        self.send_block(bytes(data))

    def _smart(self) -> None:
        """SMART: all is well (§6.53)."""
        s = self.state
        if (s.lba_mid & 0xFF, s.lba_high & 0xFF) != (0x4F, 0xC2):
            raise Aborted
        feature = s.features & 0xFF
        if feature != 0xD8 and not s.smart:
            raise Aborted
        match feature:
            case 0xD0:
                self.send_block(smart_data())
                return
            case 0xD1:
                self.send_block(smart_thresholds())
                return
            case 0xD2 | 0xD4 | 0xDA:    # autosave, a self test (passed), status (passed: LBA stays 4Fh, C2h)
                pass
            case 0xD8 | 0xD9:
                s.smart = feature == 0xD8
            case _:
                raise Aborted
        self.finish()

    # --- TRIM ---

    def _data_set_management(self) -> None:
        s = self.state
        blocks = s.count
        if not s.features & 1 or not 1 <= blocks <= TRIM_BLOCKS_MAX or self.drive.read_only:
            raise Aborted
        s.job = Job(True, 0, blocks * SECTOR)
        s.phase = Phase.DMA
        s.status = Status.READY | Status.DRQ
        if self.host is not None:
            self.host.dma_request(self)

    def _trim_by_dma(self) -> None:
        s = self.state
        data = self.host.dma_out(self, -1, s.job.left) if self.host is not None else None
        if data is None:
            self._stall(s.job)
            return
        s.buffer[:] = data
        self._trim()

    def _trim(self) -> None:
        """One range after the other: 48 bits of LBA, 16 of count."""
        s = self.state
        while s.buffer:
            entry = int.from_bytes(s.buffer[:8], "little")
            del s.buffer[:8]
            first, count = entry & LBA48_MAX, entry >> 48
            if first + count > self.sectors:
                self.finish(Error.IDNF)
                return
            if count:
                self.request(partial(self.drive.discard, first * SECTOR, count * SECTOR), self._trimmed)
                return
        self.finish()

    def _trimmed(self, error: OSError | None) -> None:
        if error is not None:
            self.finish(Error.ABRT)
        else:
            self._trim()

    # --- IDENTIFY DEVICE (§6.17) ---

    def identify(self) -> bytes:
        s = self.state
        sectors = self.sectors
        current = s.heads * s.sectors
        current_cylinders = min(sectors // current, 0xFFFF)
        chs_capacity = current_cylinders * current
        lba28 = min(sectors, LBA28_MAX)
        words = {
            0: 0x0040, 1: self.cylinders, 3: HEADS, 6: SECTORS_PER_TRACK,
            47: 0x8000 | MULTIPLE_MAX, 48: 1,
            49: 0x0F00,                 # standby timer, IORDY, LBA, DMA
            50: 0x4000, 53: 0x0007, 54: current_cylinders, 55: s.heads, 56: s.sectors,
            57: chs_capacity, 58: chs_capacity >> 16,
            59: 0x0100 | s.multiple if s.multiple else 0,
            60: lba28, 61: lba28 >> 16,
            64: 0x0003, 65: 120, 66: 120, 67: 120, 68: 120,     # PIO 3 and 4; cycle times in ns
            69: 0x4020,                 # TRIM is deterministic and leaves zeros
            80: 0x00F0, 81: 0,          # ATA/ATAPI-4 to 7
            82: 0x7021, 83: 0x7400, 84: 0x4040,     # buffers, write cache, SMART; flush, LBA48; FUA
            85: 0x7000 | (0x20 if s.write_cache else 0) | int(s.smart), 86: 0x3400, 87: 0x4040,
            93: 0x6001 if not self.sata else 0,
            100: sectors, 101: sectors >> 16, 102: sectors >> 32,
            105: TRIM_BLOCKS_MAX,
            106: 0x4000, 169: 0x0001, 217: 0x0001,
        } | dma_words(s.transfer_mode)
        if self.sata:
            words |= {75: QUEUE_DEPTH - 1, 76: 0x0106, 78: 0, 79: 0, 222: 0x1020}
        strings = {
            10: identify_string(self.serial_number, 20),
            23: identify_string(FIRMWARE, 8),
            27: identify_string(self.model, 40),
        }
        return with_checksum(words, strings)


SMART_ATTRIBUTES: tuple[tuple[int, int, int], ...] = ((5, 36, 0), (197, 0, 0), (198, 0, 0))
"""(id, threshold, raw value): reallocated, pending and uncorrectable sectors."""


def smart_data() -> bytes:
    data = bytearray(SECTOR)
    data[0] = 0x10
    for n, (number, _, raw) in enumerate(SMART_ATTRIBUTES):
        at = 2 + 12 * n
        data[at : at + 12] = bytes((number, 0x03, 0, 100, 100)) + raw.to_bytes(6, "little") + b"\0"
    data[362] = 0x02                    # offline data collection was completed
    data[368:370] = b"\x03\0"           # SMART data are saved
    data[372], data[373] = 1, 1         # minutes a self test takes
    data[511] = -sum(data) & 0xFF
    return bytes(data)


def smart_thresholds() -> bytes:
    data = bytearray(SECTOR)
    data[0] = 0x10
    for n, (number, threshold, _) in enumerate(SMART_ATTRIBUTES):
        data[2 + 12 * n], data[3 + 12 * n] = number, threshold
    data[511] = -sum(data) & 0xFF
    return bytes(data)
