"""The user's keyboard and mouse: what consoles, scripts and the control socket type and point with.

`Keyboard` and `Mouse` hand on to the device that the guest uses.  Keys are named by their PC codes (set 1,
extended ones as E0xxh), as everywhere in Ring3; keymap.py has names and layouts for them.

Theory.  A guest that is slow, or still booting, must lose nothing of what is typed.  So events wait in a
queue of ours while the device still holds some that the guest hasn't taken, and typed text and clicks leave
it one event at a time, PACE_NS apart on the machine's clock.  A user's own keys go straight through as long
as the queue is empty.

1. Everything in the queue and in devices happens under the machine lock, which `lock` is.
2. `type`, `press` and `click` wait, unless told otherwise, until the guest has been given all of it; nobody
   may call them so from the event loop's thread, from a device, or with the machine lock held.
3. The queue is bounded: keys beyond QUEUE_MAX that nobody takes are dropped.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ring3.display import keymap
from ring3.errors import ConfigError

PACE_NS = 5_000_000                     # between two events that we type
QUEUE_MAX = 65_536                      # events; a page of text has some 6000
LIVE_MAX = 256                          # as many more of a user who types at a guest that takes nothing
TIMEOUT_S = 60.0
CAPS_LOCK_LED = 4

BUTTONS = {"left": 0x01, "right": 0x02, "middle": 0x04, "back": 0x08, "forward": 0x10}
ALL_BUTTONS = 0x1F
ABSOLUTE_MAX = 0xFFFF                   # right and bottom edge of the screen for absolute pointers

Lock = AbstractContextManager[Any]


class Alarm(Protocol):
    """As ring3.clock.Timer."""

    def arm(self, deadline_ns: int) -> None: ...

    def cancel(self) -> None: ...


class Clock(Protocol):
    """The machine's clock with timers made for it: `timer(callback)`."""

    def now(self) -> int: ...

    def timer(self, callback: Callable[[], None]) -> Alarm: ...


class KeyDevice(Protocol):
    """A keyboard of the machine."""

    @property
    def in_use(self) -> bool:
        """The guest has set it up."""

    @property
    def pending(self) -> bool:
        """It holds keys that the guest has not taken yet."""

    @property
    def leds(self) -> int:
        """1 Scroll Lock, 2 Num Lock, 4 Caps Lock."""

    def key(self, code: int, pressed: bool) -> None: ...


class RelativeDevice(Protocol):
    """A mouse of the machine."""

    @property
    def pending(self) -> bool: ...

    def move(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        """Movement to the right, upwards and of the wheel towards the user; the buttons now (BUTTONS)."""


class AbsoluteDevice(Protocol):
    """A tablet of the machine."""

    @property
    def in_use(self) -> bool:
        """The guest has set it up to report positions."""

    @property
    def pending(self) -> bool: ...

    def point(self, x: int, y: int, dz: int, buttons: int) -> None:
        """Where it points now, 0 to ABSOLUTE_MAX from the left and from the top; wheel and buttons."""


class _Events:
    """Calls that wait for their turn: one each PACE_NS, and only once the device holds nothing."""

    def __init__(self, clock: Clock, lock: Lock, pending: Callable[[], bool]) -> None:
        self._clock = clock
        self._lock = lock
        self._pending = pending
        self._alarm = clock.timer(self._due)
        self._queue: deque[Callable[[], None]] = deque()
        self._replaceable = False               # the last one in the queue
        self._waiting: set[threading.Event] = set()
        self._last_ns = -PACE_NS

    def now_or_later(self, event: Callable[[], None], replaceable: bool = False) -> None:
        """For what a user does himself: at once if nothing is ahead of it.

        A `replaceable` one that still waits gives way to another: both would do all there is to do.
        """
        with self._lock:
            if not self._queue and not self._pending():
                event()
            elif replaceable and self._replaceable and self._queue:
                self._queue[-1] = event
            elif len(self._queue) < LIVE_MAX:
                self._append((event,))
                self._replaceable = replaceable

    def paced(self, events: Sequence[Callable[[], None]], wait: bool, timeout_s: float) -> None:
        done = threading.Event()
        with self._lock:
            if len(self._queue) + len(events) > QUEUE_MAX:
                raise ConfigError(f"{len(events)} key strokes are more than can wait: send them in parts")
            self._append((*events, done.set))
            self._replaceable = False
            self._waiting.add(done)
        try:
            if wait:
                self._wait(done, timeout_s)
        finally:
            self._waiting.discard(done)

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()
            self._alarm.cancel()
            for done in tuple(self._waiting):
                done.set()

    def _append(self, events: Iterable[Callable[[], None]]) -> None:
        idle = not self._queue
        self._queue.extend(events)
        if idle:
            self._alarm.arm(max(self._clock.now(), self._last_ns + PACE_NS))

    def _due(self) -> None:
        """The clock's side, under the machine lock."""
        now_ns = self._clock.now()
        if self._queue and not self._pending():
            self._last_ns = now_ns
            self._queue.popleft()()
        if self._queue:
            self._alarm.arm(now_ns + PACE_NS)

    def _wait(self, done: threading.Event, timeout_s: float) -> None:
        """Gives up once the guest has taken nothing at all for `timeout_s`."""
        left, deadline_s = len(self._queue), time.monotonic() + timeout_s
        while not done.wait(min(timeout_s, 0.25)):
            if len(self._queue) != left:
                left, deadline_s = len(self._queue), time.monotonic() + timeout_s
            elif time.monotonic() >= deadline_s:
                raise TimeoutError(f"the guest has taken no keys for {timeout_s:g} s; {left} events are left")


class Keyboard:
    """`vm.keyboard`."""

    def __init__(self, clock: Clock, lock: Lock, devices: Sequence[KeyDevice], layout: str = "us") -> None:
        """`devices`: the first one that the guest uses gets the keys, else the last.

        `layout`: what the guest's keyboard is set to, where a call doesn't say.
        """
        self._devices = devices
        self.layout = layout
        self._held: dict[int, KeyDevice] = {}           # keys down, and where
        self._keysyms: dict[int, int] = {}              # keysyms down, and the keys they came to
        self._events = _Events(clock, lock, lambda: self._device().pending)

    def key(self, code: int, pressed: bool) -> None:
        """A key goes down or up."""
        self._events.now_or_later(lambda: self._key(code, pressed))

    def keysym(self, keysym: int, pressed: bool) -> None:
        """A key named by what it means to X (VNC clients without key codes); unknown ones do nothing.

        Shift and AltGr are turned for the time of the stroke to what the guest's layout wants for it.  Its
        release may come under another keysym (Shift came up first): then all such keys come up.
        """
        if pressed:
            stroke = keymap.keysym_stroke(keysym, self.layout)
            if stroke is not None:
                self._keysyms[keysym] = stroke.code
                self._events.now_or_later(lambda: self._keysym_down(stroke))
        elif keysym in self._keysyms:
            self.key(self._keysyms.pop(keysym), False)
        else:
            for held, code in tuple(self._keysyms.items()):
                if code not in keymap.MODIFIERS:
                    self.key(self._keysyms.pop(held), False)

    def press(self, *names: str, wait: bool = True, timeout_s: float = TIMEOUT_S) -> None:
        """Presses and releases keys one after the other: "enter", "ctrl-alt-del", "shift-tab", "f12"."""
        events: list[tuple[int, bool]] = []
        for name in names:
            codes = keymap.chord(name, self.layout)
            events += [(code, True) for code in codes] + [(code, False) for code in reversed(codes)]
        self._send(events, wait, timeout_s)

    def type(
        self, text: str, layout: str | None = None, *, wait: bool = True, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Types text on a keyboard of `layout`; a line end is Enter.  Caps Lock is undone for it."""
        events = keymap.key_events(text, layout or self.layout)
        if events and self.leds & CAPS_LOCK_LED:
            toggle = [(keymap.CAPS_LOCK, True), (keymap.CAPS_LOCK, False)]
            events = [*toggle, *events, *toggle]
        self._send(events, wait, timeout_s)

    def release_all(self) -> None:
        """Lets go of what is held down: for consoles that lose their user."""
        for code in tuple(self._held):
            self.key(code, False)

    @property
    def leds(self) -> int:
        """1 Scroll Lock, 2 Num Lock, 4 Caps Lock."""
        return self._device().leds

    @property
    def pending(self) -> bool:
        """The guest has not taken all of it yet."""
        return self._events.waiting or self._device().pending

    def reset(self) -> None:
        """The machine is reset: what waits is not for the system that comes."""
        self._events.clear()

    def _send(self, events: Iterable[tuple[int, bool]], wait: bool, timeout_s: float) -> None:
        calls = [lambda code=code, pressed=pressed: self._key(code, pressed) for code, pressed in events]
        if calls:
            self._events.paced(calls, wait, timeout_s)

    def _device(self) -> KeyDevice:
        return next((device for device in self._devices if device.in_use), self._devices[-1])

    def _key(self, code: int, pressed: bool) -> None:
        """A key comes up where it went down, even if the guest has changed its keyboard meanwhile."""
        if pressed:
            self._held.setdefault(code, self._device()).key(code, True)
        else:
            self._held.pop(code, self._device()).key(code, False)

    def _keysym_down(self, stroke: keymap.Stroke) -> None:
        turned = [] if stroke.code in keymap.MODIFIERS else self._turned(stroke)
        for key, pressed in turned:
            self._key(key, pressed)
        self._key(stroke.code, True)
        for key, pressed in turned:
            self._key(key, not pressed)

    def _turned(self, stroke: keymap.Stroke) -> list[tuple[int, bool]]:
        """The modifiers that are not as a stroke wants them."""
        if stroke.shift is None:
            return []
        caps_lock = bool(self.leds & CAPS_LOCK_LED) and stroke.letter
        turned = []
        for keys, wanted in ((keymap.SHIFTS, stroke.shift != caps_lock), ((keymap.ALTGR,), stroke.altgr)):
            held = [key for key in keys if key in self._held]
            if wanted != bool(held):
                turned += [(key, wanted) for key in held or keys[:1]]
        return turned


class Mouse:
    """`vm.mouse`: absolute where the guest has a device for that, else by relative movement."""

    def __init__(
        self,
        clock: Clock,
        lock: Lock,
        relative: RelativeDevice,
        absolute: Sequence[AbsoluteDevice],
        screen_size: Callable[[], tuple[int, int]],
    ) -> None:
        """`absolute`: the first one in use gets everything.  `screen_size`: in pixels."""
        self._relative = relative
        self._absolute = absolute
        self._screen_size = screen_size
        self._position = (0, 0)         # pixels: where it points, as far as we know
        self._moved = (0, 0)            # pixels: movement not told, where positions don't count
        self._buttons = 0
        self._events = _Events(clock, lock, lambda: self._device().pending)

    @property
    def absolute(self) -> bool:
        """The guest knows where on the screen the mouse points; otherwise only how it moves."""
        return self._device() is not self._relative

    @property
    def pending(self) -> bool:
        """The guest has not taken all of it yet."""
        return self._events.waiting or self._device().pending

    def move(self, x: int, y: int) -> None:
        """Points at a pixel; where `absolute` is False, moves by the difference to where it pointed last."""
        x, y = self._on_screen(x, y)
        self.move_by(x - self._position[0], y - self._position[1])

    def move_by(self, dx: int, dy: int) -> None:
        """Moves right and down by pixels; where `absolute` is False, by what the guest makes of it."""
        x, y = self._position
        self._position = self._on_screen(x + dx, y + dy)
        self._moved = self._moved[0] + dx, self._moved[1] + dy
        self._events.now_or_later(self._report, replaceable=True)

    def button(self, name: str, pressed: bool) -> None:
        """`left`, `middle`, `right`, `back` or `forward` goes down or up."""
        bit = button_bit(name)
        self._events.now_or_later(lambda: self._button(bit, pressed))

    def buttons(self, mask: int) -> None:
        """All at once, as BUTTONS."""
        self._events.now_or_later(lambda: self._button(ALL_BUTTONS, False, mask & ALL_BUTTONS))

    def click(
        self, name: str = "left", count: int = 1, *, wait: bool = True, timeout_s: float = TIMEOUT_S
    ) -> None:
        bit = button_bit(name)
        down, up = lambda: self._button(bit, True), lambda: self._button(bit, False)
        self._events.paced([down, up] * count, wait, timeout_s)

    def scroll(self, dz: int) -> None:
        """Turns the wheel: positive towards the user, which scrolls down."""
        self._events.now_or_later(lambda: self._report(dz))

    def reset(self) -> None:
        self._events.clear()

    def _device(self) -> AbsoluteDevice | RelativeDevice:
        return next((device for device in self._absolute if device.in_use), self._relative)

    def _button(self, mask: int, pressed: bool, others: int = 0) -> None:
        self._buttons = self._buttons & ~mask | (mask if pressed else 0) | others
        self._report()

    def _report(self, dz: int = 0) -> None:
        (dx, dy), self._moved = self._moved, (0, 0)
        for device in self._absolute:
            if device.in_use:
                width, height = self._screen_size()
                x, y = self._position
                device.point(_scaled(x, width), _scaled(y, height), dz, self._buttons)
                return
        self._relative.move(dx, -dy, dz, self._buttons)

    def _on_screen(self, x: int, y: int) -> tuple[int, int]:
        width, height = self._screen_size()
        return max(0, min(x, width - 1)), max(0, min(y, height - 1))


def button_bit(name: str) -> int:
    if name not in BUTTONS:
        raise ConfigError(f"{name!r} is no mouse button: give one of {', '.join(BUTTONS)}")
    return BUTTONS[name]


def _scaled(pixel: int, size: int) -> int:
    """The middle of a pixel on the scale of absolute pointers."""
    return min((2 * pixel + 1) * (ABSOLUTE_MAX + 1) // (2 * size), ABSOLUTE_MAX) if size else 0
