"""NAME on the command line: a machine of this host."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ring3.control import home
from ring3.control.remote import RemoteMachine
from ring3.errors import VmError

Command = TypeVar("Command", bound=Callable[..., Any])

CONTEXT = {"help_option_names": ["-h", "--help"]}


def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        return [CompletionItem(each.name) for each in home.machines() if each.name.startswith(incomplete)]
    except VmError:
        return []


def name_argument(command: Command) -> Command:
    """Decorates a verb with NAME."""
    return click.argument("name", shell_complete=complete)(command)


def running(name: str) -> RemoteMachine:
    """The machine of that name, which must run."""
    return RemoteMachine(name)
