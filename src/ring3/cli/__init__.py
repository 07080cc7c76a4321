"""The command `ring3`: one file per verb, imported when its verb is used."""

from ring3.cli.main import main

__all__ = ["main"]
