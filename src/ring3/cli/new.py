"""`ring3 new`: a machine's directory with its description."""

from pathlib import Path
from typing import Any

import click

from ring3.cli.names import CONTEXT
from ring3.cli.options import machine_options, said
from ring3.config import configure, toml
from ring3.control import home


@click.command(context_settings=CONTEXT)
@click.argument("name")
@machine_options
def command(name: str, **flags: Any) -> None:
    """Make a machine called NAME, which can be started and stopped again and again.

    Its description is what the options say; `ring3 config NAME` prints it.
    """
    home.named(name).create(toml.anchored(configure(said(flags)), Path.cwd()))
