"""Sound Blaster 16 (CT1740 family): DSP 4.05, CT1745 mixer, YMF262, and an MPU-401 of its own address.

Creative, "Sound Blaster Series Hardware Programming Guide".  The parts are in files of their own; here is
the card: which part answers at which port, and interrupts and DMA channels as the mixer selects them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ring3.audio import AudioSink
from ring3.clock import Clock
from ring3.devices.sound import ct1745, mpu401, opl3
from ring3.devices.sound import dsp as sb16_dsp
from ring3.irq import IrqLine

IRQ_MPU = 0x04                          # in the mixer's status


@dataclass(slots=True)
class State:
    """The states of the card's parts; also the checkpoint record."""

    dsp: sb16_dsp.State = field(default_factory=sb16_dsp.State)
    mixer: ct1745.State = field(default_factory=ct1745.State)
    fm: opl3.State = field(default_factory=opl3.State)
    mpu: mpu401.State = field(default_factory=mpu401.State)


class Sb16:
    """A byte face of 16 ports; `fm` and `mpu` are those of 388h and 330h."""

    def __init__(
        self,
        clock: Clock,
        irqs: Mapping[int, IrqLine],
        dma: Callable[[int], sb16_dsp.DmaChannel],
        sink: AudioSink,
        play_fm: opl3.Player,
    ) -> None:
        """`irqs`: the card's ends of ISA interrupts 5, 7, 9 and 10; `dma(n)`: DMA channel n."""
        self._irqs = irqs
        self._dma = dma
        self.mpu = mpu401.Mpu401(IrqLine(lambda level: self._update_irq()))
        self.mixer = ct1745.Ct1745(self._pending, self._update_irq)
        self.fm = opl3.Opl3(clock, sink, play_fm, self.mixer.midi_gains)
        self.dsp = sb16_dsp.Sb16Dsp(clock, sink, self._channel, self.mixer.voice_gains, self._update_irq)
        self.state = State(self.dsp.state, self.mixer.state, self.fm.state, self.mpu.state)

    def read(self, offset: int) -> int:
        if offset < 4:
            return self.fm.read(offset)
        if offset < 6:
            return self.mixer.read(offset - 4)
        if offset in (8, 9):
            return self.fm.read(offset - 8)
        return self.dsp.read(offset - 6)

    def write(self, offset: int, value: int) -> None:
        if offset < 4:
            self.fm.write(offset, value)
        elif offset < 6:
            self.mixer.write(offset - 4, value)
        elif offset in (8, 9):
            self.fm.write(offset - 8, value)
        else:
            self.dsp.write(offset - 6, value)
            self.state.dsp = self.dsp.state

    def reset(self) -> None:
        self.dsp.reset()
        self.fm.reset()
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self.mixer.restore(state.mixer)
        self.fm.restore(state.fm)
        self.mpu.restore(state.mpu)
        self.dsp.restore(state.dsp)

    def _channel(self, wide: bool) -> sb16_dsp.DmaChannel | None:
        """Without a 16-bit channel, 16-bit samples go through the 8-bit one."""
        number = self.mixer.dma_channel(ct1745.DMA_16) if wide else None
        if number is None:
            number = self.mixer.dma_channel(ct1745.DMA_8)
        return None if number is None else self._dma(number)

    def _pending(self) -> int:
        return self.dsp.state.pending | (IRQ_MPU if self.mpu.irq.level else 0)

    def _update_irq(self) -> None:
        pending = bool(self._pending())
        for irq, line in self._irqs.items():
            line.set(pending and irq == self.mixer.state.irq)
