"""Consoles of a fake machine in a thread, for clients that are programs of their own."""

import asyncio
import shutil
import subprocess
import threading
import time

import pytest

from console_fakes import fake_machine
from ring3.display.rfb.hub import Hub

PATIENCE_S = 30.0


def wait_until(condition, what="it", patience_s=PATIENCE_S):
    """What another process does shows in its own time: looked at often, for so long at most."""
    deadline = time.monotonic() + patience_s
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {patience_s:g} s for {what}"
        pause.wait(0.02)
    return found


def program(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name}: scripts/setup test installs it")
    return path


class LoopThread:
    """An event loop, and a machine whose screen is drawn on in it."""

    def __init__(self, width=64, height=48):
        self.machine = fake_machine(width, height)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.hub = Hub(self.machine)
        self.stops = []

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def call(self, function, *arguments):
        async def body():
            return function(*arguments)
        return self.run(body())

    def start(self, server):
        self.run(server.start())
        self.stops.append(server.stop)
        return server

    def close(self):
        for stop in reversed(self.stops):
            self.run(stop())
        self.call(self.hub.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class XServer:
    """Xvfb with a display number of its own choice."""

    def __init__(self, width=900, height=700):
        # It would start anew whenever its last client goes, and refuse the next one meanwhile.
        options = ("-noreset", "-nolisten", "tcp")
        self.process = subprocess.Popen(
            [program("Xvfb"), "-displayfd", "1", "-screen", "0", f"{width}x{height}x24", *options],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.display = f":{int(self.process.stdout.readline())}"

    def picture(self):
        from PIL import ImageGrab
        return ImageGrab.grab(xdisplay=self.display)

    def do(self, *arguments):
        """xdotool's verbs."""
        subprocess.run([program("xdotool"), *map(str, arguments)], env={"DISPLAY": self.display}, check=True)

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()
