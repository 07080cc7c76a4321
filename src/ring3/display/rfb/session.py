"""One viewer's side of RFB, without I/O: bytes in, events out.

    session = Session(640, 480, name="debian", password=None)
    session.greeting()                            # b"RFB 003.008\\n"
    session.receive(b"RFB 003.008\\n")             # [Send(b"\\x01\\x01")]

`_conversation` is the protocol read from top to bottom: it yields the number of bytes it needs next.  No
number a viewer sends makes us keep more than MESSAGE_MAX bytes; what makes no sense ends the session with
one Closed event, and after that nothing is taken any more.

Versions 3.3, 3.7 and 3.8; security None and VNC authentication.  Shared access whether asked for or not.
"""

import hmac
import os
import re
import struct
from collections.abc import Generator
from dataclasses import dataclass

from ring3.display.rfb import clipboard, messages
from ring3.display.rfb.clipboard import ClipboardError
from ring3.display.rfb.des import vnc_response
from ring3.display.rfb.messages import ClientMessage, Encoding, Fence, PixelFormat, Security
from ring3.display.screen import Rect

VERSION = b"RFB 003.008\n"
REFUSAL = b"\0\0\0\x0ewrong password"
CHALLENGE = 16                          # bytes
MESSAGE_MAX = clipboard.TEXT_MAX + 64   # bytes of one message
RELATIVE_ORIGIN = 0x7FFF                # of pointer events while the pointer's type is relative

EXTENDED_KEY, AUDIO = 0, 1              # QEMU client messages


# --- events ---


@dataclass(frozen=True)
class Send:
    data: bytes


@dataclass(frozen=True)
class Joined:
    """The handshake is over."""


@dataclass(frozen=True)
class Closed:
    """The connection is to be closed: `reason` is for the log."""

    reason: str


@dataclass(frozen=True)
class Denied(Closed):
    """Wrong password."""


@dataclass(frozen=True)
class FormatChanged:
    """`Session.format` is another."""


@dataclass(frozen=True)
class EncodingsChanged:
    """`Session.encodings` are others."""


@dataclass(frozen=True)
class UpdateRequested:
    incremental: bool
    rect: Rect


@dataclass(frozen=True)
class ContinuousUpdates:
    enabled: bool
    rect: Rect


@dataclass(frozen=True)
class Key:
    """`code` is a QEMU key code (XT), or None where the viewer knows only the keysym."""

    keysym: int
    code: int | None
    pressed: bool


@dataclass(frozen=True)
class Pointer:
    x: int
    y: int
    buttons: int                        # RFB's: 1 left, 2 middle, 4 right, 8 wheel up, 10h wheel down


@dataclass(frozen=True)
class Clipboard:
    """The viewer's clipboard has this text."""

    text: str


@dataclass(frozen=True)
class Fenced:
    """A fence of ours came back."""

    payload: bytes


@dataclass(frozen=True)
class ResizeRequested:
    width: int
    height: int


Event = (Send | Joined | Closed | FormatChanged | EncodingsChanged | UpdateRequested | ContinuousUpdates
         | Key | Pointer | Clipboard | Fenced | ResizeRequested)


class ProtocolError(Exception):
    """The viewer said what makes no sense."""


class AuthenticationError(ProtocolError):
    pass


class Session:
    def __init__(self, width: int, height: int, *, name: str = "", password: str | None = None,
                 challenge: bytes | None = None) -> None:
        """`password` None: no authentication.  `challenge`: for tests."""
        self.size = (width, height)     # pixels: as the viewer is told in the handshake
        self.format = PixelFormat()
        self.encodings: tuple[int, ...] = (Encoding.RAW,)
        self.clipboard = ""             # text that the viewer may ask for
        self._name = name
        self._password = password
        self._challenge = challenge or os.urandom(CHALLENGE)
        self._events: list[Event] = []
        self._buffer = bytearray()
        self._sync: bytes | None = None     # a fence's answer that goes out after the next message
        self._running = True
        self._parser = self._conversation()
        self._needed = next(self._parser)

    def greeting(self) -> bytes:
        """To be sent first of all."""
        return VERSION

    def receive(self, data: bytes) -> list[Event]:
        """What the bytes mean, in order."""
        if not self._running:
            return []
        self._buffer += data
        try:
            self._parse()
        except AuthenticationError as error:
            self._end(Denied(str(error)))
        except (ProtocolError, ClipboardError) as error:
            self._end(Closed(str(error)))
        events, self._events = self._events, []
        return events

    def understands(self, encoding: int) -> bool:
        return encoding in self.encodings

    def offer_clipboard(self, text: str) -> bytes:
        """What tells the viewer of a text cut elsewhere."""
        self.clipboard = text
        if self.understands(Encoding.EXTENDED_CLIPBOARD):
            return clipboard.notify(bool(text))
        return messages.cut_text(text)

    def _parse(self) -> None:
        at = 0
        try:
            while len(self._buffer) - at >= self._needed:
                chunk = bytes(self._buffer[at : at + self._needed])
                at += self._needed
                self._needed = self._parser.send(chunk)
                if self._needed > MESSAGE_MAX:
                    raise ProtocolError(f"a message of {self._needed} bytes")
        finally:
            del self._buffer[:at]

    def _end(self, event: Closed) -> None:
        self._running = False
        self._buffer.clear()
        self._events.append(event)

    def _put(self, event: Event) -> None:
        self._events.append(event)

    def _send(self, data: bytes) -> None:
        self._events.append(Send(data))

    # --- the conversation: each `yield` is the number of bytes needed, and gives them ---

    def _conversation(self) -> Generator[int, bytes, None]:
        version = yield len(VERSION)
        match = re.fullmatch(rb"RFB (\d{3})\.(\d{3})\n", version)
        if match is None:
            raise ProtocolError(f"{version!r} is no version of RFB")
        minor = int(match[2]) if int(match[1]) == 3 else 8
        yield from self._secure(8 if minor > 7 else 7 if minor == 7 else 3)
        yield 1                         # ClientInit: shared or not; it always is
        self._send(messages.server_init(*self.size, self._name))
        self._put(Joined())
        while True:
            kind = (yield 1)[0]
            sync, self._sync = self._sync, None
            yield from self._message(kind)
            if sync is not None:
                self._send(sync)

    def _secure(self, minor: int) -> Generator[int, bytes, None]:
        wanted = Security.NONE if self._password is None else Security.VNC
        if minor == 3:
            self._send(struct.pack(">I", wanted))
        else:
            self._send(bytes((1, wanted)))
            chosen = (yield 1)[0]
            if chosen != wanted:
                raise ProtocolError(f"security type {chosen} was not offered")
        if self._password is not None:
            self._send(self._challenge)
            response = yield CHALLENGE
            if not hmac.compare_digest(response, vnc_response(self._password, self._challenge)):
                self._send(struct.pack(">I", 1) + (REFUSAL if minor == 8 else b""))
                raise AuthenticationError("wrong password")
        if self._password is not None or minor == 8:
            self._send(struct.pack(">I", 0))

    def _message(self, kind: int) -> Generator[int, bytes, None]:
        match kind:
            case ClientMessage.SET_PIXEL_FORMAT:
                data = yield 3 + PixelFormat.SIZE
                self._set_format(PixelFormat.unpack(data[3:]))
            case ClientMessage.SET_ENCODINGS:
                (count,) = struct.unpack(">xH", (yield 3))
                self._set_encodings(struct.unpack(f">{count}i", (yield 4 * count)))
            case ClientMessage.UPDATE_REQUEST:
                incremental, *rect = struct.unpack(">BHHHH", (yield 9))
                self._put(UpdateRequested(bool(incremental), Rect(*rect)))
            case ClientMessage.KEY:
                pressed, keysym = struct.unpack(">BxxI", (yield 7))
                self._put(Key(keysym, None, bool(pressed)))
            case ClientMessage.POINTER:
                buttons, x, y = struct.unpack(">BHH", (yield 5))
                self._put(Pointer(x, y, buttons))
            case ClientMessage.CUT_TEXT:
                (length,) = struct.unpack(">3xi", (yield 7))
                yield from self._cut_text(length)
            case ClientMessage.CONTINUOUS_UPDATES:
                enabled, *rect = struct.unpack(">BHHHH", (yield 9))
                self._put(ContinuousUpdates(bool(enabled), Rect(*rect)))
            case ClientMessage.FENCE:
                flags, length = struct.unpack(">3xIB", (yield 8))
                self._fence(flags, (yield length))
            case ClientMessage.SET_DESKTOP_SIZE:
                width, height, screens = struct.unpack(">xHHBx", (yield 7))
                yield 16 * screens
                self._put(ResizeRequested(width, height))
            case ClientMessage.QEMU:
                yield from self._qemu()
            case _:
                raise ProtocolError(f"message type {kind} is unknown")

    def _set_format(self, wanted: PixelFormat) -> None:
        if not wanted.true_colour:
            if wanted.bits != 8:
                raise ProtocolError(f"a colour map of {wanted.bits} bits")
            wanted = messages.COLOUR_MAP_FORMAT
            self._send(messages.colour_map())
        self.format = wanted
        self._put(FormatChanged())

    def _set_encodings(self, encodings: tuple[int, ...]) -> None:
        new = set(encodings) - set(self.encodings)
        self.encodings = encodings
        if Encoding.FENCE in new:
            self._send(messages.fence(Fence.REQUEST, b""))
        if Encoding.CONTINUOUS_UPDATES in new:
            self._send(messages.end_of_continuous_updates())
        if Encoding.EXTENDED_CLIPBOARD in new:
            self._send(clipboard.capabilities())
        self._put(EncodingsChanged())

    def _cut_text(self, length: int) -> Generator[int, bytes, None]:
        if abs(length) > clipboard.TEXT_MAX:
            raise ProtocolError(f"a clipboard of {abs(length)} bytes: at most {clipboard.TEXT_MAX} are taken")
        data = yield abs(length)
        if length >= 0:
            self._put(Clipboard(data.decode("latin-1")))
            return
        message = clipboard.parse(data)
        match message.action:
            case clipboard.NOTIFY if message.formats & clipboard.TEXT:
                self._send(clipboard.request())
            case clipboard.PEEK:
                self._send(clipboard.notify(bool(self.clipboard)))
            case clipboard.REQUEST if message.formats & clipboard.TEXT:
                self._send(clipboard.provide(self.clipboard))
            case clipboard.PROVIDE if message.formats & clipboard.TEXT:
                self._put(Clipboard(message.text))

    def _fence(self, flags: int, payload: bytes) -> None:
        """Messages are taken in order, so only SYNC_NEXT needs more than an answer."""
        if len(payload) > Fence.PAYLOAD_MAX:
            raise ProtocolError(f"a fence of {len(payload)} bytes")
        if not flags & Fence.REQUEST:
            self._put(Fenced(payload))
            return
        answer = messages.fence(flags & Fence.KNOWN, payload)
        if flags & Fence.SYNC_NEXT:
            self._sync = answer
        else:
            self._send(answer)

    def _qemu(self) -> Generator[int, bytes, None]:
        kind = (yield 1)[0]
        if kind == EXTENDED_KEY:
            pressed, keysym, code = struct.unpack(">HII", (yield 10))
            self._put(Key(keysym, code, bool(pressed)))
        elif kind == AUDIO:             # never offered, but some viewers set it up unasked
            (operation,) = struct.unpack(">H", (yield 2))
            if operation == 2:          # the format of its samples
                yield 6
        else:
            raise ProtocolError(f"QEMU message type {kind} is unknown")
