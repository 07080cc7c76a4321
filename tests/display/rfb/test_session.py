"""The protocol, byte by byte."""

import struct
import zlib

import pytest

from ring3.display.rfb import clipboard
from ring3.display.rfb.des import vnc_response
from ring3.display.rfb.messages import Encoding, PixelFormat
from ring3.display.rfb.session import (
    Clipboard,
    Closed,
    ContinuousUpdates,
    Denied,
    EncodingsChanged,
    Fenced,
    FormatChanged,
    Joined,
    Key,
    Pointer,
    ResizeRequested,
    Send,
    Session,
    UpdateRequested,
)
from ring3.display.screen import Rect

CHALLENGE = bytes(range(16))
FORMAT = b"\x20\x18\x00\x01\x00\xff\x00\xff\x00\xff\x10\x08\x00\0\0\0"
SERVER_INIT = b"\x02\x80\x01\xe0" + FORMAT + b"\0\0\0\x04test"


def joined(**settings) -> Session:
    session = Session(640, 480, name="test", **settings)
    session.receive(b"RFB 003.008\n\x01\x01")
    return session


def sent(events) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Send))


def encodings(*codes: int) -> bytes:
    return struct.pack(f">BxH{len(codes)}i", 2, len(codes), *codes)


def test_handshake_without_a_password():
    session = Session(640, 480, name="test")
    assert session.greeting() == b"RFB 003.008\n"
    assert session.receive(b"RFB 003.008\n") == [Send(b"\x01\x01")]
    assert session.receive(b"\x01") == [Send(b"\0\0\0\0")]
    assert session.receive(b"\0") == [Send(SERVER_INIT), Joined()]


def test_handshake_of_version_3_3_is_not_asked():
    session = Session(640, 480, name="test")
    assert session.receive(b"RFB 003.003\n") == [Send(b"\0\0\0\x01")]
    assert session.receive(b"\x01") == [Send(SERVER_INIT), Joined()]


def test_handshake_of_version_3_7_has_no_result_without_a_password():
    session = Session(640, 480, name="test")
    assert session.receive(b"RFB 003.007\n\x01\x01") == [Send(b"\x01\x01"), Send(SERVER_INIT), Joined()]


@pytest.mark.parametrize("version", [b"003.889", b"004.001", b"003.008"])
def test_newer_versions_are_3_8(version):
    session = Session(640, 480)
    assert session.receive(b"RFB " + version + b"\n") == [Send(b"\x01\x01")]


def test_right_password():
    session = Session(640, 480, name="test", password="secret", challenge=CHALLENGE)
    assert session.receive(b"RFB 003.008\n") == [Send(b"\x01\x02")]
    assert session.receive(b"\x02") == [Send(CHALLENGE)]
    assert session.receive(vnc_response("secret", CHALLENGE)) == [Send(b"\0\0\0\0")]
    assert session.receive(b"\1") == [Send(SERVER_INIT), Joined()]


def test_wrong_password_is_told_and_ends_the_session():
    session = Session(640, 480, password="secret", challenge=CHALLENGE)
    session.receive(b"RFB 003.008\n\x02")
    events = session.receive(vnc_response("guess", CHALLENGE))
    assert events == [Send(b"\0\0\0\x01\0\0\0\x0ewrong password"), Denied("wrong password")]
    assert session.receive(b"\x01") == []


def test_security_none_is_refused_where_a_password_is_wanted():
    session = Session(640, 480, password="secret")
    (*_, event) = session.receive(b"RFB 003.008\n\x01")
    assert event == Closed("security type 1 was not offered")


def test_bytes_may_come_one_by_one():
    session = Session(640, 480, name="test")
    events = []
    for byte in b"RFB 003.008\n\x01\x01" + b"\x03\x01\0\x01\0\x02\0\x03\0\x04" + b"\x04\x01\0\0\0\0\0\x61":
        events += session.receive(bytes((byte,)))
    assert events[-2:] == [UpdateRequested(True, Rect(1, 2, 3, 4)), Key(0x61, None, True)]


def test_pixel_format_is_taken():
    session = joined()
    wanted = PixelFormat(16, 16, True, True, (31, 63, 31), (11, 5, 0))
    assert session.receive(b"\0\0\0\0" + wanted.pack()) == [FormatChanged()]
    assert session.format == wanted


def test_colour_map_of_8_bits_gets_all_its_colours():
    session = joined()
    mapped = PixelFormat(8, 8, False, False, (0, 0, 0), (0, 0, 0))
    send, changed = session.receive(b"\0\0\0\0" + mapped.pack())
    assert changed == FormatChanged()
    assert send.data[:6] == b"\x01\0\0\0\x01\0"
    assert len(send.data) == 6 + 6 * 256
    assert send.data[6 + 6 * 255 :] == b"\xff" * 6
    assert send.data[6 + 6 * 7 : 6 + 6 * 8] == b"\xff\xff\0\0\0\0"


def test_extensions_are_greeted_once():
    session = joined()
    wanted = encodings(Encoding.FENCE, Encoding.CONTINUOUS_UPDATES, Encoding.EXTENDED_CLIPBOARD)
    events = session.receive(wanted)
    assert sent(events).startswith(b"\xf8\0\0\0\x80\0\0\0\0" + b"\x96" + b"\x03")
    assert session.receive(wanted) == [EncodingsChanged()]


def test_input():
    session = joined()
    assert session.receive(b"\x04\0\0\0\0\0\xff\x0d") == [Key(0xFF0D, None, False)]
    assert session.receive(b"\x05\x03\0\x10\x01\0") == [Pointer(16, 256, 3)]
    assert session.receive(b"\xff\0\0\x01\0\0\0\x61\0\0\0\x1e") == [Key(0x61, 0x1E, True)]


def test_fence_is_answered_without_its_request_bit():
    session = joined()
    assert session.receive(b"\xf8\0\0\0\x80\0\0\x03\x02ab") == [Send(b"\xf8\0\0\0\0\0\0\x03\x02ab")]
    assert session.receive(b"\xf8\0\0\0\0\0\0\0\x01x") == [Fenced(b"x")]


def test_synchronous_fence_is_answered_after_the_next_message():
    session = joined()
    assert session.receive(b"\xf8\0\0\0\x80\0\0\x04\0") == []
    events = session.receive(b"\0\0\0\0" + PixelFormat().pack())
    assert events == [FormatChanged(), Send(b"\xf8\0\0\0\0\0\0\x04\0")]


def test_continuous_updates_and_size():
    session = joined()
    assert session.receive(b"\x96\x01\0\0\0\0\x02\x80\x01\xe0") == [
        ContinuousUpdates(True, Rect(0, 0, 640, 480))]
    assert session.receive(b"\xfb\0\x04\0\x03\0\x01\0" + bytes(16)) == [ResizeRequested(1024, 768)]


def test_plain_clipboard():
    assert joined().receive(b"\x06\0\0\0\0\0\0\x03a\xe4b") == [Clipboard("aäb")]


def test_extended_clipboard_is_asked_for_and_taken():
    session = joined()
    session.receive(encodings(Encoding.EXTENDED_CLIPBOARD))
    notify = struct.pack(">BxxxiI", 6, -4, clipboard.NOTIFY | clipboard.TEXT)
    request = struct.pack(">BxxxiI", 3, -4, clipboard.REQUEST | clipboard.TEXT)
    assert session.receive(notify) == [Send(request)]
    text = "Привет\r\n".encode() + b"\0"
    data = struct.pack(">I", clipboard.PROVIDE | clipboard.TEXT) + zlib.compress(
        struct.pack(">I", len(text)) + text)
    assert session.receive(struct.pack(">Bxxxi", 6, -len(data)) + data) == [Clipboard("Привет\n")]


def test_extended_clipboard_gives_what_another_viewer_cut():
    session = joined()
    session.receive(encodings(Encoding.EXTENDED_CLIPBOARD))
    assert session.offer_clipboard("ä\n") == struct.pack(">BxxxiI", 3, -4, clipboard.NOTIFY | clipboard.TEXT)
    (answer,) = session.receive(struct.pack(">BxxxiI", 6, -4, clipboard.REQUEST | clipboard.TEXT))
    assert zlib.decompress(answer.data[12:]) == b"\0\0\0\x05\xc3\xa4\r\n\0"


def test_clipboard_of_viewers_without_the_extension_is_latin_1():
    assert joined().offer_clipboard("a€") == b"\x03\0\0\0\0\0\0\x02a?"


@pytest.mark.parametrize("garbage", [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00",
    b"RFB 999.999x",
])
def test_garbage_for_a_version_ends_the_session(garbage):
    (event,) = Session(640, 480).receive(garbage)
    assert isinstance(event, Closed)


@pytest.mark.parametrize(("message", "reason"), [
    (b"\x07", "message type 7 is unknown"),
    (b"\xff\x09", "QEMU message type 9 is unknown"),
    (b"\x06\0\0\0\x40\0\0\0", "a clipboard of 1073741824 bytes: at most 1048576 are taken"),
    (b"\x06\0\0\0\x80\0\0\0", "a clipboard of 2147483648 bytes: at most 1048576 are taken"),
    (b"\x06\0\0\0\xff\xff\xff\xfe\0\0", "an extended clipboard message without flags"),
    (b"\xf8\0\0\0\x80\0\0\0\x41" + bytes(65), "a fence of 65 bytes"),
    (b"\0\0\0\0" + PixelFormat(16, 16, False, False).pack(), "a colour map of 16 bits"),
])
def test_senseless_messages_end_the_session(message, reason):
    session = joined()
    assert session.receive(message)[-1] == Closed(reason)
    assert session.receive(b"\x04\x01\0\0\0\0\0\x61") == []


def test_clipboard_that_unpacks_to_gigabytes_ends_the_session():
    bomb = zlib.compress(struct.pack(">I", 1 << 26) + bytes(1 << 26))
    data = struct.pack(">I", clipboard.PROVIDE | clipboard.TEXT) + bomb
    (event,) = joined().receive(struct.pack(">Bxxxi", 6, -len(data)) + data)
    assert isinstance(event, Closed)


def test_half_a_message_is_kept_within_bounds():
    session = joined()
    assert session.receive(b"\x06\0\0\0" + struct.pack(">i", clipboard.TEXT_MAX)) == []
    assert session.receive(bytes(clipboard.TEXT_MAX - 1)) == []
    (event,) = session.receive(b"x" * 1)
    assert isinstance(event, Clipboard)
