"""Viewers see what the screen shows, each at its own pace."""

import random
import struct

import pytest

from ring3.display.rfb.messages import Encoding, PixelFormat
from ring3.display.screen import Rect

CONTINUE = struct.pack(">BBHHHH", 150, 1, 0, 0, 64, 48)


def stripes(x, y):
    return (x // 3 * 0x1F1F + y * 0x070301) & 0xFFFFFF


def test_first_update_is_everything(hub, connect):
    hub.face.screen.draw(Rect(3, 4, 50, 40), stripes)
    viewer = connect(Encoding.RAW)
    viewer.request(incremental=False)
    assert viewer.right
    assert viewer.picture.idle


def test_changes_arrive_when_asked_for(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.request(incremental=False)
    hub.face.screen.draw(Rect(3, 4, 5, 6), 0x123456)
    assert viewer.settle() == 0
    viewer.request()
    assert viewer.right
    viewer.request()
    hub.face.screen.draw(Rect(3, 4, 5, 6), 0xABCDEF)
    viewer.settle()
    assert viewer.right


def test_only_changed_tiles_are_sent(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.request(incremental=False)
    viewer.request()
    hub.face.screen.draw(Rect(40, 20, 5, 6), 0xABCDEF)
    assert viewer.settle() == 4 + 12 + 32 * 16 * 4


def test_drawing_the_same_again_sends_nothing(hub, connect):
    hub.face.screen.draw(Rect(3, 4, 50, 40), stripes)
    viewer = connect(Encoding.RAW)
    viewer.request(incremental=False)
    viewer.request()
    hub.face.screen.draw(Rect(3, 4, 50, 40), stripes)
    assert viewer.settle() == 0


@pytest.mark.parametrize("encoding", [Encoding.RAW, Encoding.ZRLE, Encoding.TIGHT])
@pytest.mark.parametrize("streamed", [False, True])
def test_each_encoding_draws_the_same(hub, connect, encoding, streamed):
    rng = random.Random(encoding)
    viewer = connect(encoding, *([Encoding.LAST_RECT] if streamed else []))
    viewer.request(incremental=False)
    hub.face.screen.resize(64, 48)
    for colours in (1, 2, 3, 4, 5, 16, 17, 100, 127, 128, 200, 257, 10000):
        palette = [rng.randrange(1 << 24) for _ in range(colours)]
        hub.face.screen.draw(Rect(0, 0, 64, 48), lambda x, y, palette=palette: rng.choice(palette))
        viewer.request()
        assert viewer.right
        run = max(1, colours // 3)
        hub.face.screen.draw(Rect(0, 0, 64, 48), lambda x, y, palette=palette, run=run:
                             palette[(x + 64 * y) // run % len(palette)])
        viewer.request()
        assert viewer.right
    assert set(viewer.picture.encodings) == {encoding}
    assert viewer.picture.idle


@pytest.mark.parametrize(("size", "encoding"), [((300, 200), Encoding.ZRLE), ((300, 300), Encoding.TIGHT)])
def test_areas_larger_than_tiles(hub, connect, size, encoding):
    hub.face.screen.resize(*size)
    hub.face.screen.draw(Rect(0, 0, *size), stripes)
    viewer = connect(encoding)
    viewer.request(incremental=False)
    assert viewer.right


def test_a_scroll_is_a_copy(hub, connect):
    screen = hub.face.screen
    screen.resize(64, 128)
    screen.draw(Rect(0, 0, 64, 128), stripes)
    viewer = connect(Encoding.COPY_RECT, Encoding.RAW)
    viewer.request(incremental=False)
    viewer.request()
    screen.show(screen.data[4 * 64 * 16 :] + bytes(4 * 64 * 16))
    assert viewer.settle() < 4 * 64 * 32 + 100
    assert Encoding.COPY_RECT in viewer.picture.encodings
    assert viewer.right


def test_a_viewer_that_lags_gets_no_copy(hub, connect):
    screen = hub.face.screen
    screen.resize(64, 128)
    screen.draw(Rect(0, 0, 64, 128), stripes)
    slow, quick = (connect(Encoding.COPY_RECT, Encoding.RAW) for _ in range(2))
    for viewer in (slow, quick):
        viewer.request(incremental=False)
    quick.request()
    screen.show(screen.data[4 * 64 * 16 :] + bytes(4 * 64 * 16))
    quick.settle()
    slow.request()
    assert slow.right
    assert quick.right
    assert Encoding.COPY_RECT not in slow.picture.encodings


def test_looks_keep_their_distance(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.say(CONTINUE)
    viewer.settle()
    hub.face.screen.draw(Rect(0, 0, 1, 1), 1)
    hub.worker.run()
    hub.face.screen.reads.clear()
    hub.face.screen.draw(Rect(0, 0, 1, 1), 2)
    hub.worker.run()
    assert hub.face.screen.reads == []
    hub.manual.advance(0.025)
    hub.worker.run()
    assert len(hub.face.screen.reads) == 1


def test_a_wire_that_is_full_gets_the_newest_picture_later(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.say(CONTINUE)
    viewer.settle()
    viewer.wire.full = True
    hub.face.screen.reads.clear()
    for colour in range(1, 10):
        hub.face.screen.draw(Rect(0, 0, 64, 48), colour)
        assert viewer.settle() == 0
    assert hub.face.screen.reads == []
    viewer.wire.full = False
    viewer.viewer.pump()
    assert viewer.settle() < 2 * 4 * 64 * 48
    assert viewer.right


def test_continuous_updates_wait_for_their_fences(hub, connect):
    viewer = connect(Encoding.RAW, Encoding.FENCE)
    viewer.say(CONTINUE)
    for colour in range(1, 6):
        hub.face.screen.draw(Rect(0, 0, 64, 48), colour)
        viewer.settle()
    fences = [message for message in viewer.picture.messages if message[0] == "fence" and message[2]]
    assert len(fences) == 2
    for fence in fences:
        viewer.say(struct.pack(">BxxxIB", 248, fence[1] & 0x7FFF_FFFF, len(fence[2])) + fence[2])
    viewer.settle()
    assert viewer.right


def test_continuous_updates_end_with_a_word(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.say(CONTINUE)
    viewer.settle()
    viewer.say(struct.pack(">BBHHHH", 150, 0, 0, 0, 0, 0))
    hub.face.screen.draw(Rect(0, 0, 64, 48), 7)
    viewer.settle()
    assert viewer.picture.messages[-1] == ("end of continuous updates",)


def test_nothing_runs_while_nothing_changes(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.say(CONTINUE)
    viewer.settle()
    assert hub.worker.jobs == []
    assert hub.manual.timers == []


def test_without_viewers_the_screen_is_not_watched(hub, connect):
    viewer = connect(Encoding.RAW)
    assert len(hub.face.screen.watchers) == 1
    viewer.viewer.close("gone")
    assert hub.face.screen.watchers == []
    again = connect(Encoding.RAW)
    hub.face.screen.draw(Rect(0, 0, 9, 9), 5)
    again.request(incremental=False)
    assert again.right


@pytest.mark.parametrize("encoding", [Encoding.DESKTOP_SIZE, Encoding.EXTENDED_DESKTOP_SIZE])
def test_another_size(hub, connect, encoding):
    viewer = connect(Encoding.RAW, encoding)
    viewer.request(incremental=False)
    hub.face.screen.resize(100, 30)
    hub.face.screen.draw(Rect(0, 0, 100, 30), stripes)
    viewer.request()
    viewer.request()
    assert viewer.picture.size == (100, 30)
    assert viewer.right


def test_a_viewer_of_fixed_size_sees_the_upper_left_part(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.request(incremental=False)
    hub.face.screen.resize(100, 30)
    hub.face.screen.draw(Rect(0, 0, 100, 30), stripes)
    viewer.request()
    viewer.request()
    assert viewer.picture.rows[29][:64] == [stripes(x, 29) for x in range(64)]


def test_resizing_by_the_viewer_is_refused(hub, connect):
    viewer = connect(Encoding.RAW, Encoding.EXTENDED_DESKTOP_SIZE)
    viewer.request(incremental=False)
    viewer.say(b"\xfb\0\x04\0\x03\0\x01\0" + bytes(16))
    viewer.request()
    assert ("extended desktop size", 1, 1, 64, 48) in viewer.picture.messages


def test_keys_and_pointer(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.say(b"\x04\x01\0\0\0\0\0\x61")
    viewer.say(b"\xff\0\0\x01\0\0\0\x61\0\0\0\x9d" + b"\xff\0\0\0\0\0\0\x61\0\0\0\x9d")
    assert hub.face.keyboard.events == [("keysym", 0x61, True), (0xE01D, True), (0xE01D, False)]
    viewer.say(b"\x05\x04\0\x05\0\x06" + b"\x05\x10\0\x05\0\x06")
    assert hub.face.mouse.events == [
        ("move", 5, 6), ("buttons", 2), ("move", 5, 6), ("buttons", 0), ("scroll", 1)]


def test_movements_where_the_guest_knows_no_positions(hub, connect):
    hub.face.mouse.absolute = False
    viewer = connect(Encoding.RAW, Encoding.POINTER_TYPE)
    viewer.request(incremental=False)
    assert ("pointer type", 0) in viewer.picture.messages
    viewer.say(struct.pack(">BBHH", 5, 0, 0x7FFF + 4, 0x7FFF - 3))
    assert hub.face.mouse.events == [("by", 4, -3)]


def test_pointer_is_a_dot_unless_the_guest_draws_it_where_the_users_is(hub, connect):
    hub.face.mouse.absolute = False
    viewer = connect(Encoding.RAW, Encoding.CURSOR)
    viewer.request(incremental=False)
    hub.face.mouse.absolute = True
    hub.face.screen.draw(Rect(0, 0, 1, 1), 9)
    viewer.request()
    cursors = [message[1:3] for message in viewer.picture.messages if message[0] == "cursor"]
    assert cursors == [(3, 3), (0, 0)]


def test_lights_follow_the_guest(hub, connect):
    viewer = connect(Encoding.RAW, Encoding.QEMU_LEDS)
    viewer.request(incremental=False)
    viewer.request()
    viewer.say(b"\xff\0\0\x01\0\0\xff\xe5\0\0\0\x3a")
    hub.face.keyboard.leds = 4
    viewer.settle()
    assert [message[1] for message in viewer.picture.messages if message[0] == "leds"] == [0, 4]


def test_keys_held_by_a_viewer_that_vanishes_come_up(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.say(b"\xff\0\0\x01\0\0\0\x61\0\0\0\x1e" + b"\x05\x01\0\x05\0\x06")
    viewer.viewer.close("gone")
    assert hub.face.keyboard.events[-1] == (0x1E, False)
    assert hub.face.mouse.events[-1] == ("buttons", 0)


def test_view_only(hub, connect):
    viewer = connect(Encoding.RAW, view_only=True)
    viewer.say(b"\x04\x01\0\0\0\0\0\x61" + b"\x05\x01\0\x05\0\x06")
    viewer.request(incremental=False)
    assert viewer.right
    assert hub.face.keyboard.events == hub.face.mouse.events == []


def test_text_cut_in_one_viewer_is_offered_to_the_others(hub, connect):
    one, other = connect(Encoding.RAW), connect(Encoding.RAW)
    one.say(b"\x06\0\0\0\0\0\0\x02hi")
    assert one.drawn() == 0
    other.drawn()
    assert other.picture.messages == [("cut text", False, b"hi")]


def test_other_messages_wait_for_the_end_of_an_update(hub, connect):
    viewer = connect(Encoding.RAW, Encoding.LAST_RECT)
    viewer.request(incremental=False)
    viewer.say(struct.pack(">BBHHHH", 3, 0, 0, 0, 64, 48))
    viewer.say(b"\xf8\0\0\0\x80\0\0\x01\x01x")
    assert viewer.wire.data == b""
    viewer.settle()
    assert [message[0] for message in viewer.picture.messages] == ["update", "update", "fence"]


@pytest.mark.parametrize(("bits", "depth", "big", "maxima", "shifts"), [
    (32, 24, False, (255, 255, 255), (0, 8, 16)), (32, 24, True, (255, 255, 255), (16, 8, 0)),
    (32, 30, False, (1023, 1023, 1023), (20, 10, 0)), (16, 16, False, (31, 63, 31), (11, 5, 0)),
    (16, 15, True, (31, 31, 31), (10, 5, 0)), (8, 8, False, (7, 7, 3), (0, 3, 6)),
    (8, 6, False, (3, 3, 3), (4, 2, 0)), (8, 3, False, (1, 1, 1), (2, 1, 0)),
])
def test_pixel_formats(hub, connect, bits, depth, big, maxima, shifts):
    hub.face.screen.draw(Rect(0, 0, 64, 48), lambda x, y: 0xFF00FF if (x + y) % 2 else 0x00FF00)
    viewer = connect(Encoding.RAW)
    viewer.say(b"\0\0\0\0" + PixelFormat(bits, depth, big, True, maxima, shifts).pack())
    viewer.say(struct.pack(">BBHHHH", 3, 0, 0, 0, 64, 48))
    hub.worker.run()
    (red, green, blue), (red_at, green_at, blue_at) = maxima, shifts
    order, size = "big" if big else "little", bits // 8
    colours = (green << green_at, red << red_at | blue << blue_at)
    data = viewer.wire.data
    assert len(data) == 4 + 12 + 64 * 48 * size
    assert data[16 : 16 + 2 * size] == b"".join(colour.to_bytes(size, order) for colour in colours)


def test_a_senseless_pixel_format_ends_the_connection(hub, connect):
    viewer = connect(Encoding.RAW)
    viewer.say(b"\0\0\0\0" + PixelFormat(24, 24).pack())
    assert viewer.wire.closed.startswith("no pixel format")
    assert hub.viewers == []


def test_thirty_two_viewers_are_the_most(hub, connect):
    viewers = [connect(Encoding.RAW) for _ in range(32)]
    assert all(viewer.wire.closed is None for viewer in viewers)
    assert connect(Encoding.RAW).wire.closed == "there are 32 viewers already"
    assert len(hub.viewers) == 32


def test_random_drawing_ends_in_the_same_picture_for_all(hub, connect):
    rng = random.Random(11)
    screen = hub.face.screen
    screen.resize(96, 160)
    viewers = [connect(*encodings) for encodings in (
        (Encoding.RAW,), (Encoding.COPY_RECT, Encoding.ZRLE),
        (Encoding.TIGHT, Encoding.COPY_RECT, Encoding.LAST_RECT))]
    for viewer in viewers:
        viewer.say(struct.pack(">BBHHHH", 3, 0, 0, 0, 96, 160))
    for _ in range(150):
        match rng.randrange(4):
            case 0:
                x, y = rng.randrange(90), rng.randrange(150)
                salt = rng.randrange(1 << 20)
                screen.draw(Rect(x, y, rng.randrange(1, 97 - x), rng.randrange(1, 161 - y)),
                            lambda px, py, salt=salt: (px * 7919 + py * salt) & 0xFFFFFF)
            case 1:
                screen.show(screen.data[4 * 96 * 8 :] + screen.data[: 4 * 96 * 8])
            case 2:
                hub.manual.advance(0.03)
                if hub.worker.jobs:
                    hub.worker.jobs.pop(0)()
            case 3:
                viewer = rng.choice(viewers)
                viewer.drawn()
                viewer.say(struct.pack(">BBHHHH", 3, 1, 0, 0, 96, 160))
    for viewer in viewers:
        viewer.settle()
        viewer.request()
        viewer.request()
        assert viewer.right
