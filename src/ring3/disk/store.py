"""Layers: overlays of a disk that change no more because checkpoints hold them, and who needs which.

In a directory, with names that begin alike: PREFIX.TAG-ID.layer is a layer; PREFIX.ID.pin is JSON, and says
that the checkpoint in that file needs that layer, or ("") the image as it is.  For a disk that keeps what is
written to it both are beside the image and begin with its name; else they are beside the checkpoint and
begin with the drive's.

1. A pin is made before its layer, as PREFIX.ID.pending, and gets its name when the checkpoint is whole.  Its
   maker holds its lock until then, which ends with the process: so what a killed one has left is known.
2. A layer that no pin names goes, if there is no overlay in front of it; is merged into the overlay in front,
   if there is one; and waits, if there are several.  What is in use waits, too.
3. Merging takes over what shows through anyway, and then names another layer behind: stopped anywhere, all
   overlays read the same.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ring3.disk import qcow2, vmdk
from ring3.disk.extents import Kind, own
from ring3.disk.file import HostFile
from ring3.disk.fresh import Fresh, sync_directory
from ring3.disk.qcow2 import alter
from ring3.disk.qcow2.header import Header, parse
from ring3.disk.transfer import STEP_BYTES
from ring3.errors import ConfigError, ImageError

HEADER_BYTES = 64 << 10
LAYER, PIN, PENDING = ".layer", ".pin", ".pending"
TAG_MAX = 40                            # characters of a checkpoint's name in a layer's
PIN_BYTES_MAX = 64 << 10


class Need(msgspec.Struct, frozen=True):
    layer: str                          # its file name; "": the image itself
    checkpoint: str                     # path of its file


class Store:
    """The layers and pins with one prefix."""

    def __init__(self, directory: Path, prefix: str, heads: Sequence[Path] = ()) -> None:
        """`heads`: overlays that may be in front of layers, besides layers."""
        self.directory = directory
        self._prefix = f"{prefix}."
        self._heads = heads

    def has(self, layer: Path) -> bool:
        return layer.parent == self.directory and layer.name.startswith(self._prefix)

    def new_layer(self, checkpoint: Path) -> Path:
        """A name for one."""
        tag = re.sub(r"[^A-Za-z0-9._-]", "-", checkpoint.stem)[:TAG_MAX]
        return self.directory / f"{self._prefix}{tag}-{secrets.token_hex(4)}{LAYER}"

    def pin(self, layer: str, checkpoint: Path) -> "Pin":
        return Pin(self, Need(layer, str(checkpoint.absolute())))

    def _named(self, suffix: str) -> list[Path]:
        try:
            names = os.listdir(self.directory)
        except OSError:
            return []
        prefix = self._prefix
        return [self.directory / each for each in names if each.startswith(prefix) and each.endswith(suffix)]

    def fresh_pin(self) -> Path:
        return self.directory / f"{self._prefix}{secrets.token_hex(4)}{PENDING}"

    # --- who needs what ---

    def needs(self) -> list[Need]:
        """By pins, also those of checkpoints being made."""
        for path in self._named(PENDING):
            self._judge(path)
        found = [_read_pin(path) for path in [*self._named(PIN), *self._named(PENDING)]]
        return [need for need in found if need is not None]

    def _judge(self, path: Path) -> None:
        """A pending pin: its maker is at it, or has died before or after the checkpoint had its name."""
        with contextlib.suppress(OSError, ConfigError), contextlib.closing(HostFile(path, read_only=False)):
            need = _read_pin(path)
            if need is not None and os.path.exists(need.checkpoint):
                path.rename(path.with_suffix(PIN))
            else:
                path.unlink()

    def doubt(self, checkpoint: Path) -> None:
        """The checkpoint's file is about to go; when it has gone it needs nothing any more."""
        for path in self._pins_of(checkpoint):
            path.rename(path.with_suffix(PENDING))

    def release(self, checkpoint: Path, kept: Path) -> None:
        """The checkpoint needs nothing any more but for the pin `kept`."""
        for path in self._pins_of(checkpoint):
            if path != kept:
                path.unlink(missing_ok=True)

    def _pins_of(self, checkpoint: Path) -> Iterator[Path]:
        name = str(checkpoint.absolute())
        for path in self._named(PIN):
            need = _read_pin(path)
            if need is not None and need.checkpoint == name:
                yield path

    # --- layers that nobody needs ---

    def collect(self) -> None:
        """Removes or merges those, as far as nobody uses them."""
        while self._collect_one():
            pass

    def _collect_one(self) -> bool:
        needed = {need.layer for need in self.needs()}
        in_front: dict[str, list[Path]] = {path.name: [] for path in self._named(LAYER)}
        for path in [*self._named(LAYER), *filter(Path.exists, self._heads)]:
            header = _header_of(path)
            if header is None:
                return False            # nobody can tell what it needs
            behind = path.parent / header.backing_name
            if behind.parent == self.directory and behind.name in in_front:
                in_front[behind.name].append(path)
        return any(
            self._drop(self.directory / name, overlays[0] if overlays else None)
            for name, overlays in in_front.items()
            if name not in needed and len(overlays) < 2
        )

    def _drop(self, layer: Path, overlay: Path | None) -> bool:
        """False: it is in use, or cannot be read."""
        with contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context(contextlib.closing(HostFile(layer, read_only=False)))
                if overlay is not None:
                    front = opened.enter_context(contextlib.closing(HostFile(overlay, read_only=False)))
                    merge(front, file)
                layer.unlink()
                sync_directory(self.directory)
            except (ConfigError, ImageError, OSError):
                return False
        return True


class Pin:
    """Pending until it is kept or dropped."""

    def __init__(self, store: Store, need: Need) -> None:
        self.need = need
        self._store = store
        self._path = store.fresh_pin()
        with Fresh(store.directory) as fresh:
            os.write(fresh.fd, msgspec.json.encode(need))
            self._file = HostFile(fresh.path, read_only=False)      # its lock
            fresh.link(self._path)

    def keep(self) -> None:
        """The checkpoint is whole; one of that name before needs nothing any more."""
        kept = self._path.with_suffix(PIN)
        self._path.rename(kept)
        sync_directory(kept.parent)
        self._file.close()
        self._store.release(Path(self.need.checkpoint), kept)

    def drop(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()


def _read_pin(path: Path) -> Need | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(PIN_BYTES_MAX), type=Need)
    except (OSError, msgspec.DecodeError):
        return None


def _header_of(path: Path) -> Header | None:
    try:
        with path.open("rb") as file:
            return parse(file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size)
    except (OSError, ImageError):
        return None


def merge(overlay: HostFile, layer: HostFile) -> None:
    """What the layer has and the overlay in front of it lacks goes into that, which then needs it no more."""
    ground: Any = vmdk.Nothing(0)
    behind = _open(layer, ground)
    front = _open(overlay, behind)
    for offset, length, kind in _missing(front, behind):
        if kind is Kind.ZERO:
            front.discard(offset, length)
        for at in range(offset, offset + length, STEP_BYTES) if kind is Kind.DATA else ():
            part = min(STEP_BYTES, offset + length - at)
            front.write(at, behind.read(at, part))
    front.finish()
    alter.set_backing(front, behind.header.backing_name, behind.header.backing_format)


def _missing(front: "qcow2.Qcow2", behind: "qcow2.Qcow2") -> Iterator[tuple[int, int, Kind]]:
    for extent in list(own(front, 0, front.size_bytes)):
        if extent.kind is Kind.BEHIND:
            for each in own(behind, extent.offset, extent.length):
                yield each.offset, each.length, each.kind


def _open(file: HostFile, behind: Any) -> "qcow2.Qcow2":
    start = file.read(0, min(HEADER_BYTES, file.size_bytes))
    return qcow2.Qcow2(file, parse(start, file.size_bytes), behind)
