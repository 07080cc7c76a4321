"""Starts a machine in a background process, and waits until it runs or says why it doesn't."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ring3.config import MachineConfig, configure, replace, toml
from ring3.control import home, process
from ring3.control.home import Directory, Order, Report, Saved
from ring3.control.remote import RemoteMachine
from ring3.errors import ConfigError, HostError


def start(name: str, **settings: Any) -> RemoteMachine:
    """Starts the machine of that name in the background; settings are for this run only.

    Where there is no machine of that name, they make one for this run, which is gone when it ends.
    """
    launch(name, settings)
    return RemoteMachine(name)


def launch(name: str, settings: Mapping[str, Any]) -> Report:
    """As `start`, for who only wants to know that it ran."""
    directory = home.named(name)
    config = toml.anchored(configure(settings), Path.cwd())
    once = not directory.exists
    if once:
        directory.create(config, once=True)
    else:
        config = replace(directory.config(), {name: getattr(config, name) for name in settings})
    try:
        return spawn(directory, config)
    except ConfigError:                 # after other errors it stays, for its log
        if once and not directory.running:
            directory.remove()
        raise


def spawn(directory: Directory, config: MachineConfig) -> Report:
    """Returns once the machine runs, in a process of its own."""
    if directory.running:
        raise ConfigError(f"{directory.name} runs already")
    check_terminal(config)
    return _spawn(directory, Order(str(directory.path), description=toml.dumps(config)))


def restore(name: str, tag: str, *, clock: str = "keep", engine: str | None = None) -> RemoteMachine:
    """Goes back to a checkpoint: in its process if the machine runs, else it is started from there."""
    go_back(name, tag, clock=clock, engine=engine)
    return RemoteMachine(name)


def go_back(name: str, tag: str, *, clock: str = "keep", engine: str | None = None) -> None:
    """As `restore`, for who only wants the machine to run on from there."""
    directory = home.existing(name)
    path = directory.checkpoint(tag)
    if not directory.running:
        _spawn(directory, Order(str(directory.path), saved=Saved(str(path), clock, engine)))
        return
    if engine is not None:
        raise ConfigError(f"engine: {name} runs: stop it first, to restore it under another one")
    with RemoteMachine(name) as machine:
        machine.restore(tag, clock=clock)


def _spawn(directory: Directory, order: Order) -> Report:
    try:
        started = process.take()
        line = started.carry_out(msgspec.json.encode(order))
    except OSError as error:
        raise HostError(f"{directory.name} cannot be started: {error.strerror}") from error
    if not line:
        started.wait()
        raise HostError(f"{directory.name} ended before it ran: see ring3 logs {directory.name}")
    report = msgspec.json.decode(line, type=Report)
    if report.error:
        started.wait()
        raise home.error_of(report)
    started.release()
    return report


def check_terminal(config: MachineConfig) -> None:
    """A machine in the background has no terminal."""
    if "stdio" in config.serial_ports:
        raise ConfigError("serial: in the background there is no stdio: give memory, then ring3 serial NAME")
    if any(display.kind == "terminal" for display in config.displays):
        raise ConfigError("display: in the background there is no terminal: use ring3 attach NAME")
