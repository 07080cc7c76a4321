"""Where a parallel port's print jobs go: `file:PATH`, `device:PATH`, `command:TEXT`.

A file gets all that is printed, from the machine's start on.  A device, such as /dev/usb/lp0, gets the bytes
as they come.  A command is run by the shell for each job with the job on its standard input; a port knows no
jobs, so one ends when nothing was printed for SILENCE_S, or with the machine.
"""

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
import threading
import time

from ring3.char import CharBackend, Receive
from ring3.char.file import File
from ring3.char.memory import MemoryBackend
from ring3.char.outlet import Outlet, Sink
from ring3.errors import ConfigError

SILENCE_S = 3.0
STDERR = 2
PATIENCE_S = 5.0                        # the longest `close` waits for the last job's command


class Device(Sink):
    """`device:PATH`."""

    def __init__(self, path: str) -> None:
        try:
            if not stat.S_ISCHR(os.stat(path).st_mode):
                raise ConfigError(f"parallel device:{path}: that is no device: give file:PATH for a file")
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"parallel device:{path}: {error.strerror}; give a printer's device") from error
        super().__init__(fd)


class Command:
    """`command:TEXT`."""

    def __init__(self, command: str, *, silence_s: float = SILENCE_S) -> None:
        self._command = command
        self._silence_s = silence_s
        self._changed = threading.Condition()
        self._outlet: Outlet | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._last_s = 0.0              # when the last byte came, time.monotonic()
        self._closing = False
        self._thread: threading.Thread | None = None

    def attach(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        pass

    def write(self, data: bytes) -> None:
        with self._changed:
            self._last_s = time.monotonic()
            if self._outlet is None and not self._closing:
                self._start()
            outlet = self._outlet
        if outlet is not None:
            outlet.write(data)

    def room(self) -> None:
        pass

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(PATIENCE_S + 1)

    def _start(self) -> None:
        """A job begins."""
        try:
            self._process = subprocess.Popen(
                self._command, shell=True, stdin=subprocess.PIPE, stdout=STDERR, start_new_session=True)
        except OSError as error:
            sys.stderr.write(f"ring3: parallel command:{self._command}: {error.strerror}\n")
            return
        assert self._process.stdin is not None
        self._outlet = Outlet(self._process.stdin.fileno())
        self._thread = threading.Thread(target=self._run, name="printer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Waits for the job's end and hands the rest to its command."""
        with self._changed:
            while not self._closing and (left_s := self._last_s + self._silence_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            outlet, process = self._outlet, self._process
            self._outlet = self._process = None
        assert outlet is not None
        assert process is not None
        assert process.stdin is not None
        outlet.close()
        with contextlib.suppress(OSError):              # the command may be gone
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)


def open_printer(spec: str) -> CharBackend | None:
    """What `file:PATH`, `device:PATH`, `command:TEXT` or, for programs, `memory` names; None for `none`."""
    kind, _, rest = spec.partition(":")
    match kind:
        case "none" if not rest:
            return None
        case "memory" if not rest:
            return MemoryBackend()
        case "file" if rest:
            return File(rest, setting="parallel")
        case "device" if rest:
            return Device(rest)
        case "command" if rest:
            return Command(rest)
    raise ConfigError(f"parallel {spec!r}: give one of file:PATH, device:PATH, command:TEXT, none")
