"""A machine's consoles: which ones its description wants, opened, started and stopped together.

Opening checks everything that can be the user's mistake, before the machine runs; `start` is called when its
event loop is there.  `auto` stands for what the caller says, and is never an error: where a window can't be
opened there is the browser's link, and without noVNC a line says why there is nothing.
"""

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ring3.display.face import Codec, Face, Keyboard, Mouse, Power, Screen, SerialLine, SoundSource
from ring3.errors import ConfigError

if TYPE_CHECKING:
    from ring3.config import DisplayConfig
    from ring3.display.rfb.hub import Hub

AUTO = {"window": ("window", "browser"), "browser": ("browser",), "none": ()}


class Console(Protocol):
    """`start` and `stop` return what the event loop is to run, or do all of it themselves."""

    def start(self) -> Coroutine[Any, Any, None] | None: ...

    def stop(self) -> Coroutine[Any, Any, None] | None: ...

    def where(self) -> str:
        """Where the user finds it; "": he sees it."""


class Pc(Protocol):
    """ring3.machine.Machine, as far as its consoles go."""

    @property
    def screen(self) -> Screen: ...

    @property
    def keyboard(self) -> Keyboard: ...

    @property
    def mouse(self) -> Mouse: ...

    @property
    def paused(self) -> bool: ...

    def reset(self) -> None: ...

    def power_off(self) -> None: ...

    def request_stop(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def drives(self) -> Mapping[str, str | None]: ...

    def insert(self, drive: str, path: str) -> None: ...

    def eject(self, drive: str) -> None: ...


class PcPower:
    """The machine's switches as consoles name them."""

    def __init__(self, pc: Pc) -> None:
        self._pc = pc
        self.reset, self.power_off, self.quit = pc.reset, pc.power_off, pc.request_stop
        self.pause, self.resume = pc.pause, pc.resume
        self.drives, self.insert, self.eject = pc.drives, pc.insert, pc.eject

    @property
    def paused(self) -> bool:
        return self._pc.paused


@dataclass
class PcFace:
    """A Face."""

    name: str
    screen: Screen
    keyboard: Keyboard
    mouse: Mouse
    power: Power
    serial_lines: Sequence[SerialLine]
    sound: SoundSource | None
    codec: Codec


def face_of(
    pc: Pc, name: str, codec: Codec, lines: Sequence[SerialLine], sound: SoundSource | None
) -> PcFace:
    return PcFace(name, pc.screen, pc.keyboard, pc.mouse, PcPower(pc), lines, sound, codec)


def auto_kind(environ: Mapping[str, str]) -> str:
    """What `auto` is for somebody at a terminal: a window where there is a screen to open it on."""
    has_screen = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    return "window" if has_screen and importlib.util.find_spec("pygame") else "browser"


class Consoles:
    def __init__(self, face: Face, displays: "Sequence[DisplayConfig]", *, auto: str = "none") -> None:
        """`auto`: "window", "browser" or "none"."""
        self._hub: Hub | None = None    # of viewers, once there can be any
        self._face = face
        self._open: list[Console] = []
        self._running: list[Console] = []
        self._second: dict[Console, str] = {}           # what to open instead, should a console not start
        self._notes: list[str] = []
        self._run: Callable[[Coroutine[Any, Any, None]], None] | None = None
        try:
            for display in displays:
                if display.kind == "auto":
                    self._open_first(AUTO[auto])
                elif display.kind != "none":
                    self._open.append(self._make(display.kind, display))
        except BaseException:
            self.close()
            raise

    def where(self) -> list[str]:
        """What tells the user where his consoles are."""
        return [*filter(None, (console.where() for console in self._running)), *self._notes]

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """From any other thread."""
        self._run = lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        for console in tuple(self._open):
            self._start(console)

    def open(self, display: "DisplayConfig") -> str:
        """One more, of a machine that runs; where the user finds it.  From any other thread."""
        if self._run is None:
            raise ConfigError("display: the machine does not run")
        console = self._make(display.kind, display)
        self._open.append(console)
        self._start(console)
        return console.where()

    def stop(self) -> None:
        """The loop still runs."""
        for console in self._running:
            self._do(console.stop())
        self._running = []
        if self._run is not None:
            self._do(self._close_hub())
            self._run = None
        self.close()

    def close(self) -> None:
        """Gives back what was opened and never started."""
        for console in self._open:
            close = getattr(console, "close", None)
            if close is not None:
                close()
        self._open = []

    def restore_terminal(self) -> None:
        """Only that: for a process that ends without `stop`."""
        for console in self._running:
            restore = getattr(console, "restore", None)
            if restore is not None:
                restore()

    def _open_first(self, kinds: Sequence[str]) -> None:
        """The first of them that can be had."""
        for number, kind in enumerate(kinds):
            try:
                console = self._make(kind, None)
            except ConfigError as error:
                self._notes = [f"no console: {error}"]
                continue
            self._notes = []
            self._open.append(console)
            if number + 1 < len(kinds):
                self._second[console] = kinds[number + 1]
            return

    def _start(self, console: Console) -> None:
        try:
            self._do(console.start())
        except ConfigError:
            if console not in self._second:
                raise
            second = self._second[console]
            self._open_first((second,))
            if not self._notes:
                self._start(self._open[-1])
            return
        self._running.append(console)

    def _make(self, kind: str, display: "DisplayConfig | None") -> Console:
        """Imported here: aiohttp, pygame and the viewers' protocol take their time."""
        options = {}
        if display is not None and kind in ("browser", "vnc"):
            options = {"address": display.address, "password": display.password,
                       "view_only": display.view_only}
        match kind:
            case "browser":
                from ring3.display.web.server import BrowserConsole
                return BrowserConsole(self._viewers(), **options)       # type: ignore[arg-type]
            case "vnc":
                from ring3.display.rfb.server import RfbServer
                return RfbServer(self._viewers(), **options)    # type: ignore[arg-type]
            case "window":
                from ring3.display.window import WindowConsole
                return WindowConsole(self._face)
            case "terminal":
                from ring3.display.terminal import TerminalConsole
                return TerminalConsole(self._face)
        raise ConfigError(f"display: {kind!r} is no console")

    def _viewers(self) -> "Hub":
        from ring3.display.rfb.hub import Hub

        if self._hub is None:
            self._hub = Hub(self._face)
        return self._hub

    def _do(self, coroutine: Coroutine[Any, Any, None] | None) -> None:
        if coroutine is not None:
            assert self._run is not None
            self._run(coroutine)

    async def _close_hub(self) -> None:
        if self._hub is not None:
            self._hub.close()
