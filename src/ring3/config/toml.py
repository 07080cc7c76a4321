"""The machine file: the settings that aren't the defaults, as TOML.

    memory = "1G"
    disk = ["disk.img,bus=ahci", "data.qcow2"]
    cdrom = "installer.iso"

A drive or a console may be written as a table of its options, too (`[[disk]]`, `path = "disk.img"`).
Relative paths are relative to the file's directory, so that a directory can be moved with its images.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

from ring3.config import text
from ring3.config.machine import MachineConfig, configure, replace, settings
from ring3.config.media import CdromConfig, DiskConfig, DisplayConfig, FloppyConfig
from ring3.config.places import below
from ring3.errors import ConfigError

RECORDS = {"disk": DiskConfig, "cdrom": CdromConfig, "floppy": FloppyConfig, "display": DisplayConfig}
PATH_KINDS = ("file", "socket", "device", "wav", "unix")    # of `KIND:PATH` specs


def dumps(config: MachineConfig, base: Path | None = None, *, everything: bool = False) -> str:
    """`base`: the directory of the file; paths below it are written relative to it."""
    import tomlkit

    document = tomlkit.document()
    for name, value in values(config, everything=everything).items():
        document.add(name, _relative(name, value, base) if base is not None else value)
    return tomlkit.dumps(document)


def loads(source: str, name: str = "machine file", base: Path | None = None) -> MachineConfig:
    """`name` is for messages; `base` is what relative paths are relative to."""
    try:
        return anchored(configure(_parse(source)), base) if base is not None else configure(_parse(source))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def load(path: Path) -> MachineConfig:
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: give a TOML file") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: give the path of a machine file") from error
    return loads(source, str(path), path.parent.absolute())


def values(config: MachineConfig, *, everything: bool = False) -> dict[str, Any]:
    """The settings that aren't the defaults, as text, numbers and lists of texts."""
    found = {}
    for name, field in settings().items():
        value = getattr(config, name)
        plain = _plain(name, value)
        if everything:
            if value is not None:
                found[name] = plain
        elif plain != _plain(name, field.default):
            found[name] = plain
    return found


def anchored(config: MachineConfig, base: Path) -> MachineConfig:
    """The same machine with its relative paths below `base`."""
    return _with_paths(config, lambda path: below(base, path))


# --- paths ---


def _with_paths(config: MachineConfig, change: Callable[[str], str]) -> MachineConfig:
    changed = {name: _changed(name, getattr(config, name), change) for name in settings()}
    return replace(config, changed)


def _changed(name: str, value: Any, change: Callable[[str], str]) -> Any:
    match name:
        case "kernel" | "initrd":
            return change(os.fspath(value)) if isinstance(value, str | os.PathLike) else value
        case "uefi_variables":
            return change(value) if value else value
        case "font":
            return tuple(change(os.fspath(each)) for each in text.several(value))
        case "disk" | "cdrom" | "floppy":
            return tuple(_changed_drive(name, each, change) for each in text.several(value))
        case "serial" | "parallel" | "virtio_console":
            return tuple(_changed_spec(each, change) for each in text.several(value))
        case "audio" | "firmware_log":
            return _changed_spec(value, change)
        case "display":
            records = (text.read(name, each, DisplayConfig) for each in text.several(value))
            return tuple(with_changes(each, address=_changed_spec(each.address, change)) for each in records)
    return value


def _changed_drive(name: str, value: Any, change: Callable[[str], str]) -> Any:
    if value == "none":
        return value
    record: Any = text.read(name, value, RECORDS[name])
    path = record.path
    if record.empty or not isinstance(path, str | os.PathLike):
        return record
    return with_changes(record, path=change(os.fspath(path)))


def _changed_spec(spec: Any, change: Callable[[str], str]) -> Any:
    if not isinstance(spec, str):
        return spec
    kind, colon, path = spec.partition(":")
    return f"{kind}:{change(path)}" if colon and path and kind in PATH_KINDS else spec


def _relative(name: str, value: Any, base: Path) -> Any:
    def change(path: str) -> str:
        return os.path.relpath(path, base) if Path(path).is_relative_to(base) else path

    return _plain(name, _changed(name, value, change))


# --- values ---


def _plain(name: str, value: Any) -> Any:
    """As TOML has it: one thing as text, several as a list."""
    if name in RECORDS:
        return _one_or_list([_drive_text(name, each) for each in text.several(value)])
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    several = text.several(value)
    if not all(isinstance(each, str) for each in several):
        raise ConfigError(f"{name}: an object of this program can't be written down: name a file instead")
    return _one_or_list(several)


def _one_or_list(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items


def _drive_text(name: str, value: Any) -> str:
    return "none" if value == "none" else text.write(text.read(name, value, RECORDS[name]))


def _parse(source: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"no TOML: {error}") from error
