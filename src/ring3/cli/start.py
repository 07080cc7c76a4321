"""`ring3 start`: a machine in the background."""

from typing import Any

import click

from ring3.cli.names import CONTEXT, complete
from ring3.cli.options import machine_options, said
from ring3.control import spawn


@click.command(context_settings=CONTEXT)
@click.argument("name", shell_complete=complete)
@machine_options
def command(name: str, **flags: Any) -> None:
    """Start the machine NAME in the background; returns once it runs.

    Options are for this run only.  Where there is no machine of that name, they make one for this run, which
    is gone when it ends.
    """
    for console in spawn.launch(name, said(flags)).consoles:
        click.echo(console)
