"""`ring3 checkpoints`: those of a machine."""

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from ring3.checkpoint.machine import listed
from ring3.cli.names import CONTEXT, name_argument
from ring3.config import format_size
from ring3.control import home
from ring3.errors import VmError

HEAD = ("TAG", "MADE", "SIZE", "MEMORY")


@click.command(context_settings=CONTEXT)
@name_argument
@click.option("--rm", "removed", metavar="TAG", multiple=True, help="Remove this one; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of objects.")
def command(name: str, removed: tuple[str, ...], as_json: bool) -> None:
    """List a machine's checkpoints, the oldest first, or remove some."""
    directory = home.existing(name)
    if removed:
        for path in [directory.checkpoint(tag) for tag in removed]:
            directory.remove_checkpoint(path)
        return
    found = [describe(path) for path in directory.saved()]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
        return
    rows = [HEAD, *map(row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for each in rows:
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(each, widths, strict=True)).rstrip())


def describe(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"tag": path.stem, "path": str(path), "size_bytes": path.stat().st_size}
    try:
        contents = listed(path)
    except VmError as error:
        return found | {"created_unix_s": None, "memory_bytes": None, "error": str(error)}
    created = {"created_unix_s": contents.created_unix_s, "memory_bytes": contents.memory_bytes}
    return found | created | {"error": None}


def row(found: dict[str, Any]) -> tuple[str, ...]:
    size = format_size(max(found["size_bytes"] >> 20, 1) << 20)
    if found["error"]:
        return found["tag"], "damaged", size, ""
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["created_unix_s"]))
    return found["tag"], made, size, format_size(found["memory_bytes"])
