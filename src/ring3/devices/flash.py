"""Parallel NOR flash of 8-bit width with Intel's command set: where UEFI keeps its variables.

Datasheets: Intel, "28F640J3 Numonyx Embedded Flash (J3)", 316577 (commands and status register); JEDEC JESD68
(Common Flash Interface), and "CFI Primary Vendor-Specific Extended Query".  Commands are written to any
address; what reads see then depends on the command: the array, the status register, the identifiers or the
CFI table.  Programming can only clear bits, erasing sets those of a block.

In array mode the memory map reads the array by itself and the chip sees writes alone: `show` switches that,
and `program` brings changes there.  `save` keeps them beyond the machine's life.

Not modelled: time (an operation is done at once), suspending, lock bits (commands are taken, nothing is
locked), protection registers.  Clear status clears the ready bit, too, until the next operation: OVMF's
driver knows flash by that.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

BLOCK = 4096                            # bytes that are erased at once
BUFFER = 32                             # bytes of the write buffer
MANUFACTURER, DEVICE = 0x89, 0x18       # Intel


class Command:
    ARRAY, PROGRAM, PROGRAM_ALTERNATE, ERASE = 0xFF, 0x40, 0x10, 0x20
    CLEAR_STATUS, LOCK, READ_STATUS, IDENTIFY, QUERY = 0x50, 0x60, 0x70, 0x90, 0x98
    BUFFER, CONFIRM = 0xE8, 0xD0


class Status:
    SEQUENCE_ERROR, READY = 0x30, 0x80  # the error: erase and program bits together


class Sees:  # what reads see
    ARRAY, STATUS, IDENTIFIERS, QUERY = range(4)


@dataclass(slots=True)
class State:
    """Contents and command state; also the checkpoint record.  The contents outlive a reset."""

    data: bytearray
    sees: int = Sees.ARRAY
    status: int = Status.READY
    command: int = 0                    # whose second cycle is awaited; 0: none
    buffer: dict[str, int] = field(default_factory=dict)        # bytes by offset, while BUFFER gathers them
    buffer_left: int = -1               # bytes still to come; -1: their number is awaited


class CfiFlash:
    """A wide face of as many bytes as the array has."""

    def __init__(
        self,
        data: bytes,
        show: Callable[[bool], None],
        program: Callable[[int, bytes], None],
        save: Callable[[int, bytes], None],
    ) -> None:
        """`program` and `save` take an offset and the bytes that are there now."""
        self._show = show
        self._program = program
        self._save = save
        self.state = State(bytearray(data))
        self._query = query_table(len(data))

    # --- bus cycles ---

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(bytes(self._read(offset + n) for n in range(size)), "little")

    def write(self, offset: int, value: int, size: int) -> None:
        for n in range(size):
            self._write(offset + n, value >> 8 * n & 0xFF)

    def _read(self, offset: int) -> int:
        s = self.state
        if offset >= len(s.data):
            return 0xFF
        match s.sees:
            case Sees.STATUS:
                return s.status
            case Sees.IDENTIFIERS:
                return {0: MANUFACTURER, 1: DEVICE}.get(offset % BLOCK, 0)
            case Sees.QUERY:
                return self._query.get(offset, 0)
        return s.data[offset]

    def _write(self, offset: int, value: int) -> None:
        if self.state.command:
            self._second_cycle(offset, value)
        else:
            self._first_cycle(value)

    def _first_cycle(self, value: int) -> None:
        s = self.state
        match value:
            case Command.PROGRAM | Command.PROGRAM_ALTERNATE | Command.ERASE | Command.LOCK:
                s.command = value
                self._see(Sees.STATUS)
            case Command.BUFFER:
                s.command, s.buffer, s.buffer_left = value, {}, -1
                s.status |= Status.READY
                self._see(Sees.STATUS)
            case Command.CLEAR_STATUS:
                s.status = 0
            case Command.READ_STATUS:
                self._see(Sees.STATUS)
            case Command.IDENTIFY:
                self._see(Sees.IDENTIFIERS)
            case Command.QUERY:
                self._see(Sees.QUERY)
            case _:
                self._see(Sees.ARRAY)

    def _second_cycle(self, offset: int, value: int) -> None:
        s = self.state
        command = s.command
        if command == Command.BUFFER:
            self._fill_buffer(offset, value)
            return
        s.command = 0
        s.status |= Status.READY
        if command in (Command.PROGRAM, Command.PROGRAM_ALTERNATE):
            self._change(offset, bytes((value,)))
        elif command == Command.ERASE and value == Command.CONFIRM:
            self._erase(offset)
        elif command == Command.ERASE:
            s.status |= Status.SEQUENCE_ERROR

    def _fill_buffer(self, offset: int, value: int) -> None:
        """Number of bytes less one, the bytes, and the confirmation."""
        s = self.state
        if s.buffer_left < 0:
            s.buffer_left = value % BUFFER + 1
        elif s.buffer_left > 0:
            s.buffer[str(offset)] = value
            s.buffer_left -= 1
        else:
            s.command = 0
            if value == Command.CONFIRM:
                for at, byte in s.buffer.items():
                    self._change(int(at), bytes((byte,)))
            else:
                s.status |= Status.SEQUENCE_ERROR
            s.buffer = {}

    def reset(self) -> None:
        self.restore(State(self.state.data))

    def restore(self, state: State) -> None:
        self.state = state
        self._program(0, bytes(state.data))
        self._show(state.sees == Sees.ARRAY)

    # --- the array ---

    def _see(self, what: int) -> None:
        s = self.state
        if (what == Sees.ARRAY) != (s.sees == Sees.ARRAY):
            self._show(what == Sees.ARRAY)
        s.sees = what

    def _change(self, offset: int, data: bytes) -> None:
        """Programs: bits can only be cleared."""
        old = self.state.data[offset : offset + len(data)]
        self._store(offset, bytes(a & b for a, b in zip(old, data, strict=False)))

    def _erase(self, offset: int) -> None:
        first = offset - offset % BLOCK
        self._store(first, b"\xff" * len(self.state.data[first : first + BLOCK]))

    def _store(self, offset: int, data: bytes) -> None:
        if data:
            self.state.data[offset : offset + len(data)] = data
            self._program(offset, data)
            self._save(offset, data)


def query_table(size: int) -> dict[int, int]:
    """JESD68: identification, system interface, geometry, and Intel's extension; times are 2^n units."""
    blocks = size // BLOCK - 1
    size_log2, buffer_log2 = (size - 1).bit_length(), (BUFFER - 1).bit_length()
    by_8, one_region = 0, 1
    geometry = struct.pack("<BHHBHH", size_log2, by_8, buffer_log2, one_region, blocks, BLOCK // 256)
    parts = {
        0x10: b"QRY" + b"\x01\x00\x31\x00" + bytes(4),
        0x1B: bytes([0x45, 0x55, 0, 0, 7, 7, 10, 0, 4, 4, 4, 0]),
        0x27: geometry,
        0x31: b"PRI10" + bytes(8),
    }
    return {at + n: byte for at, data in parts.items() for n, byte in enumerate(data)}
