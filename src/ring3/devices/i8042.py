"""8042 keyboard controller of the PS/2, with a keyboard and a mouse plugged in: ports 60h and 64h.

IBM, "PS/2 Hardware Interface Technical Reference", 1991, "Keyboard and Auxiliary Device Controller".
Command and bit names are IBM's.

A device's next byte appears BYTE_NS after the last was read, as its serial line would take: programs that
read port 60h twice in one interrupt find the same byte.  The controller's own answers come at once.

Not modelled: the password, the keyboard lock, parity and time-out errors, and the diagnostic dump.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ring3 import trace
from ring3.clock import Clock, Timer
from ring3.devices import ps2_keyboard, ps2_mouse
from ring3.devices.face import Registers
from ring3.irq import IrqLine

BYTE_NS = 500_000


class Status:
    OBF, IBF, SYS, A2, UNLOCKED, AUX_OBF = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class Config:  # the command byte, at address 0 of the controller's memory
    INT, INT2, SYS, DISABLE, DISABLE2, XLATE = 0x01, 0x02, 0x04, 0x10, 0x20, 0x40


class OutputPort:
    NO_RESET, A20, IRQ1, IRQ12, IDLE = 0x01, 0x02, 0x10, 0x20, 0xC0


class Command:
    READ_MEMORY, WRITE_MEMORY = range(0x20, 0x40), range(0x60, 0x80)
    TEST_PASSWORD, DISABLE_AUX, ENABLE_AUX, TEST_AUX = 0xA4, 0xA7, 0xA8, 0xA9
    SELF_TEST, TEST_KEYBOARD, DISABLE_KEYBOARD, ENABLE_KEYBOARD = 0xAA, 0xAB, 0xAD, 0xAE
    READ_INPUT, READ_OUTPUT, WRITE_OUTPUT = 0xC0, 0xD0, 0xD1
    WRITE_OBF, WRITE_AUX_OBF, WRITE_AUX = 0xD2, 0xD3, 0xD4
    DISABLE_A20, ENABLE_A20, READ_TEST, PULSE = 0xDD, 0xDF, 0xE0, range(0xF0, 0x100)


SELF_TEST_OK, INTERFACE_OK, NO_PASSWORD = 0x55, 0x00, 0xF1
INPUT_PORT = 0x80  # the keyboard is not locked


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    memory: bytearray = field(default_factory=lambda: bytearray(32))
    output: int = 0  # the output buffer
    full: bool = False
    from_aux: bool = False
    answer: int | None = None  # the controller's own, waiting for the output buffer
    answer_is_aux: bool = False
    expecting: int = 0  # the command whose parameter comes next at port 60h
    last_was_command: bool = False
    a20: bool = True
    translating_break: bool = False
    ready_ns: int = 0  # when the serial lines have the next byte
    keyboard: ps2_keyboard.State = field(default_factory=ps2_keyboard.State)
    mouse: ps2_mouse.State = field(default_factory=ps2_mouse.State)


class I8042:
    """`data` is port 60h, `command` port 64h; `keyboard` and `mouse` are plugged in."""

    def __init__(
        self,
        clock: Clock,
        keyboard_irq: IrqLine,
        mouse_irq: IrqLine,
        reset: Callable[[], None],
        a20: Callable[[bool], None],
    ) -> None:
        """`a20` is the controller's share of the A20 gate: the board ORs it with port 92h's."""
        self.clock = clock
        self._keyboard_irq = keyboard_irq
        self._mouse_irq = mouse_irq
        self._reset = reset
        self._a20 = a20
        self._timer = Timer(clock, self._pump)
        self.keyboard = ps2_keyboard.Ps2Keyboard(clock, self._pump, self._holds_key)
        self.mouse = ps2_mouse.Ps2Mouse(self._pump)
        self.state = State(keyboard=self.keyboard.state, mouse=self.mouse.state)
        self.data = Registers(self._read_data, self._write_data)
        self.command = Registers(self._read_status, self._write_command)

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self.keyboard.restore(state.keyboard)
        self.mouse.state = state.mouse
        self._a20(state.a20)
        self._update_irqs()
        self._pump()

    # --- the guest's side ---

    def _read_data(self, offset: int) -> int:
        """The output buffer; once read, its last byte stays to be read again until the next comes."""
        s = self.state
        value = s.output
        if s.full:
            s.full = False
            s.ready_ns = self.clock.now() + BYTE_NS
            self._update_irqs()  # the line falls, so that the next byte makes an edge
            if not s.from_aux:
                self.keyboard.taken()
            self._pump()
        return value

    def _read_status(self, offset: int) -> int:
        s = self.state
        value = Status.UNLOCKED | s.memory[0] & Config.SYS
        if s.full:
            value |= Status.OBF | Status.AUX_OBF if s.from_aux else Status.OBF
        return value | Status.A2 if s.last_was_command else value

    def _write_data(self, offset: int, value: int) -> None:
        s = self.state
        s.last_was_command = False
        command, s.expecting = s.expecting, 0
        if command in Command.WRITE_MEMORY:
            s.memory[command & 31] = value
            self._update_irqs()
            self._pump()
        elif command == Command.WRITE_OUTPUT:
            self._write_output_port(value)
        elif command in (Command.WRITE_OBF, Command.WRITE_AUX_OBF):
            self._answer(value, aux=command == Command.WRITE_AUX_OBF)
        elif command == Command.WRITE_AUX:
            s.memory[0] &= ~Config.DISABLE2
            self.mouse.command(value)
        else:
            s.memory[0] &= ~Config.DISABLE
            self.keyboard.command(value)

    def _write_command(self, offset: int, value: int) -> None:
        s = self.state
        s.last_was_command = True
        s.expecting = 0
        match value:
            case _ if value in Command.READ_MEMORY:
                self._answer(s.memory[value & 31])
            case Command.DISABLE_AUX | Command.ENABLE_AUX:
                self._disable(Config.DISABLE2, value == Command.DISABLE_AUX)
            case Command.DISABLE_KEYBOARD | Command.ENABLE_KEYBOARD:
                self._disable(Config.DISABLE, value == Command.DISABLE_KEYBOARD)
            case Command.SELF_TEST:
                s.memory[0] |= Config.SYS
                self._answer(SELF_TEST_OK)
            case Command.TEST_KEYBOARD | Command.TEST_AUX:
                self._answer(INTERFACE_OK)
            case Command.TEST_PASSWORD:
                self._answer(NO_PASSWORD)
            case Command.READ_INPUT:
                self._answer(INPUT_PORT)
            case Command.READ_OUTPUT:
                self._answer(self._output_port())
            case Command.READ_TEST:
                self._answer(0)
            case Command.DISABLE_A20 | Command.ENABLE_A20:
                self._set_a20(value == Command.ENABLE_A20)
            case _ if value in Command.PULSE:
                if not value & OutputPort.NO_RESET:
                    self._reset()
            case Command.WRITE_OUTPUT | Command.WRITE_OBF | Command.WRITE_AUX_OBF | Command.WRITE_AUX:
                s.expecting = value
            case _ if value in Command.WRITE_MEMORY:
                s.expecting = value
            case _:
                trace.odd("i8042", "unknown command %02Xh", value)

    def _disable(self, bit: int, disabled: bool) -> None:
        memory = self.state.memory
        memory[0] = memory[0] | bit if disabled else memory[0] & ~bit
        self._pump()

    def _output_port(self) -> int:
        s = self.state
        value = OutputPort.NO_RESET | OutputPort.IDLE | (OutputPort.A20 if s.a20 else 0)
        if s.full:
            value |= OutputPort.IRQ12 if s.from_aux else OutputPort.IRQ1
        return value

    def _write_output_port(self, value: int) -> None:
        self._set_a20(bool(value & OutputPort.A20))
        if not value & OutputPort.NO_RESET:
            self._reset()

    def _set_a20(self, enabled: bool) -> None:
        self.state.a20 = enabled
        self._a20(enabled)

    # --- the output buffer ---

    def _answer(self, value: int, *, aux: bool = False) -> None:
        self.state.answer, self.state.answer_is_aux = value, aux
        self._pump()

    def _pump(self) -> None:
        """Fill the output buffer if it is empty: with an answer, else with what a device has sent."""
        s = self.state
        if s.full:
            return
        if s.answer is not None:
            value, s.answer = s.answer, None
            self._fill(value, s.answer_is_aux)
            return
        keyboard = not s.memory[0] & Config.DISABLE and self.keyboard.has_data()
        mouse = not s.memory[0] & Config.DISABLE2 and self.mouse.has_data()
        if not keyboard and not mouse:
            return
        if self.clock.now() < s.ready_ns:
            self._timer.arm(s.ready_ns)
        elif keyboard:
            self._fill_from_keyboard()
        else:
            self._fill(self.mouse.take() or 0, True)

    def _fill_from_keyboard(self) -> None:
        """Keyboard bytes pass the translation to set 1, where a break prefix becomes the top bit."""
        s = self.state
        value = self.keyboard.take() or 0
        if s.memory[0] & Config.XLATE:
            if value == 0xF0:
                s.translating_break = True
                self._pump()
                return
            value = ps2_keyboard.TRANSLATION[value] | (0x80 if s.translating_break else 0)
        s.translating_break = False
        self._fill(value, False)

    def _fill(self, value: int, aux: bool) -> None:
        s = self.state
        s.output, s.full, s.from_aux = value, True, aux
        self._update_irqs()

    def _holds_key(self) -> bool:
        return self.state.full and not self.state.from_aux

    def _update_irqs(self) -> None:
        s = self.state
        self._keyboard_irq.set(bool(s.full and not s.from_aux and s.memory[0] & Config.INT))
        self._mouse_irq.set(bool(s.full and s.from_aux and s.memory[0] & Config.INT2))
