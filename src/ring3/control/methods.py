"""What a client can ask a machine for: each method has a record of its parameters and a function.

Functions that may wait for the guest or the machine lock run in a thread of a small pool; those that wait for
something to happen (new text, new output, the end) are coroutines in the server's loop, and hold nothing up.
"""

import asyncio
import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import msgspec

from ring3 import errors
from ring3.char.memory import MemoryBackend
from ring3.config import DisplayConfig, toml
from ring3.control import protocol
from ring3.control.protocol import WAIT_MAX_S, RpcError
from ring3.result import Result

if TYPE_CHECKING:
    from ring3.control.home import Directory
    from ring3.machine import Machine

READ_MAX = 256 << 10                    # bytes of serial output in one answer
GATHER_S = 0.001                        # output is gathered this long: one answer for a line, not one a byte

Seconds = Annotated[float, msgspec.Meta(ge=0, le=WAIT_MAX_S)]
Text = Annotated[str, msgspec.Meta(max_length=65_536)]
Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Pixels = Annotated[int, msgspec.Meta(ge=-32_768, le=32_767)]
Code = Annotated[int, msgspec.Meta(ge=1, le=0xE0FF)]


class Host(Protocol):
    """The process around a machine (ring3.control.host)."""

    name: str
    pid: int
    started_unix_s: float
    machine: "Machine"
    directory: "Directory"
    ended: "asyncio.Future[Result | BaseException]"

    def fork(self, count: int) -> list[str]:
        """So many copies of the machine, which run; their names."""
        ...


class Session:
    """What the server keeps for one connection: which changes of the screen it has seen."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.host = host
        self.machine = host.machine
        self.loop = loop
        self.screen = Changes(loop)
        self._unwatch: Callable[[], None] | None = None

    def watch_screen(self) -> None:
        if self._unwatch is None:
            self._unwatch = self.machine.screen.watch(lambda damage: self.screen.ring())

    def close(self) -> None:
        if self._unwatch is not None:
            self._unwatch()


class Changes:
    """Counts changes that other threads tell of, and lets coroutines wait for the next."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.count = 0
        self._loop = loop
        self._event = asyncio.Event()
        self._rung = False

    def ring(self) -> None:
        """From any thread, as often as one likes."""
        if not self._rung:
            self._rung = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:        # the server is gone
                return

    async def after(self, count: int, timeout_s: float) -> None:
        """Returns once there were more than `count` changes, or after the time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.count <= count:
                    self._event.clear()
                    await self._event.wait()
        except TimeoutError:
            return

    def _take(self) -> None:
        self._rung = False
        self.count += 1
        self._event.set()


# --- parameters ---


class Params(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Nothing(Params):
    pass


class Wait(Params):
    timeout_s: Seconds = 0.0


class ScreenText(Params):
    after: int | None = None            # wait for a change after this one
    timeout_s: Seconds = 0.0


class Type(Params):
    text: Text
    layout: str | None = None
    wait: bool = True                   # for the guest to take it
    timeout_s: Seconds = 60.0


class Press(Params):
    keys: Annotated[list[Annotated[str, msgspec.Meta(max_length=100)]], msgspec.Meta(max_length=1000)]
    wait: bool = True
    timeout_s: Seconds = 60.0


class OpenConsole(Params):
    kind: Literal["browser", "vnc"] = "browser"
    address: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    password: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    view_only: bool = False


class Key(Params):
    code: Code
    pressed: bool


class Move(Params):
    x: Pixels
    y: Pixels


class MoveBy(Params):
    dx: Pixels
    dy: Pixels


class Button(Params):
    name: str
    pressed: bool


class Click(Params):
    name: str = "left"
    count: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1


class Scroll(Params):
    dz: Annotated[int, msgspec.Meta(ge=-100, le=100)]


class SerialRead(Params):
    port: Annotated[int, msgspec.Meta(ge=1, le=4)] = 1
    position: Annotated[int, msgspec.Meta(ge=0)] | None = None      # of the next byte; None: the oldest kept
    timeout_s: Seconds = 0.0


class SerialWrite(Params):
    data: Annotated[str, msgspec.Meta(max_length=350_000)]          # base64
    port: Annotated[int, msgspec.Meta(ge=1, le=4)] = 1


class Insert(Params):
    drive: str
    path: Path
    readonly: bool = False


class Eject(Params):
    drive: str
    force: bool = False


Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Checkpoint(Params):
    tag: Tag
    compress: bool = False
    keep: bool = True                   # the machine's directory, though it was made for one run


class Restore(Params):
    tag: Tag
    clock: Literal["keep", "host"] = "keep"


class Fork(Params):
    count: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


# --- machine ---


def info(session: Session, _: Nothing) -> dict[str, Any]:
    host, machine = session.host, session.machine
    return {
        "name": host.name,
        "pid": host.pid,
        "started_unix_s": host.started_unix_s,
        "state": "paused" if machine.paused else "running",
        "pause_reason": machine.pause_reason,
        "memory_bytes": machine.config.memory_bytes,
        "drives": machine.drives(),
        "consoles": machine.consoles(),
        "serial": [isinstance(port, MemoryBackend) for port in machine.serial],
    }


def config(session: Session, _: Nothing) -> str:
    return toml.dumps(session.machine.config)


def pause(session: Session, _: Nothing) -> None:
    session.machine.pause()


def resume(session: Session, _: Nothing) -> None:
    session.machine.resume()


def reset(session: Session, _: Nothing) -> None:
    session.machine.reset()


def power_off(session: Session, _: Nothing) -> None:
    session.machine.power_off()


def stop(session: Session, _: Nothing) -> None:
    session.machine.request_stop()


def stats(session: Session, _: Nothing) -> dict[str, Any]:
    return session.machine.stats()


async def wait(session: Session, params: Wait) -> dict[str, Any] | None:
    """How it ended; null while it runs."""
    done, _ = await asyncio.wait([session.host.ended], timeout=params.timeout_s)
    if not done:
        return None
    end = session.host.ended.result()
    if isinstance(end, BaseException):
        return {"reason": "error", "code": None, "report": "", "error": str(end)}
    return {"reason": end.reason.value, "code": end.code, "report": end.report, "error": None}


def checkpoint(session: Session, params: Checkpoint) -> dict[str, Any]:
    path = session.machine.checkpoint(params.tag, compress=params.compress)
    if params.keep:
        session.host.directory.keep()
    return {"path": str(path), "size_bytes": path.stat().st_size}


def restore(session: Session, params: Restore) -> None:
    session.machine.restore(params.tag, clock=params.clock)


def fork(session: Session, params: Fork) -> list[str]:
    """The names of the copies, which run."""
    return session.host.fork(params.count)


def open_console(session: Session, params: OpenConsole) -> str:
    """Where it can be reached."""
    display = DisplayConfig(params.kind, params.address, params.password, params.view_only)
    return session.machine.open_console(display)


# --- drives ---


def insert(session: Session, params: Insert) -> None:
    session.machine.insert(params.drive, params.path, readonly=params.readonly)


def eject(session: Session, params: Eject) -> None:
    session.machine.eject(params.drive, force=params.force)


# --- screen ---


async def screen_text(session: Session, params: ScreenText) -> dict[str, Any]:
    """The text, and the number of the change it has; with `after`, once there is a later one."""
    change = await next_change(session, params)
    text = await session.loop.run_in_executor(None, session.machine.screen.text)
    return {"text": text, "change": change, "ended": session.host.ended.done()}


async def screen_changes(session: Session, params: ScreenText) -> dict[str, Any]:
    """As `screen.text`, without the text."""
    return {"change": await next_change(session, params), "ended": session.host.ended.done()}


async def next_change(session: Session, params: ScreenText) -> int:
    """The number of the newest change; what is read after that may be newer, never older."""
    session.watch_screen()
    waits = params.after is not None and params.after <= session.screen.count
    if waits and not session.host.ended.done():
        await session.screen.after(params.after or 0, params.timeout_s)
    return session.screen.count


def screen_size(session: Session, _: Nothing) -> tuple[int, int]:
    return session.machine.screen.size


def screen_image(session: Session, _: Nothing) -> dict[str, Any]:
    picture = io.BytesIO()
    session.machine.screen.image().save(picture, "PNG", compress_level=1)
    return {"png": base64.b64encode(picture.getvalue()).decode()}


def screen_cells(session: Session, _: Nothing) -> dict[str, Any] | None:
    cells = session.machine.screen.cells()
    if cells is None:
        return None
    return {
        "columns": cells.columns,
        "rows": cells.rows,
        "codes": base64.b64encode(cells.codes).decode(),
        "attributes": base64.b64encode(cells.attributes).decode(),
        "cursor": cells.cursor,
    }


# --- keyboard and mouse ---


def keyboard_type(session: Session, params: Type) -> None:
    options: dict[str, Any] = {"wait": params.wait, "timeout_s": params.timeout_s}
    session.machine.keyboard.type(params.text, params.layout, **options)


def keyboard_press(session: Session, params: Press) -> None:
    session.machine.keyboard.press(*params.keys, wait=params.wait, timeout_s=params.timeout_s)


def keyboard_key(session: Session, params: Key) -> None:
    session.machine.keyboard.key(params.code, params.pressed)


def keyboard_leds(session: Session, _: Nothing) -> int:
    return session.machine.keyboard.leds


def mouse_move(session: Session, params: Move) -> None:
    session.machine.mouse.move(params.x, params.y)


def mouse_move_by(session: Session, params: MoveBy) -> None:
    session.machine.mouse.move_by(params.dx, params.dy)


def mouse_button(session: Session, params: Button) -> None:
    session.machine.mouse.button(params.name, params.pressed)


def mouse_click(session: Session, params: Click) -> None:
    session.machine.mouse.click(params.name, params.count)


def mouse_scroll(session: Session, params: Scroll) -> None:
    session.machine.mouse.scroll(params.dz)


def mouse_absolute(session: Session, _: Nothing) -> bool:
    return session.machine.mouse.absolute


# --- serial ports ---


async def serial_read(session: Session, params: SerialRead) -> dict[str, Any]:
    """Output from `position` on; waits for some."""
    port = memory_port(session, params.port)
    start, data = port.since(params.position, READ_MAX)
    if not data and not port.closed:
        changes = Changes(session.loop)
        unwatch = port.watch(changes.ring)
        try:
            start, data = port.since(params.position, READ_MAX)     # what came before we watched
            if not data and not port.closed:
                await changes.after(0, params.timeout_s)
                await asyncio.sleep(GATHER_S if changes.count else 0)
                start, data = port.since(params.position, READ_MAX)
        finally:
            unwatch()
    encoded = base64.b64encode(data).decode()
    return {"data": encoded, "position": start + len(data), "ended": port.closed and not data}


def serial_write(session: Session, params: SerialWrite) -> None:
    try:
        data = base64.b64decode(params.data, validate=True)
    except ValueError as error:
        raise RpcError(protocol.INVALID_PARAMS, f"data: no base64: {error}") from error
    port = memory_port(session, params.port)
    if not port.offer(data):
        raise RpcError(protocol.TIMED_OUT, "the guest does not read its port: try again later")


def memory_port(session: Session, number: int) -> MemoryBackend:
    ports = session.machine.serial
    if number > len(ports):
        count = f"there are {len(ports)}" if len(ports) > 1 else "there is one" if ports else "there is none"
        raise errors.ConfigError(f"the machine has no serial port {number}: {count}")
    port = ports[number - 1]
    if not isinstance(port, MemoryBackend):
        raise errors.ConfigError(f"serial port {number} is connected elsewhere: it needs serial=memory")
    return port


METHODS: dict[str, tuple[type[Params], Callable[[Session, Any], Any]]] = {
    "machine.info": (Nothing, info),
    "machine.config": (Nothing, config),
    "machine.pause": (Nothing, pause),
    "machine.resume": (Nothing, resume),
    "machine.reset": (Nothing, reset),
    "machine.power_off": (Nothing, power_off),
    "machine.stop": (Nothing, stop),
    "machine.stats": (Nothing, stats),
    "machine.wait": (Wait, wait),
    "machine.open_console": (OpenConsole, open_console),
    "machine.checkpoint": (Checkpoint, checkpoint),
    "machine.restore": (Restore, restore),
    "machine.fork": (Fork, fork),
    "machine.insert": (Insert, insert),
    "machine.eject": (Eject, eject),
    "screen.text": (ScreenText, screen_text),
    "screen.changes": (ScreenText, screen_changes),
    "screen.size": (Nothing, screen_size),
    "screen.image": (Nothing, screen_image),
    "screen.cells": (Nothing, screen_cells),
    "keyboard.type": (Type, keyboard_type),
    "keyboard.press": (Press, keyboard_press),
    "keyboard.key": (Key, keyboard_key),
    "keyboard.leds": (Nothing, keyboard_leds),
    "mouse.move": (Move, mouse_move),
    "mouse.move_by": (MoveBy, mouse_move_by),
    "mouse.button": (Button, mouse_button),
    "mouse.click": (Click, mouse_click),
    "mouse.scroll": (Scroll, mouse_scroll),
    "mouse.absolute": (Nothing, mouse_absolute),
    "serial.read": (SerialRead, serial_read),
    "serial.write": (SerialWrite, serial_write),
}
