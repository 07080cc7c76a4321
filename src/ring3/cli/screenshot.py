"""`ring3 screenshot`: a screen as a picture."""

import click

from ring3.cli.names import CONTEXT, name_argument, running
from ring3.errors import ConfigError


@click.command(context_settings=CONTEXT)
@name_argument
@click.argument("file")
def command(name: str, file: str) -> None:
    """Save a machine's screen as a picture; FILE's name says in which format, such as .png."""
    with running(name) as vm:
        image = vm.screen.image()
    try:
        image.save(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}: give a path that can be written") from error
    except ValueError as error:
        raise ConfigError(f"{file}: no such format of pictures: give a name like screen.png") from error
