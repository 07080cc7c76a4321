"""`ring3 reset`."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
def command(name: str) -> None:
    """Press a machine's reset button."""
    with running(name) as vm:
        vm.reset()
