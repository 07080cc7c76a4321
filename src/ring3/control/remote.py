"""A machine of another process, with the face of ring3.Machine as far as a control socket goes.

    vm = ring3.connect("debian")
    vm.screen.wait("login:")
    vm.keyboard.type("root\n")

Regular expressions are matched here, never in the machine's process: a bad one cannot hold a guest up.
"""

import base64
import io
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ring3.char.memory import TAIL, ExpectError
from ring3.checkpoint import listing
from ring3.checkpoint.listing import Listed
from ring3.config import MachineConfig, toml
from ring3.config.places import below
from ring3.control import home
from ring3.control.client import Client, Gone
from ring3.control.protocol import WAIT_MAX_S
from ring3.display.screen import Damage, Rect, TextCells, WaitError
from ring3.errors import ConfigError, HostError, VmError
from ring3.result import ExitReason, Result

if TYPE_CHECKING:
    from PIL.Image import Image

SEND_BYTES = 32_768                     # of serial input in one message
TRY_AGAIN_S = 0.05                      # for a guest that doesn't read its port
WATCH_S = 10.0                          # of one request for changes
CHECKPOINT_S = 600.0                    # … and `checkpoint`, `restore` and `fork`, for the host's disk
STOP_S = 30.0                           # the longest `stop` waits for the process to go


class RemoteScreen:
    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def size(self) -> tuple[int, int]:
        width, height = self._client.call("screen.size")
        return width, height

    def text(self) -> str:
        return str(self._client.call("screen.text")["text"])

    def cells(self) -> TextCells | None:
        found = self._client.call("screen.cells")
        if found is None:
            return None
        cursor = tuple(found["cursor"]) if found["cursor"] else None
        codes, attributes = (base64.b64decode(found[name]) for name in ("codes", "attributes"))
        return TextCells(found["columns"], found["rows"], codes, attributes, cursor)

    def image(self) -> "Image":
        from PIL import Image  # here: most machines' screens are never saved

        picture = Image.open(io.BytesIO(base64.b64decode(self._client.call("screen.image")["png"])))
        picture.load()
        return picture

    def pixels(self) -> bytes:
        """BGRX, 4 bytes a pixel, rows packed."""
        return self.image().convert("RGB").tobytes("raw", "BGRX")

    def watch(self, callback: Callable[[Damage], None]) -> Callable[[], None]:
        """Calls back soon after each change, in a thread of its own; returns what ends that."""
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(callback, ended), daemon=True).start()
        return ended.set

    def _watch(self, callback: Callable[[Damage], None], ended: threading.Event) -> None:
        found: dict[str, Any] = {"change": None, "ended": False}
        with Watching(self._client.directory) as client:
            while not ended.is_set() and not found["ended"]:
                try:
                    after = found["change"]
                    found = client.call("screen.changes", within_s=WATCH_S, after=after, timeout_s=WATCH_S)
                    if found["change"] != after and not ended.is_set():
                        callback(Damage((Rect(0, 0, *self.size),)))
                except VmError:
                    found["ended"] = True
        if not ended.is_set():
            callback(Damage())          # as a Screen does at the machine's end

    def wait(self, text: str, *, regex: bool = False, timeout_s: float = 60.0) -> re.Match[str]:
        """Waits until the screen has the text, or a match of the regular expression; raises WaitError."""
        wanted = re.compile(text if regex else re.escape(text), re.MULTILINE)
        deadline_s = time.monotonic() + timeout_s
        change, shown = None, ""
        with Watching(self._client.directory) as client:
            while True:
                left_s = max(deadline_s - time.monotonic(), 0.0)
                try:
                    wait_s = min(left_s, WAIT_MAX_S)
                    found = client.call("screen.text", within_s=wait_s, after=change, timeout_s=wait_s)
                except Gone:
                    found = {"text": shown, "change": change, "ended": True}
                shown, change = found["text"], found["change"]
                match = wanted.search(shown)
                if match is not None:
                    return match
                if found["ended"] or not left_s:
                    why = "the machine has ended" if found["ended"] else f"waited {timeout_s:g} s"
                    raise WaitError(f"{text!r} did not come ({why}); the screen shows:\n{shown}")


class Watching(Client):
    """A client whose calls share one connection, because changes of the screen are counted for each."""

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteKeyboard:
    def __init__(self, client: Client) -> None:
        self._client = client

    def type(
        self, text: str, layout: str | None = None, *, wait: bool = True, timeout_s: float = 60.0
    ) -> None:
        # In parts: a message is bounded, and each part has its time.
        for at in range(0, len(text), 1000):
            part = text[at : at + 1000]
            options: dict[str, Any] = {"text": part, "layout": layout, "wait": wait, "timeout_s": timeout_s}
            self._client.call("keyboard.type", within_s=timeout_s + len(part), **options)

    def press(self, *names: str, wait: bool = True, timeout_s: float = 60.0) -> None:
        options: dict[str, Any] = {"keys": list(names), "wait": wait, "timeout_s": timeout_s}
        self._client.call("keyboard.press", within_s=timeout_s + len(names), **options)

    def key(self, code: int, pressed: bool) -> None:
        self._client.call("keyboard.key", code=code, pressed=pressed)

    @property
    def leds(self) -> int:
        return int(self._client.call("keyboard.leds"))


class RemoteMouse:
    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def absolute(self) -> bool:
        return bool(self._client.call("mouse.absolute"))

    def move(self, x: int, y: int) -> None:
        self._client.call("mouse.move", x=x, y=y)

    def move_by(self, dx: int, dy: int) -> None:
        self._client.call("mouse.move_by", dx=dx, dy=dy)

    def button(self, name: str, pressed: bool) -> None:
        self._client.call("mouse.button", name=name, pressed=pressed)

    def click(self, name: str = "left", count: int = 1) -> None:
        self._client.call("mouse.click", name=name, count=count)

    def scroll(self, dz: int) -> None:
        self._client.call("mouse.scroll", dz=dz)


class RemoteSerial:
    """As ring3.MemoryBackend: `send`, `expect`, `output`."""

    def __init__(self, client: Client, port: int) -> None:
        self._client = client
        self._port = port
        self._position: int | None = None       # of the first byte not read yet
        self._text = bytearray()                # read, and behind the last match

    def send(self, text: str | bytes, timeout_s: float = 60.0) -> None:
        """Types it; raises TimeoutError when the guest doesn't read its port for so long."""
        data = text.encode() if isinstance(text, str) else text
        for at in range(0, len(data), SEND_BYTES):
            self._send(base64.b64encode(data[at : at + SEND_BYTES]).decode(), timeout_s)

    def _send(self, encoded: str, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                self._client.call("serial.write", port=self._port, data=encoded)
                return
            except TimeoutError:
                if time.monotonic() >= deadline_s:
                    raise
            time.sleep(TRY_AGAIN_S)

    def read(self, position: int | None = None, timeout_s: float = 0.0) -> tuple[bytes, int, bool]:
        """Output from `position` on (None: the oldest kept), where it ends, and whether more can come."""
        timeout_s = min(timeout_s, WAIT_MAX_S)
        options: dict[str, Any] = {"port": self._port, "position": position, "timeout_s": timeout_s}
        found = self._client.call("serial.read", within_s=timeout_s, **options)
        return base64.b64decode(found["data"]), found["position"], not found["ended"]

    @property
    def output(self) -> bytes:
        """All that was written so far, as far as it is kept."""
        data, position, _ = self.read()
        found = [data]
        while data:
            data, position, _ = self.read(position)
            found.append(data)
        return b"".join(found)

    def expect(self, pattern: str | bytes, timeout_s: float = 60.0) -> re.Match[bytes]:
        """Waits until output after the last match has the regular expression; raises ExpectError."""
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        deadline_s = time.monotonic() + timeout_s
        more = True
        while True:
            match = wanted.search(bytes(self._text))
            if match is not None:
                del self._text[: match.end()]
                return match
            left_s = deadline_s - time.monotonic()
            if not more or left_s <= 0:
                why = "the machine has ended" if not more else f"waited {timeout_s:g} s"
                tail = bytes(self._text[-TAIL:]).decode(errors="replace")
                raise ExpectError(f"{pattern!r} did not come ({why}); the output ends:\n{tail}")
            try:
                data, self._position, more = self.read(self._position, left_s)
            except Gone:
                data, more = b"", False
            self._text += data


class RemoteMachine:
    """`ring3.connect(NAME)`."""

    def __init__(self, name: str) -> None:
        self.directory = home.existing(name)
        self.name = name
        self.client = Client(self.directory)
        self.screen = RemoteScreen(self.client)
        self.keyboard = RemoteKeyboard(self.client)
        self.mouse = RemoteMouse(self.client)
        self.serial = [RemoteSerial(self.client, number + 1) for number in range(len(self.info()["serial"]))]

    def info(self) -> dict[str, Any]:
        """Its process, state, drives and consoles."""
        found: dict[str, Any] = self.client.call("machine.info")
        return found

    @property
    def config(self) -> MachineConfig:
        return toml.loads(self.client.call("machine.config"), self.name)

    @property
    def paused(self) -> bool:
        return bool(self.info()["state"] == "paused")

    def pause(self) -> None:
        self.client.call("machine.pause")

    def resume(self) -> None:
        self.client.call("machine.resume")

    def reset(self) -> None:
        self.client.call("machine.reset")

    def power_off(self) -> None:
        """Presses the power button: the guest is asked to shut down (ACPI)."""
        self.client.call("machine.power_off")

    def stop(self) -> None:
        """Pulls the plug; returns when its process is gone."""
        self.client.call("machine.stop")
        if not self.client.wait_for_end(STOP_S):
            raise HostError(f"{self.name} did not end: its process hangs")

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.call("machine.stats")
        return found

    def checkpoint(self, tag: str, *, compress: bool = False, keep: bool = True) -> Path:
        """Saves all of it; returns where.  `keep`: a machine made for one run stays from then on."""
        options: dict[str, Any] = {"tag": tag, "compress": compress, "keep": keep}
        return Path(self.client.call("machine.checkpoint", within_s=CHECKPOINT_S, **options)["path"])

    def restore(self, tag: str, *, clock: str = "keep") -> None:
        """Goes back to a checkpoint of this machine, in its process."""
        self.client.call("machine.restore", within_s=CHECKPOINT_S, tag=tag, clock=clock)

    def list_checkpoints(self) -> list[Listed]:
        """The oldest first; each knows its parent."""
        return listing.checkpoints(self.directory.checkpoints)

    def checkpoint_picture(self, tag: str) -> bytes:
        """The screen as it was, as PNG."""
        return listing.picture(self.directory.checkpoint(tag))

    def remove_checkpoint(self, tag: str) -> None:
        """Others that rest on it stay whole."""
        self.directory.remove_checkpoint(self.directory.checkpoint(tag))

    def fork(self, count: int = 1) -> "list[RemoteMachine]":
        """So many copies of it that run, each with a directory for one run and a process; it runs on."""
        if count < 1:
            raise ConfigError(f"count: {count} copies make no sense: give 1 or more")
        names = self.client.call("machine.fork", within_s=CHECKPOINT_S, count=count)
        return [RemoteMachine(name) for name in names]

    def open_console(self, kind: str = "browser", **options: Any) -> str:
        """Opens one more console there; where it can be reached.  Options: as DisplayConfig."""
        return str(self.client.call("machine.open_console", kind=kind, **options))

    def insert(self, drive: str, path: str, *, readonly: bool = False) -> None:
        self.client.call("machine.insert", drive=drive, path=below(Path.cwd(), path), readonly=readonly)

    def eject(self, drive: str, *, force: bool = False) -> None:
        self.client.call("machine.eject", drive=drive, force=force)

    def wait(self, timeout_s: float | None = None) -> Result | None:
        """How it ended; None when it still runs after `timeout_s`."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = WAIT_MAX_S if deadline_s is None else max(deadline_s - time.monotonic(), 0.0)
            left_s = min(left_s, WAIT_MAX_S)
            try:
                found = self.client.call("machine.wait", within_s=left_s, timeout_s=left_s)
            except Gone:
                raise HostError(f"{self.name} has ended before: see ring3 logs {self.name}") from None
            if found is not None:
                return result_of(found)
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return None

    def close(self) -> None:
        """Lets go of the machine, which runs on."""
        self.client.close()

    def __enter__(self) -> "RemoteMachine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(name: str) -> RemoteMachine:
    """The machine of that name, which runs in another process."""
    return RemoteMachine(name)


def result_of(found: dict[str, Any]) -> Result:
    error = HostError(found["error"]) if found["error"] else None
    return Result(ExitReason(found["reason"]), found["code"], found["report"], error)
