"""`ring3 insert`: a CD or diskette into a drive of a running machine."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
@click.argument("drive")
@click.argument("file")
@click.option("--readonly", is_flag=True, help="A diskette that cannot be written to.")
def command(name: str, drive: str, file: str, readonly: bool) -> None:
    """Put the image FILE into DRIVE: cdrom0, floppy0, …"""
    with running(name) as vm:
        vm.insert(drive, file, readonly=readonly)
