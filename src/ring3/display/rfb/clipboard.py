"""Extended clipboard (rfbproto, "Extended Clipboard Pseudo-Encoding"): text in UTF-8, compressed, on demand.

Only text is exchanged.  A viewer that says it has some is asked for it; one that asks is given ours.
"""

import struct
import zlib
from dataclasses import dataclass

from ring3.display.rfb.messages import extended_cut_text

TEXT = 1 << 0
CAPS, REQUEST, PEEK, NOTIFY, PROVIDE = (1 << bit for bit in range(24, 29))
ACTIONS = CAPS | REQUEST | PEEK | NOTIFY | PROVIDE
TEXT_MAX = 1 << 20                      # bytes of text taken from a viewer


class ClipboardError(Exception):
    """The viewer's message makes no sense, or is too long."""


@dataclass(frozen=True)
class Message:
    """What a viewer sent: one action; `text` with PROVIDE."""

    action: int
    formats: int = 0
    text: str = ""


def parse(data: bytes) -> Message:
    if len(data) < 4:
        raise ClipboardError("an extended clipboard message without flags")
    (flags,) = struct.unpack_from(">I", data)
    formats = flags & 0xFFFF
    if flags & CAPS:
        return Message(CAPS, formats)
    action = flags & ACTIONS
    if action not in (REQUEST, PEEK, NOTIFY, PROVIDE):
        raise ClipboardError(f"extended clipboard flags {flags:#x}")
    text = _provided(data[4:]) if action == PROVIDE and formats & TEXT else ""
    return Message(action, formats, text)


def _provided(compressed: bytes) -> str:
    """The text: it comes first, as the format of the lowest bit."""
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(compressed, 4 + TEXT_MAX + 1)
    except zlib.error as error:
        raise ClipboardError(f"a clipboard that is not compressed: {error}") from error
    if len(data) < 4:
        raise ClipboardError("a clipboard without its length")
    (length,) = struct.unpack_from(">I", data)
    if length > TEXT_MAX or len(data) < 4 + length:
        raise ClipboardError(f"a clipboard of {length} bytes: at most {TEXT_MAX} are taken")
    text = data[4 : 4 + length].removesuffix(b"\0").decode(errors="replace")
    return text.replace("\r\n", "\n")


def capabilities() -> bytes:
    """What we do, and the longest text that a viewer may send without being asked."""
    return extended_cut_text(struct.pack(">II", ACTIONS | TEXT, 0))


def request() -> bytes:
    return extended_cut_text(struct.pack(">I", REQUEST | TEXT))


def notify(has_text: bool) -> bytes:
    return extended_cut_text(struct.pack(">I", NOTIFY | (TEXT if has_text else 0)))


def provide(text: str) -> bytes:
    data = text.replace("\n", "\r\n").encode() + b"\0"
    return extended_cut_text(struct.pack(">I", PROVIDE | TEXT)
                             + zlib.compress(struct.pack(">I", len(data)) + data))
