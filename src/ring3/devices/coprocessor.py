"""The PC's coprocessor error logic: FERR# to IRQ 13, and IGNNE# by a write to port F0h.

Datasheet: Intel, "82371SB (PIIX3)", 290550, "Coprocessor Error Register"; SDM vol. 1, D.2 ("MS-DOS
compatible x87 exceptions").  An unmasked x87 exception asserts FERR#, which is latched as IRQ 13.  The
handler's write to F0h takes the interrupt back and asserts IGNNE#, so that it can use x87 instructions until
it has cleared the exception, when FERR# goes away and IGNNE# with it.

Port F1h, which reset a 80287, does nothing here, as on a PC since the 486.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ring3.irq import IrqLine


@dataclass(slots=True)
class State:
    """Nothing pending; also the checkpoint record."""

    error: bool = False                 # FERR# as it is now
    latched: bool = False               # IRQ 13
    ignored: bool = False               # IGNNE#


class CoprocessorError:
    """A byte face of 2 ports."""

    def __init__(self, irq: IrqLine, ignne: Callable[[bool], None]) -> None:
        self._irq = irq
        self._ignne = ignne
        self.state = State()

    def ferr(self, level: bool) -> None:
        """The CPU's FERR# pin."""
        s = self.state
        s.latched |= level and not s.error
        s.error = level
        s.ignored &= level
        self._drive()

    def read(self, offset: int) -> int:
        return 0xFF

    def write(self, offset: int, value: int) -> None:
        if offset == 0:
            self.state.latched = False
            self.state.ignored = self.state.error
            self._drive()

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self._drive()

    def _drive(self) -> None:
        self._irq.set(self.state.latched)
        self._ignne(self.state.ignored)
