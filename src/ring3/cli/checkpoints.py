"""`ring3 checkpoints`: those of a machine."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from ring3.checkpoint.listing import Listed, checkpoints, picture, tree
from ring3.cli.names import CONTEXT, name_argument
from ring3.config import format_size
from ring3.control import home

HEAD = ("TAG", "MADE", "SIZE", "MEMORY", "PICTURE")


@click.command(context_settings=CONTEXT)
@name_argument
@click.option("--rm", "removed", metavar="TAG", multiple=True, help="Remove this one; may be repeated.")
@click.option("--picture", "pictured", metavar="TAG FILE", nargs=2, help="Write the screen of TAG to FILE.")
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of objects.")
def command(name: str, removed: tuple[str, ...], pictured: tuple[str, str] | None, as_json: bool) -> None:
    """Show a machine's checkpoints as a tree of what went on from what, or remove some."""
    directory = home.existing(name)
    if removed:
        for path in [directory.checkpoint(tag) for tag in removed]:
            directory.remove_checkpoint(path)
    elif pictured is not None:
        tag, file = pictured
        with home.host_errors(Path(file)):
            Path(file).write_bytes(picture(directory.checkpoint(tag)))
    else:
        show(checkpoints(directory.checkpoints), as_json)


def show(found: list[Listed], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([record(each) for each in found])))
        return
    rows = [HEAD, *(row(lines, each) for lines, each in tree(found))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())


def record(each: Listed) -> dict[str, Any]:
    found = dataclasses.asdict(each) | {"path": str(each.path), "error": each.error or None}
    return found | ({"created_unix_s": None, "memory_bytes": None} if each.error else {})


def row(lines: str, each: Listed) -> tuple[str, ...]:
    size = format_size(max(each.size_bytes >> 20, 1) << 20)
    if each.error:
        return lines + each.tag, "damaged", size, "", ""
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.created_unix_s))
    return lines + each.tag, made, size, format_size(each.memory_bytes), "yes" if each.has_picture else ""
