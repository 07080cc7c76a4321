"""`ring3 wait`: for text on a screen."""

import re

import click

from ring3.cli.names import CONTEXT, name_argument, running
from ring3.display.screen import WaitError
from ring3.errors import ConfigError

CAME, DID_NOT_COME = 0, 1               # exit statuses


@click.command(context_settings=CONTEXT)
@name_argument
@click.argument("text")
@click.option("--regex", is_flag=True, help="TEXT is a regular expression, as Python has them.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=60.0, show_default=True,
              metavar="S", help="How long to wait.")
def command(name: str, text: str, regex: bool, timeout_s: float) -> int:
    """Wait until a machine's screen has TEXT.

    Exit status 0 when it has; 1 after the time, or when the machine ends, with the screen's text on standard
    error.
    """
    with running(name) as vm:
        try:
            vm.screen.wait(text, regex=regex, timeout_s=timeout_s)
        except re.error as error:
            raise ConfigError(f"{text!r} is no regular expression: {error}") from error
        except WaitError as error:
            click.echo(f"ring3: {error}", err=True)
            return DID_NOT_COME
    return CAME
