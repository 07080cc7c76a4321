"""A viewer's updates: which rectangles, in its encoding and pixel format, through its own zlib streams.

All of it runs in the hub's worker thread; the native calls and zlib drop the GIL.  Sent in chunks: a viewer
that knows LastRect decodes the first while the next is made.

Over a network all is compressed as the viewer wishes.  A local viewer's bytes cost little to carry, so there
zlib only wraps them, but for Tight's indices, which shrink at little cost.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ring3.display.rfb import messages
from ring3.display.rfb.messages import Encoding
from ring3.display.screen import Rect

CHUNK = 1 << 16                         # bytes sent at once, at least
TIGHT_STREAMS = 4
TIGHT_PLAIN_MAX = 12                    # bytes shorter than this are sent without zlib
TRUE_COLOUR_STREAM = 0                  # Tight: of pixels that are no indices
LEVEL_MAX = 6                           # zlib: more costs much and gains little
LEVEL_DEFAULT = 2
# ZRLE's rectangles: a chunk is sent when one is complete.
ZRLE_ROWS = 256


@dataclass(frozen=True)
class Copy:
    """A part of the picture moved."""

    rect: Rect                          # where it is now
    source_x: int
    source_y: int


@dataclass(frozen=True)
class Update:
    """What is to be sent, in this order."""

    encodings: tuple[int, ...]          # the viewer's
    format: Any                         # its native PixelFormat
    extras: tuple[bytes, ...] = ()      # pseudo-rectangles, ready-made
    copy: Copy | None = None
    rects: Sequence[Rect] = ()


class Encoder:
    def __init__(self, *, local: bool) -> None:
        self._local = local
        self._streams: dict[int, Any] = {}
        self._zrle: Any = None
        self._level = 1 if local else LEVEL_DEFAULT

    def set_level(self, encodings: Sequence[int]) -> None:
        """What the viewer asks for counts for streams that haven't begun."""
        if not self._local:
            levels = (code for code in encodings if code in Encoding.COMPRESSION)
            wanted = next(levels, Encoding.COMPRESSION[LEVEL_DEFAULT])
            self._level = min(Encoding.COMPRESSION.index(wanted), LEVEL_MAX)

    def send(self, frame: Any, update: Update, out: Callable[[bytes], None]) -> None:
        """A FramebufferUpdate, through `out` in one piece or in several."""
        streamed = Encoding.LAST_RECT in update.encodings
        chunk = bytearray()
        count = 0
        if streamed:
            chunk += messages.update_header(0xFFFF)
        for piece in self._rectangles(frame, update):
            chunk += piece
            count += 1
            if streamed and len(chunk) >= CHUNK:
                out(bytes(chunk))
                chunk.clear()
        out(bytes(chunk) + messages.last_rectangle() if streamed else messages.update_header(count) + chunk)

    def _rectangles(self, frame: Any, update: Update) -> Iterator[bytes]:
        yield from update.extras
        if update.copy is not None:
            yield messages.copy_rectangle(update.copy.rect, update.copy.source_x, update.copy.source_y)
        known = (code for code in update.encodings if code in (Encoding.TIGHT, Encoding.ZRLE, Encoding.RAW))
        encode = {Encoding.TIGHT: self._tight, Encoding.ZRLE: self._zrle_bands}.get(
            next(known, Encoding.RAW), self._raw)
        for rect in update.rects:
            yield from encode(frame, rect, update.format)

    def _raw(self, frame: Any, rect: Rect, pixel_format: Any) -> Iterator[bytes]:
        yield messages.rectangle(rect, Encoding.RAW) + frame.raw(_area(rect), pixel_format)

    def _zrle_bands(self, frame: Any, rect: Rect, pixel_format: Any) -> Iterator[bytes]:
        if self._zrle is None:
            self._zrle = zlib.compressobj(0 if self._local else self._level)
        for top in range(0, rect.height, ZRLE_ROWS):
            band = Rect(rect.x, rect.y + top, rect.width, min(ZRLE_ROWS, rect.height - top))
            tiles = frame.zrle(_area(band), pixel_format)
            data = self._zrle.compress(tiles) + self._zrle.flush(zlib.Z_SYNC_FLUSH)
            yield messages.rectangle(band, Encoding.ZRLE) + struct.pack(">I", len(data)) + data

    def _tight(self, frame: Any, rect: Rect, pixel_format: Any) -> Iterator[bytes]:
        for area, head, stream, body in frame.tight(_area(rect), pixel_format):
            start = messages.rectangle(Rect(*area), Encoding.TIGHT) + head
            if stream is None:
                yield start
            elif len(body) < TIGHT_PLAIN_MAX:
                yield start + body
            else:
                data = self._deflate(stream, body)
                yield start + compact_length(len(data)) + data

    def _deflate(self, stream: int, body: bytes) -> bytes:
        if stream not in self._streams:
            plain = self._local and stream == TRUE_COLOUR_STREAM
            self._streams[stream] = zlib.compressobj(0 if plain else self._level)
        compressor = self._streams[stream]
        data: bytes = compressor.compress(body) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return data


def _area(rect: Rect) -> tuple[int, int, int, int]:
    return rect.x, rect.y, rect.width, rect.height


def compact_length(length: int) -> bytes:
    """Tight's lengths: 7 bits, 7 bits, 8 bits from the lowest; bit 7 says that more follows."""
    if length < 1 << 7:
        return bytes((length,))
    if length < 1 << 14:
        return bytes((length & 0x7F | 0x80, length >> 7))
    return bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14))
