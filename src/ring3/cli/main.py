"""The group of verbs, and what holds for all of them: one line for a user's mistake, and the exit status.

A verb's module is imported when the verb is named, so `ring3 --version` costs no more than Python and click.
"""

import difflib
import importlib

import click

import ring3
from ring3.errors import ConfigError, EngineError, VmError

VERBS = {                               # verb -> its one-line help; the module is ring3.cli.<verb>
    "attach": "Show the screen in this terminal.",
    "checkpoint": "Save a running machine.",
    "checkpoints": "List or remove a machine's checkpoints.",
    "config": "Print a machine's description.",
    "disk": "Make, look at and change disk images.",
    "doctor": "Say what of this host Ring3 can use, and what is missing.",
    "eject": "Take a CD or diskette out of a drive.",
    "fork": "Make copies of a running machine.",
    "insert": "Put a CD or diskette into a drive.",
    "logs": "Print what a machine's processes had to say.",
    "mouse": "Point, and click.",
    "new": "Make a machine that stays.",
    "pause": "Stop a machine and its clock.",
    "press": "Press keys by name.",
    "ps": "List the machines of this host.",
    "reset": "Press the reset button.",
    "restore": "Go back to a checkpoint.",
    "resume": "Let a paused machine run on.",
    "rm": "Remove machines.",
    "run": "Boot a machine in this terminal.",
    "screenshot": "Save the screen as a picture.",
    "serial": "Connect this terminal to a serial port.",
    "start": "Start a machine in the background.",
    "stop": "Press the power button, or pull the plug.",
    "text": "Print the text on the screen.",
    "type": "Type text.",
    "view": "Open a console.",
    "wait": "Wait for text on the screen.",
}

BAD_INPUT = 2                           # exit status: the command line or a file named there is wrong
FAILURE = 1                             # … the host refused something
ENGINE_ERROR = 4                        # … we are wrong


class Verbs(click.Group):
    """Loads verbs lazily and names the nearest one for a verb that isn't there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"ring3.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise ConfigError(f"no such command: {args[0]}{nearest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(VERBS.items()))


def nearest(name: str, known: "dict[str, str] | list[str]") -> str:
    """'; did you mean X?' or the names there are."""
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there is {', '.join(sorted(known))}"


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ring3.__version__, prog_name="ring3", message="%(prog)s %(version)s")
def group() -> None:
    """Ring3 runs unmodified x86 operating systems in an ordinary process."""


def invoke(args: list[str]) -> int:
    """Runs one command line and returns its exit status; nothing a user can type ends in a traceback."""
    try:
        status = group.main(args, prog_name="ring3", standalone_mode=False)
    except click.ClickException as error:
        return complain(one_line(error), BAD_INPUT)
    except ConfigError as error:
        return complain(str(error), BAD_INPUT)
    except EngineError as error:
        click.echo(f"{error.report}\n" if error.report else "", err=True, nl=False)
        return complain(f"{error}; please report this", ENGINE_ERROR)
    except VmError as error:
        return complain(str(error), FAILURE)
    except click.Abort:
        return 130                      # as a shell reports death by SIGINT
    return status if isinstance(status, int) else 0


def complain(message: str, status: int) -> int:
    click.echo(f"ring3: {' '.join(message.split())}", err=True)
    return status


def one_line(error: click.ClickException) -> str:
    """click's message; for an option that isn't there with the nearest one."""
    if isinstance(error, click.NoSuchOption):
        options = [] if error.ctx is None else [o for p in error.ctx.command.params for o in p.opts]
        return f"no such option: {error.option_name}{nearest(error.option_name, options)}"
    return error.format_message()
