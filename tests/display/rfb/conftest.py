"""A hub whose loop and worker run only when a test says so."""

import struct

import pytest

from console_fakes import fake_machine
from rfb_viewer import Picture
from ring3.display.rfb.hub import Hub, Viewer


class ManualLoop:
    def __init__(self):
        self.now_s = 0.0
        self.timers = []
        self.errors = []

    def time(self):
        return self.now_s

    def call_soon_threadsafe(self, function, *arguments):
        function(*arguments)

    def call_at(self, when_s, function, *arguments):
        timer = ManualTimer(self, when_s, lambda: function(*arguments))
        self.timers.append(timer)
        return timer

    def call_later(self, delay_s, function, *arguments):
        return self.call_at(self.now_s + delay_s, function, *arguments)

    def call_exception_handler(self, context):
        self.errors.append(context)

    def advance(self, seconds):
        self.now_s += seconds
        for timer in [t for t in self.timers if t.when_s <= self.now_s]:
            self.timers.remove(timer)
            timer.function()


class ManualTimer:
    def __init__(self, loop, when_s, function):
        self.loop, self.when_s, self.function = loop, when_s, function

    def cancel(self):
        self.loop.timers.remove(self)


class ManualWorker:
    def __init__(self):
        self.jobs = []

    def submit(self, job):
        self.jobs.append(job)

    def run(self):
        while self.jobs:
            self.jobs.pop(0)()

    def shutdown(self, **_):
        self.jobs.clear()


class FakeWire:
    def __init__(self):
        self.local = True
        self.full = False
        self.data = b""
        self.closed = None

    def send(self, data):
        self.data += data

    def close(self, reason):
        self.closed = reason


class Client:
    """A viewer on both sides: what it gets is drawn."""

    def __init__(self, hub, *encodings, **settings):
        self.hub = hub
        self.wire = FakeWire()
        self.viewer = Viewer(hub, self.wire, **settings)
        self.viewer.start()
        self.viewer.receive(b"RFB 003.008\n\x01\x01")
        width, height = struct.unpack_from(">HH", self.wire.data, 18)
        self.picture = Picture(width, height)
        self.wire.data = b""
        self.say(struct.pack(f">BxH{len(encodings)}i", 2, len(encodings), *encodings))

    def say(self, data):
        self.viewer.receive(data)

    def request(self, incremental=True):
        self.say(struct.pack(">BBHHHH", 3, incremental, 0, 0, *self.picture.size))
        self.settle()

    def settle(self):
        self.hub.worker.run()
        self.hub.manual.advance(1.0)
        self.hub.worker.run()
        return self.drawn()

    def drawn(self):
        data, self.wire.data = self.wire.data, b""
        self.picture.feed(data)
        return len(data)

    @property
    def right(self):
        return self.picture.pixels() == bytes(self.hub.face.screen.data)


@pytest.fixture
def hub():
    loop, worker = ManualLoop(), ManualWorker()
    hub = Hub(fake_machine(), loop=loop, worker=worker)
    hub.manual, hub.worker = loop, worker
    yield hub
    assert loop.errors == []


@pytest.fixture
def connect(hub):
    return lambda *encodings, **settings: Client(hub, *encodings, **settings)
