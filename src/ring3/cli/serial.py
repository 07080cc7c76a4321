"""`ring3 serial`: this terminal on a serial port of a background machine.

On a terminal every key goes to the guest but Ctrl-], which is followed by one of ours (ring3.char.escape).
On pipes and files bytes are taken as they are.  What the guest sent before comes first.
"""

import contextlib
import os
import sys
import threading

import click

from ring3.char.escape import Command, EscapeFilter
from ring3.char.terminal import RawTerminal
from ring3.cli.names import CONTEXT, name_argument, running
from ring3.control.client import Gone
from ring3.control.remote import RemoteMachine, RemoteSerial
from ring3.errors import ConfigError, VmError

CHUNK = 4096                            # bytes per read
POLL_S = 600.0                          # the longest a request for output waits
MENU = "Ctrl-]: q leave, the machine runs on | r reset | p pause or resume | ] send Ctrl-]"


@click.command(context_settings=CONTEXT)
@name_argument
@click.option("--port", type=click.IntRange(1, 4), default=1, show_default=True, help="COM1 to COM4.")
def command(name: str, port: int) -> None:
    """Connect this terminal to a serial port of a machine.  To leave: Ctrl-] then q."""
    with running(name) as vm:
        if port > len(vm.serial):
            raise ConfigError(f"{name} has no serial port {port}")
        Terminal(vm, vm.serial[port - 1]).run()


class Terminal:
    """Standard input and output, until the machine ends or the user leaves."""

    def __init__(self, vm: RemoteMachine, port: RemoteSerial) -> None:
        self._vm = vm
        self._port = port
        self._left = threading.Event()
        self._failure: VmError | None = None

    def run(self) -> None:
        data, position, more = self._port.read()        # the machine's answer to mistakes comes here
        raw = RawTerminal(0) if os.isatty(0) else None
        try:
            threading.Thread(target=self._type, args=(raw is not None,), daemon=True).start()
            threading.Thread(target=self._print, args=(data, position, more), daemon=True).start()
            self._left.wait()
        finally:
            if raw is not None:
                raw.restore()
        if self._failure is not None:
            raise self._failure

    def _print(self, data: bytes, position: int, more: bool) -> None:
        try:
            while True:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                if not more or self._left.is_set():
                    break
                data, position, more = self._port.read(position, POLL_S)
        except (Gone, OSError):
            pass                        # the machine has ended, or nobody reads our output any more
        except VmError as error:
            self._failure = error
        self._left.set()

    def _type(self, is_terminal: bool) -> None:
        escape = EscapeFilter() if is_terminal else None
        try:
            while data := os.read(0, CHUNK):
                for event in escape.feed(data) if escape else [data]:
                    if isinstance(event, bytes):
                        self._send(event)
                    else:
                        self._obey(event)
        except (Gone, OSError):
            self._left.set()
        except VmError as error:
            self._failure = error
            self._left.set()

    def _send(self, data: bytes) -> None:
        sent = False
        while not sent and not self._left.is_set():
            with contextlib.suppress(TimeoutError):     # the guest doesn't read its port: wait as a line does
                self._port.send(data)
                sent = True

    def _obey(self, command: Command) -> None:
        match command:
            case Command.MENU | Command.HELP:
                say(MENU)
            case Command.QUIT:
                self._left.set()
            case Command.RESET:
                self._vm.reset()
            case Command.PAUSE:
                self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        if self._vm.paused:
            self._vm.resume()
            say("running on")
        else:
            self._vm.pause()
            say("paused: Ctrl-] p to let it run on")


def say(text: str) -> None:
    sys.stderr.write(f"\r\n{text}\r\n")
    sys.stderr.flush()
