"""`ring3 fork`: copies of a running machine."""

import click

from ring3.cli.names import CONTEXT, name_argument
from ring3.control import spawn


@click.command(context_settings=CONTEXT)
@name_argument
@click.option("--count", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N",
              help="How many.")
def command(name: str, count: int) -> None:
    """Make copies of a running machine, which runs on; prints their names."""
    for each in spawn.fork(name, count):
        click.echo(each.name)
        each.close()
