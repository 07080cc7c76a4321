"""ES1371 AudioPCI sound controller, with an AC'97 codec: a PCI function with 64 ports.

Ensoniq, "AudioPCI 97 ES1371 Preliminary Datasheet"; names of registers and bits follow it.  Two channels
play (DAC1, DAC2), one records (ADC): each fetches frames of 1 to 4 bytes from a ring in memory and
interrupts when its sample counter runs out.

Modelled: the channels with rates from the sample-rate converter's memory, pause, loop and stop modes,
counters as a driver reads them; interrupts; the codec through its port; volumes of converter and codec.
The ADC records silence.  Not modelled: the SoundBlaster legacy emulation (registers stored), the UART (its
bytes go nowhere), joystick, and the converter's filters.
"""

from dataclasses import dataclass, field
from functools import partial

from ring3.audio import AudioSink
from ring3.clock import Clock
from ring3.devices.face import Memory
from ring3.devices.pci.config import Bar, Command, Moved, PciFunction, image
from ring3.devices.pci.config import Reg as Pci
from ring3.devices.sound import ac97
from ring3.devices.sound.frames import FrameClock, FrameClockState, Output, scaled
from ring3.irq import IrqLine

PORTS = 64
DAC1, DAC2, ADC = range(3)
RATE_MAX = 96_000                       # Hz: beyond what the converter can do
UNITY = 1 << 12                         # volumes of the converter


class Reg:
    CONTROL, STATUS, UART_DATA, UART_STATUS, PAGE = 0x00, 0x04, 0x08, 0x09, 0x0C
    CONVERTER, CODEC, LEGACY, CHANNEL_STATUS, SERIAL = 0x10, 0x14, 0x18, 0x1C, 0x20
    COUNT = (0x24, 0x28, 0x2C)          # of DAC1, DAC2 and ADC
    PAGED = 0x30


PAGE_DAC, PAGE_ADC = 0x0C, 0x0D
# Paged registers: (page, offset) of frame address and size of each channel.
FRAME = {(PAGE_DAC, 0x30): DAC1, (PAGE_DAC, 0x38): DAC2, (PAGE_ADC, 0x30): ADC}
SIZE = {(PAGE_DAC, 0x34): DAC1, (PAGE_DAC, 0x3C): DAC2, (PAGE_ADC, 0x34): ADC}


class Control:
    ENABLE = (0x40, 0x20, 0x10)         # of DAC1, DAC2 and ADC
    SYNC_RES = 0x4000                   # warm reset of the codec


class Status:
    INTR = 0x8000_0000
    PENDING = (0x04, 0x02, 0x01)


class Serial:
    INTERRUPT = (0x0100, 0x0200, 0x0400)
    PAUSE = (0x0800, 0x1000, 0)
    STOP = (0x2000, 0x4000, 0x8000)     # at the end of the count, instead of going on
    MODE_SHIFT = (0, 2, 4)              # 1 stereo, 2 of 16 bits


class Converter:                        # the sample-rate converter's port
    WRITE, STATE, KEEP = 0x0100_0000, 0x0001_0000, 0x0078_0000
    BASE = (0x70, 0x74, 0x78)           # in its memory: registers of DAC1, DAC2 and ADC
    TRUNC_N, INT_REGS, VFREQ_FRAC = 0, 1, 3
    VOLUME = (0x7C, 0x7E, 0x6C)


class Codec:
    READY, READ = 0x8000_0000, 0x0080_0000


UART_READY = 0x02

RESET = image(
    (Pci.VENDOR, 2, 0x1274),
    (Pci.DEVICE, 2, 0x1371),
    (Pci.STATUS, 2, 0x0400),
    (Pci.REVISION, 1, 0x02),
    (Pci.CLASS, 3, 0x04_01_00),
    (Pci.BAR0, 4, 0x0000_0001),
    (Pci.SUBSYSTEM_VENDOR, 2, 0x1274),
    (Pci.SUBSYSTEM, 2, 0x1371),
    (Pci.INTERRUPT_PIN, 1, 0x01),
    (0x3E, 2, 0x800C),                  # MIN_GNT, MAX_LAT
)
WRITABLE = image(
    (Pci.COMMAND, 2, Command.IO | Command.MASTER | Command.SERR),
    (Pci.LATENCY, 1, 0xF8),
    (Pci.INTERRUPT_LINE, 1, 0xFF),
)
CLEARABLE = image((Pci.STATUS, 2, 0xF900))


@dataclass(slots=True)
class Channel:
    """One channel at its reset value."""

    address: int = 0
    size: int = 0                       # dwords of the ring, less one
    position: int = 0                   # bytes into it
    count: int = 0                      # frames between interrupts, less one
    left: int = 0                       # frames to the next one, less one
    stopped: bool = False               # at the end of its count, in stop mode
    clock: FrameClockState = field(default_factory=FrameClockState)


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    config: bytearray = field(default_factory=lambda: bytearray(RESET))
    control: int = 0
    pending: int = 0                    # of Status.PENDING
    page: int = 0
    converter: int = 0                  # as written last
    converter_reads: int = 0
    converter_memory: list[int] = field(default_factory=lambda: [0] * 128)
    codec_port: int = 0
    legacy: int = 0
    serial: int = 0
    channels: list[Channel] = field(default_factory=lambda: [Channel() for _ in range(3)])
    codec: ac97.State = field(default_factory=ac97.State)


class Es1371(PciFunction):
    """A wide face of 64 ports."""

    state: State

    def __init__(self, clock: Clock, memory: Memory, irq: IrqLine, sink: AudioSink, moved: Moved) -> None:
        super().__init__(State(), WRITABLE, clearable=CLEARABLE, bars=(Bar(PORTS, io=True),), moved=moved)
        self._memory = memory
        self._irq = irq
        self.codec = ac97.Ac97()
        self._outputs = (Output(sink), Output(sink))
        self._clocks = [
            FrameClock(clock, partial(self._move, n), partial(self._until_event, n)) for n in range(3)
        ]
        self._adopt(self.state)

    def reset(self) -> None:
        for output in self._outputs:
            output.close()
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self._adopt(state)
        self.restore_config()
        self._update_irq()

    def _adopt(self, state: State) -> None:
        self.codec.state = state.codec
        for clock, channel in zip(self._clocks, state.channels, strict=True):
            clock.restore(channel.clock)

    # --- ports ---

    def read(self, offset: int, size: int) -> int:
        """Registers of 32 bits; narrower accesses see their bytes."""
        value = self._read_register(offset & ~3) >> 8 * (offset & 3)
        return value & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        if size < 4:
            shift = 8 * (offset & 3)
            mask = ((1 << 8 * size) - 1) << shift
            value = self._stored(offset & ~3) & ~mask | value << shift & mask
        self._write_register(offset & ~3, value)

    def _stored(self, offset: int) -> int:
        """What a narrow write leaves as it is: of ports that act when written, nothing."""
        return 0 if offset in (Reg.CODEC, Reg.CONVERTER) else self._read_register(offset)

    def _read_register(self, offset: int) -> int:
        s = self.state
        match offset:
            case Reg.CONTROL:
                return s.control
            case Reg.STATUS:
                return s.pending | (Status.INTR if s.pending else 0)
            case Reg.UART_DATA:
                return UART_READY << 8
            case Reg.PAGE:
                return s.page
            case Reg.CONVERTER:
                return self._read_converter()
            case Reg.CODEC:
                return s.codec_port
            case Reg.LEGACY:
                return s.legacy
            case Reg.SERIAL:
                return s.serial
        return self._read_channel(offset)

    def _read_channel(self, offset: int) -> int:
        s = self.state
        if offset in Reg.COUNT:
            number = Reg.COUNT.index(offset)
            self._clocks[number].catch_up()
            return s.channels[number].left << 16 | s.channels[number].count
        paged = (s.page, offset)
        if paged in FRAME:
            return s.channels[FRAME[paged]].address
        if paged in SIZE:
            self._clocks[SIZE[paged]].catch_up()
            channel = s.channels[SIZE[paged]]
            return channel.position >> 2 << 16 | channel.size
        return 0

    def _write_register(self, offset: int, value: int) -> None:
        s = self.state
        match offset:
            case Reg.CONTROL:
                if value & Control.SYNC_RES:
                    self.codec.write(ac97.Reg.RESET, 0)
                s.control = value
                self._update_channels()
            case Reg.PAGE:
                s.page = value & 0x0F
            case Reg.CONVERTER:
                self._write_converter(value)
            case Reg.CODEC:
                self._access_codec(value)
            case Reg.LEGACY:
                s.legacy = value
            case Reg.SERIAL:
                s.serial = value & 0x007F_FFFF
                for number, enabled in enumerate(Serial.INTERRUPT):
                    if not value & enabled:
                        s.pending &= ~Status.PENDING[number]
                self._update_channels()
                self._update_irq()
            case _:
                self._write_channel(offset, value)

    def _write_channel(self, offset: int, value: int) -> None:
        s = self.state
        paged = (s.page, offset)
        if offset in Reg.COUNT:
            channel = s.channels[Reg.COUNT.index(offset)]
            channel.count = channel.left = value & 0xFFFF
            channel.stopped = False
            self._update_channels()
            self._clocks[Reg.COUNT.index(offset)].event_moved()
        elif paged in FRAME:
            s.channels[FRAME[paged]].address = value & 0xFFFF_FFFC
        elif paged in SIZE:
            channel = s.channels[SIZE[paged]]
            channel.size, channel.position = value & 0xFFFF, value >> 16 << 2

    # --- converter and codec ---

    def _read_converter(self) -> int:
        """Never busy.  Its state machine shows whether it is at the address asked for; drivers wait for
        both answers."""
        s = self.state
        s.converter_reads ^= 1
        value = s.converter & (Converter.KEEP | 0xFE00_0000) | s.converter_memory[s.converter >> 25]
        return value | (Converter.STATE if s.converter & Converter.STATE and s.converter_reads else 0)

    def _write_converter(self, value: int) -> None:
        s = self.state
        s.converter = value
        if value & Converter.WRITE:
            s.converter_memory[value >> 25] = value & 0xFFFF
            self._update_channels()

    def _access_codec(self, value: int) -> None:
        register = value >> 16 & 0x7F
        if value & Codec.READ:
            self.state.codec_port = Codec.READY | register << 16 | self.codec.read(register)
        else:
            self.codec.write(register, value & 0xFFFF)
            self.state.codec_port = Codec.READY | value & 0x007F_FFFF

    def _rate(self, number: int) -> int:
        """Hz; 0 while nothing sensible is programmed."""
        memory, base = self.state.converter_memory, Converter.BASE[number]
        integer, fraction = memory[base + Converter.INT_REGS] >> 10, memory[base + Converter.VFREQ_FRAC]
        frequency = integer << 15 | fraction & 0x7FFF
        if number == ADC:
            n = memory[base + Converter.TRUNC_N] >> 4 & 0x1F
            rate = (48_000 * n << 15) // frequency if frequency else 0
        else:
            rate = (frequency * 3_000 + (1 << 14)) >> 15
        return min(rate, RATE_MAX)

    def _gains(self, number: int) -> tuple[float, float]:
        left, right = self.codec.gains()
        memory, at = self.state.converter_memory, Converter.VOLUME[number]
        return left * memory[at] / UNITY, right * memory[at + 1] / UNITY

    # --- channels ---

    def _format(self, number: int) -> tuple[int, int]:
        """Channels and bytes of a sample."""
        mode = self.state.serial >> Serial.MODE_SHIFT[number]
        return 1 + (mode & 1), 1 + (mode >> 1 & 1)

    def _update_channels(self) -> None:
        """Starts and stops what control, serial and converter registers say."""
        s = self.state
        for number, clock in enumerate(self._clocks):
            enabled = s.control & Control.ENABLE[number] and not s.serial & Serial.PAUSE[number]
            rate = self._rate(number) if enabled and not s.channels[number].stopped else 0
            if rate and rate != clock.state.rate_hz:
                clock.start(rate)
            elif not rate and clock.running:
                clock.stop()

    def _until_event(self, number: int) -> int:
        return self.state.channels[number].left + 1

    def _move(self, number: int, frames: int) -> int:
        s = self.state
        channel = s.channels[number]
        channels, sample_bytes = self._format(number)
        length = frames * channels * sample_bytes
        if s.config[Pci.COMMAND] & Command.MASTER:
            if number == ADC:
                self._record(channel, length, sample_bytes)
            else:
                data = scaled(self._fetch(channel, length), channels, sample_bytes, self._gains(number))
                self._outputs[number].play(channel.clock.rate_hz, channels, sample_bytes, data)
        channel.left -= frames
        if channel.left < 0:
            self._count_out(number)
        return frames

    def _pieces(self, channel: Channel, length: int) -> list[tuple[int, int]]:
        """(address, length) of the next bytes of the ring; moves on behind them."""
        ring = (channel.size + 1) * 4
        position = channel.position % ring
        channel.position = (position + length) % ring
        pieces = []
        while length:
            part = min(length, ring - position)
            pieces.append((channel.address + position, part))
            length, position = length - part, 0
        return pieces

    def _fetch(self, channel: Channel, length: int) -> bytes:
        return b"".join(self._memory.read(*piece) for piece in self._pieces(channel, length))

    def _record(self, channel: Channel, length: int, sample_bytes: int) -> None:
        silence = b"\x80" if sample_bytes == 1 else b"\0"
        for address, part in self._pieces(channel, length):
            self._memory.write(address, silence * part)

    def _count_out(self, number: int) -> None:
        s = self.state
        channel = s.channels[number]
        channel.left = channel.count
        if s.serial & Serial.INTERRUPT[number]:
            s.pending |= Status.PENDING[number]
            self._update_irq()
        if s.serial & Serial.STOP[number]:
            channel.stopped = True
            self._clocks[number].stop()

    def _update_irq(self) -> None:
        self._irq.set(self.state.pending != 0)
