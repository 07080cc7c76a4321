"""Overlays on remote images, which have no place beside them: they lie below the user's data directory.

    overlays/HASH/NAME.undo         the overlay
    overlays/HASH/NAME.undo.base    JSON: on which version of the file
"""

import contextlib
import os
from pathlib import Path

import msgspec

from ring3.config.places import Url, data_directory
from ring3.disk.remote.version import Version


def undo_path(url: Url) -> Path:
    return data_directory() / "overlays" / url.key / f"{url.name[:200]}.undo"


def pin(url: Url, version: Version) -> None:
    """Before there is an overlay: what it will be on."""
    path = _pin_path(url)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    between = path.with_name(f"{path.name}.new")
    between.write_bytes(msgspec.json.encode(version))
    os.replace(between, path)


def fits(url: Url, version: Version) -> bool:
    """Whether the overlay is on this version."""
    try:
        return version.is_of(msgspec.json.decode(_pin_path(url).read_bytes(), type=Version))
    except (OSError, msgspec.MsgspecError):
        return False


def forget(url: Url) -> None:
    """After there is no overlay any more."""
    with contextlib.suppress(OSError):
        _pin_path(url).unlink()
        _pin_path(url).parent.rmdir()


def _pin_path(url: Url) -> Path:
    undo = undo_path(url)
    return undo.with_name(f"{undo.name}.base")
