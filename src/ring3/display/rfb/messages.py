"""RFB's numbers, and the messages a server sends (RFC 6143, §7; rfbproto for those of the community)."""

import struct
from dataclasses import dataclass
from typing import ClassVar

from ring3.display.screen import Rect


class Security:
    INVALID = 0
    NONE = 1
    VNC = 2


class ClientMessage:
    SET_PIXEL_FORMAT = 0
    SET_ENCODINGS = 2
    UPDATE_REQUEST = 3
    KEY = 4
    POINTER = 5
    CUT_TEXT = 6
    CONTINUOUS_UPDATES = 150
    FENCE = 248
    SET_DESKTOP_SIZE = 251
    QEMU = 255


class ServerMessage:
    UPDATE = 0
    COLOUR_MAP = 1
    BELL = 2
    CUT_TEXT = 3
    END_OF_CONTINUOUS_UPDATES = 150
    FENCE = 248


class Encoding:
    RAW = 0
    COPY_RECT = 1
    TIGHT = 7
    ZRLE = 16
    # Pseudo-encodings: what the viewer understands besides.
    DESKTOP_SIZE = -223
    LAST_RECT = -224
    CURSOR = -239
    POINTER_TYPE = -257                 # QEMU's "pointer motion change"
    QEMU_KEY = -258
    QEMU_LEDS = -261
    EXTENDED_DESKTOP_SIZE = -308
    FENCE = -312
    CONTINUOUS_UPDATES = -313
    COMPRESSION = range(-256, -246)     # levels 0 to 9
    EXTENDED_CLIPBOARD = 0xC0A1E5CE - (1 << 32)


class Fence:
    BLOCK_BEFORE = 1
    BLOCK_AFTER = 2
    SYNC_NEXT = 4
    REQUEST = 1 << 31
    KNOWN = BLOCK_BEFORE | BLOCK_AFTER | SYNC_NEXT
    PAYLOAD_MAX = 64                    # bytes


class Resize:
    """ExtendedDesktopSize: why (x) and with what success (y)."""

    SERVER, CLIENT = 0, 1
    DONE, PROHIBITED = 0, 1


@dataclass(frozen=True)
class PixelFormat:
    """RFC 6143, §7.4.  Colours of a colour map are ours: 3, 3 and 2 bits of red, green and blue."""

    SIZE: ClassVar = 16                 # bytes
    bits: int = 32
    depth: int = 24
    big_endian: bool = False
    true_colour: bool = True
    max: tuple[int, int, int] = (255, 255, 255)
    shift: tuple[int, int, int] = (16, 8, 0)

    def pack(self) -> bytes:
        return struct.pack(">BBBBHHHBBB3x", self.bits, self.depth, self.big_endian, self.true_colour,
                           *self.max, *self.shift)

    @classmethod
    def unpack(cls, data: bytes) -> "PixelFormat":
        bits, depth, big_endian, true_colour, *rest = struct.unpack(">BBBBHHHBBB3x", data)
        red, green, blue, *shifts = rest
        return cls(bits, depth, bool(big_endian), bool(true_colour), (red, green, blue),
                   (shifts[0], shifts[1], shifts[2]))


COLOUR_MAP_FORMAT = PixelFormat(8, 8, False, False, (7, 7, 3), (0, 3, 6))


def colour_map() -> bytes:
    """All 256 colours of COLOUR_MAP_FORMAT, 16 bits for each part."""
    parts = list(zip(COLOUR_MAP_FORMAT.max, COLOUR_MAP_FORMAT.shift, strict=True))
    entries = [(pixel >> shift & most) * 0xFFFF // most for pixel in range(256) for most, shift in parts]
    return struct.pack(">BxHH768H", ServerMessage.COLOUR_MAP, 0, 256, *entries)


def server_init(width: int, height: int, name: str) -> bytes:
    text = name.encode()
    return struct.pack(">HH", width, height) + PixelFormat().pack() + struct.pack(">I", len(text)) + text


def update_header(rectangles: int) -> bytes:
    return struct.pack(">BxH", ServerMessage.UPDATE, rectangles)


def rectangle(rect: Rect, encoding: int) -> bytes:
    return struct.pack(">HHHHi", rect.x, rect.y, rect.width, rect.height, encoding)


def copy_rectangle(rect: Rect, source_x: int, source_y: int) -> bytes:
    return rectangle(rect, Encoding.COPY_RECT) + struct.pack(">HH", source_x, source_y)


def last_rectangle() -> bytes:
    return rectangle(Rect(0, 0, 0, 0), Encoding.LAST_RECT)


def desktop_size(width: int, height: int) -> bytes:
    return rectangle(Rect(0, 0, width, height), Encoding.DESKTOP_SIZE)


def extended_desktop_size(width: int, height: int, reason: int, status: int) -> bytes:
    """With one screen, which is all of the desktop."""
    return (rectangle(Rect(reason, status, width, height), Encoding.EXTENDED_DESKTOP_SIZE)
            + struct.pack(">B3xIHHHHI", 1, 0, 0, 0, width, height, 0))


def cursor(size: int, spot: int, pixels: bytes, mask: bytes) -> bytes:
    """Square; `spot` is the hot spot's x and y."""
    return rectangle(Rect(spot, spot, size, size), Encoding.CURSOR) + pixels + mask


def pointer_type(absolute: bool) -> bytes:
    return rectangle(Rect(int(absolute), 0, 0, 0), Encoding.POINTER_TYPE)


def leds(state: int) -> bytes:
    """1 Scroll Lock, 2 Num Lock, 4 Caps Lock."""
    return rectangle(Rect(0, 0, 1, 1), Encoding.QEMU_LEDS) + bytes((state & 7,))


def qemu_keys() -> bytes:
    """Extended key events are understood."""
    return rectangle(Rect(0, 0, 0, 0), Encoding.QEMU_KEY)


def fence(flags: int, payload: bytes) -> bytes:
    return struct.pack(">B3xIB", ServerMessage.FENCE, flags, len(payload)) + payload


def end_of_continuous_updates() -> bytes:
    return bytes((ServerMessage.END_OF_CONTINUOUS_UPDATES,))


def cut_text(text: str) -> bytes:
    """What Latin-1 has of it; line ends are newlines (RFC 6143, §7.6.4)."""
    data = text.encode("latin-1", "replace")
    return struct.pack(">B3xI", ServerMessage.CUT_TEXT, len(data)) + data


def extended_cut_text(data: bytes) -> bytes:
    return struct.pack(">B3xi", ServerMessage.CUT_TEXT, -len(data)) + data
