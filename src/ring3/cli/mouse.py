"""`ring3 mouse`: points and clicks."""

import click

from ring3.cli.names import CONTEXT, name_argument, running


@click.command(context_settings=CONTEXT)
@name_argument
@click.argument("x", type=int)
@click.argument("y", type=int)
@click.option("--click", "button", metavar="BUTTON", help="Then click: left, middle or right.")
@click.option("--count", type=click.IntRange(1, 3), default=1, show_default=True, help="Clicks.")
def command(name: str, x: int, y: int, button: str | None, count: int) -> None:
    """Point a machine's mouse at the pixel X Y, from the upper left corner."""
    with running(name) as vm:
        vm.mouse.move(x, y)
        if button is not None:
            vm.mouse.click(button, count)
