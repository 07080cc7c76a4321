"""`ring3 rm`: removes machines."""

import click

from ring3.cli.names import CONTEXT, complete
from ring3.control import home


@click.command(context_settings=CONTEXT)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete)
def command(names: tuple[str, ...]) -> None:
    """Remove stopped machines: their directories, not the images they use elsewhere."""
    for directory in [home.existing(name) for name in names]:
        directory.remove()
