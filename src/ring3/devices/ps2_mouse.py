"""PS/2 mouse with a wheel, and two more buttons once asked for: IntelliMouse and IntelliMouse Explorer.

IBM, "PS/2 Hardware Interface Technical Reference", 1991, "Mouse"; Microsoft's protocol for wheels: the
sample rates 200, 100, 80 in a row turn device 0 into 3 (a fourth byte with the wheel), 200, 200, 80 into 4
(and buttons 4 and 5).

Movement adds up until a packet can take it, so none is lost and nothing piles up.  Not modelled: the sample
rate and resolution (stored and reported; packets go as fast as the controller takes them).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ring3 import trace

WHEEL, EXPLORER = 3, 4  # device IDs beyond 0


class Reply:
    BAT_OK, ACK, RESEND, ERROR = 0xAA, 0xFA, 0xFE, 0xFC


class Command:
    SCALE_1, SCALE_2, RESOLUTION, STATUS, STREAM, READ = 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xEB
    WRAP_OFF, WRAP, REMOTE, IDENTIFY, RATE = 0xEC, 0xEE, 0xF0, 0xF2, 0xF3
    ENABLE, DISABLE, DEFAULTS, RESEND, RESET = 0xF4, 0xF5, 0xF6, 0xFE, 0xFF


class Button:  # as in `buttons`
    LEFT, RIGHT, MIDDLE, FOURTH, FIFTH = 0x01, 0x02, 0x04, 0x08, 0x10


@dataclass(slots=True)
class State:
    """All that the guest can observe, as after power-on; also part of the 8042's checkpoint record."""

    device_id: int = 0
    reporting: bool = False
    remote: bool = False
    wrap: bool = False
    scale_2: bool = False
    resolution: int = 2
    rate: int = 100  # samples a second
    knock: int = 0  # the last two sample rates set, a byte each
    expecting: int = 0  # the command whose parameter comes next
    buttons: int = 0
    sent_buttons: int = 0
    dx: int = 0  # movement not yet sent: right, up and towards the user count positive
    dy: int = 0
    dz: int = 0
    nudged: bool = False  # a packet is wanted, if only an empty one
    last_sent: int = 0
    queue: bytearray = field(default_factory=bytearray)


class Ps2Mouse:
    """The far end of the plug: the controller calls `command` and `take`, and hears of data by `on_data`."""

    def __init__(self, on_data: Callable[[], None]) -> None:
        self._on_data = on_data
        self.state = State()

    def take(self) -> int | None:
        """The next byte the mouse sends, if any."""
        s = self.state
        if not s.queue and self._has_news():
            self._queue_packet()
        if not s.queue:
            return None
        s.last_sent = s.queue.pop(0)
        return s.last_sent

    def has_data(self) -> bool:
        return bool(self.state.queue) or self._has_news()

    def move(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        """Movement since the last call, dy upwards and dz towards the user, and the buttons now."""
        s = self.state
        s.dx = _clamp(s.dx + dx, 0x7FFF)
        s.dy = _clamp(s.dy + dy, 0x7FFF)
        s.dz = _clamp(s.dz + dz, 0x7F)
        s.buttons = buttons & 0x1F
        self._on_data()

    @property
    def pending(self) -> bool:
        """It holds movement or buttons that the controller has not taken."""
        return self.has_data()

    def nudge(self) -> None:
        """Sends a packet even if there is no news: for those who have the movement by another way."""
        self.state.nudged = True
        self._on_data()

    def command(self, value: int) -> None:
        """A byte from the system: a command or a parameter.  It ends whatever was being sent."""
        s = self.state
        s.queue.clear()
        expecting, s.expecting = s.expecting, 0
        if s.wrap and value not in (Command.WRAP_OFF, Command.RESET):
            s.queue.append(value)
        elif expecting:
            self._parameter(expecting, value)
        else:
            self._command(value)
        self._on_data()

    # --- packets ---

    def _has_news(self) -> bool:
        s = self.state
        if not s.reporting or s.remote or s.wrap:
            return False
        wheel = s.dz and s.device_id
        return bool(s.dx or s.dy or wheel or s.buttons != s.sent_buttons or s.nudged)

    def _queue_packet(self) -> None:
        s = self.state
        dx, dy, dz = _clamp(s.dx, 255), _clamp(s.dy, 255), _clamp(s.dz, 7)
        s.dx, s.dy = s.dx - dx, s.dy - dy
        s.dz = s.dz - dz if s.device_id else 0
        s.sent_buttons = s.buttons
        s.nudged = False
        if s.scale_2 and not s.remote:
            dx, dy = _clamp(_scaled(dx), 255), _clamp(_scaled(dy), 255)
        first = 0x08 | s.buttons & 0x07 | (0x10 if dx < 0 else 0) | (0x20 if dy < 0 else 0)
        s.queue += bytes((first, dx & 0xFF, dy & 0xFF))
        if s.device_id == WHEEL:
            s.queue.append(dz & 0xFF)
        elif s.device_id == EXPLORER:
            s.queue.append(dz & 0x0F | (s.buttons & (Button.FOURTH | Button.FIFTH)) << 1)

    # --- what the commands do ---

    def _parameter(self, command: int, value: int) -> None:
        s = self.state
        s.queue.append(Reply.ACK)
        if command == Command.RESOLUTION:
            s.resolution = value & 3
            return
        s.rate = value
        if s.knock == 0xC8_64 and value == 80:
            s.device_id = WHEEL
        elif s.knock == 0xC8_C8 and value == 80:
            s.device_id = EXPLORER
        s.knock = s.knock << 8 & 0xFF00 | value

    def _command(self, value: int) -> None:
        s = self.state
        s.queue.append(Reply.ACK)
        match value:
            case Command.RATE | Command.RESOLUTION:
                s.expecting = value
            case Command.IDENTIFY:
                s.queue.append(s.device_id)
            case Command.STATUS:
                s.queue += self._status()
            case Command.READ:
                self._queue_packet()
            case Command.SCALE_1 | Command.SCALE_2:
                s.scale_2 = value == Command.SCALE_2
            case Command.STREAM | Command.REMOTE:
                s.remote = value == Command.REMOTE
                self._forget_movement()
            case Command.WRAP | Command.WRAP_OFF:
                s.wrap = value == Command.WRAP
            case Command.ENABLE | Command.DISABLE:
                s.reporting = value == Command.ENABLE
                self._forget_movement()
            case Command.DEFAULTS:
                self._set_defaults()
            case Command.RESEND:
                s.queue[:] = bytes((s.last_sent,))
            case Command.RESET:
                self._set_defaults()
                s.device_id = s.knock = 0
                s.queue += bytes((Reply.BAT_OK, s.device_id))
            case _:
                trace.odd("ps2_mouse", "unknown command %02Xh", value)
                s.queue[:] = bytes((Reply.RESEND,))

    def _status(self) -> bytes:
        s = self.state
        order = ((Button.RIGHT, 1), (Button.MIDDLE, 2), (Button.LEFT, 4))  # another than in packets
        buttons = sum(bit for button, bit in order if s.buttons & button)
        return bytes((s.remote << 6 | s.reporting << 5 | s.scale_2 << 4 | buttons, s.resolution, s.rate))

    def _set_defaults(self) -> None:
        s = self.state
        s.reporting = s.remote = s.wrap = s.scale_2 = False
        s.resolution, s.rate = 2, 100
        self._forget_movement()

    def _forget_movement(self) -> None:
        s = self.state
        s.dx = s.dy = s.dz = 0
        s.sent_buttons = s.buttons
        s.nudged = False


def _clamp(value: int, limit: int) -> int:
    return max(-limit, min(limit, value))


def _scaled(value: int) -> int:
    """2:1 scaling: small movements are slowed down, others doubled."""
    size = abs(value)
    scaled = (0, 1, 1, 3, 6, 9)[size] if size < 6 else 2 * size
    return scaled if value > 0 else -scaled
