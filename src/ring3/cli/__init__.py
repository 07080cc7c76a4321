"""The command `ring3`: one file per verb, imported when its verb is used."""

import contextlib
import os
import sys

STARTING = ("restore", "start")         # verbs that mostly need a process for a machine


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if len(arguments) < 2 or arguments[0] not in STARTING or arguments[1].startswith("-"):
        sys.exit(run(arguments))
    from ring3.control import process

    with process.ahead(arguments[1]):
        status = run(arguments)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)                    # nothing is left to do, and taking the modules apart takes 15 ms


def run(arguments: list[str]) -> int:
    from ring3.cli.main import invoke  # here: a process that was started ahead imports, too, meanwhile

    return invoke(arguments)
