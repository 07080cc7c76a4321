"""`ring3 resume`."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
def command(name: str) -> None:
    """Let a paused machine run on."""
    with running(name) as vm:
        vm.resume()
