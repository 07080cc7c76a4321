"""`ring3 logs`: what a machine's processes had to say."""

import click

from ring3.cli.names import CONTEXT, name_argument
from ring3.control import home


@click.command(context_settings=CONTEXT)
@name_argument
def command(name: str) -> None:
    """Print what the processes of a background machine had to say: starts, errors, reports."""
    directory = home.existing(name)
    with home.host_errors(directory.log_file):
        log = directory.log_file.read_bytes() if directory.log_file.exists() else b""
    click.echo(log.decode(errors="replace"), nl=False)
