"""A machine without hardware behind a control socket."""

import asyncio
import os
import threading

from display_fakes import FakeSource
from ring3.char.memory import MemoryBackend
from ring3.config import MachineConfig
from ring3.control import home
from ring3.control.server import ServerThread
from ring3.display.screen import Screen
from ring3.errors import ConfigError
from ring3.result import ExitReason, Result


class Recorder:
    """Any method can be called; `calls` has them."""

    def __init__(self, calls, **values):
        self._calls = calls
        self.__dict__.update(values)

    def __getattr__(self, name):
        return lambda *args, **kwargs: self._calls.append((name, *args, *kwargs.items()))


class FakeMachine:
    def __init__(self):
        self.config = MachineConfig(memory="64M", serial=("memory", "none"))
        self.calls = []
        self.source = FakeSource()
        self.screen = Screen(self.source)
        self.keyboard = Recorder(self.calls, leds=2)
        self.mouse = Recorder(self.calls, absolute=True)
        self.serial = [MemoryBackend(), object()]
        self.paused = False
        self.pause_reason = ""
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._in_loop(self.screen.attach, self.loop)

    def close(self):
        self._in_loop(self.screen.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def drives(self):
        return {"cdrom0": None}

    def consoles(self):
        return ["http://127.0.0.1:8006/"]

    def open_console(self, display):
        return f"{display.kind}://{display.address}"

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False

    def reset(self):
        self.calls.append("reset")

    def request_stop(self):
        self.calls.append("request_stop")

    def power_off(self):
        raise ZeroDivisionError("a bug")

    def stats(self):
        return {"blocks": 7}

    def insert(self, drive, path, *, readonly=False):
        if drive != "cdrom0":
            raise ConfigError(f"{drive}: no such removable drive; there is cdrom0")
        self.calls.append(("insert", path, readonly))

    def eject(self, drive, *, force=False):
        self.calls.append(("eject", drive, force))

    def _in_loop(self, function, *arguments):
        async def body():
            function(*arguments)

        asyncio.run_coroutine_threadsafe(body(), self.loop).result(10)


class FakeHost:
    """A FakeMachine called `fake`, with its directory and its control socket."""

    def __init__(self):
        self.name = "fake"
        self.pid = os.getpid()
        self.started_unix_s = 1.0
        self.machine = FakeMachine()
        self.directory = home.named("fake")
        self.directory.create(self.machine.config)
        self.server = ServerThread(self, self.directory.listen())
        self.ended = self.server.loop.create_future()
        self.server.start()

    def end(self, end=None):
        result = end or Result(ExitReason.POWER_OFF)
        self.server.loop.call_soon_threadsafe(self.ended.set_result, result)
        self.machine.serial[0].close()

    def close(self):
        self.server.stop()
        self.machine.close()
