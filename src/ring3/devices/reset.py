"""The PC's ways to reset besides the 8042: port 92h and port CF9h.

Datasheets: Intel, "82371FB (PIIX) and 82371SB (PIIX3)", 290550, "Reset Control Register"; "82371AB
(PIIX4)", 290562, "Port 92 Register".  INIT restarts the CPU alone and keeps memory and chips; a hard reset
restarts the machine.

Not modelled: the security lock bit of port 92h and CF9h's timing.
"""

from collections.abc import Callable
from dataclasses import dataclass


class PortA:
    """System control port A, port 92h: fast INIT and fast A20."""

    INIT, A20 = 0x01, 0x02

    def __init__(self, a20: Callable[[bool], None], init: Callable[[], None]) -> None:
        """`a20` is this port's share of the A20 gate: the board ORs it with the 8042's."""
        self._a20 = a20
        self._init = init
        self.state = PortAState()

    def read(self, offset: int) -> int:
        return self.state.value

    def write(self, offset: int, value: int) -> None:
        rises = value & ~self.state.value & self.INIT
        self.state.value = value & (self.INIT | self.A20)
        self._a20(bool(value & self.A20))
        if rises:
            self._init()

    def reset(self) -> None:
        self.restore(PortAState())

    def restore(self, state: "PortAState") -> None:
        self.state = state
        self._a20(bool(state.value & self.A20))


@dataclass(slots=True)
class PortAState:
    """Port 92h at its reset value; also the checkpoint record."""

    value: int = 0


class ResetControl:
    """PIIX3's reset control register, port CF9h."""

    SYSTEM, START = 0x02, 0x04  # SYSTEM chooses a hard reset rather than INIT; START's rise does it

    def __init__(self, hard_reset: Callable[[], None], init: Callable[[], None]) -> None:
        self._hard_reset = hard_reset
        self._init = init
        self.state = ResetControlState()

    def read(self, offset: int) -> int:
        return self.state.value

    def write(self, offset: int, value: int) -> None:
        rises = value & ~self.state.value & self.START
        self.state.value = value & (self.SYSTEM | self.START)
        if rises:
            self.state.value &= ~self.START
            (self._hard_reset if value & self.SYSTEM else self._init)()

    def reset(self) -> None:
        self.restore(ResetControlState())

    def restore(self, state: "ResetControlState") -> None:
        self.state = state


@dataclass(slots=True)
class ResetControlState:
    """Port CF9h at its reset value; also the checkpoint record."""

    value: int = 0
