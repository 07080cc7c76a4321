"""`ring3 ps`: the machines of this host."""

import time
from typing import Any

import click
import msgspec

from ring3.cli.names import CONTEXT
from ring3.config import format_size
from ring3.control import home
from ring3.control.client import Client
from ring3.control.home import Directory
from ring3.errors import VmError

HEAD = ("NAME", "STATE", "PID", "MEMORY", "UP", "CONSOLES")
PATIENCE_S = 2.0                        # for a machine's answer


@click.command(context_settings=CONTEXT)
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of objects.")
def command(as_json: bool) -> None:
    """List the machines of this host."""
    machines = [describe(each) for each in home.machines()]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(machines)))
        return
    rows = [HEAD, *map(row, machines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for each in rows:
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(each, widths, strict=True)).rstrip())


def describe(directory: Directory) -> dict[str, Any]:
    """What can be said of it from outside, and from itself where it runs."""
    state = directory.state()
    found: dict[str, Any] = {
        "name": directory.name,
        "state": "stopped",
        "pause_reason": "",
        "directory": str(directory.path),
        "once": directory.once,
        "pid": None,
        "started_unix_s": state.started_unix_s if state else None,
        "ending": state.ending if state else None,
        "memory_bytes": None,
        "drives": {},
        "consoles": [],
    }
    if not directory.running:
        if state is not None and state.ending is None:
            found["state"] = "killed"
        return found
    try:
        info = Client(directory).call("machine.info", within_s=PATIENCE_S)
    except VmError:
        return found | {"state": "silent", "pid": state.pid if state else None}
    return found | {key: value for key, value in info.items() if key in found}


def row(machine: dict[str, Any]) -> tuple[str, ...]:
    running = machine["pid"] is not None
    up_s = int(time.time() - machine["started_unix_s"]) if running and machine["started_unix_s"] else None
    return (
        machine["name"],
        machine["state"] + (f" ({machine['pause_reason']})" if machine["pause_reason"] else ""),
        str(machine["pid"] or ""),
        format_size(machine["memory_bytes"]) if machine["memory_bytes"] else "",
        "" if up_s is None else f"{up_s // 3600}:{up_s // 60 % 60:02}:{up_s % 60:02}",
        " ".join(machine["consoles"]),
    )
