"""AC'97 codec: the mixer and converters behind a digital controller; here a Crystal CS4297A.

Intel, "Audio Codec '97 Component Specification", 1.03 (5.7: mixer registers); Cirrus Logic, "CS4297A
CrystalClear SoundFusion Audio Codec '97".

Modelled: the registers with their defaults and writable bits, volumes of master and PCM as factors.  Not
modelled: analogue inputs, tone and 3D (stored), power-down (everything stays ready).
"""

from dataclasses import dataclass, field


class Reg:
    RESET, MASTER, HEADPHONE, MASTER_MONO, BEEP = 0x00, 0x02, 0x04, 0x06, 0x0A
    PHONE, MIC, LINE, CD, VIDEO, AUX, PCM = 0x0C, 0x0E, 0x10, 0x12, 0x14, 0x16, 0x18
    RECORD_SELECT, RECORD_GAIN, GENERAL, THREE_D, POWER_DOWN = 0x1A, 0x1C, 0x20, 0x22, 0x26
    VENDOR_1, VENDOR_2 = 0x7C, 0x7E


MUTE = 0x8000
ALL_READY = 0x000F

# By register: its reset value and the bits that can be written.
REGISTERS = {
    Reg.MASTER: (MUTE, 0x9F1F), Reg.HEADPHONE: (MUTE, 0x9F1F), Reg.MASTER_MONO: (MUTE, 0x801F),
    Reg.BEEP: (0x0000, 0x801E), Reg.PHONE: (0x8008, 0x801F), Reg.MIC: (0x8008, 0x805F),
    Reg.LINE: (0x8808, 0x9F1F), Reg.CD: (0x8808, 0x9F1F), Reg.VIDEO: (0x8808, 0x9F1F),
    Reg.AUX: (0x8808, 0x9F1F), Reg.PCM: (0x8808, 0x9F1F), Reg.RECORD_SELECT: (0x0000, 0x0707),
    Reg.RECORD_GAIN: (MUTE, 0x8F0F), Reg.GENERAL: (0x0000, 0x8380), Reg.POWER_DOWN: (ALL_READY, 0xFF00),
    Reg.RESET: (0x1990, 0), Reg.VENDOR_1: (0x4352, 0), Reg.VENDOR_2: (0x5913, 0),
}  # fmt: skip

# Volumes of five bits (or less): a sixth bit set means the softest there is (5.7.2).
FIVE_BITS = (Reg.MASTER, Reg.HEADPHONE, Reg.MASTER_MONO)


@dataclass(slots=True)
class State:
    """The registers by number, as after reset; also part of the controller's checkpoint record."""

    registers: list[int] = field(
        default_factory=lambda: [REGISTERS.get(2 * n, (0, 0))[0] for n in range(64)]
    )


class Ac97:
    def __init__(self) -> None:
        self.state = State()

    def read(self, register: int) -> int:
        return self.state.registers[register >> 1 & 63]

    def write(self, register: int, value: int) -> None:
        register &= 0x7E
        if register == Reg.RESET:
            self.state.registers[:] = State().registers
            return
        if register in FIVE_BITS:
            value |= 0x001F if value & 0x0020 else 0
            value |= 0x1F00 if value & 0x2000 else 0
        fixed, writable = REGISTERS.get(register, (0, 0))
        self.state.registers[register >> 1] = fixed & ~writable | value & writable

    def gains(self) -> tuple[float, float]:
        """Factors for left and right of what the controller sends: steps of 1.5 dB down from 0 and +12 dB."""
        master, pcm = self.read(Reg.MASTER), self.read(Reg.PCM)
        if (master | pcm) & MUTE:
            return 0.0, 0.0
        left, right = (
            float(10 ** ((8 - (master >> shift & 0x1F) - (pcm >> shift & 0x1F)) * 1.5 / 20))
            for shift in (8, 0)
        )
        return left, right
