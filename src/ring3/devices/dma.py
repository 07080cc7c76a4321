"""8237A DMA controllers, the PC/AT's pair, with their page registers.

Datasheets: Intel, "8237A High Performance Programmable DMA Controller", 231466; page registers and high
addresses: "82371SB (PIIX3)", 290550, §2.3 ("DMA registers").  Channels 0–3 are on the first controller and
move bytes, 5–7 on the second and move words; channel 4 is the cascade.

A chip on the bus holds a `Channel` and moves as much as it has at once: `to_memory` and `from_memory` do what
the controller would do cycle by cycle, and tell how far it got and whether the terminal count was reached.
A channel that is masked, off or programmed for another direction moves nothing; `on_ready` tells the chip
when that changes, so it need not poll.

Not modelled: memory-to-memory transfers (no PC wires them), rotating priority, compressed timing, and the
bus cycles in between: single, block and demand mode transfer alike.  Addresses and lengths are in bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ring3.devices.face import Memory, Registers

VERIFY, WRITE, READ, ILLEGAL = range(4)             # transfer types; WRITE goes to memory


class Mode:  # mode register
    TRANSFER, AUTOINIT, DECREMENT, MODE = 0x0C, 0x10, 0x20, 0xC0
    CASCADE = 0xC0


class Command:  # command register
    MEMORY_TO_MEMORY, DISABLE = 0x01, 0x04


# By channel: its page register, from 81h; the other registers there just store.
PAGE_REGISTER = (0x6, 0x2, 0x0, 0x1, 0xE, 0xA, 0x8, 0x9)


@dataclass(slots=True)
class ChannelState:
    """One channel at its reset value; also the checkpoint record.  Counts are in units of the channel."""

    base_address: int = 0
    base_count: int = 0
    address: int = 0
    count: int = 0
    mode: int = 0
    masked: bool = True
    terminal_count: bool = False
    requested: bool = False             # by software


@dataclass(slots=True)
class State:
    """The pair at its reset value; also the checkpoint record."""

    channels: list[ChannelState] = field(default_factory=lambda: [ChannelState() for _ in range(8)])
    pages: bytearray = field(default_factory=lambda: bytearray(15))
    commands: list[int] = field(default_factory=lambda: [0, 0])
    high_byte: list[bool] = field(default_factory=lambda: [False, False])   # which byte comes next


def _nobody_waits() -> None:
    """The default of a channel whose chip asks by itself."""


class Channel:
    """A chip's end of one channel's DREQ, DACK and TC."""

    def __init__(self, pair: "I8237Pair", number: int) -> None:
        self._pair = pair
        self.number = number
        self.unit = 2 if number >= 4 else 1             # bytes
        self.dreq = False
        self.on_ready: Callable[[], None] = _nobody_waits

    def request(self, level: bool) -> None:
        """DREQ, as the status register shows it."""
        self.dreq = level

    @property
    def ready(self) -> bool:
        """Whether a request would be served now."""
        return self._pair.serves(self.number)

    @property
    def remaining(self) -> int:
        """Bytes until the terminal count."""
        return (self._pair.state.channels[self.number].count + 1) * self.unit

    def to_memory(self, data: bytes) -> tuple[int, bool]:
        """The chip's bytes go to memory: how many were taken, and whether TC came with the last of them."""
        return self._pair.to_memory(self.number, data)

    def from_memory(self, limit: int) -> tuple[bytes, bool]:
        """At most `limit` bytes from memory for the chip, and whether TC came with the last of them."""
        return self._pair.from_memory(self.number, limit)


class I8237Pair:
    """Both controllers.  Byte faces: `primary` of 16 ports, `secondary` of 32, and `pages` of 15."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.state = State()
        self._channels = [Channel(self, n) for n in range(8)]
        self.primary = Registers(partial(self._read, 0), partial(self._write, 0))
        # Address line 0 does not reach the second one: its registers are two ports wide.
        self.secondary = Registers(
            lambda port: self._read(1, port >> 1), lambda port, value: self._write(1, port >> 1, value)
        )
        self.pages = Registers(self._read_page, self._write_page)

    def channel(self, number: int) -> Channel:
        return self._channels[number]

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state

    # --- transfers ---

    def serves(self, number: int) -> bool:
        state = self.state
        channel = state.channels[number]
        cascaded = number >= 4 or self._passes(4)
        return cascaded and self._passes(number) and channel.mode & Mode.MODE != Mode.CASCADE

    def _passes(self, number: int) -> bool:
        """Neither masked nor its controller off."""
        enabled = not self.state.commands[number >> 2] & Command.DISABLE
        return enabled and not self.state.channels[number].masked

    def to_memory(self, number: int, data: bytes) -> tuple[int, bool]:
        done, ended = 0, False
        while done < len(data) and not ended and self._kind(number) in (WRITE, VERIFY):
            address, length = self._run(number, len(data) - done)
            if not length:
                break
            if self._kind(number) == WRITE:
                self._store(number, address, data[done : done + length])
            done += length
            ended = self._advance(number, length)
        return done, ended

    def from_memory(self, number: int, limit: int) -> tuple[bytes, bool]:
        data, ended = bytearray(), False
        while len(data) < limit and not ended and self._kind(number) == READ:
            address, length = self._run(number, limit - len(data))
            if not length:
                break
            data += self._load(number, address, length)
            ended = self._advance(number, length)
        return bytes(data), ended

    def _kind(self, number: int) -> int:
        """The transfer type; ILLEGAL also while nothing is served."""
        if not self.serves(number):
            return ILLEGAL
        return (self.state.channels[number].mode & Mode.TRANSFER) >> 2

    def _run(self, number: int, limit: int) -> tuple[int, int]:
        """Physical address and bytes that can move at once: to the terminal count, or to the page's end.

        The 16-bit address wraps inside its page.  Going down, the bytes end at the address.
        """
        channel, unit = self.state.channels[number], self._channels[number].unit
        down = channel.mode & Mode.DECREMENT
        to_wrap = channel.address + 1 if down else 0x1_0000 - channel.address
        units = min(limit // unit, channel.count + 1, to_wrap)
        first = channel.address - (units - 1 if down else 0)
        page = self.state.pages[PAGE_REGISTER[number]]
        if unit == 2:
            return (page & 0xFE) << 16 | first << 1, units * 2
        return page << 16 | first, units

    def _store(self, number: int, address: int, data: bytes) -> None:
        self._memory.write(address, self._in_order(number, data))

    def _load(self, number: int, address: int, length: int) -> bytes:
        return self._in_order(number, self._memory.read(address, length))

    def _in_order(self, number: int, data: bytes) -> bytes:
        """Going down, the first unit is the one at the highest address."""
        if not self.state.channels[number].mode & Mode.DECREMENT:
            return data
        unit = self._channels[number].unit
        return b"".join(data[at : at + unit] for at in range(len(data) - unit, -1, -unit))

    def _advance(self, number: int, length: int) -> bool:
        """Counts what moved; True at the terminal count, after which the channel starts over or is masked."""
        channel = self.state.channels[number]
        units = length // self._channels[number].unit
        step = -units if channel.mode & Mode.DECREMENT else units
        channel.address = channel.address + step & 0xFFFF
        ended = units > channel.count
        channel.count = channel.count - units & 0xFFFF
        if ended:
            channel.terminal_count = True
            channel.requested = False
            if channel.mode & Mode.AUTOINIT:
                channel.address, channel.count = channel.base_address, channel.base_count
            else:
                channel.masked = True
        return ended

    # --- registers ---

    def _read(self, controller: int, register: int) -> int:
        if register < 8:
            return self._read_pair(controller, register)
        if register == 8:
            return self._read_status(controller)
        # The temporary register (Dh) is 0 without memory-to-memory transfers; PIIX3 reads masks at Fh.
        if register == 0xF:
            return 0xF0 | sum(c.masked << n for n, c in enumerate(self._of(controller)))
        return 0x00 if register == 0xD else 0xFF

    def _write(self, controller: int, register: int, value: int) -> None:
        was_ready = [self.serves(n) for n in range(8)]
        if register < 8:
            self._write_pair(controller, register, value)
        else:
            self._write_control(controller, register, value)
        for n, channel in enumerate(self._channels):
            if not was_ready[n] and self.serves(n):
                channel.on_ready()

    def _of(self, controller: int) -> Sequence[ChannelState]:
        return self.state.channels[4 * controller : 4 * controller + 4]

    def _next_shift(self, controller: int) -> int:
        """The byte pointer flip-flop: 0 for the low byte, 8 for the high one; turns over."""
        high = self.state.high_byte
        high[controller] = not high[controller]
        return 0 if high[controller] else 8

    def _read_pair(self, controller: int, register: int) -> int:
        channel = self._of(controller)[register >> 1]
        value = channel.count if register & 1 else channel.address
        return value >> self._next_shift(controller) & 0xFF

    def _write_pair(self, controller: int, register: int, value: int) -> None:
        channel = self._of(controller)[register >> 1]
        shift = self._next_shift(controller)
        keep = 0xFF00 >> shift
        if register & 1:
            channel.base_count = channel.count = channel.base_count & keep | value << shift
        else:
            channel.base_address = channel.address = channel.base_address & keep | value << shift

    def _read_status(self, controller: int) -> int:
        """Reading clears the terminal counts."""
        status = 0
        for n, channel in enumerate(self._of(controller)):
            dreq = self._channels[4 * controller + n].dreq or channel.requested
            status |= channel.terminal_count << n | dreq << 4 + n
            channel.terminal_count = False
        return status

    def _write_control(self, controller: int, register: int, value: int) -> None:
        channels = self._of(controller)
        channel = channels[value & 3]
        match register:
            case 0x8:
                self.state.commands[controller] = value
            case 0x9:
                channel.requested = bool(value & 4)
            case 0xA:
                channel.masked = bool(value & 4)
            case 0xB:
                channel.mode = value & 0xFC
            case 0xC:
                self.state.high_byte[controller] = False
            case 0xD:
                self._master_clear(controller)
            case 0xE:
                for each in channels:
                    each.masked = False
            case 0xF:
                for n, each in enumerate(channels):
                    each.masked = bool(value >> n & 1)

    def _master_clear(self, controller: int) -> None:
        """As the reset pin: addresses, counts and modes stay."""
        self.state.commands[controller] = 0
        self.state.high_byte[controller] = False
        for channel in self._of(controller):
            channel.masked, channel.requested, channel.terminal_count = True, False, False

    def _read_page(self, offset: int) -> int:
        return self.state.pages[offset]

    def _write_page(self, offset: int, value: int) -> None:
        self.state.pages[offset] = value
