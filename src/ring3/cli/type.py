"""`ring3 type`: text on a keyboard."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
@click.argument("text")
@click.option("--layout", metavar="NAME", help="The layout that the guest is set to; else the machine's.")
def command(name: str, text: str, layout: str | None) -> None:
    """Type TEXT on a machine's keyboard; returns once the guest has taken it.  A newline is Enter."""
    with running(name) as vm:
        vm.keyboard.type(text, layout)
