"""BusLogic BT-958: a PCI Ultra Wide SCSI host adapter of the MultiMaster family.

Register, command and field names follow "BusLogic MultiMaster technical reference" as Linux's and FreeBSD's
drivers (drivers/scsi/BusLogic.h, sys/dev/buslogic/btreg.h) tell it.  A driver writes command bytes to
program the adapter.  SCSI commands go through *mailboxes* in memory: an outgoing one points to a CCB (command
control block), which tells target, CDB and where the data is; when it is done, an incoming one points to it.
Both exist in a 24-bit form (big-endian, of the AHA-1540) and a 32-bit one (little-endian).

Targets are `ScsiTarget`s; the adapter itself is ID 7.  Data moves by bus mastering, in the target's chunks.

Its expansion ROM holds a BIOS of ours (guests/buslogic), which uses mailboxes as drivers do.

Not modelled: target mode, linked CCBs, BIOS commands, SCAM, EEPROM and flash, and transfer rates; negotiated
values are answered as the best there are.  More data than the driver left room for is cut without being
reported.

Addresses and lengths are bytes.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ring3 import trace
from ring3.devices.face import Memory, RomFace, WideFace, WideRegisters
from ring3.devices.pci.config import ROM, Bar, Command, Moved, PciFunction, Reg, image
from ring3.devices.storage.scsi import ScsiTarget, Status, Task
from ring3.irq import IrqLine

PORTS, MEMORY = 32, 4096                # bytes of the regions; the four registers are at their start
TARGETS, ADAPTER_ID = 16, 7
IN_FLIGHT_MAX = 192                     # CCBs, as this model has room for
SEGMENTS_MAX = 8192                     # of a scatter/gather list
SENSE_DEFAULT = 14                      # bytes of sense data where a CCB asks for 0

BARS = (Bar(PORTS, io=True), Bar(MEMORY))

RESET = image(
    (Reg.VENDOR, 2, 0x104B),
    (Reg.DEVICE, 2, 0x1040),
    (Reg.STATUS, 2, 0x0280),
    (Reg.REVISION, 1, 0x08),
    (Reg.CLASS, 3, 0x01_00_00),
    (Reg.BAR0, 4, 1),
    (Reg.SUBSYSTEM_VENDOR, 2, 0x104B),
    (Reg.SUBSYSTEM, 2, 0x1040),
    (Reg.INTERRUPT_PIN, 1, 1),
)
WRITABLE = image(
    (Reg.COMMAND, 2, Command.IO | Command.MEMORY | Command.MASTER),
    (Reg.CACHE_LINE, 1, 0xFF),
    (Reg.LATENCY, 1, 0xFF),
    (Reg.INTERRUPT_LINE, 1, 0xFF),
)
CLEARABLE = image((Reg.STATUS, 2, 0xF900))


class Register:                         # offsets
    CONTROL_STATUS, COMMAND_DATA, INTERRUPT, GEOMETRY = range(4)


class Control:
    BUS_RESET, INTERRUPT_RESET, SOFT_RESET, HARD_RESET = 0x10, 0x20, 0x40, 0x80


class Stat:
    INVALID, DATA_IN, BUSY, READY = 0x01, 0x04, 0x08, 0x10
    INIT_REQUIRED, DIAG_FAILED, DIAG_ACTIVE = 0x20, 0x40, 0x80


class Interrupt:
    MAIL_IN, MAIL_OUT, COMPLETE, BUS_RESET, VALID = 0x01, 0x02, 0x04, 0x08, 0x80


GEOMETRY = 0x80                         # extended translation


class Op:
    TEST_COMPLETE, INIT_MAILBOX_24, START_MAILBOX, INQUIRE_BOARD_ID = 0x00, 0x01, 0x02, 0x04
    ENABLE_MAIL_OUT_INTERRUPT, SET_SELECTION_TIMEOUT, SET_BUS_ON, SET_BUS_OFF = 0x05, 0x06, 0x07, 0x08
    SET_TRANSFER_RATE, INQUIRE_DEVICES_0_7, INQUIRE_CONFIGURATION = 0x09, 0x0A, 0x0B
    INQUIRE_SETUP, ECHO, INQUIRE_DEVICES_8_15, INQUIRE_TARGETS = 0x0D, 0x1F, 0x23, 0x24
    DISABLE_INTERRUPT = 0x25
    INIT_MAILBOX_32, INQUIRE_FIRMWARE_3, INQUIRE_FIRMWARE_LETTER, INQUIRE_PCI = 0x81, 0x84, 0x85, 0x86
    INQUIRE_MODEL, INQUIRE_SYNC_PERIOD, INQUIRE_EXTENDED_SETUP, STRICT_ROUND_ROBIN = 0x8B, 0x8C, 0x8D, 0x8F
    STORE_LOCAL_RAM, FETCH_LOCAL_RAM, MODIFY_IO_ADDRESS, SET_CCB_FORMAT = 0x90, 0x91, 0x95, 0x96


# Parameter bytes; commands that aren't here are invalid.
PARAMETERS = {
    Op.TEST_COMPLETE: 0, Op.INIT_MAILBOX_24: 4, Op.START_MAILBOX: 0, Op.INQUIRE_BOARD_ID: 0,
    Op.ENABLE_MAIL_OUT_INTERRUPT: 1, Op.SET_SELECTION_TIMEOUT: 4, Op.SET_BUS_ON: 1, Op.SET_BUS_OFF: 1,
    Op.SET_TRANSFER_RATE: 1, Op.INQUIRE_DEVICES_0_7: 0, Op.INQUIRE_CONFIGURATION: 0, Op.INQUIRE_SETUP: 1,
    Op.ECHO: 1, Op.INQUIRE_DEVICES_8_15: 0, Op.INQUIRE_TARGETS: 0, Op.DISABLE_INTERRUPT: 1,
    Op.INIT_MAILBOX_32: 5, Op.INQUIRE_FIRMWARE_3: 0, Op.INQUIRE_FIRMWARE_LETTER: 0, Op.INQUIRE_PCI: 0,
    Op.INQUIRE_MODEL: 1, Op.INQUIRE_SYNC_PERIOD: 1, Op.INQUIRE_EXTENDED_SETUP: 1, Op.STRICT_ROUND_ROBIN: 1,
    Op.STORE_LOCAL_RAM: 2, Op.FETCH_LOCAL_RAM: 2, Op.MODIFY_IO_ADDRESS: 1, Op.SET_CCB_FORMAT: 1,
}  # fmt: skip
SILENT = (Op.START_MAILBOX, Op.ENABLE_MAIL_OUT_INTERRUPT, Op.MODIFY_IO_ADDRESS)     # without an interrupt

ISA_PORTS = (0x330, 0x334, 0x230, 0x234, 0x130, 0x134)      # by MODIFY_IO_ADDRESS's parameter
ISA_DISABLED = 6


class Action:                           # of an outgoing mailbox
    FREE, START, ABORT = range(3)


class Completion:                       # of an incoming one
    FREE, GOOD, ABORTED, NOT_FOUND, ERROR = range(5)


class Opcode:                           # of a CCB
    INITIATOR, SCATTER_GATHER, RESIDUAL, SCATTER_GATHER_RESIDUAL = 0x00, 0x02, 0x03, 0x04
    BUS_DEVICE_RESET = 0x81


class Direction:
    BY_COMMAND, IN, OUT, NONE = range(4)


class HostStatus:
    NORMAL, SELECTION_TIMEOUT, DATA_RUN, BAD_OPCODE, BAD_PARAMETER, RESET = 0x00, 0x11, 0x12, 0x16, 0x1A, 0x22


FIRMWARE = b"507B"                      # 5.07B
MODEL = b"958  "
AUTO_SCSI = 64                          # where the settings start in local RAM


def local_ram() -> bytearray:
    """As AutoSCSI, the adapter's set-up program, would have left it: everything allowed."""
    data = bytearray(256)
    settings = {
        0: b"FD\x40 BT-95",             # signature, bytes of settings, type
        14: bytes((ADAPTER_ID,)),
        15: b"\x27",                    # termination, parity, bus reset
        18: b"\x04",                    # extended translation
        19: b"\xff" * 12,               # devices enabled; wide, fast, synchronous, disconnect; start unit
        34: b"\xff\xff",                # ultra
        41: b"\x1f",                    # logical units
    }
    for offset, value in settings.items():
        data[AUTO_SCSI + offset : AUTO_SCSI + offset + len(value)] = value
    return data


@dataclass(slots=True)
class Done:
    """A CCB that waits for an incoming mailbox to be free."""

    ccb: int
    host_status: int
    target_status: int
    completion: int


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    config: bytearray = field(default_factory=lambda: bytearray(RESET))
    command: int = 0                    # the one that gets its parameters
    missing: int = 0                    # … of which so many are missing
    parameters: bytearray = field(default_factory=bytearray)
    reply: bytearray = field(default_factory=bytearray)     # not read yet
    invalid: bool = False               # the last command was
    self_test: bool = False             # until the status was read once
    interrupt: int = 0
    waiting: int = 0                    # interrupts that came while another was not reset
    interrupts_enabled: bool = True
    mail_out_interrupt: bool = False
    mailboxes: int = 0                  # of each kind; 0: not set up
    mailbox_address: int = 0
    wide: bool = True                   # mailboxes and CCBs are of 32 bits
    strict: bool = False                # strict round robin
    extended_lun: bool = False          # CCB format
    next_out: int = 0
    next_in: int = 0
    in_flight: list[int] = field(default_factory=list)      # addresses of CCBs
    done: list[Done] = field(default_factory=list)
    isa_port: int = ISA_DISABLED
    local_ram: bytearray = field(default_factory=local_ram)


class Ccb:
    """A command control block, read once from memory."""

    LENGTH: ClassVar = 64               # bytes that matter: 24-bit ones end with the CDB

    def __init__(self, data: bytes, wide: bool, extended_lun: bool) -> None:
        self.wide = wide
        self.opcode = data[0]
        self.direction = data[1] >> 3 & 3
        self.sense_room = SENSE_DEFAULT if data[3] == 0 else 0 if data[3] == 1 else data[3]
        if wide:
            self.length, self.data = struct.unpack_from("<II", data, 4)
            self.target = data[16]
            self.lun = data[17] & (0x3F if extended_lun else 0x07)
            self.sense = int.from_bytes(data[36:40], "little")
        else:
            self.length = int.from_bytes(data[4:7], "big")
            self.data = int.from_bytes(data[7:10], "big")
            self.target = data[1] >> 5
            self.lun = data[1] & 7
            self.sense = 18 + data[2]   # after the CDB, from the CCB's start
        self.cdb = data[18 : 18 + min(data[2], 12 if wide else 44)]

    @property
    def in_segments(self) -> bool:
        return self.opcode in (Opcode.SCATTER_GATHER, Opcode.SCATTER_GATHER_RESIDUAL)

    @property
    def tells_residual(self) -> bool:
        return self.opcode in (Opcode.RESIDUAL, Opcode.SCATTER_GATHER_RESIDUAL)


class Request:
    """A CCB on its way: its task and how much of its data has moved."""

    def __init__(self, address: int, ccb: Ccb, segments: list[tuple[int, int]]) -> None:
        self.address = address
        self.ccb = ccb
        self.total = sum(length for _, length in segments)
        self.moved = 0
        self.task = Task(ccb.cdb, ccb.lun, room=self.total)
        self._segments = iter(segments)
        self._at, self._left = 0, 0     # the segment we are in

    def next(self, length: int) -> Iterator[tuple[int, int]]:
        """Where the next `length` bytes are, as far as there are any: (address, bytes)."""
        while length:
            if not self._left:
                segment = next(self._segments, None)
                if segment is None:
                    return
                self._at, self._left = segment
                continue
            count = min(length, self._left)
            yield self._at, count
            self._at += count
            self._left -= count
            self.moved += count
            length -= count


class BusLogic(PciFunction):
    state: State

    def __init__(
        self,
        memory: Memory,
        irq: IrqLine,
        moved: Moved,
        isa_moved: Callable[[int | None], None],
        rom: bytes = b"",
    ) -> None:
        """`moved`: `faces[region]` is decoded there now.  `isa_moved`: the same for `isa`, four ports.

        `rom`: the expansion ROM, a power of two of bytes.
        """
        super().__init__(
            State(), WRITABLE, clearable=CLEARABLE, bars=BARS, rom_bytes=len(rom), moved=moved
        )
        self.targets: dict[int, ScsiTarget] = {}
        region = WideRegisters(self._read_wide, self._write_wide)
        self.faces: dict[int, WideFace] = {0: region, 1: region, ROM: RomFace(rom)}
        self.isa = region
        self._memory = memory
        self._irq = irq
        self._isa_moved = isa_moved
        self._requests: dict[int, Request] = {}         # by address of the CCB
        self._scanning = False

    def attach(self, target_id: int, target: ScsiTarget) -> None:
        """The board hangs a target on the bus."""
        self.targets[target_id] = target

    # --- registers ---

    def _read_wide(self, offset: int, size: int) -> int:
        return sum(self.read(offset + n) << 8 * n for n in range(size))

    def _write_wide(self, offset: int, value: int, size: int) -> None:
        for n in range(size):
            self.write(offset + n, value >> 8 * n & 0xFF)

    def read(self, offset: int) -> int:
        s = self.state
        match offset:
            case Register.CONTROL_STATUS:
                status = self._status()
                s.self_test = False
                return status
            case Register.COMMAND_DATA:
                return self._read_reply()
            case Register.INTERRUPT:
                return s.interrupt
            case Register.GEOMETRY:
                return GEOMETRY
        return 0

    def write(self, offset: int, value: int) -> None:
        match offset:
            case Register.CONTROL_STATUS:
                self._control(value)
            case Register.COMMAND_DATA:
                self._command_byte(value)
            case _:
                trace.odd("buslogic", "write of %02Xh to register %d", value, offset)
        self._update_irq()

    def _status(self) -> int:
        s = self.state
        if s.self_test:
            return Stat.DIAG_ACTIVE
        status = 0 if s.mailboxes else Stat.INIT_REQUIRED
        if s.reply:
            status |= Stat.DATA_IN
        elif not s.missing:
            status |= Stat.READY
        return status | Stat.INVALID if s.invalid else status

    def _control(self, value: int) -> None:
        s = self.state
        if value & (Control.HARD_RESET | Control.SOFT_RESET):
            self._reset_adapter(bus=bool(value & Control.HARD_RESET))
            return
        if value & Control.BUS_RESET:
            self._reset_bus()
        if value & Control.INTERRUPT_RESET:
            s.interrupt, s.waiting = s.waiting, 0
            s.invalid = False
            self._deliver()

    # --- commands ---

    def _command_byte(self, value: int) -> None:
        s = self.state
        if s.missing:
            s.parameters.append(value)
            s.missing -= 1
            if not s.missing and s.command == Op.STORE_LOCAL_RAM and len(s.parameters) == 2:
                s.missing = s.parameters[1]             # the data follows
        elif s.reply:
            trace.odd("buslogic", "command %02Xh before the last one's reply was read", value)
            return
        else:
            s.command, s.invalid = value, value not in PARAMETERS
            s.missing = PARAMETERS.get(value, 0)
            s.parameters.clear()
        if not s.missing:
            self._execute()

    def _execute(self) -> None:
        s = self.state
        if s.invalid:
            trace.odd("buslogic", "command %02Xh is not implemented", s.command)
            self._interrupt(Interrupt.COMPLETE)
            return
        s.reply[:] = self._obey(s.command, bytes(s.parameters))
        if not s.reply and s.command not in SILENT:
            self._interrupt(Interrupt.COMPLETE)

    def _read_reply(self) -> int:
        s = self.state
        if not s.reply:
            return 0
        value = s.reply.pop(0)
        if not s.reply:
            self._interrupt(Interrupt.COMPLETE)
            self._update_irq()
        return value

    def _obey(self, command: int, parameters: bytes) -> bytes:
        """Carries a command out; its reply."""
        s = self.state
        match command:
            case Op.START_MAILBOX:
                self._scan()
            case Op.INIT_MAILBOX_24:
                self._set_mailboxes(parameters[0], int.from_bytes(parameters[1:], "big"), wide=False)
            case Op.INIT_MAILBOX_32:
                self._set_mailboxes(parameters[0], int.from_bytes(parameters[1:], "little"), wide=True)
            case Op.ENABLE_MAIL_OUT_INTERRUPT:
                s.mail_out_interrupt = bool(parameters[0])
            case Op.DISABLE_INTERRUPT:
                s.interrupts_enabled = bool(parameters[0])
            case Op.STRICT_ROUND_ROBIN:
                s.strict = bool(parameters[0])
            case Op.SET_CCB_FORMAT:
                s.extended_lun = bool(parameters[0])
            case Op.MODIFY_IO_ADDRESS:
                self._modify_io_address(parameters[0])
            case Op.STORE_LOCAL_RAM:
                self._store_local_ram(parameters[0], parameters[2:])
            case Op.ECHO:
                return parameters
            case Op.FETCH_LOCAL_RAM:
                return bytes(s.local_ram[parameters[0] :][: parameters[1]])
            case _:
                return self._inquire(command)[: parameters[0] if len(parameters) == 1 else 256]
        return b""

    def _inquire(self, command: int) -> bytes:
        """Replies of the commands that only tell; longer than asked for where a length is asked for."""
        s = self.state
        config = s.config
        irq = config[Reg.INTERRUPT_LINE]
        present = sum(1 << n for n in self.targets)
        match command:
            case Op.INQUIRE_BOARD_ID:
                return b"AA" + FIRMWARE[:2]
            case Op.INQUIRE_FIRMWARE_3:
                return FIRMWARE[2:3]
            case Op.INQUIRE_FIRMWARE_LETTER:
                return FIRMWARE[3:]
            case Op.INQUIRE_MODEL:
                return MODEL
            case Op.INQUIRE_CONFIGURATION:
                return bytes((0, 1 << irq - 9 if 9 <= irq <= 15 else 0, ADAPTER_ID))
            case Op.INQUIRE_PCI:
                return bytes((s.isa_port, irq, 0x83, 0))
            case Op.INQUIRE_TARGETS:
                return present.to_bytes(2, "little")
            case Op.INQUIRE_DEVICES_0_7:
                return bytes(n in self.targets for n in range(8))
            case Op.INQUIRE_DEVICES_8_15:
                return bytes(n in self.targets for n in range(8, 16))
            case Op.INQUIRE_SYNC_PERIOD:
                return bytes(5 if n in self.targets else 0 for n in range(TARGETS)).ljust(256, b"\0")
            case Op.INQUIRE_SETUP:
                return self._setup(present)
            case Op.INQUIRE_EXTENDED_SETUP:
                return self._extended_setup()
        return b""                      # the SET commands: electrical matters

    def _setup(self, present: int) -> bytes:
        s = self.state
        rates = [0x8F if n in self.targets else 0 for n in range(TARGETS)]
        low, high = present & 0xFF, present >> 8
        data = bytes((0x03, 0, 7, 4, s.mailboxes)) + s.mailbox_address.to_bytes(4, "big")[1:]
        data += bytes(rates[:8]) + bytes((0xFF,)) + b"BDF" + bytes((0xFF, low))
        data += bytes(rates[8:]) + bytes((0xFF, 0, 0xFF, high))
        return data.ljust(256, b"\0")

    def _extended_setup(self) -> bytes:
        s = self.state
        data = b"E\0" + SEGMENTS_MAX.to_bytes(2, "little") + bytes((s.mailboxes,))
        data += s.mailbox_address.to_bytes(4, "little") + b"\x40" + FIRMWARE[1:]    # interrupts are levels
        return (data + b"\x19").ljust(256, b"\0")       # wide, ultra, termination by itself

    def _set_mailboxes(self, count: int, address: int, *, wide: bool) -> None:
        s = self.state
        s.mailboxes, s.mailbox_address, s.wide = count, address, wide
        s.next_out = s.next_in = 0
        s.invalid = count == 0

    def _modify_io_address(self, choice: int) -> None:
        s = self.state
        s.invalid = choice > ISA_DISABLED + 1
        if not s.invalid:
            s.isa_port = choice
            self._place_isa()

    def _place_isa(self) -> None:
        port = self.state.isa_port
        self._isa_moved(ISA_PORTS[port] if port < ISA_DISABLED else None)

    def _store_local_ram(self, offset: int, data: bytes) -> None:
        ram = self.state.local_ram
        ram[offset : offset + len(data)] = data[: len(ram) - offset]

    # --- mailboxes ---

    def _scan(self) -> None:
        """Takes commands out of outgoing mailboxes while there is room for them."""
        s = self.state
        if self._scanning:              # a command that ended at once: the loop below goes on
            return
        self._scanning = True
        free = 0
        for _ in range(2 * s.mailboxes):
            if len(s.in_flight) >= IN_FLIGHT_MAX or free >= (1 if s.strict else s.mailboxes):
                break
            free = 0 if self._take_mailbox() else free + 1
        self._scanning = False
        self._deliver()

    def _take_mailbox(self) -> bool:
        """Looks at the next outgoing mailbox; False: it is free."""
        s = self.state
        size = 8 if s.wide else 4
        at = s.mailbox_address + size * s.next_out
        box = self._memory.read(at, size)
        action, ccb = (box[7], box[:4]) if s.wide else (box[0], box[3:0:-1])
        if action == Action.FREE:
            if not s.strict:
                s.next_out = (s.next_out + 1) % s.mailboxes
            return False
        s.next_out = (s.next_out + 1) % s.mailboxes
        self._memory.write(at + 7 if s.wide else at, bytes((Action.FREE,)))
        if s.mail_out_interrupt:
            self._interrupt(Interrupt.MAIL_OUT)
        address = int.from_bytes(ccb, "little")
        if action == Action.START:
            self._start(address)
        elif action == Action.ABORT:
            self._abort(address)
        else:
            trace.odd("buslogic", "outgoing mailbox with action %02Xh", action)
        return True

    def _deliver(self) -> None:
        """Puts what is done into incoming mailboxes, as far as these are free."""
        s = self.state
        while s.done and s.mailboxes:
            size = 8 if s.wide else 4
            at = s.mailbox_address + size * (s.mailboxes + s.next_in)
            if self._memory.read(at + 7 if s.wide else at, 1) != b"\0":
                return
            done = s.done.pop(0)
            if s.wide:
                status = bytes((done.host_status, done.target_status, 0, done.completion))
                self._memory.write(at, done.ccb.to_bytes(4, "little") + status)
            else:
                self._memory.write(at, bytes((done.completion,)) + done.ccb.to_bytes(4, "big")[1:])
            s.next_in = (s.next_in + 1) % s.mailboxes
            self._interrupt(Interrupt.MAIL_IN)

    # --- CCBs ---

    def _start(self, address: int) -> None:
        s = self.state
        if address in self._requests:
            trace.odd("buslogic", "CCB at %Xh started twice", address)
            return
        ccb = Ccb(self._memory.read(address, Ccb.LENGTH), s.wide, s.extended_lun)
        target = self.targets.get(ccb.target)
        if target is None:
            self._end(address, HostStatus.SELECTION_TIMEOUT)
        elif ccb.opcode == Opcode.BUS_DEVICE_RESET:
            self._drop(lambda request: request.ccb.target == ccb.target, HostStatus.RESET)
            target.reset()
            self._end(address, HostStatus.NORMAL)
        elif ccb.opcode not in (0, 2, 3, 4):
            self._end(address, HostStatus.BAD_OPCODE)
        elif not ccb.cdb:
            self._end(address, HostStatus.BAD_PARAMETER)
        else:
            request = Request(address, ccb, self._segments(ccb))
            self._requests[address] = request
            s.in_flight.append(address)
            target.execute(request.task, Transfer(self, request))

    def _segments(self, ccb: Ccb) -> list[tuple[int, int]]:
        """Where the data is: (address, bytes)."""
        if ccb.direction == Direction.NONE or not ccb.length:
            return []
        if not ccb.in_segments:
            return [(ccb.data, ccb.length)]
        size = 8 if ccb.wide else 6
        table = self._memory.read(ccb.data, min(ccb.length // size, SEGMENTS_MAX) * size)
        if ccb.wide:
            return [(address, length) for length, address in struct.iter_unpack("<II", table)]
        entries = [table[at : at + size] for at in range(0, len(table), size)]
        return [(int.from_bytes(e[3:], "big"), int.from_bytes(e[:3], "big")) for e in entries]

    def complete(self, request: Request, status: int, sense: bytes) -> None:
        """A target is through with a CCB."""
        ccb, address = request.ccb, request.address
        del self._requests[address]
        self.state.in_flight.remove(address)
        if sense and ccb.sense_room:
            where = ccb.sense if ccb.wide else address + ccb.sense
            self._memory.write(where, sense[: ccb.sense_room])
        residual = request.total - request.moved
        host_status = HostStatus.NORMAL
        if ccb.tells_residual:
            low = residual & (0xFFFF_FFFF if ccb.wide else 0xFF_FFFF)
            left = low.to_bytes(4, "little") if ccb.wide else low.to_bytes(3, "big")
            self._memory.write(address + 4, left)
        elif residual and status == Status.GOOD and ccb.direction in (Direction.IN, Direction.OUT):
            host_status = HostStatus.DATA_RUN
        self._end(address, host_status, status)
        self._scan()
        self._update_irq()

    def _end(self, address: int, host_status: int, target_status: int = 0, completion: int = 0) -> None:
        """The CCB gets its statuses, and waits for an incoming mailbox."""
        self._memory.write(address + 14, bytes((host_status, target_status)))
        bad = host_status or target_status
        completion = completion or (Completion.ERROR if bad else Completion.GOOD)
        self.state.done.append(Done(address, host_status, target_status, completion))

    def _abort(self, address: int) -> None:
        if address in self._requests:
            self._forget(self._requests[address])
            self._end(address, HostStatus.NORMAL, completion=Completion.ABORTED)
        else:
            self.state.done.append(Done(address, 0, 0, Completion.NOT_FOUND))

    def _drop(self, which: Callable[[Request], bool], host_status: int) -> None:
        for request in [r for r in self._requests.values() if which(r)]:
            self._forget(request)
            self._end(request.address, host_status)

    def _forget(self, request: Request) -> None:
        """Nothing more comes of it."""
        self.targets[request.ccb.target].abort(request.task)
        self._requests.pop(request.address, None)
        if request.address in self.state.in_flight:
            self.state.in_flight.remove(request.address)

    # --- resets ---

    def _reset_bus(self) -> None:
        self._drop(lambda request: True, HostStatus.RESET)
        for target in self.targets.values():
            target.reset()
        self._deliver()

    def _reset_adapter(self, *, bus: bool) -> None:
        """Mailboxes, settings and all that was under way are gone; a hard reset resets the SCSI bus, too."""
        for request in list(self._requests.values()):
            self._forget(request)
        if bus:
            for target in self.targets.values():
                target.reset()
        s = self.state
        isa_port, ram = s.isa_port, s.local_ram
        self.state = State(config=s.config, self_test=True, isa_port=isa_port, local_ram=ram)

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        """What was under way is begun anew: its CCBs are in memory as they were."""
        for request in list(self._requests.values()):
            self._forget(request)
        self.state = state
        self.restore_config()
        self._place_isa()
        under_way, state.in_flight = state.in_flight, []
        self._scanning = True
        for address in under_way:
            self._start(address)
        self._scanning = False
        self._deliver()
        self._update_irq()

    # --- interrupts ---

    def _interrupt(self, cause: int) -> None:
        """A cause that comes while another was not reset shows itself after that."""
        s = self.state
        if s.interrupt:
            s.waiting |= cause | Interrupt.VALID
        else:
            s.interrupt = cause | Interrupt.VALID

    def _update_irq(self) -> None:
        s = self.state
        self._irq.set(bool(s.interrupt) and s.interrupts_enabled)


class Transfer:
    """The adapter's side of one task."""

    def __init__(self, adapter: BusLogic, request: Request) -> None:
        self._adapter = adapter
        self._request = request

    def data_in(self, task: Task, data: bytes) -> bool:
        memory, done = self._adapter._memory, 0
        for address, length in self._request.next(len(data)):
            memory.write(address, data[done : done + length])
            done += length
        return True

    def data_out(self, task: Task, length: int) -> bytes:
        memory = self._adapter._memory
        return b"".join([memory.read(address, count) for address, count in self._request.next(length)])

    def complete(self, task: Task, status: int, sense: bytes) -> None:
        self._adapter.complete(self._request, status, sense)
