"""What WebSockets carry: one class for each kind, all in the event loop's thread.

A browser that is slow or stops reading costs a bounded number of bytes: the screen's updates wait for room
(see ring3.display.rfb.hub), serial output and sound that don't fit are dropped, oldest first.
"""

import asyncio
import contextlib
import struct
import threading
from collections import deque
from collections.abc import Callable

from aiohttp import ClientConnectionError, WSMsgType, web

from ring3.display.face import Face, Mouse, SerialLine, SoundChunk, SoundSource
from ring3.display.rfb.hub import Hub, Viewer
from ring3.display.rfb.server import HIGH_WATER

SERIAL_MAX = 1 << 20                    # bytes of output that wait for a browser
SOUND_MAX = 1 << 16                     # bytes of sound that wait for a browser: some 0.3 s
SOUND_HEAD = struct.Struct("<IIHH")     # before a chunk's frames: stream, rate, channels, bytes of a sample


class Outbox:
    """What is to be sent, by a task of its own; senders never wait."""

    def __init__(self, socket: web.WebSocketResponse, drained: Callable[[], None] = lambda: None) -> None:
        self._socket = socket
        self._drained = drained
        self._messages: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self.waiting_bytes = 0

    def put(self, data: bytes) -> None:
        self._messages.append(data)
        self.waiting_bytes += len(data)
        self._wake.set()

    def drop_beyond(self, limit: int) -> None:
        while self.waiting_bytes > limit:
            self.waiting_bytes -= len(self._messages.popleft())

    def close(self) -> None:
        """After what was put."""
        self._closing = True
        self._wake.set()

    async def carry(self) -> None:
        with contextlib.suppress(ConnectionError, ClientConnectionError):
            while not self._closing or self._messages:
                await self._wake.wait()
                self._wake.clear()
                while self._messages:
                    data = self._messages.popleft()
                    await self._socket.send_bytes(data)
                    self.waiting_bytes -= len(data)
                self._drained()
            await self._socket.close()


async def carry_both(socket: web.WebSocketResponse, outbox: Outbox, receive: Callable[[bytes], None]) -> None:
    """Until either side ends."""
    carrier = asyncio.create_task(outbox.carry())
    try:
        async for message in socket:
            match message.type:
                case WSMsgType.BINARY:
                    receive(message.data)
                case WSMsgType.TEXT:
                    receive(message.data.encode())
    finally:
        carrier.cancel()


class ScreenWire:
    """An RFB viewer's Wire."""

    def __init__(self, hub: Hub, socket: web.WebSocketResponse, *, local: bool, view_only: bool) -> None:
        self.local = local
        self._outbox = Outbox(socket, self._pump)
        self._socket = socket
        self._viewer = Viewer(hub, self, view_only=view_only)

    @property
    def full(self) -> bool:
        return self._outbox.waiting_bytes > HIGH_WATER

    def send(self, data: bytes) -> None:
        self._outbox.put(data)

    def close(self, reason: str) -> None:
        self._outbox.close()

    async def run(self) -> None:
        self._viewer.start()
        try:
            await carry_both(self._socket, self._outbox, self._viewer.receive)
        finally:
            self._viewer.close("the browser is gone")

    def _pump(self) -> None:
        self._viewer.pump()


async def carry_serial(line: SerialLine, socket: web.WebSocketResponse, *, view_only: bool) -> None:
    """First what the guest said before, then both ways."""
    loop, outbox = asyncio.get_running_loop(), Outbox(socket)
    outbox.put(line.history())
    lock, pending = threading.Lock(), bytearray()

    def said(data: bytes) -> None:
        """In the guest's thread: many bytes become one message."""
        with lock:
            first = not pending
            pending.extend(data)
        if first:
            with contextlib.suppress(RuntimeError):     # the loop is closed
                loop.call_soon_threadsafe(flush)

    def flush() -> None:
        with lock:
            outbox.put(bytes(pending))
            pending.clear()
        outbox.drop_beyond(SERIAL_MAX)

    unlisten = line.listen(said)
    try:
        await carry_both(socket, outbox, (lambda data: None) if view_only else line.send)
    finally:
        unlisten()


async def carry_sound(source: SoundSource, socket: web.WebSocketResponse) -> None:
    """Chunks as they are played; the page makes one sound of all streams."""
    loop, outbox = asyncio.get_running_loop(), Outbox(socket)

    def put(data: bytes) -> None:
        outbox.put(data)
        outbox.drop_beyond(SOUND_MAX)

    def played(chunk: SoundChunk) -> None:
        head = SOUND_HEAD.pack(chunk.stream, chunk.rate_hz, chunk.channels, chunk.sample_bytes)
        with contextlib.suppress(RuntimeError):         # the loop is closed
            loop.call_soon_threadsafe(put, head + chunk.frames)

    unlisten = source.listen(played)
    try:
        await carry_both(socket, outbox, lambda data: None)
    finally:
        unlisten()


def move_mouse(mouse: Mouse, message: object) -> None:
    """A captured mouse's message: {"by": [dx, dy]}, {"buttons": mask} or {"wheel": dz}."""
    match message:
        case {"by": [int(dx), int(dy)]} if max(abs(dx), abs(dy)) < 1 << 15:
            mouse.move_by(dx, dy)
        case {"buttons": int(mask)}:
            mouse.buttons(mask & 0x1F)
        case {"wheel": int(dz)}:
            mouse.scroll(max(-8, min(dz, 8)))


def state_of(face: Face, *, view_only: bool, serial: bool) -> dict[str, object]:
    """What the page shows besides pictures and bytes."""
    return {
        "name": face.name,
        "paused": face.power.paused,
        "absolute": face.mouse.absolute,
        "drives": dict(face.power.drives()),
        "serial": len(face.serial_lines) if serial else 0,
        "sound": face.sound is not None,
        "layout": face.keyboard.layout,
        "view_only": view_only,
    }
