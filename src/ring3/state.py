"""Chip states as plain records for checkpoints, and the migrations of older ones.

A state is a dataclass whose fields are bool, int, float, str, bytes, bytearray, None, other states, and
lists, tuples and str-keyed dicts of those.  `record` turns it into a dict of plain values that shares
nothing with the state; `load` turns such a dict back and checks every name and type on the way.  Whatever
does not fit is a CheckpointError naming the place.

A state class that has changed since its first release carries the steps from each older version:

    MIGRATIONS: ClassVar = (lambda r: r | {"mcr": 0},)   # v0 → v1: MCR was not kept

so its version is the number of steps, and it stands in each record as "version".
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from ring3.errors import CheckpointError

S = TypeVar("S")

Record = dict[str, Any]
Migration = Callable[[Record], Record]


def record(state: Any) -> Record:
    """The state as a dict of plain values, with its version."""
    values = {f.name: _plain(getattr(state, f.name)) for f in dataclasses.fields(state)}
    return {"version": len(_migrations(type(state)))} | values


def load(cls: type[S], saved: Mapping[str, Any]) -> S:
    """The state that `record` made `saved` from, brought to this version of `cls`."""
    return typing.cast(S, _load_state(cls, saved, cls.__qualname__))


def _migrations(cls: type) -> tuple[Migration, ...]:
    return getattr(cls, "MIGRATIONS", ())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return record(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return bytes(value) if isinstance(value, bytearray) else value


@cache
def _field_types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _load_state(cls: Any, saved: Any, where: str) -> Any:
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{where}: a record was expected, not {type(saved).__name__}")
    values = dict(saved)
    version = values.pop("version", None)
    steps = _migrations(cls)
    if type(version) is not int or not 0 <= version <= len(steps):
        raise CheckpointError(f"{where}: version {version!r} is not one of 0 to {len(steps)}")
    for step in steps[version:]:
        try:
            values = step(values)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: the record is damaged: {error!r}") from error
    expected = _field_types(cls)
    if values.keys() != expected.keys():
        strange = ", ".join(sorted(str(name) for name in values.keys() ^ expected.keys()))
        raise CheckpointError(f"{where}: unknown or missing fields: {strange}")
    return cls(**{name: _load(hint, values[name], f"{where}.{name}") for name, hint in expected.items()})


def _load(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` says, or a CheckpointError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _load_state(hint, value, where)
    if origin in (types.UnionType, typing.Union):
        return _load_optional(arguments, value, where)
    if origin is list and isinstance(value, list | tuple):
        return [_load(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        return _load_tuple(arguments, value, where)
    if origin is dict and isinstance(value, Mapping):
        return {_load(str, k, where): _load(arguments[1], v, f"{where}[{k!r}]") for k, v in value.items()}
    if hint is bytearray and isinstance(value, bytes | bytearray):
        return bytearray(value)
    if type(value) is hint:  # exact: True is no int in a record
        return value
    wanted = getattr(hint, "__name__", hint)
    raise CheckpointError(f"{where}: {wanted} was expected, not {type(value).__name__}")


def _load_optional(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in arguments:
        return None
    (inner,) = (a for a in arguments if a is not types.NoneType)
    return _load(inner, value, where)


def _load_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise CheckpointError(f"{where}: {len(arguments)} items were expected, not {len(value)}")
    return tuple(_load(arguments[i], item, f"{where}[{i}]") for i, item in enumerate(value))
