"""Disks, CDs, diskettes and consoles, each as a record with a text form (ring3.config.text).

A drive's `path` is a file's, or the URL of an image that is only read; from Python it may be an object like
ring3.disk.Image as well.
"""

import os
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ring3.config import text
from ring3.config.places import checked, is_url
from ring3.errors import ConfigError

Bus = Literal["ide", "scsi", "ahci", "virtio"]
CdromBus = Literal["ide", "scsi", "ahci"]
Mode = Literal["persistent", "undoable", "nonpersistent"]   # what becomes of what the guest writes
Cache = Literal["writeback", "unsafe"]  # unsafe: the guest's flushes are not waited for
Error = Literal["report", "pause"]       # of the host: the guest's drive reports it, or the machine stands
FloppyType = Literal["auto", "360K", "1.2M", "720K", "1.44M", "2.88M"]
Console = Literal["auto", "browser", "vnc", "window", "terminal", "none"]

EMPTY = "empty"                         # a drive without a medium


class Drive:
    """What disks, CDs and diskettes have in common."""

    KIND: ClassVar[str]
    path: Any

    def __post_init__(self) -> None:
        text.check_types(self.KIND, self)
        path = os.fspath(self.path) if isinstance(self.path, os.PathLike) else self.path
        is_path = isinstance(path, str) and path and "\0" not in path
        if not is_path and not hasattr(path, "read"):
            raise ConfigError(f"{self.KIND}: {path!r} is no path: give the path of an image")
        if is_url(path):
            checked(path)

    @property
    def empty(self) -> bool:
        return isinstance(self.path, str) and self.path == EMPTY

    @property
    def text(self) -> str:
        return text.write(self)


@dataclass(frozen=True)
class DiskConfig(Drive):
    """`path[,OPTION]…`: bus=ide|scsi|ahci|virtio, mode=…, cache=…, error=…, readonly, format=…, snapshot=…, …

    `mode` and `cache`: ring3.disk.modes."""

    KIND = "disk"
    path: Any
    bus: Bus = "ide"
    readonly: bool = False
    format: str = "auto"                # auto: what the file looks like
    mode: Mode = "persistent"
    cache: Cache = "writeback"
    error: Error = "report"
    partition: str = ""                 # number of the one that the guest is to see
    force: str = ""                     # words that have a device used though somebody else uses it
    snapshot: str = ""                  # an internal one of the image, to be read
    backing_anywhere: bool = False      # names in the image may lead out of its directory

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.empty:
            raise ConfigError("disk: a disk can't be empty: give the path of an image")
        if is_url(self.path) and self.mode == "persistent" and not self.readonly:
            remedy = "add readonly, mode=nonpersistent or mode=undoable"
            raise ConfigError(f"disk: {self.path} is a remote image, which is only read: {remedy}")
        if self.partition and not (self.partition.isascii() and self.partition.isdigit()):
            raise ConfigError(f"disk: partition={self.partition} is no number: give one like partition=2")
        if self.mode != "persistent" and hasattr(self.path, "read"):
            raise ConfigError(f"disk: mode={self.mode} needs the path of an image, not an object")


@dataclass(frozen=True)
class CdromConfig(Drive):
    """`path|empty[,bus=ide|scsi|ahci]`"""

    KIND = "cdrom"
    path: Any = EMPTY
    bus: CdromBus = "ide"


@dataclass(frozen=True)
class FloppyConfig(Drive):
    """`path|empty[,readonly][,type=…]`; `type` is the drive's, auto: 1.44M or what the medium needs."""

    KIND = "floppy"
    path: Any = EMPTY
    readonly: bool = False
    type: FloppyType = "auto"


@dataclass(frozen=True)
class DisplayConfig:
    """`browser|vnc|window|terminal|none|auto[,address=HOST:PORT|unix:PATH][,password=…][,view_only]`"""

    kind: Console
    address: str = ""                   # "": loopback, the first free port
    password: str = ""
    view_only: bool = False

    def __post_init__(self) -> None:
        choices = Console.__args__      # type: ignore[attr-defined]
        if self.kind not in choices:
            raise ConfigError(f"display: {self.kind!r} is none of {', '.join(choices)}")
        text.check_types("display", self)
        if (self.address or self.password or self.view_only) and self.kind not in ("browser", "vnc"):
            raise ConfigError(f"display: {self.kind} has no options: only browser and vnc have them")

    @property
    def text(self) -> str:
        return text.write(self)
