"""Interrupt lines: the wires between chips.

A line has a level: True is *asserted*, whatever the voltage on a real board.  The chip at its driving end
calls `set`; the chip at its receiving end gave the function that hears of changes.  Levels are derived,
never part of a checkpoint: a restored chip drives its lines again.  Only interrupt controllers remember
levels, to tell an edge; so on a restore in place they go last, after all the chips that drive them.

The receiving end may say that it is deaf: one more pulse of the line would change nothing there.  A chip
whose output pulses for ever needn't keep time meanwhile; nor is it a mistake to go on.

Lines are called under the machine lock, by one thread at a time.
"""

from collections.abc import Callable

OnChange = Callable[[bool], None]
OnHeard = Callable[[], None]


def _unconnected(level: bool) -> None:
    """The far end of a wire that leads nowhere."""


def _unimpressed() -> None:
    """The near end of a wire whose driver doesn't ask who listens."""


class IrqLine:
    """A wire with one driver.  `IrqLine(edges.append)` records its edges for a test."""

    __slots__ = ("heard", "level", "on_change", "on_heard")

    def __init__(self, on_change: OnChange = _unconnected) -> None:
        self.level = False
        self.on_change = on_change
        self.heard = True
        self.on_heard: OnHeard = _unimpressed

    def set(self, level: bool) -> None:
        """Drive the wire.  Only a change is heard at the other end."""
        if level != self.level:
            self.level = level
            self.on_change(level)

    def hear(self, heard: bool) -> None:
        """The receiving end: whether pulses matter there from now on.  The driver hears of changes."""
        if heard != self.heard:
            self.heard = heard
            self.on_heard()


class SharedLine:
    """Several drivers on one wire: asserted while any of them asserts it (wired-OR)."""

    __slots__ = ("_asserted", "_inputs", "target")

    def __init__(self, target: IrqLine) -> None:
        self.target = target
        self._asserted = 0  # drivers
        self._inputs: list[IrqLine] = []
        target.on_heard = self._heard

    def input(self) -> IrqLine:
        """A new driver's end of the wire."""
        line = IrqLine(self._changed)
        line.heard = self.target.heard
        self._inputs.append(line)
        return line

    def _heard(self) -> None:
        for line in self._inputs:
            line.hear(self.target.heard)

    def _changed(self, level: bool) -> None:
        self._asserted += 1 if level else -1
        self.target.set(self._asserted > 0)


def fan_out(*targets: IrqLine) -> IrqLine:
    """One driver, several receivers: as ISA lines that reach both the 8259 pair and the I/O APIC."""

    def changed(level: bool) -> None:
        for target in targets:
            target.set(level)

    def heard() -> None:
        for target in targets:
            if target.heard:
                line.hear(True)
                return
        line.hear(False)

    line = IrqLine(changed)
    for target in targets:
        target.on_heard = heard
    return line
