"""Overlays on remote images and devices, which have no place beside them: below the user's data directory.

    overlays/HASH/NAME.undo         the overlay
    overlays/HASH/NAME.undo.base    JSON: on which version of the image

A device has no version: its size and its first bytes, where the partition table is, stand for one.
"""

import contextlib
import os
from pathlib import Path

import msgspec
import xxhash

from ring3.config.places import Place, Url, data_directory, key_of
from ring3.disk.file import File
from ring3.disk.remote.version import Version

HEAD_BYTES = 1 << 20


def needed(place: Place) -> bool:
    return isinstance(place, Url) or place.is_block_device()


def version_of(file: File) -> Version:
    version: Version | None = getattr(file, "version", None)
    if version is not None:
        return version
    head = file.read(0, min(HEAD_BYTES, file.size_bytes))
    return Version(file.size_bytes, xxhash.xxh3_128_hexdigest(head), "")


def undo_path(place: Place) -> Path:
    return data_directory() / "overlays" / key_of(place) / f"{place.name[:200]}.undo"


def pin(place: Place, version: Version) -> None:
    """Before there is an overlay: what it will be on."""
    path = _pin_path(place)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    between = path.with_name(f"{path.name}.new")
    between.write_bytes(msgspec.json.encode(version))
    os.replace(between, path)


def fits(place: Place, version: Version) -> bool:
    """Whether the overlay is on this version."""
    try:
        return version.is_of(msgspec.json.decode(_pin_path(place).read_bytes(), type=Version))
    except (OSError, msgspec.MsgspecError):
        return False


def forget(place: Place) -> None:
    """After there is no overlay any more."""
    with contextlib.suppress(OSError):
        _pin_path(place).unlink()
        _pin_path(place).parent.rmdir()


def _pin_path(place: Place) -> Path:
    undo = undo_path(place)
    return undo.with_name(f"{undo.name}.base")
