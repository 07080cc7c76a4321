"""`ring3 run`: one machine in this terminal, from its switch to its end.

Of a kernel or the embedded guest, COM1 is standard input and output unless --serial says otherwise.
SIGTERM, SIGINT and SIGHUP switch the machine off, whatever the guest does; on a terminal Ctrl-C is the
guest's key, and Ctrl-] q is ours.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ring3 import trace
from ring3.char.stdio import Stdio
from ring3.cli.options import machine_options, said
from ring3.cli.stats import report
from ring3.config import MachineConfig, configure, replace, toml
from ring3.config.places import is_url, place_of
from ring3.control import home
from ring3.control.host import Hosted, claim
from ring3.disk import modes
from ring3.display.open import auto_kind
from ring3.errors import ConfigError, HostError
from ring3.machine import Machine
from ring3.result import ExitReason, Result

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
BY_SIGNAL = 128                         # exit status of a process that a signal ended, as a shell reports it
HARD_STOP_S = 3.0                       # what is left of the machine this long after a signal is abandoned

STATUS = {                              # exit status by how the machine ended; docs/cli.md has them all
    ExitReason.POWER_OFF: 0,
    ExitReason.RESET: 0,
    ExitReason.STOPPED: 0,
    ExitReason.TRIPLE_FAULT: 3,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@machine_options
@click.option("--name", help="What other verbs call it while it runs; else it is named after what it boots.")
@click.option("--stats", is_flag=True, help="At the end, print what the engine counted.")
@click.option("--trace", "traced", is_flag=True, help="Print guest accesses that are odd.")
def command(name: str | None, stats: bool, traced: bool, **flags: Any) -> int:
    """Boot a machine in this terminal, from IMAGE or what the options name.

    With nothing to boot: the embedded guest.  To leave: Ctrl-] then q.
    """
    config = configure(said(flags))
    terminal = any(display.kind == "terminal" for display in config.displays)
    if "serial" not in said(flags) and config.starts_with == "kernel" and not terminal:
        config = replace(config, {"serial": "stdio"})       # a kernel without firmware talks there, if at all
    if terminal and "stdio" in config.serial_ports:
        raise ConfigError("display: terminal and --serial stdio both want this terminal: give one of them")
    if traced:
        trace.enable(lambda line: click.echo(f"trace: {line}", err=True))
    return Session(config, name).run(stats)


def decide_changes(config: MachineConfig, ask: bool) -> None:
    """What becomes of the changes to undoable disks: asked on a terminal, else postponed and told."""
    for disk in config.disks:
        if disk.mode != "undoable" or modes.undecided(disk.path) is None:
            continue
        answer = "postpone"
        if ask and sys.stdin.isatty() and sys.stderr.isatty():
            choices = ["discard", "postpone"] if is_url(disk.path) else ["keep", "discard", "postpone"]
            choice = click.Choice(choices)
            answer = click.prompt(f"{disk.path}: changes", type=choice, default=answer, err=True)
        match answer:
            case "keep":
                known = None if disk.format == "auto" else disk.format
                modes.keep(disk.path, format=known, backing_anywhere=disk.backing_anywhere)
            case "discard":
                modes.discard(disk.path)
            case _:
                remedy = f"ring3 disk {'' if is_url(disk.path) else 'commit or '}discard {disk.path}"
                click.echo(f"{disk.path} has undecided changes: {remedy}", err=True)


def host(config: MachineConfig, name: str | None) -> Hosted | None:
    """The machine's directory; without one that can be written it runs all the same, unless it has a name."""
    config = toml.anchored(config, Path.cwd())
    if name is not None:
        directory = home.named(name)
        hosted = Hosted(directory, keep_failed=False)
        if not hosted.enter_new(config):
            raise ConfigError(f"{name} exists already: give another name, or: ring3 rm {name}")
        return hosted
    try:
        return claim(stem(config), config)
    except HostError as error:
        click.echo(f"ring3: other commands can't reach this machine: {error}", err=True)
        return None


def stem(config: MachineConfig) -> str:
    """What the machine is named after: the file it boots."""
    drives = [drive.path for drive in (*config.disks, *config.cdroms, *config.floppies) if not drive.empty]
    file = config.kernel or next(iter(drives), "guest")
    return place_of(file).stem if isinstance(file, str | os.PathLike) else "guest"


class Session:
    """One machine, and the ways to end it."""

    def __init__(self, config: MachineConfig, name: str | None) -> None:
        menu = {"quit": self.quit, "reset": self.reset, "pause": self.pause_or_resume}
        self.hosted = host(config, name)
        try:
            # With a serial port in this terminal, that is the console.
            auto = "none" if "stdio" in config.serial_ports else auto_kind(os.environ)
            name = self.hosted.name if self.hosted is not None else stem(config)
            saved = self.hosted.directory.checkpoints if self.hosted is not None else None
            self.machine = Machine(config, name=name, menu=menu, auto_display=auto, checkpoints=saved)
        except BaseException as error:
            self.finish(error)
            raise
        self.signal: int | None = None

    def run(self, stats: bool) -> int:
        with self.signals():
            try:
                if self.hosted is not None:
                    self.hosted.serve(self.machine)
                self.machine.start()
                for place in self.machine.consoles():
                    click.echo(place, err=True)
                result = self.machine.wait()
                assert result is not None       # only a timeout makes it None
                self.finish(result)
            except BaseException as error:
                self.finish(error)
                raise
            finally:
                self.machine.stop()
                if stats:
                    click.echo(report(self.machine.stats()), err=True)
                self.report_lost_output()
                decide_changes(self.machine.config, self.signal is None)
        if self.signal is not None:
            return BY_SIGNAL + self.signal
        if result.report:
            click.echo(result.report, err=True)
        return result.code if result.code is not None else STATUS[result.reason]

    def finish(self, end: Result | BaseException) -> None:
        hosted, self.hosted = self.hosted, None
        if hosted is not None:
            hosted.finish(end)
            hosted.__exit__(None, None, None)

    def report_lost_output(self) -> None:
        for backend in self.machine.serial:
            if isinstance(backend, Stdio) and backend.lost:
                click.echo(f"ring3: standard output did not take {backend.lost} bytes", err=True)

    # --- the menu ---

    def quit(self) -> None:
        self.machine.request_stop()

    def reset(self) -> None:
        self.machine.reset()

    def pause_or_resume(self) -> None:
        if self.machine.paused:
            self.machine.resume()
            click.echo("running on", err=True)
        else:
            self.machine.pause()
            click.echo("paused: Ctrl-] p to let it run on", err=True)

    # --- signals ---

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Signals switch the machine off; a second one, or a machine that hangs, ends the process."""
        def switch_off(number: int, _: FrameType | None) -> None:
            if self.signal is not None:
                self.abandon()
            self.signal = number
            timer = threading.Timer(HARD_STOP_S, self.abandon)
            timer.daemon = True
            timer.start()
            self.machine.request_stop()

        before = {number: signal.signal(number, switch_off) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def abandon(self) -> None:
        for backend in self.machine.serial:
            if isinstance(backend, Stdio):
                backend.restore_terminal()
        self.machine.restore_terminal()
        os._exit(BY_SIGNAL + (self.signal or signal.SIGKILL))
