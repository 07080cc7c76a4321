"""The text form of a record: its first field plainly, the others as options.

    disk.img,bus=scsi,readonly      →  DiskConfig(path="disk.img", bus="scsi", readonly=True)

A comma that belongs to a value is written twice.  An option without a value is a switch turned on.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ring3.errors import ConfigError

Record = TypeVar("Record")
SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def parse(setting: str, text: str, record: type[Record]) -> Record:
    first, *options = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    fields = [field.name for field in dataclasses.fields(record)]  # type: ignore[arg-type]
    values: dict[str, Any] = {fields[0]: first}
    hints = get_type_hints(record)
    for option in options:
        name, equals, value = option.partition("=")
        name = name.strip()
        if name not in fields[1:]:
            raise ConfigError(f"{setting}: no such option: {name or '(none)'}{nearest(name, fields[1:])}")
        if hints[name] is bool:
            values[name] = _switch(setting, name, value if equals else "on")
        elif not equals:
            raise ConfigError(f"{setting}: {name}: give a value: {name}=…")
        else:
            values[name] = value
    return record(**values)


def write(record: Any) -> str:
    """What `parse` reads back as an equal record; defaults are left out."""
    first, *others = dataclasses.fields(record)
    parts = [_quoted(getattr(record, first.name))]
    for field in others:
        value = getattr(record, field.name)
        if value == field.default:
            continue
        parts.append(field.name if value is True else f"{field.name}={_quoted(value)}")
    return ",".join(parts)


def read(setting: str, value: Any, record: type[Record]) -> Record:
    """A record from its text, from a mapping of its fields, or as it is."""
    if isinstance(value, record):
        return value
    if isinstance(value, str):
        return parse(setting, value, record)
    fields = [field.name for field in dataclasses.fields(record)]  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        for name in value:
            if name not in fields:
                raise ConfigError(f"{setting}: no such option: {name}{nearest(str(name), fields)}")
        if fields[0] not in value:
            raise ConfigError(f"{setting}: give its {fields[0]}")
        return record(**value)
    return record(**{fields[0]: value})


def several(value: Any) -> list[Any]:
    """One or several, as a list; None is none."""
    if value is None:
        return []
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """'; there is X': the nearest name, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; there is {close[0] if close else ', '.join(known)}"


def check_types(setting: str, record: Any) -> None:
    """Each field has a value that its annotation allows; only plain annotations are looked at."""
    for name, hint in get_type_hints(type(record)).items():
        if name not in {field.name for field in dataclasses.fields(record)}:
            continue
        value = getattr(record, name)
        label = f"{setting}: {name}" if setting else name
        choices = _choices(hint)
        if choices:
            if value not in choices:
                raise ConfigError(f"{label}: {value!r} is none of {', '.join(map(str, choices))}")
        elif hint is bool and not isinstance(value, bool):
            raise ConfigError(f"{label}: {value!r} is neither true nor false")
        elif hint is str and not isinstance(value, str):
            raise ConfigError(f"{label}: {value!r} is no text")


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of an optional one."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) is Union:
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        if len(inner) == 1 and get_origin(inner[0]) is Literal:
            return (*get_args(inner[0]), None)
    return ()


def _switch(setting: str, name: str, value: str) -> bool:
    try:
        return SWITCH[value.lower()]
    except KeyError:
        raise ConfigError(f"{setting}: {name}={value}: give on or off") from None


def _quoted(value: Any) -> str:
    if not isinstance(value, str | int | os.PathLike):
        raise ConfigError(f"{type(value).__name__} objects have no text form: name a file instead")
    return re.sub(",", ",,", "off" if value is False else str(value))
