"""A machine for consoles to show: a screen to draw on, and input that is written down."""

from types import SimpleNamespace

from ring3 import _native
from ring3.display.screen import Damage, Rect, TextCells


class FakeScreen:
    """BGRX pixels; `draw` tells the watchers at once, in whose thread it is called."""

    def __init__(self, width=64, height=48):
        self.size = (width, height)
        self.data = bytearray(4 * width * height)
        self.watchers = []
        self.reads = []
        self.text_cells = None

    def pixels(self, rect=None):
        rect = rect or Rect(0, 0, *self.size)
        self.reads.append(rect)
        stride = 4 * self.size[0]
        inside = rect.within(*self.size)
        rows = []
        for y in range(rect.y, rect.y + rect.height):
            at = y * stride + 4 * rect.x
            row = bytes(self.data[at : at + 4 * inside.width]) if y < self.size[1] else b""
            rows.append(row.ljust(4 * rect.width, b"\0"))
        return b"".join(rows)

    def cells(self):
        return self.text_cells

    def watch(self, callback):
        self.watchers.append(callback)
        callback(Damage((Rect(0, 0, *self.size),)))
        return lambda: self.watchers.remove(callback)

    def draw(self, rect, colour):
        """`colour`: 0xRRGGBB, or a function of x and y."""
        paint = colour if callable(colour) else lambda x, y: colour
        for y in range(rect.y, rect.y + rect.height):
            for x in range(rect.x, rect.x + rect.width):
                at = 4 * (y * self.size[0] + x)
                self.data[at : at + 4] = paint(x, y).to_bytes(4, "little")
        self.tell(Damage((rect,)))

    def show(self, data):
        """Other pixels everywhere."""
        self.data[:] = data
        self.tell(Damage((Rect(0, 0, *self.size),)))

    def resize(self, width, height):
        self.size = (width, height)
        self.data = bytearray(4 * width * height)
        self.tell(Damage((Rect(0, 0, width, height),), resized=True))

    def print(self, lines, columns=80, attribute=0x07, cursor=None):
        """A text screen."""
        codes = b"".join(line.encode("cp437").ljust(columns) for line in lines)
        self.text_cells = TextCells(columns, len(lines), codes, bytes((attribute,)) * len(codes), cursor)
        self.tell(Damage((Rect(0, 0, *self.size),)))

    def tell(self, damage):
        for callback in list(self.watchers):
            callback(damage)


class FakeKeyboard:
    layout = "us"
    leds = 0

    def __init__(self):
        self.events = []

    def key(self, code, pressed):
        self.events.append((code, pressed))

    def keysym(self, keysym, pressed):
        self.events.append(("keysym", keysym, pressed))

    def press(self, *names, wait=True):
        self.events.append(("press", *names))

    def type(self, text, layout=None, *, wait=True):
        self.events.append(("type", text))


class FakeMouse:
    absolute = True

    def __init__(self):
        self.events = []

    def move(self, x, y):
        self.events.append(("move", x, y))

    def move_by(self, dx, dy):
        self.events.append(("by", dx, dy))

    def buttons(self, mask):
        self.events.append(("buttons", mask))

    def scroll(self, dz):
        self.events.append(("scroll", dz))


class FakePower:
    paused = False

    def __init__(self):
        self.calls = []
        self.media = {"cdrom0": "debian.iso", "floppy0": None}

    def reset(self):
        self.calls.append("reset")

    def power_off(self):
        self.calls.append("power_off")

    def quit(self):
        self.calls.append("quit")

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False

    def drives(self):
        return self.media

    def insert(self, drive, path):
        self.media[drive] = path

    def eject(self, drive):
        self.media[drive] = None


class FakeLine:
    def __init__(self):
        self.sent = []
        self.listeners = []
        self.past = b"earlier\r\n"

    def history(self):
        return self.past

    def listen(self, callback):
        self.listeners.append(callback)
        return lambda: self.listeners.remove(callback)

    def send(self, data):
        self.sent.append(data)

    def say(self, data):
        for listener in list(self.listeners):
            listener(data)


def fake_machine(width=64, height=48):
    return SimpleNamespace(
        name="test", screen=FakeScreen(width, height), keyboard=FakeKeyboard(), mouse=FakeMouse(),
        power=FakePower(), serial_lines=[FakeLine()], sound=None, codec=_native)
