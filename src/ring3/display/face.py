"""What consoles see of a machine: Protocols, so that a console is tested without one.

`Face` is all of it.  Screen, keyboard and mouse are those of ring3.display; what a console calls may come
from any thread, and never with the machine lock held.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ring3.display.screen import Damage, Rect, TextCells


class Screen(Protocol):
    """ring3.display.screen.Screen."""

    @property
    def size(self) -> tuple[int, int]: ...

    def pixels(self, rect: Rect | None = None) -> bytes: ...

    def cells(self) -> TextCells | None: ...

    def watch(self, callback: Callable[[Damage], None]) -> Callable[[], None]: ...


class Keyboard(Protocol):
    """ring3.display.input.Keyboard."""

    layout: str

    @property
    def leds(self) -> int: ...

    def key(self, code: int, pressed: bool) -> None: ...

    def keysym(self, keysym: int, pressed: bool) -> None: ...

    def press(self, *names: str, wait: bool = True) -> None: ...

    def type(self, text: str, layout: str | None = None, *, wait: bool = True) -> None: ...


class Mouse(Protocol):
    """ring3.display.input.Mouse."""

    @property
    def absolute(self) -> bool: ...

    def move(self, x: int, y: int) -> None: ...

    def move_by(self, dx: int, dy: int) -> None: ...

    def buttons(self, mask: int) -> None: ...

    def scroll(self, dz: int) -> None: ...


class Power(Protocol):
    """The machine's switches and drives; none of these waits for the guest."""

    @property
    def paused(self) -> bool: ...

    def reset(self) -> None: ...

    def power_off(self) -> None:
        """Presses the power button."""

    def quit(self) -> None:
        """Pulls the plug."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def drives(self) -> Mapping[str, str | None]:
        """Removable drives by name, each with its medium's name; None: empty."""

    def insert(self, drive: str, path: str) -> None:
        """Raises ConfigError for a path that is no image."""

    def eject(self, drive: str) -> None: ...


class SerialLine(Protocol):
    """A serial port that several can watch and type into: ring3.char.tap.Tap."""

    def history(self) -> bytes:
        """The end of what the guest has sent."""

    def listen(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        """Calls back with what the guest sends from now on, in its thread; returns what ends that."""

    def send(self, data: bytes) -> None:
        """Types it."""


class SoundChunk(Protocol):
    """ring3.audio.stream.Chunk."""

    @property
    def stream(self) -> int: ...

    @property
    def rate_hz(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def sample_bytes(self) -> int: ...

    @property
    def frames(self) -> bytes: ...


class SoundSource(Protocol):
    """What the machine plays: ring3.audio.stream.Broadcast."""

    def listen(self, listener: Callable[[Any], None]) -> Callable[[], None]:
        """Calls back with SoundChunks, under the machine lock; returns what ends that."""


class Codec(Protocol):
    """ring3._native, as far as consoles use it: it makes frames and pixel formats."""

    def Frame(self, width: int, height: int) -> Any: ...        # noqa: N802

    def PixelFormat(                                            # noqa: N802
        self, bits: int, depth: int, big_endian: bool,
        max: tuple[int, int, int], shift: tuple[int, int, int],     # noqa: A002
    ) -> Any: ...


class Face(Protocol):
    """A machine, as consoles see it."""

    name: str
    screen: Screen
    keyboard: Keyboard
    mouse: Mouse
    power: Power
    serial_lines: Sequence[SerialLine]
    sound: SoundSource | None           # None: the machine has no sound card
    codec: Codec
