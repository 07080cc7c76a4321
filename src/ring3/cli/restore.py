"""`ring3 restore`: back to a checkpoint."""

import click

from ring3.cli.names import CONTEXT, name_argument
from ring3.control import spawn


@click.command(context_settings=CONTEXT)
@name_argument
@click.argument("tag")
@click.option("--clock", type=click.Choice(["keep", "host"]), default="keep", show_default=True,
              help="The real-time clock goes on where it stopped, or has the host's time.")
@click.option("--engine", type=click.Choice(["translate", "interp"]), help="Another engine than it had.")
def command(name: str, tag: str, clock: str, engine: str | None) -> None:
    """Have a machine go on from its checkpoint TAG, whether it runs or not."""
    spawn.go_back(name, tag, clock=clock, engine=engine)
