"""`ring3 attach`: the screen and keyboard of a background machine in this terminal."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import click

from ring3.cli.names import CONTEXT, name_argument, running
from ring3.control.remote import RemoteMachine
from ring3.display.face import Screen, SerialLine, SoundSource
from ring3.display.screen import Damage, Rect, TextCells
from ring3.display.terminal import TerminalConsole
from ring3.errors import VmError


@click.command(context_settings=CONTEXT)
@name_argument
def command(name: str) -> None:
    """Show a machine's screen in this terminal, and type into it.

    To leave: Ctrl-] then q; the machine runs on.  For its serial ports there is `ring3 serial`.
    """
    with running(name) as vm:
        left = threading.Event()
        console = TerminalConsole(Attached(vm, left))
        console.start()
        try:
            left.wait()
        finally:
            console.stop()


class Attached:
    """What a terminal console sees of the machine.  Its end, or leaving, sets `left`; nothing raises."""

    def __init__(self, vm: RemoteMachine, left: threading.Event) -> None:
        self.name = vm.name
        self.screen: Screen = AttachedScreen(vm, left)
        self.keyboard: Any = Quiet(vm.keyboard, left)
        self.mouse: Any = Quiet(vm.mouse, left)
        self.power: Any = AttachedPower(vm, left)
        self.serial_lines: Sequence[SerialLine] = ()
        self.sound: SoundSource | None = None
        self.codec: Any = None          # for other consoles


class AttachedScreen:
    def __init__(self, vm: RemoteMachine, left: threading.Event) -> None:
        self._screen = vm.screen
        self._left = left
        self._blank = TextCells(1, 1, b" ", b"\x07")

    @property
    def size(self) -> tuple[int, int]:
        return self._screen.size

    def cells(self) -> TextCells | None:
        try:
            return self._screen.cells()
        except VmError:
            self._left.set()
            return self._blank

    def pixels(self, rect: Rect | None = None) -> bytes:
        return self._screen.pixels()

    def watch(self, callback: Callable[[Damage], None]) -> Callable[[], None]:
        def changed(damage: Damage) -> None:
            if damage.rects or damage.resized:
                callback(damage)
            else:
                self._left.set()        # the machine has ended

        return self._screen.watch(changed)


class Quiet:
    """Calls to a machine that may have ended."""

    def __init__(self, part: Any, left: threading.Event) -> None:
        self._part = part
        self._left = left

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            try:
                getattr(self._part, name)(*arguments, **options)
            except VmError:
                self._left.set()

        return call


class AttachedPower(Quiet):
    @property
    def paused(self) -> bool:
        try:
            return bool(self._part.paused)
        except VmError:
            return False

    def quit(self) -> None:
        """Leaves; the machine runs on."""
        self._left.set()
