"""Which format an image has, and opening it: every way this fails is one line for the user."""

import os
from typing import Literal, get_args

from ring3.disk.file import HostFile
from ring3.disk.image import Image
from ring3.disk.raw import Raw
from ring3.errors import ConfigError

Format = Literal["raw"]
FORMATS: tuple[str, ...] = get_args(Format)


def open_image(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    format: str | None = None,  # noqa: A002
    setting: str = "disk",
) -> Image:
    """The image at `path`, locked against other machines until it is closed.

    `format`: one of FORMATS; None looks at the file.  `setting`: whose mistake a ConfigError speaks of.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"{setting}: {format!r} is no format of images: give one of {', '.join(FORMATS)}")
    file = HostFile(path, read_only=read_only, setting=setting)
    try:
        if file.size_bytes == 0:
            raise ConfigError(f"{setting}: {path} is empty: give it a size, or the path of another image")
        return Raw(file)
    except BaseException:
        file.close()
        raise


def create_image(path: str | os.PathLike[str], size_bytes: int, format: str = "raw") -> None:  # noqa: A002
    """A new image full of zeros, which takes next to no space; never over an existing file."""
    if format not in FORMATS:
        raise ConfigError(f"disk: {format!r} is no format of images: give one of {', '.join(FORMATS)}")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise ConfigError(f"disk: {path} exists already: give another name") from None
    except OSError as error:
        raise ConfigError(f"disk: {path}: {error.strerror}: give a path that can be written") from error
    with os.fdopen(fd, "wb") as file:
        file.truncate(size_bytes)
