"""`ring3 checkpoint`: saves a running machine."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
@click.argument("tag")
@click.option("--compress", is_flag=True, help="With Zstandard: smaller, and slower to save and restore.")
def command(name: str, tag: str, compress: bool) -> None:
    """Save all of a running machine as TAG; it stands for a moment, and runs on."""
    with running(name) as vm:
        vm.checkpoint(tag, compress=compress)
