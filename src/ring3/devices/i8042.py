"""8042.  Interface only so far."""

from collections.abc import Callable

from ring3.devices.face import ByteFace
from ring3.irq import IrqLine


class I8042:
    def __init__(
        self,
        keyboard_irq: IrqLine,
        mouse_irq: IrqLine,
        reset: Callable[[], None],
        a20: Callable[[bool], None],
    ) -> None:
        self.data: ByteFace
        self.command: ByteFace

    def press(self, key: int) -> None:
        raise NotImplementedError

    def release(self, key: int) -> None:
        raise NotImplementedError

    def move(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        raise NotImplementedError
