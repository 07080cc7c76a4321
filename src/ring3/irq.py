"""Interrupt lines: the wires between chips.

A line has a level: True is *asserted*, whatever the voltage on a real board.  The chip at its driving end
calls `set`; the chip at its receiving end gave the function that hears of changes.  Levels are derived,
never part of a checkpoint: a restored chip drives its lines again.  Only interrupt controllers remember
levels, to tell an edge; so on a restore in place they go last, after all the chips that drive them.

Lines are called under the machine lock, by one thread at a time.
"""

from collections.abc import Callable

OnChange = Callable[[bool], None]


def _unconnected(level: bool) -> None:
    """The far end of a wire that leads nowhere."""


class IrqLine:
    """A wire with one driver.  `IrqLine(edges.append)` records its edges for a test."""

    __slots__ = ("level", "on_change")

    def __init__(self, on_change: OnChange = _unconnected) -> None:
        self.level = False
        self.on_change = on_change

    def set(self, level: bool) -> None:
        """Drive the wire.  Only a change is heard at the other end."""
        if level != self.level:
            self.level = level
            self.on_change(level)


class SharedLine:
    """Several drivers on one wire: asserted while any of them asserts it (wired-OR)."""

    __slots__ = ("_asserted", "target")

    def __init__(self, target: IrqLine) -> None:
        self.target = target
        self._asserted = 0  # drivers

    def input(self) -> IrqLine:
        """A new driver's end of the wire."""
        return IrqLine(self._changed)

    def _changed(self, level: bool) -> None:
        self._asserted += 1 if level else -1
        self.target.set(self._asserted > 0)


def fan_out(*targets: IrqLine) -> IrqLine:
    """One driver, several receivers: as ISA lines that reach both the 8259 pair and the I/O APIC."""

    def changed(level: bool) -> None:
        for target in targets:
            target.set(level)

    return IrqLine(changed)
