"""`ring3 eject`: what is in a drive of a running machine comes out."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
@click.argument("drive")
@click.option("--force", is_flag=True, help="Though the guest has locked the drive.")
def command(name: str, drive: str, force: bool) -> None:
    """Take the medium out of DRIVE: cdrom0, floppy0, …"""
    with running(name) as vm:
        vm.eject(drive, force=force)
