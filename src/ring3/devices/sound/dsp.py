"""DSP of the Sound Blaster 16, version 4.05: commands and data of the digital sound.

Creative, "Sound Blaster Series Hardware Programming Guide", chapters 3 and 6 (commands); names are
Creative's.  The DSP moves samples between a DMA channel and the converter, and interrupts after each block.

Modelled: 8-bit and 16-bit, mono and stereo, single-cycle and auto-init output with every rate, pause,
continue and exit, high-speed mode, Creative's three ADPCM formats, direct output, silence blocks, interrupt
requests by command, DMA identification.  Input is silence.  Not modelled: MIDI through the DSP (30h to 38h:
the bytes go nowhere), and the Advanced Signal Processor (answers that it is absent).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ring3 import trace
from ring3.audio import AudioSink
from ring3.clock import Clock
from ring3.devices.sound.frames import FrameClock, FrameClockState, Output, flip_8, flip_16, scaled
from ring3.devices.sound.steps import Steps

VERSION = (4, 5)
COPYRIGHT = b"COPYRIGHT (C) CREATIVE TECHNOLOGY LTD, 1992.\0"
READY, NOTHING = 0xAA, 0x7F             # after reset; status without its top bit
IRQ_8, IRQ_16 = 0x01, 0x02              # as the mixer's status register has them
RATE_MIN, RATE_MAX = 4_000, 48_000      # Hz
READ_MAX = 64                           # bytes of answers

# Bytes of parameters by command, where there are any.
PARAMETERS = {
    0x05: 1, 0x0E: 2, 0x0F: 1, 0x10: 1, 0x38: 1, 0x40: 1, 0xE0: 1, 0xE2: 1, 0xE4: 1,
    **dict.fromkeys((0x04, 0x08), 1),
    **dict.fromkeys((0x14, 0x15, 0x16, 0x17, 0x24, 0x41, 0x42, 0x48, 0x74, 0x75, 0x76, 0x77, 0x80), 2),
    **dict.fromkeys(range(0xB0, 0xD0), 3),
}  # fmt: skip

ADPCM = {0x74: (4, False), 0x75: (4, True), 0x7D: (4, True),
         0x76: (3, False), 0x77: (3, True), 0x7F: (3, True),
         0x16: (2, False), 0x17: (2, True), 0x1F: (2, True)}  # fmt: skip
SAMPLES_PER_BYTE = {4: 2, 3: 3, 2: 4}   # by ADPCM bits; of three, the last sample has but two of its own
AUTO_INIT = (0x1C, 0x1F, 0x2C, 0x7D, 0x7F, 0x90, 0x98)

# E2h adds, for each bit of its parameter and then always, a number that changes from call to call.
IDENTIFICATION = (
    (0x01, -0x02, -0x04, 0x08, -0x10, 0x20, 0x40, -0x80, -106),
    (-0x01, 0x02, -0x04, 0x08, 0x10, -0x20, 0x40, -0x80, 165),
    (-0x01, 0x02, 0x04, -0x08, 0x10, -0x20, -0x40, 0x80, -151),
    (0x01, -0x02, 0x04, -0x08, -0x10, 0x20, -0x40, 0x80, 90),
)


class DmaChannel(Protocol):
    def from_memory(self, limit: int) -> tuple[bytes, bool]: ...

    def to_memory(self, data: bytes) -> tuple[int, bool]: ...


@dataclass(slots=True)
class Transfer:
    """What runs, or is paused."""

    wide: bool = False                  # 16 bits, on the 16-bit channel
    signed: bool = False
    channels: int = 1
    input: bool = False
    auto_init: bool = False
    silence: bool = False
    adpcm_bits: int = 0                 # 0: plain
    reference: bool = False             # the next byte is ADPCM's first sample
    left: int = 0                       # bytes to the end of the block
    block: int = 0                      # bytes


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    resetting: bool = False
    high_speed: bool = False
    command: int = 0                    # whose parameters come next, if any are wanted
    wanted: int = 0
    parameters: bytearray = field(default_factory=bytearray)
    answers: bytearray = field(default_factory=bytearray)
    last_answer: int = 0
    speaker: bool = False
    rate_hz: int = 11_025
    by_time_constant: bool = False      # then the rate counts samples, not frames
    block: int = 0x800                  # bytes, for auto-init without a length of its own
    test_register: int = 0
    identification: int = 0xAA
    identified: int = 0
    pending: int = 0                    # IRQ_8, IRQ_16
    transfer: Transfer = field(default_factory=Transfer)
    active: bool = False
    paused: bool = False
    sample: int = 0x80                  # ADPCM
    scale: int = 0
    frames: FrameClockState = field(default_factory=FrameClockState)


class Sb16Dsp:
    """Offsets from the card's port 6h: 0 reset, 4 read, 6 write, 8 read status, 9 acknowledge 16 bits."""

    def __init__(
        self,
        clock: Clock,
        sink: AudioSink,
        dma: Callable[[bool], DmaChannel | None],
        gains: Callable[[], tuple[float, float]],
        update_irq: Callable[[], None],
    ) -> None:
        """`dma(wide)`: the 8-bit or 16-bit channel selected now."""
        self._dma = dma
        self._gains = gains
        self._update_irq = update_irq
        self._output = Output(sink)
        self._direct = Steps(clock, sink)
        self._clock = FrameClock(clock, self._move, self._until_event)
        self.state = State(frames=self._clock.state)

    # --- ports ---

    def read(self, offset: int) -> int:
        s = self.state
        match offset:
            case 4:
                if s.answers:
                    s.last_answer = s.answers.pop(0)
                return s.last_answer
            case 6:
                return NOTHING          # the write buffer is always free
            case 8:
                self._acknowledge(IRQ_8)
                return NOTHING | (0x80 if s.answers else 0)
            case 9:
                self._acknowledge(IRQ_16)
        return 0xFF

    def write(self, offset: int, value: int) -> None:
        s = self.state
        if offset == 0:
            if s.resetting and not value & 1:
                self._reset_pulse()
            s.resetting = bool(value & 1)
        elif offset == 6:
            if s.wanted:
                s.parameters.append(value)
                s.wanted -= 1
            else:
                s.command, s.wanted = value, PARAMETERS.get(value, 0)
                s.parameters.clear()
            if not s.wanted:
                self._run(s.command, bytes(s.parameters))

    def reset(self) -> None:
        self._output.close()
        self._direct.stop()
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self._clock.restore(state.frames)
        self._update_irq()

    # --- commands ---

    def _reset_pulse(self) -> None:
        """Falling edge of the reset bit; out of high-speed mode it only leads back to commands."""
        s = self.state
        if s.high_speed:
            s.high_speed = False
            self._stop()
            return
        self._clock.stop()
        self._direct.stop()
        self.state = State(frames=FrameClockState(), answers=bytearray((READY,)))
        self._clock.restore(self.state.frames)
        self._update_irq()

    def _run(self, command: int, parameters: bytes) -> None:
        s = self.state
        if 0xB0 <= command < 0xD0:
            self._begin_sb16(command, parameters)
        elif command in ADPCM or command in (0x14, 0x15, 0x1C, 0x24, 0x2C, 0x80, 0x90, 0x91, 0x98, 0x99):
            self._begin_sb(command, parameters)
        elif command in (0x40, 0x41, 0x42):
            self._set_rate(command, parameters)
        elif command == 0x48:
            s.block = int.from_bytes(parameters, "little") + 1
        elif command == 0x10:
            self._direct.set((parameters[0] - 0x80) / 128 * sum(self._gains()) / 2)
        elif command in (0xD1, 0xD3):
            s.speaker = command == 0xD1
        elif 0xD0 <= command < 0xE0 or command in (0x45, 0x47):
            self._control(command)
        else:
            self._query(command, parameters)

    def _set_rate(self, command: int, parameters: bytes) -> None:
        s = self.state
        s.by_time_constant = command == 0x40
        if s.by_time_constant:
            s.rate_hz = 1_000_000 // (256 - parameters[0])
        else:
            s.rate_hz = max(RATE_MIN, min(parameters[0] << 8 | parameters[1], RATE_MAX))

    def _begin_sb16(self, command: int, parameters: bytes) -> None:
        """Bxh and Cxh: the command says input and auto-init, then mode and samples."""
        mode = parameters[0]
        wide = command < 0xC0
        length = (int.from_bytes(parameters[1:], "little") + 1) * (2 if wide else 1)
        self._begin(Transfer(
            wide=wide, signed=bool(mode & 0x10), channels=2 if mode & 0x20 else 1,
            input=bool(command & 0x08), auto_init=bool(command & 0x04), left=length, block=length,
        ))  # fmt: skip

    def _begin_sb(self, command: int, parameters: bytes) -> None:
        """The older ones: unsigned mono bytes."""
        s = self.state
        s.high_speed = command in (0x90, 0x91, 0x98, 0x99)
        length = int.from_bytes(parameters, "little") + 1 if parameters else s.block
        bits, reference = ADPCM.get(command, (0, False))
        self._begin(Transfer(
            input=command in (0x24, 0x2C, 0x98, 0x99), auto_init=command in AUTO_INIT,
            silence=command == 0x80, adpcm_bits=bits, reference=reference, left=length, block=length,
        ))  # fmt: skip

    def _begin(self, transfer: Transfer) -> None:
        s = self.state
        s.transfer, s.active, s.paused = transfer, True, False
        rate = s.rate_hz
        if s.by_time_constant:
            rate = max(1, rate // transfer.channels)
        self._clock.start(rate)

    def _control(self, command: int) -> None:
        s = self.state
        match command:
            case 0xD0 | 0xD5:
                s.paused = True
                self._clock.stop()
            case 0xD4 | 0xD6 | 0x45 | 0x47:
                if s.active and s.paused:
                    s.paused = False
                    self._clock.start(max(1, s.rate_hz // (s.transfer.channels if s.by_time_constant else 1)))
                s.transfer.auto_init |= command in (0x45, 0x47)
            case 0xD9 | 0xDA:           # after this block
                s.transfer.auto_init = False
            case 0xD8:
                self._answer((0xFF if s.speaker else 0x00,))

    def _query(self, command: int, parameters: bytes) -> None:
        s = self.state
        match command:
            case 0xE0:
                self._answer((~parameters[0] & 0xFF,))
            case 0xE1:
                self._answer(VERSION)
            case 0xE2:
                self._identify(parameters[0])
            case 0xE3:
                self._answer(COPYRIGHT)
            case 0xE4:
                s.test_register = parameters[0]
            case 0xE8:
                self._answer((s.test_register,))
            case 0xF2 | 0xF3:
                s.pending |= IRQ_8 if command == 0xF2 else IRQ_16
                self._update_irq()
            case 0xF8 | 0x0F | 0x03:    # F8h: undocumented; the others: the signal processor, absent
                self._answer((0x00,))
            case 0x04 | 0x05 | 0x08 | 0x0E | 0x30 | 0x31 | 0x34 | 0x35 | 0x36 | 0x37 | 0x38:
                pass
            case _:
                trace.odd("sb16", "unknown DSP command %02Xh", command)

    def _answer(self, values: Iterable[int]) -> None:
        s = self.state
        s.answers += bytes(values)
        del s.answers[READ_MAX:]

    def _identify(self, value: int) -> None:
        """E2h: a number that only a real DSP knows, to memory by DMA."""
        s = self.state
        row = IDENTIFICATION[s.identified % 4]
        s.identification += sum(row[bit] for bit in range(8) if value >> bit & 1) + row[8]
        s.identification &= 0xFF
        s.identified += 1
        channel = self._dma(False)
        if channel is not None:
            channel.to_memory(bytes((s.identification,)))

    # --- moving samples ---

    def _stop(self) -> None:
        self.state.active = False
        self._clock.stop()

    def _frame_bytes(self) -> int:
        transfer = self.state.transfer
        return transfer.channels * (2 if transfer.wide else 1)

    def _until_event(self) -> int:
        """Frames to the end of the block."""
        transfer = self.state.transfer
        if transfer.adpcm_bits:
            return max(1, transfer.left * SAMPLES_PER_BYTE[transfer.adpcm_bits])
        return max(1, transfer.left // self._frame_bytes())

    def _move(self, frames: int) -> int:
        s = self.state
        transfer = s.transfer
        if transfer.adpcm_bits:
            per_byte = SAMPLES_PER_BYTE[transfer.adpcm_bits]
            length = max(1, frames // per_byte)
        else:
            per_byte, length = 0, frames * self._frame_bytes()
        length = min(length, transfer.left)
        moved = self._exchange(length)
        transfer.left -= moved
        if transfer.left < self._frame_bytes():
            self._block_done()
        return moved * per_byte if per_byte else moved // self._frame_bytes()

    def _exchange(self, length: int) -> int:
        """Bytes through the DMA channel; a channel that isn't set up moves none."""
        s = self.state
        transfer = s.transfer
        if transfer.silence:
            return length
        channel = self._dma(transfer.wide)
        if channel is None:
            return 0
        if transfer.input:
            quiet = b"\0" if transfer.wide or transfer.signed else b"\x80"
            return self._several(length, lambda left: channel.to_memory(quiet * left)[0])
        data = bytearray()

        def fetch(left: int) -> int:
            some = channel.from_memory(left)[0]
            data.extend(some)
            return len(some)

        self._several(length, fetch)
        self._play(bytes(data))
        return len(data)

    def _several(self, length: int, move: Callable[[int], int]) -> int:
        """An auto-init channel stops at its end each time: goes on from its start."""
        done = 0
        while done < length and (moved := move(length - done)):
            done += moved
        return done

    def _play(self, data: bytes) -> None:
        s = self.state
        transfer = s.transfer
        if transfer.adpcm_bits:
            data = self._decoded(data)
        elif transfer.wide:
            data = data[: len(data) & -2]
            data = data if transfer.signed else flip_16(data)
        elif transfer.signed:
            data = flip_8(data)
        sample_bytes = 2 if transfer.wide else 1
        data = scaled(data, transfer.channels, sample_bytes, self._gains())
        self._output.play(s.frames.rate_hz, transfer.channels, sample_bytes, data)

    def _block_done(self) -> None:
        s = self.state
        s.pending |= IRQ_16 if s.transfer.wide else IRQ_8
        self._update_irq()
        if s.transfer.auto_init:
            s.transfer.left = s.transfer.block
        else:
            s.high_speed = False
            self._stop()

    def _decoded(self, data: bytes) -> bytes:
        """Creative's ADPCM: steps of 2**scale, whose scale follows their size."""
        s = self.state
        bits = s.transfer.adpcm_bits
        out = bytearray()
        for byte in data:
            if s.transfer.reference:
                s.transfer.reference, s.sample, s.scale = False, byte, 0
                continue
            for shift in {4: (4, 0), 3: (5, 2, -1), 2: (6, 4, 2, 0)}[bits]:
                code = byte >> shift if shift >= 0 else byte << 1 & 6
                out.append(self._adpcm_step(bits, code & (1 << bits) - 1))
        return bytes(out)

    def _adpcm_step(self, bits: int, code: int) -> int:
        s = self.state
        top = (1 << bits - 1) - 1       # the largest size of a step
        size = code & top
        step = size * (1 << s.scale) + (1 << s.scale >> 1)
        s.sample = max(0, min(255, s.sample - step if code > top else s.sample + step))
        if size >= (5 if bits == 4 else top):
            s.scale = min(s.scale + 1, {4: 3, 3: 4, 2: 5}[bits])
        elif size == 0:
            s.scale = max(s.scale - 1, 0)
        return s.sample

    def _acknowledge(self, which: int) -> None:
        self.state.pending &= ~which
        self._update_irq()
