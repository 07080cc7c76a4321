"""Directories of machines: $RING3_HOME/machines/NAME, else $XDG_DATA_HOME/ring3/machines/NAME.

    machine.toml   the description (ring3.config.toml); paths in it are relative to the directory
    lock           held while the machine runs (lock.py); its contents mean nothing
    control.sock   the control socket of a running machine
    state.json     process and start of the last run, and how it ended
    log            what its processes had to say
    checkpoints/   TAG.ring3 for each (ring3.checkpoint)
    once           is there if the machine was made for one run: the directory goes when that ends well

A directory can be copied with `cp -a`.  Nothing in it needs a hand after a crash or a kill: whether a machine
runs is what its lock says, and a socket that nobody listens on is replaced.
"""

import itertools
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ring3.checkpoint.format import SUFFIX
from ring3.config import MachineConfig, text, toml
from ring3.config.places import machines_path
from ring3.control import lock
from ring3.errors import ConfigError, EngineError, HostError, VmError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

LOG_BYTES = 1 << 20                     # a log longer than this is put aside at the next start


class Ending(msgspec.Struct, omit_defaults=True):
    """How a run ended."""

    reason: str
    time_unix_s: float
    code: int | None = None
    error: str = ""


class State(msgspec.Struct, omit_defaults=True):
    """The last run of a machine."""

    pid: int
    started_unix_s: float
    ending: Ending | None = None        # None: it runs, or was killed


class Saved(msgspec.Struct):
    """The checkpoint that a run goes on from."""

    path: str
    clock: str = "keep"
    engine: str | None = None


class Order(msgspec.Struct):
    """What a process for a machine in the background is told."""

    directory: str
    description: str = ""               # as in a machine file, unless there is:
    saved: Saved | None = None


class Report(msgspec.Struct):
    """The line that tells whoever starts a background machine how that went."""

    error: str = ""                     # "": it runs
    kind: str = ""                      # of the error: "config", "host", "engine"
    consoles: list[str] = []
    name: str = ""                      # of the machine


ERRORS: dict[str, type[VmError]] = {"config": ConfigError, "engine": EngineError}


def error_of(report: Report) -> VmError:
    return ERRORS.get(report.kind, HostError)(report.error)


class Directory:
    """The directory of one machine; it need not be there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.config_file = path / "machine.toml"
        self.lock_file = path / lock.NAME
        self.socket_file = path / "control.sock"
        self.state_file = path / "state.json"
        self.log_file = path / "log"
        self.once_file = path / "once"
        self.checkpoints = path / "checkpoints"

    @property
    def exists(self) -> bool:
        return self.config_file.is_file()

    @property
    def running(self) -> bool:
        return lock.held(self.lock_file)

    @property
    def once(self) -> bool:
        return self.once_file.exists()

    def create(self, config: MachineConfig, *, once: bool = False) -> None:
        """Makes it; one made for one run, which doesn't run, is written over."""
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            if not self.once or self.running:
                hint = f"give another name, or: ring3 rm {self.name}"
                raise ConfigError(f"{self.name} exists already: {hint}") from None
        except OSError as error:
            raise HostError(f"{self.path} cannot be made: {error.strerror}: set RING3_HOME") from error
        with host_errors(self.path):
            if once:
                self.once_file.touch()
            self.write_config(config)

    def write_config(self, config: MachineConfig) -> None:
        with host_errors(self.path):
            _replace(self.config_file, toml.dumps(config, self.path).encode())

    def config(self) -> MachineConfig:
        return toml.load(self.config_file)

    def keep(self) -> None:
        """It stays though it was made for one run: somebody wants it again."""
        with host_errors(self.path):
            self.once_file.unlink(missing_ok=True)

    def saved(self) -> list[Path]:
        """Its checkpoints, the oldest first."""
        with host_errors(self.path):
            found = list(self.checkpoints.glob(f"[!.]*{SUFFIX}")) if self.checkpoints.is_dir() else []
            return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def checkpoint(self, tag: str) -> Path:
        """The file of a checkpoint that is there."""
        path = self.checkpoints / f"{tag}{SUFFIX}"
        tags = [each.stem for each in self.saved()]
        if tag not in tags:
            none = f"; there are none: ring3 checkpoint {self.name} {tag}"
            hint = text.nearest(tag, tags) if tags else none
            raise ConfigError(f"{self.name} has no checkpoint {tag}{hint}")
        return path

    def remove_checkpoint(self, path: Path) -> None:
        """What other checkpoints need of its disks stays."""
        from ring3.checkpoint import machine as checkpoint  # here: it costs more than most verbs

        images = [disk.path for disk in self.config().disks]
        with host_errors(path):
            checkpoint.remove(path, images)

    def write_state(self, state: State) -> None:
        with host_errors(self.path):
            _replace(self.state_file, msgspec.json.encode(state))

    def state(self) -> State | None:
        """None if it never ran, or nobody can tell."""
        try:
            return msgspec.json.decode(self.state_file.read_bytes(), type=State)
        except (OSError, msgspec.DecodeError):
            return None

    def open_log(self) -> int:
        """A descriptor that appends to the log."""
        with host_errors(self.path):
            if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES:
                self.log_file.replace(self.path / "log.1")
            return os.open(self.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def remove(self) -> None:
        """Removes the directory and all in it; the machine must not run."""
        own = lock.Lock(self.lock_file)
        with host_errors(self.path):
            if not own.hold():
                raise ConfigError(f"{self.name} runs: stop it first: ring3 stop {self.name}")
            try:
                for path in self.saved():
                    self.remove_checkpoint(path)
                self.discard()
            finally:
                own.release()

    def discard(self) -> None:
        """Removes it; the caller holds the lock.  Its name is free at once, not in the middle of it."""
        going = self.path.with_name(f".{self.name}.{os.getpid()}")
        self.path.replace(going)
        shutil.rmtree(going)

    # --- the control socket: through the directory's descriptor, because a socket's path has 107 bytes ---

    def listen(self) -> socket.socket:
        """The caller holds the lock, so what lies there now is nobody's."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with host_errors(self.path), self._short_path() as path:
                self.socket_file.unlink(missing_ok=True)
                listener.bind(path)
                os.chmod(self.socket_file, 0o600)
                listener.listen(64)
        except BaseException:
            listener.close()
            raise
        return listener

    def connect(self) -> socket.socket:
        """Raises OSError where nobody listens."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._short_path() as path:
                connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _short_path(self) -> Iterator[str]:
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}/{self.socket_file.name}"
        finally:
            os.close(fd)


def machines() -> list[Directory]:
    """All there are, by name."""
    try:
        directories = [Directory(path) for path in machines_path().iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"{machines_path()} cannot be read: {error.strerror}") from error
    return sorted((each for each in directories if each.exists), key=lambda each: each.name)


def named(name: str) -> Directory:
    """Where a machine of that name is or would be."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no machine's name: give up to 63 letters, digits, '.', '_' and '-'")
    return Directory(machines_path() / name)


def existing(name: str) -> Directory:
    directory = named(name)
    if not directory.exists:
        names = [each.name for each in machines()]
        hint = text.nearest(name, names) if names else "; there are none: ring3 new NAME makes one"
        raise ConfigError(f"no machine is called {name}{hint}")
    return directory


def unused(wanted: str) -> Iterator[Directory]:
    """Directories named like `wanted` that no machine has now: the first that can still be had is right."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._")[:50] or "machine"
    for number in itertools.count(1):
        directory = named(stem if number == 1 else f"{stem}-{number}")
        if not directory.path.exists() or (directory.once and not directory.running):
            yield directory


@contextmanager
def host_errors(path: Path) -> Iterator[None]:
    """OSErrors of a machine's directory as one line."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{error.filename or path}: {error.strerror or error}") from error


def _replace(path: Path, data: bytes) -> None:
    """All of it or nothing, whenever this process dies."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.replace(path)
