"""What becomes of what a guest writes: the modes of a disk.

    persistent      it goes into the image
    undoable        it goes into an overlay beside the image, FILE.undo; when the machine is off the user
                    keeps it (`keep`), discards it (`discard`) or postpones that
    nonpersistent   it goes into an overlay without a name, which vanishes with the process; the image is only
                    read, so any number of machines share it

1. Where FILE.undo is there, it is part of the disk in every mode, until it is kept or discarded.
2. Keeping first renames it to FILE.keep: from then on the changes are decided.  Killed in the middle, keeping
   starts again from there and ends the same; until then the disk is refused.
3. `Layers.freeze` has all further writes go to a new overlay on top, for checkpoints.  It costs the same
   however large the disk is, and waits for nothing: the frozen images get to stable storage with the next
   `flush` or `settle`.
4. A remote image is only read, so an overlay on one cannot be kept; it lies where ring3.disk.remote says.
5. Names in an overlay that this module made are trusted; names in the image are not (ring3.disk.probe).
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ring3.config.places import Place, Url, below, is_url, place_of
from ring3.disk import device, qcow2
from ring3.disk.extents import Extent, own
from ring3.disk.file import HostFile
from ring3.disk.fresh import Fresh, sync_directory
from ring3.disk.image import Image
from ring3.disk.partition import Partition
from ring3.disk.probe import CHAIN_MAX, HEADER_BYTES, open_image
from ring3.disk.qcow2 import alter, check
from ring3.disk.qcow2.header import Incompatible, parse
from ring3.disk.remote import overlay
from ring3.disk.transfer import Progress, copy_up, nothing
from ring3.errors import ConfigError, HostError, ImageError

Mode = Literal["persistent", "undoable", "nonpersistent"]
Cache = Literal["writeback", "unsafe"]


class Layers:
    """An image, and the overlays in front of it: itself an Image that can be frozen."""

    def __init__(
        self, top: Image, path: Place, scratch: Fresh | None = None, cache: Cache = "writeback",
        only: str = "", guard: int | None = None,
    ) -> None:
        """`path`: the image's.  `scratch`: the nameless file that `top` is in.  `only`: what of the image is
        shown, if not all.  `guard`: a descriptor that keeps others off, to be closed in the end."""
        self.path = path
        self.size_bytes = top.size_bytes
        self.read_only = top.read_only
        self._scratch = scratch
        self._cache = cache
        self._only = only
        self._guard = guard
        self._unsettled: list[Any] = []         # frozen, and not all on stable storage
        self._set_top(top)

    def _set_top(self, top: Image) -> None:
        self.top: Any = top
        self.read = top.read
        self.read_now = top.read_now
        self.write = top.write
        self.discard = top.discard

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return own(self.top, offset, length)

    @property
    def backing(self) -> Image | None:
        return getattr(self.top, "backing", None)

    def flush(self) -> None:
        if self._cache == "unsafe":
            return
        self.settle()
        self.top.flush()

    def freeze(self, keep_as: Path) -> Place:
        """The disk as it is now, in files that change no more; further writes go to a new overlay on top.

        The name of the file to be read for it.  An overlay gets the name `keep_as` (on its own file system);
        the image itself keeps its own, and so does a disk that is only read.  To be called while nothing is
        under way: after `DiskWorker.drain`, for example.
        """
        if self.read_only:
            return self.path
        if self._only:
            raise HostError(f"{self.path} cannot be frozen: it shows only {self._only}")
        top, scratch = self.top, None
        try:
            if self._scratch is not None:
                self._scratch.link(keep_as)
                scratch = Fresh(scratch_directory())
                new = new_overlay(top, keep_as.absolute(), scratch)
                self._scratch.close()
            elif top.file.path == undo_path(self.path):
                self._name_absolutely(top, keep_as)
                os.link(top.file.path, keep_as)
                new = self._new_undo(top, keep_as.absolute(), replace=True)
            else:
                keep_as = Path(str(self.path))          # no URL: those are only read
                new = self._new_undo(top, keep_as.absolute(), replace=False)
        except OSError as error:
            if scratch is not None:
                scratch.close()
            raise HostError(f"{self.path} cannot be frozen as {keep_as}: {error.strerror}") from error
        self._scratch = scratch
        self._unsettled.append(top)
        self._set_top(new)
        return keep_as

    def _name_absolutely(self, top: "qcow2.Qcow2", keep_as: Path) -> None:
        """In another directory, the overlay must still find what is behind it."""
        directory, name = undo_path(self.path).parent, top.header.backing_name
        if keep_as.absolute().parent != directory and not os.path.isabs(name) and not is_url(name):
            top.finish()
            alter.set_backing(top, str(directory / name), top.header.backing_format)

    def _new_undo(self, top: Any, behind: Path, *, replace: bool) -> Any:
        path = undo_path(self.path)
        with Fresh(path.parent) as fresh:
            new: Any = new_overlay(top, behind, fresh)
            try:
                fresh.link(path, replace=replace)
            except BaseException:
                new.file.close()
                raise
        new.file.path = path
        return new

    def settle(self) -> None:
        """What was frozen is on stable storage when this returns, and may be read by others."""
        for image in self._unsettled:
            image.flush()
            if isinstance(image, qcow2.Qcow2):
                image.finish()
            image.read_only = True
            for file in getattr(image, "files", [image.file]):
                file.share()
                sync_directory(file.path.parent)
        self._unsettled.clear()

    def close(self) -> None:
        try:
            if self._cache != "unsafe":
                self.settle()
        finally:
            self.top.close()            # with what is behind it
            if self._scratch is not None:
                self._scratch.close()
            guard, self._guard = self._guard, None
            if guard is not None:
                os.close(guard)


def open_disk(
    path: str | os.PathLike[str] | Url,
    mode: Mode = "persistent",
    *,
    read_only: bool = False,
    format: str | None = None,  # noqa: A002
    snapshot: str | None = None,
    backing_anywhere: bool = False,
    cache: Cache = "writeback",
    partition: int | None = None,
    force: str = "",
    setting: str = "disk",
) -> Layers:
    """The disk at `path` in a mode; the other arguments are those of `open_image`.

    `cache`: with "unsafe" the guest's flushes are not waited for, so a crash of the host may ruin the image.
    `partition`: the only one that is shown.  `force`: words for devices that are in use (ring3.disk.device).
    """
    if partition is not None and mode == "undoable":
        raise ConfigError(f"{setting}: {path}: a partition is not undoable: give mode=nonpersistent")
    if read_only and mode != "persistent":
        raise ConfigError(f"{setting}: {path}: a disk that is only read has no mode: drop readonly or mode")
    if snapshot is not None and mode == "undoable":
        raise ConfigError(f"{setting}: a snapshot of {path} can only be read: give mode=nonpersistent")
    path = real(path)
    if keep_path(path).exists():
        raise ConfigError(f"{setting}: keeping the changes of {path} was stopped: ring3 disk commit")
    undo = undo_path(path)
    only = f"its snapshot {snapshot}" if snapshot is not None else ""
    only = f"its partition {partition}" if partition is not None else only
    through_overlay = mode != "persistent" or undo.exists()
    if partition is not None and undo.exists():
        raise ConfigError(f"{setting}: {path} has undecided changes: ring3 disk commit or discard it first")
    base_read_only = read_only or through_overlay or snapshot is not None
    with contextlib.ExitStack() as opened:
        guard = None
        if isinstance(path, Path):
            guard = device.claim(path, force, shared=base_read_only, setting=setting)
        if guard is not None:
            opened.callback(os.close, guard)
        base = open_image(
            path, read_only=base_read_only, format=format, snapshot=snapshot,
            backing_anywhere=backing_anywhere, setting=setting,
        )
        opened.callback(base.close)
        if partition is not None:
            base = _partition(base, partition, path, setting)
        if mode == "undoable" and not undo.exists():
            make_undo(path, base, setting)
        top = base
        if undo.exists() and snapshot is None:
            writes = mode != "nonpersistent" and not read_only
            check_pin(path, base, setting)
            top = open_overlay(undo, path, base, read_only=not writes, setting=setting)
            opened.callback(top.close)
        scratch = None
        if mode == "nonpersistent":
            scratch = Fresh(scratch_directory())
            opened.callback(scratch.close)
            top = new_overlay(top, path if top is base else undo, scratch)
            cache = "unsafe"            # it ends with the process anyway
        layers = Layers(top, path, scratch, cache, only, guard)
        opened.pop_all()
        return layers


def real(path: str | os.PathLike[str] | Url) -> Place:
    """Without symbolic links: overlays lie beside the image itself."""
    place = place_of(path)
    return place if isinstance(place, Url) else Path(os.path.realpath(place))


def _partition(image: Image, number: int, path: Place, setting: str) -> Partition:
    try:
        return Partition(image, number)
    except ImageError as error:
        raise ConfigError(f"{setting}: {path} {error}") from error


def undo_path(path: Place) -> Path:
    return overlay.undo_path(path) if isinstance(path, Url) else path.with_name(f"{path.name}.undo")


def keep_path(path: Place) -> Path:
    return undo_path(path).with_suffix(".keep")


def scratch_directory() -> Path:
    """Where overlays without a name take their space."""
    return Path(os.environ.get("RING3_SCRATCH") or tempfile.gettempdir())


def check_pin(path: Place, base: Any, setting: str) -> None:
    """An overlay on a remote image is of the version that the server has now."""
    if isinstance(path, Url) and not overlay.fits(path, base.file.version):
        remedy = f"ring3 disk discard {path}"
        raise ConfigError(f"{setting}: {path} was changed on the server under its changes: {remedy}")


def make_undo(path: Place, base: Any, setting: str) -> None:
    name = path.name
    if isinstance(path, Url):
        overlay.pin(path, base.file.version)
        name = path.text
    elif path.is_block_device():
        raise ConfigError(f"{setting}: {path} is a device, with no place beside it: give mode=nonpersistent")
    with Fresh(undo_path(path).parent) as fresh:
        os.write(fresh.fd, overlay_bytes(base, name))
        with contextlib.suppress(ConfigError):          # another process was faster: its lock decides
            fresh.name(undo_path(path))


def overlay_bytes(base: Any, name: str) -> bytes:
    try:
        return qcow2.create(base.size_bytes, backing=name, backing_format=base.FORMAT)
    except ValueError as error:
        raise ConfigError(f"disk: {name} cannot have an overlay: {error}") from error


def new_overlay(base: Any, name: Place, fresh: Fresh) -> "qcow2.Qcow2":
    """An overlay without data, written to `fresh`, in front of an opened image that is called `name`."""
    data = overlay_bytes(base, str(name))
    os.write(fresh.fd, data)
    file = HostFile(fresh.path, read_only=False)
    return qcow2.Qcow2(file, parse(data, len(data)), base)


def open_overlay(
    path: Path, base_path: Place, base: Image, *, read_only: bool, setting: str = "disk", depth: int = 0
) -> "qcow2.Qcow2":
    """An overlay that this module made, and those between it and the image, which is opened already.

    It owns `base`, also if this fails.
    """
    with contextlib.ExitStack() as opened:
        opened.callback(base.close)
        if depth > CHAIN_MAX:
            raise ConfigError(f"{setting}: {base_path} has more than {CHAIN_MAX} overlays")
        file = HostFile(path, read_only=read_only, setting=setting)
        opened.callback(file.close)
        try:
            header = parse(file.read(0, min(HEADER_BYTES, file.size_bytes)), file.size_bytes)
            behind = place_of(below(path.parent, header.backing_name))
            if not header.backing_name or (isinstance(behind, Path) and not behind.exists()):
                raise ImageError(f"has lost what is behind it, {behind}")
            backing = base
            if not same(behind, base_path):
                if isinstance(behind, Url):
                    raise ImageError(f"is an overlay on {behind}, not on {base_path}")
                backing = open_overlay(
                    behind, base_path, base, read_only=True, setting=setting, depth=depth + 1
                )
                opened.callback(backing.close)
            image = qcow2.Qcow2(file, header, backing)
            if not read_only:
                if header.incompatible & Incompatible.DIRTY:
                    check.rebuild(image)
                image.begin_writing()
        except ImageError as error:
            raise ConfigError(f"{setting}: {path} {error}") from error
        opened.pop_all()
        return image


def same(one: Place, other: Place) -> bool:
    if isinstance(one, Url) or isinstance(other, Url):
        return one == other
    return os.path.samefile(one, other)


# --- deciding ---


def undecided(path: str | os.PathLike[str] | Url) -> int | None:
    """Bytes of the host that the undecided changes of a disk take; None: there are none."""
    image = real(path)
    for changes in (undo_path(image), keep_path(image)):
        try:
            return changes.stat().st_blocks * 512
        except OSError:
            continue
    return None


def discard(path: str | os.PathLike[str] | Url) -> None:
    """The disk is as it was before its undecided changes."""
    image = real(path)
    if keep_path(image).exists():
        raise ConfigError(f"disk: keeping the changes of {path} has begun: ring3 disk commit {path}")
    undo = _undo_of(image)
    file = HostFile(undo, read_only=False)      # nobody uses it
    try:
        undo.unlink()
        sync_directory(undo.parent)
    finally:
        file.close()
    if isinstance(image, Url):
        overlay.forget(image)


def keep(
    path: str | os.PathLike[str] | Url,
    progress: Progress = nothing,
    *,
    format: str | None = None,  # noqa: A002
    backing_anywhere: bool = False,
    force: bool = False,
) -> None:
    """The undecided changes of a disk go into its image.  `force`: though checkpoints need it as it was."""
    image = real(path)
    undo, kept = undo_path(image), keep_path(image)
    if not kept.exists():
        _undo_of(image)
    if isinstance(image, Url):
        raise ConfigError(
            f"disk: {path} is only read: discard its changes, "
            f"or: ring3 disk convert --backing-anywhere {undo} NEW"
        )
    base = open_image(image, format=format, backing_anywhere=backing_anywhere)
    changes = base
    try:
        changes = open_overlay(kept if kept.exists() else undo, image, base, read_only=False)
        if changes.backing is not base and not force:
            raise ConfigError(f"disk: checkpoints need {path} as it was: discard the changes, or add --force")
        if not kept.exists():
            undo.rename(kept)
            sync_directory(kept.parent)
        copy_up(changes, base, progress)
        kept.unlink()
        sync_directory(kept.parent)
    finally:
        changes.close()


def _undo_of(image: Place) -> Path:
    undo = undo_path(image)
    if not undo.exists():
        raise ConfigError(f"disk: {image} has no undecided changes: nothing is to be done")
    return undo
