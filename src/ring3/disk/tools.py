"""What `ring3 disk` does with images that no machine uses: convert, check, commit, rebase, resize.

`anywhere`: names in an image may lead out of its directory.
"""

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ring3.config.places import Place, below, place_of
from ring3.disk import qcow2, vmdk
from ring3.disk.extents import Kind, own, seen
from ring3.disk.file import HostFile
from ring3.disk.fresh import Fresh
from ring3.disk.image import SECTOR, Image
from ring3.disk.modes import undecided
from ring3.disk.probe import open_image
from ring3.disk.qcow2 import alter, check
from ring3.disk.qcow2.header import parse
from ring3.disk.raw import Raw
from ring3.disk.transfer import STEP_BYTES, Progress, copy, copy_up, nothing
from ring3.disk.vmdk.image import Part
from ring3.errors import ConfigError, ImageError

WRITTEN = ("raw", "qcow2", "vmdk")      # what `convert` makes


@dataclass(frozen=True)
class Facts:
    """What there is to say about an image."""

    path: Place
    format: str
    size_bytes: int
    host_bytes: int                     # what it takes on the host
    backing: str = ""
    snapshots: tuple[str, ...] = ()
    undecided_bytes: int | None = None


def info(path: Place, format: str | None = None, *, anywhere: bool = False) -> Facts:  # noqa: A002
    image: Any = open_image(path, read_only=True, format=format, backing_anywhere=anywhere)
    try:
        facts = Facts(path, image.FORMAT, image.size_bytes, image.file.host_bytes,
                      undecided_bytes=undecided(path))
        if isinstance(image, qcow2.Qcow2):
            names = tuple(snapshot.name for snapshot in image.snapshots())
            facts = replace(facts, backing=image.header.backing_name, snapshots=names)
        return facts
    finally:
        image.close()


def convert(
    source: Image, path: Path, format: str = "qcow2", progress: Progress = nothing, type: str = ""  # noqa: A002
) -> None:
    """A new image with all that `source` shows; it gets its name once it is whole.

    `type`: of a VMDK, one of vmdk.KINDS.  Parts of one in several files have their names before.
    """
    if path.exists():
        raise ConfigError(f"disk: {path} exists already: give another name")
    if format == "vmdk" and type not in ("", "sparse"):
        _convert_to_vmdk(source, path, type, progress)
        return
    with Fresh(path.parent) as fresh:
        target = _empty(fresh, source.size_bytes, format, path.name)
        try:
            copy(source, target, progress)
            target.flush()
        finally:
            target.close()
        fresh.name(path)


def _convert_to_vmdk(source: Image, path: Path, kind: str, progress: Progress) -> None:
    if kind not in vmdk.KINDS:
        raise ConfigError(f"disk: {kind!r} is no type of VMDK: give one of {', '.join(vmdk.KINDS)}")
    with Fresh(path.parent) as fresh, contextlib.ExitStack() as opened:
        if kind == "stream":
            stream = vmdk.Stream(fresh.fd, source.size_bytes, path.name)
            copy(source, stream, progress)
            stream.finish()
            fresh.name(path)
            return
        text, names = vmdk.create_flat(kind, source.size_bytes, path.stem)
        os.pwrite(fresh.fd, text, 0)
        file = HostFile(fresh.path, read_only=False)
        opened.callback(file.close)
        parts: list[Part] = []
        for name, size_bytes in names:
            parts.append(_new_part(path.parent / name, size_bytes, kind == "split", opened))
        image = vmdk.Vmdk(file, parts)
        copy(source, image, progress)
        image.close()
        fresh.name(path)


def _new_part(path: Path, size_bytes: int, is_sparse: bool, opened: contextlib.ExitStack) -> "Part":
    with Fresh(path.parent) as fresh:
        if is_sparse:
            _write_at(fresh, vmdk.create(size_bytes))
        else:
            os.ftruncate(fresh.fd, size_bytes)
        fresh.name(path)
    file = HostFile(path, read_only=False)
    opened.callback(file.close)
    return vmdk.Sparse(file) if is_sparse else vmdk.Flat(file, 0, size_bytes)


def _write_at(fresh: Fresh, pieces: list[tuple[int, bytes]]) -> None:
    for offset, data in pieces:
        os.pwrite(fresh.fd, data, offset)


def _empty(fresh: Fresh, size_bytes: int, format: str, name: str) -> Image:  # noqa: A002
    if format not in WRITTEN:
        raise ConfigError(f"disk: {format!r} images are not written: give one of {', '.join(WRITTEN)}")
    if format == "vmdk":
        _write_at(fresh, vmdk.create(size_bytes, name))
        file = HostFile(fresh.path, read_only=False)
        return vmdk.Vmdk(file, [vmdk.Sparse(file)])
    if format == "raw":
        os.ftruncate(fresh.fd, size_bytes)
        return Raw(HostFile(fresh.path, read_only=False))
    start = qcow2.create(size_bytes)
    os.pwrite(fresh.fd, start, 0)
    return qcow2.Qcow2(HostFile(fresh.path, read_only=False), parse(start, len(start)))


@dataclass(frozen=True)
class Verdict:
    """What a check found."""

    leaks: int = 0                      # clusters that are taken and not used: they only cost space
    errors: int = 0                     # … used and not taken, or data that cannot be read

    def __str__(self) -> str:
        if not self.leaks and not self.errors:
            return "no errors"
        return f"{self.errors} errors, {self.leaks} leaked clusters"


def verify(
    path: Place, format: str | None = None, progress: Progress = nothing, *, anywhere: bool = False  # noqa: A002
) -> Verdict:
    """Reads all of an image's tables; of formats without counts, whatever they lead to is read."""
    image: Any = open_image(path, read_only=True, format=format, backing_anywhere=anywhere)
    try:
        if isinstance(image, qcow2.Qcow2):
            found = check.check(image)
            return Verdict(found.leaks, found.errors)
        errors = 0
        for extent in own(image, 0, image.size_bytes):
            progress(extent.offset, image.size_bytes)
            if extent.kind is Kind.DATA:
                errors += _unreadable(image, extent.offset, extent.length)
        return Verdict(errors=errors)
    except ImageError as error:
        raise ImageError(f"{path} {error}") from error
    finally:
        image.close()


def _unreadable(image: Image, offset: int, length: int) -> int:
    errors = 0
    for at in range(offset, offset + length, STEP_BYTES):
        try:
            image.read(at, min(STEP_BYTES, offset + length - at))
        except OSError:
            errors += 1
    return errors


def repair(path: Place, *, anywhere: bool = False) -> None:
    """Counts a qcow2 image's clusters anew: leaks are free again."""
    image = _open_overlay(path, anywhere)
    try:
        check.rebuild(image)
    finally:
        image.close()


def commit(path: Path, progress: Progress = nothing, *, anywhere: bool = False) -> Place:
    """What a qcow2 overlay has goes into its backing image, whose path is returned; the overlay stays."""
    image = _open_overlay(path, anywhere)
    image.close()
    header = image.header
    if not header.backing_name:
        raise ConfigError(f"disk: {path} has no backing image to commit to")
    backing = place_of(below(path.parent, header.backing_name))
    base = open_image(backing, format=header.backing_format or None, backing_anywhere=anywhere)
    try:
        if base.size_bytes < image.size_bytes:
            raise ConfigError(f"disk: {backing} is smaller than {path}: ring3 disk resize it first")
        file = HostFile(path, read_only=False)
        try:
            copy_up(qcow2.Qcow2(file, header, base), base, progress)
        finally:
            file.close()
    finally:
        base.close()
    return backing


def rebase(
    path: Path, backing: str, *, contents_equal: bool = False, progress: Progress = nothing,
    anywhere: bool = False,
) -> None:
    """Another backing image (relative to the overlay's directory), or "" for none; the disk reads the same.

    `contents_equal`: the new one is a copy of the old, so nothing is compared; the old one may be gone.
    """
    if contents_equal:
        file = HostFile(path, read_only=False)
        header = parse(file.read(0, min(64 << 10, file.size_bytes)), file.size_bytes)
        image = qcow2.Qcow2(file, header)
    else:
        image = _open_overlay(path, anywhere)
    other: Any = None
    try:
        if backing:
            place = place_of(below(path.parent, backing))
            other = open_image(place, read_only=True, backing_anywhere=anywhere)
        if not contents_equal:
            _take_differences(image, other, progress)
        alter.set_backing(image, backing, other.FORMAT if other is not None else "")
    except ImageError as error:
        raise ImageError(f"{path} {error}") from error
    finally:
        image.close()
        if other is not None:
            other.close()


def _take_differences(image: "qcow2.Qcow2", other: Image | None, progress: Progress) -> None:
    """What shows through and would look otherwise is taken over."""
    step = max(image.header.cluster_bytes, 64 << 10)
    for extent in list(own(image, 0, image.size_bytes)):
        if extent.kind is not Kind.BEHIND:
            continue
        end = extent.offset + extent.length
        for offset in range(extent.offset, end, step):
            progress(offset, image.size_bytes)
            length = min(step, end - offset)
            data = image.read(offset, length)
            there = 0 if other is None else max(min(length, other.size_bytes - offset), 0)
            seen_then = (other.read(offset, there) if other is not None and there else b"")
            if data != seen_then + bytes(length - there):
                image.write(offset, data)
    image.finish()


def resize(
    path: Path, size_bytes: int, *, shrink: bool = False, format: str | None = None,  # noqa: A002
    anywhere: bool = False,
) -> None:
    """A raw or qcow2 image; `shrink`: the end may be lost."""
    if size_bytes <= 0 or size_bytes % SECTOR:
        raise ConfigError(f"disk: {size_bytes} bytes are no whole number of sectors of {SECTOR}")
    if undecided(path) is not None:
        raise ConfigError(f"disk: {path} has undecided changes: ring3 disk commit or discard it first")
    image = open_image(path, format=format, backing_anywhere=anywhere)
    try:
        if size_bytes < image.size_bytes and not shrink:
            raise ConfigError(f"disk: {path} would lose its end: add --shrink if nothing is there")
        if isinstance(image, qcow2.Qcow2):
            alter.resize(image, size_bytes)
        elif isinstance(image, Raw) and isinstance(image.file, HostFile) and not path.is_block_device():
            image.file.truncate(size_bytes)
            image.flush()
        else:
            raise ConfigError(f"disk: {path} cannot be resized: convert it to raw or qcow2")
    except ImageError as error:
        raise ConfigError(f"disk: {path} {error}") from error
    finally:
        image.close()


def mapped(
    path: Place, format: str | None = None, *, anywhere: bool = False  # noqa: A002
) -> list[tuple[int, int, str, int]]:
    """Offset, length, "data" or "zero", and how many images behind this one that is."""
    image = open_image(path, read_only=True, format=format, backing_anywhere=anywhere)
    try:
        return [(each.offset, each.length, each.kind.value, each.depth) for each in seen(image)]
    finally:
        image.close()


def _open_overlay(path: Place, anywhere: bool) -> "qcow2.Qcow2":
    image = open_image(path, backing_anywhere=anywhere)
    if not isinstance(image, qcow2.Qcow2):
        image.close()
        raise ConfigError(f"disk: {path} is no qcow2 image: only those have refcounts and backing images")
    return image
