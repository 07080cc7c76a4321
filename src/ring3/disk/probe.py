"""Which format an image has, opening it with what lies behind it, and creating one.

Every way this fails is one line for the user: a ConfigError.

A guest can write anything into its disk, also what makes a raw image look like one of another format, with a
backing file of the guest's choice.  So names in an image lead only to files in its own directory and below,
unless the user says otherwise, and never to protocols.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ring3.disk import qcow2
from ring3.disk.file import HostFile
from ring3.disk.fresh import Fresh
from ring3.disk.image import Image
from ring3.disk.qcow2 import check
from ring3.disk.qcow2.header import Incompatible, parse
from ring3.disk.raw import Raw
from ring3.errors import ConfigError, ImageError

FORMATS: tuple[str, ...] = ("raw", "qcow2")
HEADER_BYTES = 64 << 10
CHAIN_MAX = 32                          # images behind each other

CONVERT = "convert it, with qemu-img convert -O qcow2"
UNPACK = "unpack it first"
# (offset, bytes there, what that is, what to do)
STRANGERS = (
    (0, b"KDMV", "a VMDK image", CONVERT),
    (0, b"# Disk DescriptorFile", "a VMDK description", CONVERT),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image", CONVERT),
    (0, b"vhdxfile", "a VHDX image", CONVERT),
    (0, b"conectix", "a VHD image", CONVERT),
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

    path: Path
    read_only: bool
    format: str | None
    setting: str
    anywhere: bool
    chain: tuple[tuple[int, int], ...] = ()     # device and inode of the images in front of this one

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"{self.setting}: {self.path} {what}")


def open_image(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    format: str | None = None,  # noqa: A002
    snapshot: str | None = None,
    backing_anywhere: bool = False,
    setting: str = "disk",
) -> Image:
    """The image at `path`, locked against other machines until it is closed.

    `format`: one of FORMATS; None looks at the file.  `snapshot`: an internal one, to be read only.
    `backing_anywhere`: names in the image may lead out of its directory.  `setting`: whose mistake a
    ConfigError speaks of.
    """
    if snapshot is not None and not read_only:
        raise ConfigError(f"{setting}: a snapshot of {path} can only be read: attach it read-only")
    request = Request(Path(os.fspath(path)), read_only, format, setting, backing_anywhere)
    return _open(request, snapshot)


def _open(request: Request, snapshot: str | None = None) -> Image:
    check_format(request.format, request.setting)
    file = HostFile(request.path, read_only=request.read_only, setting=request.setting)
    try:
        if file.size_bytes == 0:
            raise request.error("is empty: give it a size, or the path of another image")
        start = file.read(0, min(HEADER_BYTES, file.size_bytes))
        found = request.format or probe(start, request)
        if found == "qcow2":
            return _open_qcow2(request, file, start, snapshot)
        if snapshot is not None:
            raise request.error("is a raw image, which has no snapshots")
        return Raw(file)
    except ImageError as error:
        file.close()
        raise request.error(str(error)) from error
    except OSError as error:
        file.close()
        raise request.error(f"cannot be read: {error.strerror or error}") from error
    except BaseException:
        file.close()
        raise


def check_format(known: str | None, setting: str) -> None:
    if known is not None and known not in FORMATS:
        raise ConfigError(f"{setting}: {known!r} is no format of images: give one of {', '.join(FORMATS)}")


def probe(start: bytes, request: Request) -> str:
    """By the first bytes; what looks like nothing known is raw."""
    if start.startswith(qcow2.MAGIC):
        return "qcow2"
    for offset, magic, what, remedy in STRANGERS:
        if start[offset : offset + len(magic)] == magic:
            raise request.error(f"is {what}: {remedy}, or give format=raw if that is what it is")
    return "raw"


def _open_qcow2(request: Request, file: HostFile, start: bytes, snapshot: str | None) -> Image:
    if not start.startswith(qcow2.MAGIC):
        raise ImageError("is no qcow2 image: leave its format out, or give format=raw")
    header = parse(start, file.size_bytes)
    if header.incompatible & Incompatible.CORRUPT and not request.read_only:
        raise ImageError("is marked as corrupt: repair it with qemu-img check -r all, or attach it read-only")
    status = os.fstat(file.fd)
    request = replace(request, chain=(*request.chain, (status.st_dev, status.st_ino)))
    data_file = backing = None
    try:
        if header.data_file:
            name = behind(request, header.data_file, "data file")
            data_file = HostFile(name, read_only=request.read_only, setting=request.setting)
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
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageError(f"has its backing file at {path}, and that: {error.strerror}") from error
    if (status.st_dev, status.st_ino) in request.chain:
        raise ImageError("is its own backing file")
    return _open(replace(request, path=path, read_only=True, format=known or None))


def behind(request: Request, name: str, what: str) -> Path:
    """The path that a name in an image stands for, if it may be followed."""
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
    check_format(format, "disk")
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
