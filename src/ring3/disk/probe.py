"""Which format an image has, opening it with what lies behind it, and creating one.

Every way this fails is one line for the user: a ConfigError.

A guest can write anything into its disk, also what makes a raw image look like one of another format, with a
backing file of the guest's choice.  So names in an image lead only to files in its own directory and below,
unless the user says otherwise, and never to protocols.
"""

import contextlib
import os
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path

from ring3.config.places import Place, Url, checked, is_url, place_of
from ring3.disk import qcow2, vdi, vhd, vhdx, vmdk
from ring3.disk.file import File, HostFile
from ring3.disk.fresh import Fresh
from ring3.disk.image import SECTOR, Image
from ring3.disk.qcow2 import check
from ring3.disk.qcow2.header import Incompatible, parse
from ring3.disk.raw import Raw
from ring3.disk.vdi import Vdi
from ring3.disk.vhd import Vhd
from ring3.disk.vhdx import Vhdx
from ring3.disk.vmdk import descriptor, sparse
from ring3.disk.vmdk.image import Part
from ring3.errors import ConfigError, ImageError

FORMATS: tuple[str, ...] = ("raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx")
CREATED: tuple[str, ...] = ("raw", "qcow2")     # by `create_image`
ALIASES = {"vpc": "vhd"}                # as qcow2 headers name it
HEADER_BYTES = 64 << 10
CHAIN_MAX = 32                          # images behind each other

CONVERT = "convert it, with qemu-img convert -O qcow2"
MAGICS = (
    ("qcow2", 0, qcow2.MAGIC), ("vmdk", 0, vmdk.MAGIC), ("vdi", vdi.MAGIC_AT, vdi.MAGIC),
    ("vhdx", 0, vhdx.MAGIC), ("vhd", 0, vhd.MAGIC),
)
UNPACK = "unpack it first"
# (offset, bytes there, what that is, what to do)
STRANGERS = (
    (0, b"QED\0", "a QED image", CONVERT),
    (0, b"LUKS\xba\xbe", "an encrypted image", "decrypt it first"),
    (0, b"\x1f\x8b", "compressed with gzip", UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", UNPACK),
    (0, b"BZh9", "compressed with bzip2", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (0, b"PK\x03\x04", "a ZIP archive", UNPACK),
)


@dataclass(frozen=True)
class Request:
    """What the user wants opened, and how."""

    path: Place
    read_only: bool
    format: str | None
    setting: str
    anywhere: bool
    chain: tuple[Hashable, ...] = ()    # identities of the images in front of this one

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"{self.setting}: {self.path} {what}")


def open_image(
    path: str | os.PathLike[str] | Url,
    *,
    read_only: bool = False,
    format: str | None = None,  # noqa: A002
    snapshot: str | None = None,
    backing_anywhere: bool = False,
    setting: str = "disk",
) -> Image:
    """The image at `path`, a URL too, locked against other machines until it is closed.

    `format`: one of FORMATS; None looks at the file.  `snapshot`: an internal one, to be read only.
    `backing_anywhere`: names in the image may lead out of its directory.  `setting`: whose mistake a
    ConfigError speaks of.
    """
    if snapshot is not None and not read_only:
        raise ConfigError(f"{setting}: a snapshot of {path} can only be read: attach it read-only")
    request = Request(place_of(path), read_only, format, setting, backing_anywhere)
    return _open(request, snapshot)


def _open(request: Request, snapshot: str | None = None) -> Image:
    check_format(request.format, request.setting)
    request = replace(request, format=ALIASES.get(request.format or "", request.format))
    file = open_file(request)
    try:
        if file.size_bytes == 0:
            raise request.error("is empty: give it a size, or the path of another image")
        start = file.read(0, min(HEADER_BYTES, file.size_bytes))
        found = request.format or probe(start, file, request)
        if found == "qcow2":
            return _open_qcow2(request, file, start, snapshot)
        if snapshot is not None:
            raise request.error(f"is a {found} image, which has no snapshots")
        return Raw(file) if found == "raw" else _open_foreign(request, file, start, found)
    except ImageError as error:
        file.close()
        raise request.error(str(error)) from error
    except OSError as error:
        file.close()
        raise request.error(f"cannot be read: {error.strerror or error}") from error
    except BaseException:
        file.close()
        raise


def open_file(request: Request) -> File:
    if not isinstance(request.path, Url):
        return HostFile(request.path, read_only=request.read_only, setting=request.setting)
    if not request.read_only:
        raise request.error("is only read: attach it read-only, or with mode=undoable or nonpersistent")
    from ring3.disk.remote.file import RemoteFile  # here: TLS costs more than most starts

    try:
        return RemoteFile(request.path)
    except ImageError as error:
        raise request.error(str(error)) from error
    except OSError as error:
        raise request.error(f"cannot be read: {error.strerror or error}") from error


def check_format(known: str | None, setting: str) -> None:
    if known is not None and known not in (*FORMATS, *ALIASES):
        raise ConfigError(f"{setting}: {known!r} is no format of images: give one of {', '.join(FORMATS)}")


def probe(start: bytes, file: File, request: Request) -> str:
    """By the first bytes; what looks like nothing known is raw.

    A guest can make a raw disk look like a VMDK's descriptor or a fixed VHD: so their size or their name must
    tell as well.
    """
    for name, offset, magic in MAGICS:
        if start[offset : offset + len(magic)] == magic:
            return name
    if start.startswith(descriptor.START) and file.size_bytes <= descriptor.BYTES_MAX:
        return "vmdk"
    if request.path.suffix.lower() == ".vhd" and vhd.footer_of(file) is not None:
        return "vhd"
    for offset, magic, what, remedy in STRANGERS:
        if start[offset : offset + len(magic)] == magic:
            raise request.error(f"is {what}: {remedy}, or give format=raw if that is what it is")
    return "raw"


def _open_foreign(request: Request, file: File, start: bytes, found: str) -> Image:
    if found == "vmdk":
        return _open_vmdk(request, file, start)
    if not request.read_only:
        remedy = "convert it, or attach it read-only or with mode=undoable or nonpersistent"
        raise request.error(f"is a {found.upper()} image, which is only read: {remedy}")
    if found != "vhd" and found not in {name for name, at, magic in MAGICS if start[at:].startswith(magic)}:
        raise ImageError(f"is no {found.upper()} image: leave its format out, or give another")
    return {"vdi": Vdi, "vhd": Vhd, "vhdx": Vhdx}[found](file)


def _open_vmdk(request: Request, file: File, start: bytes) -> Image:
    inside = replace(request, chain=(*request.chain, file.identity))
    with contextlib.ExitStack() as opened:
        if start.startswith(vmdk.MAGIC):
            header = sparse.parse(start)
            length = min(header.descriptor_sectors * SECTOR, descriptor.BYTES_MAX)
            text = file.read(header.descriptor_at * SECTOR, length) if header.descriptor_at else b""
        elif start.startswith(descriptor.START) and file.size_bytes <= descriptor.BYTES_MAX:
            text = file.read(0, file.size_bytes)
        else:
            raise ImageError("is no VMDK image: leave its format out, or give another")
        described = vmdk.parse(text)
        backing = _open_backing(inside, described.parent, "") if described.parent else None
        if backing is not None:
            opened.callback(backing.close)
        parts: list[Part] = []
        if start.startswith(vmdk.MAGIC):
            parts.append(vmdk.Sparse(file, backing))
        for each in described.extents if not parts else ():
            parts.append(_open_part(inside, each, backing, sum(part.size_bytes for part in parts), opened))
        if not parts:
            raise ImageError("has no parts")
        if not request.read_only and any(isinstance(part, vmdk.Sparse) and part.compressed for part in parts):
            raise ImageError("is stream-optimized, which is only read: convert it, or attach it read-only")
        image = vmdk.Vmdk(file, parts, backing)
        opened.pop_all()
        return image


def _open_part(
    request: Request, extent: descriptor.Extent, backing: Image | None, start: int,
    opened: contextlib.ExitStack,
) -> "Part":
    size_bytes = extent.sectors * SECTOR
    if not size_bytes or start + size_bytes > 1 << 62:
        raise ImageError(f"has a part of {extent.sectors} sectors")
    if extent.kind == "ZERO":
        return vmdk.Nothing(size_bytes)
    if extent.kind not in ("FLAT", "SPARSE"):
        raise ImageError(f"has a part of the kind {extent.kind}, which is not known here")
    path = behind(request, extent.name, "part")
    file = open_file(replace(request, path=path))
    opened.callback(file.close)
    if extent.kind == "FLAT":
        if extent.offset_bytes + size_bytes > file.size_bytes:
            raise ImageError(f"is truncated: {path.name} ends before its {extent.sectors} sectors")
        return vmdk.Flat(file, extent.offset_bytes, size_bytes)
    part = vmdk.Sparse(file, backing, start)
    if part.size_bytes < size_bytes:
        raise ImageError(f"is damaged: {path.name} is smaller than described")
    part.size_bytes = size_bytes
    return part


def _open_qcow2(request: Request, file: File, start: bytes, snapshot: str | None) -> Image:
    if not start.startswith(qcow2.MAGIC):
        raise ImageError("is no qcow2 image: leave its format out, or give format=raw")
    header = parse(start, file.size_bytes)
    if header.incompatible & Incompatible.CORRUPT and not request.read_only:
        raise ImageError("is marked as corrupt: repair it with qemu-img check -r all, or attach it read-only")
    request = replace(request, chain=(*request.chain, file.identity))
    data_file = backing = None
    try:
        if header.data_file:
            data_file = open_file(replace(request, path=behind(request, header.data_file, "data file")))
        if header.backing_name:
            backing = _open_backing(request, header.backing_name, header.backing_format)
        image = qcow2.Qcow2(file, header, backing, data_file, snapshot)
        if not request.read_only:
            if header.incompatible & Incompatible.DIRTY:
                check.rebuild(image)
            image.begin_writing()
        return image
    except BaseException:
        for opened in (data_file, backing):
            if opened is not None:
                opened.close()
        raise


def _open_backing(request: Request, name: str, known: str) -> Image:
    path = behind(request, name, "backing file")
    if len(request.chain) >= CHAIN_MAX:
        raise ImageError(f"has more than {CHAIN_MAX} images behind each other")
    if identity(path) in request.chain:
        raise ImageError("is its own backing file")
    return _open(replace(request, path=path, read_only=True, format=known or None))


def identity(place: Place) -> Hashable:
    """As `File.identity`."""
    if isinstance(place, Url):
        return place.text
    try:
        status = os.stat(place)
    except OSError as error:
        raise ImageError(f"has its backing file at {place}, and that: {error.strerror}") from error
    return status.st_dev, status.st_ino


def behind(request: Request, name: str, what: str) -> Place:
    """What a name in an image stands for, if it may be followed: in a remote image never for a file."""
    if isinstance(request.path, Url) or is_url(name):
        place = request.path.join(name) if isinstance(request.path, Url) else Url(name)
        if not request.anywhere:
            remedy = "add backing_anywhere if you trust the image"
            raise ImageError(f"has its {what} at {place}, and only files are followed: {remedy}")
        if not is_url(place.text):
            raise ImageError(f"has its {what} at {name}, which is not followed")
        return Url(checked(place.text))
    if ":" in name.split("/")[0]:
        raise ImageError(f"has its {what} at {name}, and only files are followed")
    directory = request.path.parent
    path = directory / name
    inside = path.resolve().is_relative_to(directory.resolve())
    if not inside and not request.anywhere:
        remedy = "add backing_anywhere if you trust the image"
        raise ImageError(f"has its {what} at {name}, outside its own directory: {remedy}")
    return path


def create_image(
    path: str | os.PathLike[str],
    size_bytes: int,
    format: str = "raw",  # noqa: A002
    *,
    backing: str = "",
    backing_format: str = "",
) -> None:
    """A new image full of zeros, which takes next to no space; never over an existing file.

    `backing`: for qcow2, the image that shows through, relative to the new one's directory.
    """
    if format not in CREATED:
        raise ConfigError(f"disk: {format!r}: no such images are made: give one of {', '.join(CREATED)}")
    path = Path(os.fspath(path))
    try:
        start = b"" if format == "raw" else qcow2.create(
            size_bytes, backing=backing, backing_format=backing_format
        )
        with Fresh(path.parent) as fresh:
            os.ftruncate(fresh.fd, size_bytes if format == "raw" else len(start))
            os.pwrite(fresh.fd, start, 0)
            fresh.name(path)
    except OSError as error:
        raise ConfigError(f"disk: {path}: {error.strerror}: give a path that can be written") from error
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"disk: {path}: {error}: give a smaller size") from error
