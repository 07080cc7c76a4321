"""`ring3 pause`."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
def command(name: str) -> None:
    """Stop a machine and its clock, until resumed."""
    with running(name) as vm:
        vm.pause()
