"""`ring3 view`: a console of a background machine."""

import os
import webbrowser

import click

from ring3.cli.names import CONTEXT, name_argument, running

KINDS = {"browser": "http", "vnc": "vnc"}           # and how their addresses begin


@click.command(context_settings=CONTEXT)
@name_argument
@click.option("--vnc", "kind", flag_value="vnc", help="Open a VNC server, and say where.")
@click.option("--browser", "kind", flag_value="browser", default="browser", help="Open it in the browser.")
def command(name: str, kind: str) -> None:
    """Open a console of a machine, and print where it is; where there is a screen, the browser shows it."""
    with running(name) as vm:
        there = [each for each in vm.info()["consoles"] if each.startswith(KINDS[kind])]
        where = there[0] if there else vm.open_console(kind)
    click.echo(where)
    if kind == "browser" and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(where)
