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
4. Overlays on remote images and on devices lie where ring3.disk.apart says.  Those on remote images cannot be
   kept.
5. An image that checkpoints need (ring3.disk.store) is not written to: persistent disks go on in FILE.undo.
6. Names in an overlay that this module made are trusted; names in the image are not (ring3.disk.probe).
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ring3.config.places import Place, Url, below, place_of
from ring3.disk import apart, device, qcow2
from ring3.disk.extents import Extent, own
from ring3.disk.file import HostFile
from ring3.disk.fresh import Fresh, sync_directory
from ring3.disk.image import Image, in_file
from ring3.disk.partition import Partition
from ring3.disk.probe import HEADER_BYTES, open_image
from ring3.disk.qcow2 import alter, check
from ring3.disk.qcow2.header import Incompatible, parse
from ring3.disk.store import LAYER, Pin, Store
from ring3.disk.transfer import Progress, copy_up, nothing
from ring3.errors import ConfigError, HostError, ImageError

Mode = Literal["persistent", "undoable", "nonpersistent"]
Cache = Literal["writeback", "unsafe"]
UNDO = ".undo"
LAYERS_MAX = 100                        # overlays behind each other
COPY_BYTES = 1 << 20


class Frozen(NamedTuple):
    """A disk as it was."""

    layer: Place                        # what is to be read for it
    pins: list[Pin]

    def keep(self) -> None:
        """The checkpoint is whole."""
        for pin in self.pins:
            pin.keep()

    def drop(self) -> None:
        """There will be none."""
        for pin in self.pins:
            pin.drop()

class Layers:
    """An image, and the overlays in front of it: itself an Image that can be frozen."""

    def __init__(
        self, top: Image, path: Place, under: Place | None = None, *, scratch: Fresh | None = None,
        unnamed: Fresh | None = None, held: HostFile | None = None, replaces: bool = False,
        cache: Cache = "writeback", only: str = "", guard: int | None = None, partition: int | None = None,
    ) -> None:
        """`path`: the image's.  `under`: the file behind `top`; None: `top` is the image.

        `scratch`: the nameless file that `top` is in.  `unnamed`: that as well, and `take_place` names it
        FILE.undo; `replaces`: there is one already; `held`: its lock.  `only`: what of the image is shown, if
        not all.  `guard`: a descriptor that keeps others off, to be closed in the end.  `partition`: of what
        is in the layers, the only one shown.
        """
        self.path = path
        self.read_only = top.read_only
        self._under = under
        self._scratch = scratch
        self._unnamed = unnamed
        self._held = held
        self._replaces = replaces
        self._cache = cache
        self._only = only
        self._guard = guard
        self._partition = partition
        self._unsettled: list[Any] = []         # frozen, and not all on stable storage
        self._set_top(top)

    def _set_top(self, top: Image) -> None:
        self.top: Any = top
        shown = top if self._partition is None else Partition(top, self._partition)
        self._shown = shown
        self.size_bytes = shown.size_bytes
        self.read = shown.read
        self.read_now = shown.read_now
        self.write = shown.write
        self.discard = shown.discard

    def in_file(self, offset: int, length: int) -> tuple[int, int] | None:
        return in_file(self._shown, offset, length)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return own(self._shown, offset, length)

    @property
    def backing(self) -> Image | None:
        return getattr(self.top, "backing", None)

    @property
    def keeps(self) -> bool:
        """What is written is there after the machine's end."""
        return self._scratch is None and not self.read_only

    @property
    def ground(self) -> Any:
        """What is behind the overlays of this machine: nothing of it changes while there are any."""
        if self._under is None or self.read_only:
            return self.top
        image = self.top.backing
        while isinstance(image, qcow2.Qcow2) and image.file.path.suffix == LAYER:
            image = image.backing
        return image

    def behind(self) -> Iterator[Path]:
        """The layers behind the overlay on top."""
        image: Any = self.backing
        while isinstance(image, qcow2.Qcow2) and image.file.path.suffix in (LAYER, UNDO):
            yield Path(str(image.file.path))
            image = image.backing

    def flush(self) -> None:
        if self._cache == "unsafe":
            return
        self.settle()
        self.top.flush()

    # --- checkpoints ---

    def freeze(self, checkpoint: Path, drive: str = "disk") -> Frozen:
        """The disk as it is now, in files that change no more; further writes go to a new overlay on top.

        To be called while nothing is under way: after `DiskWorker.drain`, for example.  `checkpoint`: the
        file that needs it.  `drive`: what layers beside that are called.
        """
        if self._only and self._scratch is None:
            raise HostError(f"{self.path} cannot be frozen: it shows only {self._only}")
        if isinstance(self.path, Path) and self.path.is_block_device() and self.keeps:
            raise HostError(f"{self.path} cannot be frozen: it is a device: give mode=nonpersistent")
        pins: list[Pin] = []
        try:
            layer = self._layer_for(checkpoint, drive)
            for store, name in self._needed(layer, drive):
                pins.append(store.pin(name, checkpoint))
            if layer != self._under:
                self._put_on_top_of(layer)
        except BaseException as error:
            for pin in pins:
                pin.drop()
            if isinstance(error, OSError):
                raise HostError(f"{self.path} cannot be frozen: {error.strerror}") from error
            raise
        return Frozen(layer, pins)

    def _layer_for(self, checkpoint: Path, drive: str) -> Place:
        """What the overlay on top is to be called; without data it isn't needed."""
        if self._under is None:
            return self.path
        if self.top.untouched:
            return self._under
        if sum(1 for _ in self.behind()) >= LAYERS_MAX:
            raise ConfigError(f"disk: {self.path} is in {LAYERS_MAX} checkpoints: remove some")
        directory = checkpoint.absolute().parent
        store = store_of(self.path) if self._scratch is None else Store(directory, drive)
        return store.new_layer(checkpoint)

    def _needed(self, layer: Place, drive: str) -> Iterator[tuple[Store, str]]:
        """The first layer of each store; those behind it are kept by it."""
        beside_image = store_of(self.path)
        if layer == self.path and self._scratch is None:
            yield beside_image, ""
        known: set[Path] = set()
        for each in [layer, *self.behind()]:
            if isinstance(each, Path) and each.suffix == LAYER and each.parent not in known:
                known.add(each.parent)
                yield beside_image if beside_image.has(each) else Store(each.parent, drive), each.name

    def _put_on_top_of(self, layer: Place) -> None:
        assert isinstance(layer, Path)  # a remote image is never what is written to
        top = self.top
        if self._under is None:
            new = self._new_undo(top, layer, replace=False)
        elif self._scratch is None:
            os.link(top.file.path, layer)
            top.file.path = layer
            new = self._new_undo(top, layer, replace=True)
        else:
            top = self._name_scratch(layer)
            scratch = Fresh(layer.parent)
            try:
                new = new_overlay(top, Path(layer.name), scratch)
            except BaseException:
                scratch.close()
                raise
            self._scratch.close()
            self._scratch = scratch
        self._unsettled.append(top)
        self._under = layer
        self._set_top(new)

    def _name_scratch(self, layer: Path) -> Any:
        """The overlay on top, in a file of that name."""
        top, scratch = self.top, self._scratch
        assert scratch is not None
        under, name = self._under, top.header.backing_name
        if isinstance(under, Path) and under.parent != layer.parent and not os.path.isabs(name):
            top.finish()
            alter.set_backing(top, str(self._under), top.header.backing_format)
        try:
            scratch.link(layer)
            top.file.path = layer
            return top
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        top.finish()
        with Fresh(layer.parent) as fresh:
            copy_file(top.file, fresh.fd)
            file = HostFile(fresh.path, read_only=False)
            fresh.link(layer)
        file.path = layer
        top.file.close()
        return qcow2.Qcow2(file, top.header, top.backing)

    def _new_undo(self, top: Any, behind: Path, *, replace: bool) -> Any:
        path = undo_path(self.path)
        with Fresh(path.parent) as fresh:
            new: Any = new_overlay(top, from_beside(behind), fresh)
            try:
                fresh.link(path, replace=replace)
            except BaseException:
                new.file.close()
                raise
        new.file.path = path
        return new

    def take_place(self) -> None:
        """A disk that was opened `at` a layer is from now on what the image's users see."""
        if self._unnamed is not None:
            path = undo_path(self.path)
            self._unnamed.link(path, replace=self._replaces)
            self.top.file.path = path
            self._let_go()

    def _let_go(self) -> None:
        for each in (self._unnamed, self._held):
            if each is not None:
                each.close()
        self._unnamed = self._held = None

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

    # --- the end ---

    def abandon(self) -> None:
        """As `close`; what was written since it was frozen last is not wanted any more."""
        self.settle()
        self.top.read_only = self._under is not None or self.read_only
        self.close()

    def close(self) -> None:
        try:
            if self._cache != "unsafe":
                self.settle()
        finally:
            self.top.close()            # with what is behind it
            self._let_go()
            if self._scratch is not None:
                self._scratch.close()
            guard, self._guard = self._guard, None
            if guard is not None:
                os.close(guard)


def copy_file(source: HostFile, fd: int) -> None:
    """All that is in a file, holes but for data."""
    os.ftruncate(fd, source.size_bytes)
    start = source.data_at(0)
    while start is not None and start < source.size_bytes:
        end = source.hole_at(start)
        for at in range(start, end, COPY_BYTES):
            os.pwrite(fd, source.read(at, min(COPY_BYTES, end - at)), at)
        start = source.data_at(end)


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
    at: Place | None = None,
    instead_of: Layers | None = None,
) -> Layers:
    """The disk at `path` in a mode; the other arguments are those of `open_image`.

    `cache`: with "unsafe" the guest's flushes are not waited for, so a crash of the host may ruin the image.
    `partition`: the only one that is shown.  `force`: words for devices that are in use (ring3.disk.device).
    `at`: a layer, or the image itself, that it goes on from as a checkpoint wants it; its changes take their
    place with `take_place`, and until then nothing is touched.  `instead_of`: the same disk, open already.
    """
    if read_only and mode != "persistent":
        raise ConfigError(f"{setting}: {path}: a disk that is only read has no mode: drop readonly or mode")
    if snapshot is not None and mode == "undoable":
        raise ConfigError(f"{setting}: a snapshot of {path} can only be read: give mode=nonpersistent")
    path = real(path)
    undo = undo_path(path)
    if keep_path(path).exists():
        raise ConfigError(f"{setting}: keeping the changes of {path} was stopped: ring3 disk commit")
    needed = False
    if not read_only and at is None:
        store_of(path).collect()
        needed = mode == "persistent" and bool(store_of(path).needs())
    only = f"its snapshot {snapshot}" if snapshot is not None else ""
    only = f"its partition {partition}" if partition is not None else only
    through_overlay = mode != "persistent" or undo.exists() or needed or at is not None
    if partition is not None and mode != "undoable" and (undo.exists() or needed):
        raise ConfigError(f"{setting}: {path} has undecided changes: ring3 disk commit or discard it first")
    base_read_only = read_only or through_overlay or snapshot is not None
    with contextlib.ExitStack() as opened:
        guard = None
        if isinstance(path, Path):
            guard = device.claim(path, force, shared=base_read_only and mode != "undoable", setting=setting)
        if guard is not None:
            opened.callback(os.close, guard)
        base = open_image(
            path, read_only=base_read_only, format=format, snapshot=snapshot,
            backing_anywhere=backing_anywhere, setting=setting,
        )
        opened.callback(base.close)
        if partition is not None:
            shown = _partition(base, partition, path, setting)
            base = base if mode == "undoable" else shown        # changes are to the whole disk, to be kept
        if at is not None:
            layers = _open_at(at, path, base, opened, instead_of, mode=mode, cache=cache, only=only,
                              guard=guard, setting=setting)
            opened.pop_all()
            return layers
        if (mode == "undoable" or needed) and not undo.exists():
            make_undo(path, base, setting)
        top: Any = base
        under: Place | None = None
        if undo.exists() and snapshot is None:
            writes = mode != "nonpersistent" and not read_only
            check_pin(path, base, setting)
            top = open_overlay(undo, path, base, read_only=not writes, setting=setting)
            under = place_of(below(undo.parent, top.header.backing_name))
            opened.callback(top.close)
        scratch = None
        if mode == "nonpersistent":
            scratch = Fresh(scratch_directory())
            opened.callback(scratch.close)
            under = path if top is base else undo
            top = new_overlay(top, under, scratch)
            cache = "unsafe"            # it ends with the process anyway
        layers = Layers(top, path, under, scratch=scratch, cache=cache, only=only, guard=guard,
                        partition=partition if mode == "undoable" else None)
        opened.pop_all()
        return layers


def real(path: str | os.PathLike[str] | Url) -> Place:
    """Without symbolic links: overlays lie beside the image itself."""
    place = place_of(path)
    return place if isinstance(place, Url) else Path(os.path.realpath(place))


def _open_at(
    at: Place, path: Place, base: Any, opened: contextlib.ExitStack, instead_of: Layers | None, *,
    mode: Mode, cache: Cache, only: str, guard: int | None, setting: str,
) -> Layers:
    """A new overlay in front of a layer, or of the image."""
    behind = base
    if isinstance(at, Path) and at != path:
        behind = open_overlay(at, path, base, read_only=True, setting=setting)
        opened.callback(behind.close)
    if mode == "nonpersistent":
        scratch = Fresh(scratch_directory())
        opened.callback(scratch.close)
        top = new_overlay(behind, at, scratch)
        return Layers(top, path, at, scratch=scratch, cache="unsafe", only=only, guard=guard)
    check_pin(path, base, setting)
    if isinstance(path, Path) and path.is_block_device():
        raise ConfigError(f"{setting}: {path} is a device, with no place beside it: give mode=nonpersistent")
    undo = undo_path(path)
    held = None
    if undo.exists() and (instead_of is None or instead_of.top.file.path != undo):
        held = HostFile(undo, read_only=False, setting=setting)
        opened.callback(held.close)
    unnamed = Fresh(undo.parent)
    opened.callback(unnamed.close)
    top = new_overlay(behind, from_beside(at), unnamed)
    return Layers(top, path, at, unnamed=unnamed, held=held, replaces=undo.exists(), cache=cache, only=only,
                  guard=guard)


def _partition(image: Image, number: int, path: Place, setting: str) -> Partition:
    try:
        return Partition(image, number)
    except ImageError as error:
        raise ConfigError(f"{setting}: {path} {error}") from error


def undo_path(path: Place) -> Path:
    if isinstance(path, Url) or apart.needed(path):
        return apart.undo_path(path)
    return path.with_name(f"{path.name}{UNDO}")


def keep_path(path: Place) -> Path:
    return undo_path(path).with_suffix(".keep")


def store_of(path: Place) -> Store:
    """The layers of disks that keep what is written to them: where their overlays are."""
    undo = undo_path(path)
    return Store(undo.parent, undo.stem, (undo, keep_path(path)))


def from_beside(behind: Place) -> Place:
    """The name of something in the overlay's directory, or anywhere, in an overlay."""
    return behind if isinstance(behind, Url) else Path(behind.name)


def scratch_directory() -> Path:
    """Where overlays without a name take their space."""
    return Path(os.environ.get("RING3_SCRATCH") or tempfile.gettempdir())


def check_pin(path: Place, base: Any, setting: str) -> None:
    """An overlay that lies apart is of the image as it is now."""
    if apart.needed(path) and not apart.fits(path, apart.version_of(base.file)):
        remedy = f"ring3 disk discard {path}"
        raise ConfigError(f"{setting}: {path} was changed under its undecided changes: {remedy}")


def make_undo(path: Place, base: Any, setting: str) -> None:
    name = path.name
    if apart.needed(path):
        apart.pin(path, apart.version_of(base.file))
        name = str(path)
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
        if depth > LAYERS_MAX + 1:
            raise ConfigError(f"{setting}: {base_path} has more than {LAYERS_MAX} overlays")
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
    if apart.needed(image):
        apart.forget(image)


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
    if not kept.exists():
        store_of(image).collect()
        _check_needs(path, store_of(image), force)
    with contextlib.ExitStack() as opened:
        guard = device.claim(image)
        if guard is not None:
            opened.callback(os.close, guard)
        base = open_image(image, format=format, backing_anywhere=backing_anywhere)
        opened.callback(base.close)
        if not kept.exists():
            check_pin(image, base, "disk")
        changes = open_overlay(kept if kept.exists() else undo, image, base, read_only=False)
        opened.callback(changes.close)
        if not kept.exists():
            undo.rename(kept)
            sync_directory(kept.parent)
        copy_up(changes, base, progress)
        kept.unlink()
        sync_directory(kept.parent)
        if apart.needed(image):
            apart.forget(image)


def _check_needs(path: str | os.PathLike[str] | Url, store: Store, force: bool) -> None:
    needs = store.needs()
    if needs and not force:
        count = f"{len(needs)} checkpoints need" if len(needs) > 1 else "a checkpoint needs"
        remedy = "remove that first (ring3 checkpoints --rm), or add --force to lose it"
        raise ConfigError(f"disk: {count} {path} as it was, {needs[0].checkpoint}: {remedy}")


def _undo_of(image: Place) -> Path:
    undo = undo_path(image)
    if not undo.exists():
        raise ConfigError(f"disk: {image} has no undecided changes: nothing is to be done")
    return undo
