"""ring3.display.screen over a source without hardware."""

import asyncio
import threading

import pytest

from display_fakes import FakeSource
from ring3.display.screen import Rect, Screen, WaitError


@pytest.fixture
def source():
    return FakeSource()


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def in_loop(loop, function, *arguments):
    async def body():
        function(*arguments)

    asyncio.run_coroutine_threadsafe(body(), loop).result(10)


@pytest.fixture
def screen(source, loop):
    screen = Screen(source)
    in_loop(loop, screen.attach, loop)
    yield screen
    in_loop(loop, screen.close)


class Heard:
    """What a watcher was told."""

    def __init__(self):
        self.damages = []
        self._more = threading.Semaphore(0)

    def __call__(self, damage):
        self.damages.append(damage)
        self._more.release()

    def next(self):
        assert self._more.acquire(timeout=10), "no damage came"
        return self.damages[-1]


def test_text_has_rows_without_trailing_blanks(source, screen):
    source.print("hello", column=2)
    source.print("█ é", row=2)
    assert screen.text().startswith("  hello\n\n█ é\n\n")


def test_control_codes_are_the_glyphs_they_show(source, screen):
    source.text_cells = source.text_cells.__class__(4, 1, bytes([0, 1, 0x7F, 0xFF]), bytes(4))
    assert screen.text() == " ☺⌂"


def test_pixels_beyond_the_screen_are_black(source, screen):
    source.draw_pixels(2, 2, bytes(range(16)))
    black = bytes(4)
    expected = [black, black, black, black, bytes(range(4)), bytes(range(4, 8))]
    assert screen.pixels(Rect(-1, -1, 3, 2)) == b"".join(expected)


def test_an_image_has_the_pixels(source, screen):
    source.draw_pixels(2, 1, bytes([1, 2, 3, 0, 4, 5, 6, 0]))
    assert [screen.image().getpixel((x, 0)) for x in (0, 1)] == [(3, 2, 1), (6, 5, 4)]


def test_a_watcher_first_hears_of_the_whole_screen(screen):
    heard = Heard()
    screen.watch(heard)
    assert heard.next().rects == (Rect(0, 0, 640, 400),)


def test_a_watcher_hears_of_each_change(source, screen):
    heard = Heard()
    screen.watch(heard)
    heard.next()
    source.print("x", column=3, row=1)
    assert heard.next().rects == (Rect(24, 16, 8, 16),)
    source.draw_pixels(2, 2, bytes(16))
    assert heard.next().resized


def test_watching_starts_when_the_machine_does(source, loop):
    screen = Screen(source)
    heard = Heard()
    screen.watch(heard)
    assert not source.watched
    in_loop(loop, screen.attach, loop)
    assert source.watched
    in_loop(loop, screen.close)
    assert not source.watched


def test_nothing_is_noticed_while_nobody_watches(source, screen, loop):
    heard = Heard()
    unwatch = screen.watch(heard)
    heard.next()
    unwatch()
    in_loop(loop, lambda: None)
    assert not source.watched


def test_nothing_is_collected_while_nothing_changes(source, screen, loop):
    heard = Heard()
    screen.watch(heard)
    heard.next()
    in_loop(loop, lambda: None)
    assert source.collected == 0


def test_a_watcher_that_raises_does_not_keep_others_from_hearing(source, screen, loop):
    complaints = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context["exception"]))

    def broken(damage):
        raise ZeroDivisionError

    heard = Heard()
    screen.watch(broken)
    screen.watch(heard)
    heard.next()
    source.print("x")
    heard.next()
    assert complaints


def test_wait_returns_the_match(source, screen):
    threading.Timer(0.01, source.print, ["login: "]).start()
    assert screen.wait(r"lo(g\w+):", regex=True, timeout_s=10).group(1) == "gin"


def test_wait_takes_the_text_literally(source, screen):
    source.print("a.c")
    assert screen.wait("a.c", timeout_s=10)
    with pytest.raises(WaitError, match=r"(?s)'a\.\.' did not come \(waited 0 s\).*a\.c"):
        screen.wait("a..", timeout_s=0)


def test_a_wait_ends_with_the_machine(screen, loop):
    timer = threading.Timer(0.01, in_loop, [loop, screen.close])
    timer.start()
    with pytest.raises(WaitError, match="the machine has ended"):
        screen.wait("never", timeout_s=10)
    timer.join()
