"""`ring3 start`: a machine in the background."""

from pathlib import Path
from typing import Any

import click

from ring3.cli.names import CONTEXT, complete
from ring3.cli.options import machine_options, said
from ring3.config import MachineConfig, configure, replace, toml
from ring3.control import home, spawn
from ring3.control.home import Directory
from ring3.control.remote import RemoteMachine
from ring3.errors import VmError


@click.command(context_settings=CONTEXT)
@click.argument("name", shell_complete=complete)
@machine_options
def command(name: str, **flags: Any) -> None:
    """Start the machine NAME in the background; returns once it runs.

    Options are for this run only.  Where there is no machine of that name, they make one for this run, which
    is gone when it ends.
    """
    directory = home.named(name)
    settings = said(flags)
    config = toml.anchored(configure(settings), Path.cwd())
    if directory.exists:
        config = replace(directory.config(), {name: getattr(config, name) for name in settings})
    start(directory, config)


def start(directory: Directory, config: MachineConfig) -> None:
    once = not directory.exists
    if once:
        directory.create(config, once=True)
    try:
        spawn.start(directory, config)
    except VmError:
        if once and not directory.running:
            directory.remove()
        raise
    with RemoteMachine(directory.name) as vm:
        for console in vm.info()["consoles"]:
            click.echo(console)
