"""YMF262 (OPL3) FM synthesizer, and as its subset the YM3812 (OPL2) of AdLib cards.

Yamaha, "YMF262 Application Manual", 1990.  Two sets of 256 registers, an address and a data port each; the
first set's address port reads as the status.

Modelled: the timers with their flags, by which programs recognize the chip; and the sound: 36 operators with
their waveforms and envelopes, channels of two and of four operators, rhythm sounds, tremolo and vibrato,
left and right.  Not modelled: outputs C and D (cards don't connect them), the test register; while nothing
is to be heard the noise of the rhythm sounds stands still.

Here are the registers, and what follows from them at once; samples are native code's (engine/src/fm.rs),
because 36 operators make 49716 a second each: that takes 1 % of a core there, while in Python table look-ups
alone, without envelopes, take half a core.  Units: ns; frames of 1/49716 s.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ring3.audio import AudioSink
from ring3.clock import NS_PER_S, Clock
from ring3.devices.sound.frames import FrameClock, FrameClockState, Output

RATE_HZ = 49_716                        # 14.31818 MHz / 288
TIMER_NS = (80_000, 320_000)            # a count of timer 1 and of timer 2
MOVE_MAX = RATE_HZ // 10                # frames made at once
CHUNK_BYTES = 4 * RATE_HZ // 200        # to the sink at once, unless it ends: 5 ms

OPERATORS, BANK_OPERATORS = 36, 18
CHANNELS = 9                            # of a register set


class Reg:
    TIMER_1, TIMER_2, CONTROL = 0x02, 0x03, 0x04
    KEY_BLOCK, RHYTHM = 0xB0, 0xBD
    FOUR_OPERATORS, NEW = 0x104, 0x105  # of the second set


class Control:
    RESET_FLAGS, START_1, START_2 = 0x80, 0x01, 0x02
    MASK = (0x40, 0x20)


IRQ_FLAG = 0x80
FLAG = (0x40, 0x20)                     # of timers 1 and 2
KEY_ON, RHYTHM_ON, NEW_MODE = 0x20, 0x20, 0x01
# Operators of the rhythm sounds, by bit: hi-hat, cymbal, tom-tom, snare drum, bass drum.
DRUMS = ((13,), (17,), (14,), (16,), (12, 15))
RELEASE = 3                             # stages of an envelope: attack, decay, sustain, release
QUIET = 0x1FF                           # attenuation, 0.1875 dB


@dataclass(slots=True)
class Voices:
    """What goes on in the operators; the lists are by operator."""

    frame: int = 0                      # since power-on: envelopes, tremolo and vibrato go by it
    noise: int = 1                      # shift register of 23 bits
    phase: list[int] = field(default_factory=lambda: [0] * OPERATORS)
    attenuation: list[int] = field(default_factory=lambda: [QUIET] * OPERATORS)
    stage: list[int] = field(default_factory=lambda: [RELEASE] * OPERATORS)
    output: list[int] = field(default_factory=lambda: [0] * OPERATORS)
    output_before: list[int] = field(default_factory=lambda: [0] * OPERATORS)


class Player(Protocol):
    def __call__(
        self, registers: bytearray, keys: int, voices: Voices, frames: int, gains: tuple[float, float]
    ) -> tuple[bytes, bool]:
        """Frames of 16-bit stereo, and whether anything will be heard after them; changes `voices`."""


def play_nothing(
    registers: bytearray, keys: int, voices: Voices, frames: int, gains: tuple[float, float]
) -> tuple[bytes, bool]:
    """For a machine that plays to nobody."""
    return b"", False


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    index: list[int] = field(default_factory=lambda: [0, 0])
    registers: bytearray = field(default_factory=lambda: bytearray(512))
    started_ns: list[int] = field(default_factory=lambda: [0, 0])
    cleared_ns: int = 0                 # when the flags were reset last
    keys: int = 0                       # operators whose keys are down, a bit each
    voices: Voices = field(default_factory=Voices)
    frames: FrameClockState = field(default_factory=FrameClockState)
    quiet_ns: int = 0                   # since when nothing was to be heard


class Opl3:
    """Offsets 0 and 1: the first set's address and data; 2 and 3: the second's."""

    def __init__(
        self, clock: Clock, sink: AudioSink, play: Player, gains: Callable[[], tuple[float, float]]
    ) -> None:
        """`gains()`: the mixer's factors for left and right."""
        self._clock = clock
        self._output = Output(sink)
        self._play = play
        self._gains = gains
        self._frames = FrameClock(clock, self._move, lambda: MOVE_MAX)
        self._made = bytearray()        # not yet with the sink
        self.state = State(frames=self._frames.state)

    def read(self, offset: int) -> int:
        return self._status() if offset & 3 == 0 else 0xFF

    def write(self, offset: int, value: int) -> None:
        s = self.state
        bank = offset >> 1 & 1
        if not offset & 1:
            s.index[bank] = value
        elif bank == 0 and s.index[0] == Reg.CONTROL:
            self._control(value)
        elif bank == 0 and s.index[0] < Reg.CONTROL:
            s.registers[s.index[0]] = value
        else:
            self._set(bank << 8 | s.index[bank], value)

    def reset(self) -> None:
        self.restore(State())
        self._output.close()

    def restore(self, state: State) -> None:
        self.state = state
        self._made.clear()
        self._frames.restore(state.frames)

    # --- timers ---

    def _control(self, value: int) -> None:
        s = self.state
        now_ns = self._clock.now()
        if value & Control.RESET_FLAGS:             # the other bits don't count then
            s.cleared_ns = now_ns
            return
        before = s.registers[Reg.CONTROL]
        s.registers[Reg.CONTROL] = value
        for timer, start in enumerate((Control.START_1, Control.START_2)):
            if value & start and not before & start:
                s.started_ns[timer] = now_ns

    def _status(self) -> int:
        """A timer counts up from its register and sets its flag each time it overflows, unless masked."""
        s = self.state
        control = s.registers[Reg.CONTROL]
        now_ns = self._clock.now()
        flags = 0
        for timer, start in enumerate((Control.START_1, Control.START_2)):
            if not control & start or control & Control.MASK[timer]:
                continue
            period_ns = (256 - s.registers[Reg.TIMER_1 + timer]) * TIMER_NS[timer]
            overflows = (now_ns - s.started_ns[timer]) // period_ns
            if overflows and s.started_ns[timer] + overflows * period_ns > s.cleared_ns:
                flags |= FLAG[timer]
        return flags | IRQ_FLAG if flags else 0

    # --- sound ---

    def _set(self, register: int, value: int) -> None:
        """Up to now it sounds as the registers were."""
        s = self.state
        self._frames.catch_up()
        s.registers[register] = value
        if register & 0xF0 == Reg.KEY_BLOCK or register in (Reg.FOUR_OPERATORS, Reg.NEW):
            keys = keyed(s.registers)
            for number in range(OPERATORS):         # at once: a key can be up for less than a frame
                if (s.keys & ~keys) >> number & 1:
                    s.voices.stage[number] = RELEASE
            s.keys = keys
        if s.keys and not self._frames.running:
            s.voices.frame += (self._clock.now() - s.quiet_ns) * RATE_HZ // NS_PER_S
            self._frames.start(RATE_HZ)

    def _move(self, frames: int) -> int:
        s = self.state
        samples, audible = self._play(s.registers, s.keys, s.voices, frames, self._gains())
        self._made += samples
        if len(self._made) >= CHUNK_BYTES or not audible:
            self._output.play(RATE_HZ, 2, 2, bytes(self._made))
            self._made.clear()
        if not audible:
            self._frames.stop()
            s.quiet_ns = self._clock.now()
        return frames


def keyed(registers: bytearray) -> int:
    """The operators whose keys are down; the second half of four operators goes by the first one's key."""
    keys = 0
    for bank in (0, 1):
        for channel in range(CHANNELS):
            pair = channel % 3
            bit = 3 * bank + pair
            new = registers[Reg.NEW] & NEW_MODE
            paired = channel < 6 and new and registers[Reg.FOUR_OPERATORS] >> bit & 1
            if registers[bank << 8 | Reg.KEY_BLOCK | (pair if paired else channel)] & KEY_ON:
                first = BANK_OPERATORS * bank + 6 * (channel // 3) + pair
                keys |= 1 << first | 1 << first + 3
    if registers[Reg.RHYTHM] & RHYTHM_ON:
        for drum, operators in enumerate(DRUMS):
            if registers[Reg.RHYTHM] >> drum & 1:
                keys |= sum(1 << number for number in operators)
    return keys
