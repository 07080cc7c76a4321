"""`ring3 press`: keys by name."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
@click.argument("keys", nargs=-1, required=True)
def command(name: str, keys: tuple[str, ...]) -> None:
    """Press and release KEYS one after the other: enter, ctrl-alt-del, shift-tab, f12."""
    with running(name) as vm:
        vm.keyboard.press(*keys)
