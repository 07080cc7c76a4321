"""A machine in its directory, in this process: it holds the lock, and answers the control socket.

As a program, `python -m ring3.control.host FD`, it is what `ring3 start` leaves in the background: it reads
an Order from standard input, and writes a Report to FD, once the machine runs or cannot.

How it ends: what clients wait for is answered, the state is written, the lock let go of, and only then are
the connections closed.  So who has seen its connection end can start the machine again at once.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import msgspec

from ring3.checkpoint.machine import Moment
from ring3.config import MachineConfig, replace, toml
from ring3.control import home, lock
from ring3.control.home import Directory, Ending, Order, Report, Saved, State
from ring3.control.server import ServerThread
from ring3.errors import ConfigError, EngineError, VmError
from ring3.machine import Machine, config_of_copy
from ring3.result import Result

HARD_STOP_S = 5.0                       # what is left of the machine this long after a signal is abandoned
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


Tell = Callable[[Report], None]


class Hosted:
    """Entered, it holds the lock; `serve` once the machine is built, `finish` once it has ended."""

    def __init__(self, directory: Directory, *, keep_failed: bool = True) -> None:
        """`keep_failed`: the directory of a machine for one run stays after an error, for its log."""
        self._keep_failed = keep_failed
        self.directory = directory
        self.name = directory.name
        self.pid = os.getpid()
        self.started_unix_s = time.time()
        self.machine: Machine
        self.ended: asyncio.Future[Result | BaseException]
        self._lock = lock.Lock(directory.lock_file)
        self._server: ServerThread | None = None
        self._forking = threading.Lock()
        self._zygote: Any = None

    def __enter__(self) -> "Hosted":
        with home.host_errors(self.directory.path):
            if not self._lock.hold():
                raise ConfigError(f"{self.name} runs already: ring3 stop {self.name}, or give another name")
        return self

    def enter_new(self, config: MachineConfig) -> bool:
        """Makes the directory, for this run; False if another process was faster."""
        directory = self.directory
        with home.host_errors(directory.path):
            directory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._lock.hold():
                return False
            if not self._lock.current or (directory.exists and not directory.once):
                self._lock.release()
                return False
            directory.once_file.touch()
            directory.write_config(config)
        return True

    def serve(self, machine: Machine) -> None:
        """The machine is built: from now on clients may ask."""
        self.machine = machine
        self.directory.write_state(State(self.pid, self.started_unix_s))
        self._server = ServerThread(self, self.directory.listen())
        self.ended = self._server.loop.create_future()
        self._server.start()

    def fork(self, count: int) -> list[str]:
        """So many copies of the machine, which run; their names."""
        from ring3.control.zygote import Zygote  # here: it imports this module

        with self._forking, self.machine.moment() as moment:
            if self._zygote is None:
                log = self.directory.open_log()
                try:
                    self._zygote = Zygote(moment, log)
                finally:
                    os.close(log)
            try:
                names: list[str] = self._zygote.copies(moment, f"{self.name}-fork", count)
            except BaseException:
                self._zygote.close()    # who knows what has become of it
                self._zygote = None
                raise
            return names

    def finish(self, end: Result | BaseException) -> None:
        """The machine has ended."""
        ending = ending_of(end)
        self.directory.write_state(State(self.pid, self.started_unix_s, ending))
        if self._server is not None:
            self._server.loop.call_soon_threadsafe(self.ended.set_result, end)
            self._server.farewell()
        if self.directory.once and not (ending.error and self._keep_failed):
            with contextlib.suppress(OSError):          # what remains does no harm
                self.directory.discard()
        self._lock.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if self._server is not None:
            self._server.stop()
        if self._zygote is not None:
            self._zygote.close()


def claim(wanted: str, config: MachineConfig, *, keep_failed: bool = False) -> Hosted:
    """A machine for this run, entered, with a name like `wanted`."""
    for directory in home.unused(wanted):
        hosted = Hosted(directory, keep_failed=keep_failed)
        if hosted.enter_new(config):
            return hosted
    raise AssertionError("names have no end")


def ending_of(end: Result | BaseException) -> Ending:
    if isinstance(end, BaseException):
        return Ending("error", time.time(), error=str(end) or type(end).__name__)
    return Ending(end.reason.value, time.time(), end.code, str(end.error or ""))


def run(hosted: Hosted, build: Callable[[], Machine], tell: Tell) -> None:
    """One run of a machine in the background; `hosted` is entered, and left here."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    print(f"--- {started}: process {os.getpid()}", flush=True)
    with contextlib.ExitStack() as stack:
        stack.push(hosted)
        machine = build()
        with_signals(machine)
        try:
            machine.start()
            hosted.serve(machine)
            tell(Report(consoles=machine.consoles(), name=hosted.name))
            result = machine.wait()
            assert result is not None       # only a timeout makes it None
            if result.report:
                print(result.report, flush=True)
            hosted.finish(result)
        except BaseException as error:
            hosted.finish(error)
            raise


def run_copy(moment: Moment, wanted: str, tell: Tell, ready: Machine | None = None) -> int:
    """One run of a copy of another machine, in a directory with a name like `wanted`.

    `ready`: what can become the copy.
    """
    def body() -> None:
        config = config_of_copy(moment) if ready is None else ready.config
        hosted = claim(wanted, config, keep_failed=True)
        directory = hosted.directory
        to_log(directory)
        if ready is None:
            build = partial(machine_in, directory, config, saved=moment)
        else:
            build = partial(become, ready, directory, moment)
        run(hosted, build, tell)

    return reported(body, tell)


def to_log(directory: Directory) -> None:
    """What this process has to say goes to the machine's log."""
    log = directory.open_log()
    for fd in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(log, fd)
    os.close(log)


def new_machine(directory: Directory, config: MachineConfig) -> Machine:
    return machine_in(directory, with_own_files(directory, config))


def machine_in(directory: Directory, config: MachineConfig, **options: Any) -> Machine:
    return Machine(config, **of(directory), **options)


def become(ready: Machine, directory: Directory, moment: Moment) -> Machine:
    ready.become(moment, **of(directory))
    return ready


def of(directory: Directory) -> dict[str, Any]:
    """What a machine gets from its directory."""
    return {"name": directory.name, "auto_display": "browser", "checkpoints": directory.checkpoints}


def saved_machine(directory: Directory, saved: Saved) -> Machine:
    """Without the terminal that it may have had."""
    return Machine.restored(
        saved.path,
        clock=saved.clock,
        engine=saved.engine,
        without_terminal=True,
        **of(directory),
    )


def with_own_files(directory: Directory, config: MachineConfig) -> MachineConfig:
    """What firmware keeps is kept with the machine, unless the user has said where."""
    if config.starts_with == "uefi" and not config.uefi_variables and not directory.once:
        return replace(config, {"uefi_variables": str(directory.path / "uefi-variables")})
    return config


def with_signals(machine: Machine) -> None:
    """Signals pull the machine's plug; a machine that hangs is abandoned."""

    def switch_off(number: int, _: FrameType | None) -> None:
        machine.request_stop()
        timer = threading.Timer(HARD_STOP_S, os._exit, (128 + number,))
        timer.daemon = True
        timer.start()

    for number in ENDING_SIGNALS:
        signal.signal(number, switch_off)


class Teller:
    """Writes the first report and closes the pipe; the others have the log."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, report: Report) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with os.fdopen(fd, "wb") as pipe:
                pipe.write(msgspec.json.encode(report) + b"\n")


def main(fd: str) -> int:
    tell = Teller(int(fd))
    line = sys.stdin.buffer.read()
    if not line:
        return 0                        # nobody wants a machine after all
    order = msgspec.json.decode(line, type=Order)
    directory = Directory(Path(order.directory))

    def body() -> None:
        to_log(directory)
        if order.saved is not None:
            build = partial(saved_machine, directory, order.saved)
        else:
            config = toml.loads(order.description, directory.name, directory.path)
            build = partial(new_machine, directory, config)
        run(Hosted(directory).__enter__(), build, tell)

    return reported(body, tell)


def reported(body: Callable[[], None], tell: Tell) -> int:
    """The exit status of a process that does this; what goes wrong is told, and in its log."""
    try:
        body()
    except VmError as error:
        print(f"ring3: {error}", getattr(error, "report", ""), flush=True)
        tell(Report(str(error), kind_of(error)))
        return 1
    return 0


def kind_of(error: VmError) -> str:
    match error:
        case ConfigError():
            return "config"
        case EngineError():
            return "engine"
    return "host"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
