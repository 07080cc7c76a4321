"""ATAPI: a CD drive behind the PACKET command (T13 ATA/ATAPI-7, §6.24; SFF-8020i for old drivers).

Commands of the packets are `scsi_cd.py`'s; here is how packet, data and status move: by PIO in blocks of at
most the byte count that the host gave, or by DMA.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ring3.devices.face import Drive
from ring3.devices.storage.ata import (
    DEVICE_RESET,
    FIRMWARE,
    Aborted,
    AtaDevice,
    AtaState,
    Error,
    Phase,
    Status,
    dma_words,
    identify_string,
    with_checksum,
)
from ring3.devices.storage.scsi import Key, Task
from ring3.devices.storage.scsi import Phase as TaskPhase
from ring3.devices.storage.scsi_cd import ScsiCd
from ring3.devices.storage.scsi_cd import State as CdState

PACKET = 0xA0                           # the command
PACKET_BYTES = 12


class Reason:  # interrupt reason: the count register
    COMMAND, TO_HOST = 0x01, 0x02


@dataclass(slots=True)
class State(AtaState):
    """At its reset value; also the checkpoint record."""

    lba_mid: int = 0x14
    lba_high: int = 0xEB
    status: int = 0                     # a PACKET device is not ready before it was asked (§9.10)
    by_dma: bool = False
    limit: int = 0                      # bytes a block of PIO
    task: Task = field(default_factory=Task)
    cd: CdState = field(default_factory=CdState)


class AtapiCd(AtaDevice):
    SIGNATURE = (0x14, 0xEB)

    state: State

    def __init__(
        self, drive: Drive | None, serial_number: str = "0", on_eject: Callable[[], None] | None = None,
        model: str = "RING3 CD-ROM", sata: bool = False,
    ) -> None:
        super().__init__()
        self.target = ScsiCd(drive, serial_number, on_eject)
        self.serial_number = serial_number
        self.model = model
        self.sata = sata
        self.state = State(cd=self.target.state)

    # --- the host's side ---

    @property
    def locked(self) -> bool:
        return self.target.locked

    def insert(self, drive: Drive | None) -> None:
        self.target.insert(drive)

    def request_eject(self) -> bool:
        return self.target.request_eject()

    def reset(self) -> None:
        self.target.reset()
        self.restore(State(cd=self.target.state))

    def restore(self, state: State) -> None:
        self.target.abort(self.state.task)
        super().restore(state)
        self.target.restore(state.cd)

    def soft_reset(self) -> None:
        self.target.abort(self.state.task)
        super().soft_reset()

    def ready_status(self) -> int:
        return 0

    # --- commands ---

    def commands(self) -> dict[int, Callable[[], None]]:
        table: dict[int, Callable[[], None]] = {
            DEVICE_RESET: self._device_reset,
            0x20: self._refuse_with_signature,
            0x90: self._diagnostic,
            PACKET: self._packet,
            0xA1: lambda: self.send_block(self.identify()),
            0xE5: self._check_power_mode,
            0xEC: self._refuse_with_signature,
            0xEF: self._set_features,
        }
        for code in (0xE0, 0xE1, 0xE2, 0xE3, 0xE6):
            table[code] = self.finish
        return table

    def _device_reset(self) -> None:
        self.soft_reset()
        if self.host is not None:
            self.host.finished(self)

    def _refuse_with_signature(self) -> None:
        self.set_signature()
        raise Aborted

    def _diagnostic(self) -> None:
        self.set_signature()
        self.finish(passed=True)

    def _check_power_mode(self) -> None:
        self.state.count = 0xFF
        self.finish()

    def _set_features(self) -> None:
        match self.state.features & 0xFF:
            case 0x03:
                self.set_transfer_mode()
            case 0x66 | 0xCC:
                pass
            case _:
                raise Aborted
        self.finish()

    def _packet(self) -> None:
        s = self.state
        s.by_dma = bool(s.features & 1)
        limit = s.lba_mid & 0xFF | (s.lba_high & 0xFF) << 8
        s.limit = limit or 0xFFFE
        s.buffer[:] = bytes(PACKET_BYTES)
        s.phase = Phase.PACKET
        s.count = Reason.COMMAND
        s.status = Status.READY | Status.DRQ
        s.position, s.block_end = 0, PACKET_BYTES
        if self.host is not None:
            self.host.data_request(self, False)

    # --- data: the target's initiator ---

    def data_in(self, task: Task, data: bytes) -> bool:
        s = self.state
        if not s.by_dma:
            s.buffer[:] = data
            self._offer(0)
            return False
        host = self.host
        if host is None or not host.dma_ready(self):
            s.buffer[:] = data
            self._want_dma()
            return False
        return host.dma_in(self, -1, data)

    def data_out(self, task: Task, length: int) -> bytes | None:
        s = self.state
        if not s.by_dma:
            s.buffer[:] = bytes(length)
            self._want(0)
            return None
        host = self.host
        if host is None or not host.dma_ready(self):
            s.buffer[:] = bytes(length)
            self._want_dma()
            return None
        return host.dma_out(self, -1, length)

    def complete(self, task: Task, status: int, sense: bytes) -> None:
        self.state.count = Reason.COMMAND | Reason.TO_HOST
        key = sense[2] & 0x0F if sense else 0
        self.finish(key << 4 | (Error.ABRT if key in (Key.ILLEGAL_REQUEST, Key.ABORTED_COMMAND) else 0))

    def dma_start(self) -> None:
        s, host = self.state, self.host
        if s.phase != Phase.DMA or host is None:
            return
        data = bytes(s.buffer)
        s.buffer.clear()
        self.busy()
        if s.task.phase in (TaskPhase.WRITE, TaskPhase.PARAMETERS):
            taken = host.dma_out(self, -1, len(data))
            if taken is not None:
                self.target.resume(s.task, self, taken)
        elif host.dma_in(self, -1, data):
            self.target.resume(s.task, self)

    def _want_dma(self) -> None:
        s = self.state
        s.phase = Phase.DMA
        s.status = Status.READY | Status.DRQ
        if self.host is not None:
            self.host.dma_request(self)

    def _offer(self, start: int) -> None:
        """The next block for the host."""
        self.state.count = Reason.TO_HOST
        self.present(start, self._block(start), out=False, interrupt=True)

    def _want(self, start: int) -> None:
        self.state.count = 0
        self.present(start, self._block(start), out=True, interrupt=True)

    def _block(self, start: int) -> int:
        """Bytes of the block at `start`, as the byte count registers tell them; odd only at the end."""
        s = self.state
        size = len(s.buffer) - start
        if size > s.limit:
            size = max(s.limit & ~1, 2)
        s.lba_mid, s.lba_high = size & 0xFF, size >> 8
        return size

    def _block_read(self) -> None:
        s = self.state
        if s.block_end < len(s.buffer):
            self._offer(s.block_end)
            return
        if s.command != PACKET:         # IDENTIFY
            self.finish(quiet=True)
            return
        self.busy()
        s.buffer.clear()
        self.target.resume(s.task, self)

    def _block_written(self) -> None:
        s = self.state
        if s.phase == Phase.PIO_OUT and s.block_end < len(s.buffer):
            self._want(s.block_end)
            return
        packet, data = s.phase == Phase.PACKET, bytes(s.buffer)
        self.busy()
        s.buffer.clear()
        if packet:
            s.task = Task(data)
            self.target.execute(s.task, self)
        else:
            self.target.resume(s.task, self, data)

    # --- IDENTIFY PACKET DEVICE (§6.18) ---

    def identify(self) -> bytes:
        words = {
            0: 0x85C0,                  # CD, removable, packets of 12 bytes
            49: 0x0B00, 50: 0x4000, 53: 0x0006,
            64: 0x0003, 65: 120, 66: 120, 67: 120, 68: 120,     # PIO 3 and 4; cycle times in ns
            80: 0x00F0, 82: 0x0210, 83: 0x4000, 84: 0x4000,     # PACKET, DEVICE RESET
            85: 0x0210, 87: 0x4000,
            93: 0x6001 if not self.sata else 0,
        } | dma_words(self.state.transfer_mode)
        if self.sata:
            words |= {76: 0x0006, 222: 0x1020}
        strings = {
            10: identify_string(self.serial_number, 20),
            23: identify_string(FIRMWARE, 8),
            27: identify_string(self.model, 40),
        }
        return with_checksum(words, strings)
