"""CT1745 mixer of the Sound Blaster 16: an index and a data port.

Creative, "Sound Blaster Series Hardware Programming Guide", chapter 4.  Register names are Creative's.

Modelled: volumes of master, voice and MIDI with the output gain, as factors for the digital sound and for
the music; interrupt and DMA selection; interrupt status; the registers of older mixers that are views of
these.  Not modelled: the analogue inputs, tone controls and recording sources (stored).  The three volumes
start at 0 dB, not at -14: the card's amplifier made up for that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


class Reg:
    RESET, VOICE_4, MIC_3, MASTER_4, MIDI_4, CD_4, LINE_4 = 0x00, 0x04, 0x0A, 0x22, 0x26, 0x28, 0x2E
    MASTER, VOICE, MIDI, CD, LINE, MIC, SPEAKER = 0x30, 0x32, 0x34, 0x36, 0x38, 0x3A, 0x3B
    OUTPUT_SWITCHES, INPUT_LEFT, INPUT_RIGHT, OUTPUT_GAIN = 0x3C, 0x3D, 0x3E, 0x41
    IRQ_SELECT, DMA_SELECT, IRQ_STATUS = 0x80, 0x81, 0x82


# Older registers hold two volumes of four bits, left in the upper ones; their newer ones five bits each.
PAIRS = {Reg.VOICE_4: Reg.VOICE, Reg.MASTER_4: Reg.MASTER, Reg.MIDI_4: Reg.MIDI, Reg.CD_4: Reg.CD,
         Reg.LINE_4: Reg.LINE}  # fmt: skip
IRQS = (9, 5, 7, 10)                    # by bit of IRQ_SELECT
DMA_8, DMA_16 = (0, 1, 3), (5, 6, 7)    # channels; bits of DMA_SELECT have their numbers


def reset_registers() -> bytearray:
    registers = bytearray(256)
    registers[Reg.MASTER : Reg.MIDI + 2] = b"\xf8" * 6
    registers[Reg.OUTPUT_SWITCHES : Reg.INPUT_RIGHT + 1] = b"\x1f\x15\x0b"
    registers[0x44:0x48] = b"\x80" * 4  # treble and bass
    return registers


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    index: int = 0
    registers: bytearray = field(default_factory=reset_registers)
    irq: int = 5
    dma_select: int = 0x22              # channels 1 and 5


class Ct1745:
    """Offset 0 is the index, 1 the data."""

    def __init__(self, irq_status: Callable[[], int], changed: Callable[[], None]) -> None:
        """`irq_status`: which interrupts are pending; `changed` is called when interrupt or DMA move."""
        self._irq_status = irq_status
        self._changed = changed
        self.state = State()

    def read(self, offset: int) -> int:
        s = self.state
        if offset == 0:
            return s.index
        match s.index:
            case Reg.IRQ_SELECT:
                return 1 << IRQS.index(s.irq) | 0xF0
            case Reg.DMA_SELECT:
                return s.dma_select
            case Reg.IRQ_STATUS:
                return self._irq_status()
            case Reg.MIC_3:
                return s.registers[Reg.MIC] >> 5
        if s.index in PAIRS:
            left, right = s.registers[PAIRS[s.index] : PAIRS[s.index] + 2]
            return left & 0xF0 | right >> 4
        return s.registers[s.index]

    def write(self, offset: int, value: int) -> None:
        s = self.state
        if offset == 0:
            s.index = value
        elif s.index == Reg.RESET:
            s.registers[:] = reset_registers()
        elif s.index == Reg.IRQ_SELECT:
            s.irq = next((irq for bit, irq in enumerate(IRQS) if value >> bit & 1), s.irq)
            self._changed()
        elif s.index == Reg.DMA_SELECT:
            s.dma_select = value & 0xEB
            self._changed()
        elif s.index == Reg.MIC_3:
            s.registers[Reg.MIC] = value << 5 & 0xE0
        elif s.index in PAIRS:
            left = PAIRS[s.index]
            s.registers[left : left + 2] = bytes((value & 0xF0 | 0x08, value << 4 & 0xF0 | 0x08))
        elif s.index != Reg.IRQ_STATUS:
            s.registers[s.index] = value

    def dma_channel(self, choices: tuple[int, ...]) -> int | None:
        """The channel selected among `choices`, if any."""
        return next((channel for channel in choices if self.state.dma_select >> channel & 1), None)

    def voice_gains(self) -> tuple[float, float]:
        """Factors for left and right of the digital sound."""
        return self._gains(Reg.VOICE)

    def midi_gains(self) -> tuple[float, float]:
        """… of the music."""
        return self._gains(Reg.MIDI)

    def _gains(self, volume: int) -> tuple[float, float]:
        """Five bits of 2 dB each, the source's and the master's, and gains of 6 dB."""
        registers = self.state.registers
        left, right = (
            decibels(registers[Reg.MASTER + side])
            * decibels(registers[volume + side])
            * (1 << (registers[Reg.OUTPUT_GAIN + side] >> 6))
            for side in (0, 1)
        )
        return left, right

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self._changed()


def decibels(register: int) -> float:
    """A volume register: 31 is 0 dB, each step less -2 dB, and 0 off."""
    steps = register >> 3
    return float(10 ** ((steps - 31) / 10)) if steps else 0.0
