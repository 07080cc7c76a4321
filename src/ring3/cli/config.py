"""`ring3 config`: a machine's description."""

import click

from ring3.cli.names import CONTEXT, name_argument
from ring3.config import toml
from ring3.control import home


@click.command(context_settings=CONTEXT)
@name_argument
@click.option("--all", "everything", is_flag=True, help="Settings that have their defaults, too.")
def command(name: str, everything: bool) -> None:
    """Print a machine's description as TOML: the settings that aren't the defaults."""
    click.echo(toml.dumps(home.existing(name).config(), everything=everything), nl=False)
