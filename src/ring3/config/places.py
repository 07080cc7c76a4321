"""Where a machine's files are: paths and URLs, and the directories that this user's are kept in.

XDG Base Directory Specification; RING3_HOME holds all of Ring3's instead, where it is set.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import unquote, urljoin, urlsplit

import xxhash

from ring3.errors import ConfigError, HostError

SCHEMES = ("http", "https")
URL = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Url:
    """Of an image that a web server has."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(unquote(urlsplit(self.text).path)).name or "image"

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def key(self) -> str:
        """Names what is kept of it on this host."""
        return key_of(self)

    def join(self, name: str) -> "Url":
        """What a name in the image stands for."""
        try:
            return Url(urljoin(self.text, name))
        except ValueError:              # brackets that hold no address
            return Url(name)


Place: TypeAlias = Path | Url


def key_of(place: Place) -> str:
    return xxhash.xxh3_128_hexdigest(os.fsencode(str(place)))


def is_url(text: object) -> bool:
    return isinstance(text, str) and URL.match(text) is not None


def place_of(path: "str | os.PathLike[str] | Url") -> Place:
    if isinstance(path, Url):
        return path
    text = os.fspath(path)
    return Url(checked(text)) if is_url(text) else Path(text)


def checked(text: str) -> str:
    """A URL that can be asked for."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{text}: {error}: give a URL like https://example.org/disk.qcow2") from None
    if not parts.hostname or port == 0 or not text.isprintable() or " " in text:
        raise ConfigError(f"{text!r} is no URL: give one like https://example.org/disk.qcow2")
    if parts.username is not None:
        raise ConfigError(f"{parts.hostname}: a URL must not hold a password: it would be written down")
    return text


def below(base: Path, path: str) -> str:
    """A path from `base`; a URL is as it is."""
    return path if is_url(path) else str(base / path)


def data_directory() -> Path:
    """What is to be kept."""
    return _directory("XDG_DATA_HOME", ".local/share")


def machines_path() -> Path:
    """The directories of machines."""
    return data_directory() / "machines"


def cache_directory() -> Path:
    """What can be had again."""
    own = os.environ.get("RING3_HOME")
    return Path(own).absolute() / "cache" if own else _directory("XDG_CACHE_HOME", ".cache")


def _directory(variable: str, fallback: str) -> Path:
    own, standard = os.environ.get("RING3_HOME"), os.environ.get(variable)
    if own:
        return Path(own).absolute()
    try:
        home = Path(standard) if standard and Path(standard).is_absolute() else Path.home() / fallback
    except RuntimeError as error:
        raise HostError("this user has no home directory: set RING3_HOME") from error
    return home / "ring3"
