"""`ring3 text`: a screen as text."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
def command(name: str) -> None:
    """Print the text on a machine's screen."""
    with running(name) as vm:
        click.echo(vm.screen.text())
