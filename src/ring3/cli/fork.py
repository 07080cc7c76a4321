"""`ring3 fork`: copies of a running machine."""

import click

from ring3.cli.names import CONTEXT, name_argument
from ring3.control.remote import RemoteMachine


@click.command(context_settings=CONTEXT)
@name_argument
@click.option("--count", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N",
              help="How many.")
def command(name: str, count: int) -> None:
    """Make copies of a running machine, which runs on; prints their names."""
    with RemoteMachine(name) as parent:
        for each in parent.fork(count):
            click.echo(each.name)
            each.close()
