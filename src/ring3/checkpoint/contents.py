"""What a checkpoint says of its machine besides RAM, as msgpack records.

Chips are records of ring3.state, which brings older ones up to date.  A chip that was renamed, or has gone,
needs a step here, as a format that changes does: VERSION of ring3.checkpoint.format counts those.
"""

from typing import Any

import msgspec


class Stamp(msgspec.Struct, array_like=True):
    """A file of the host, as it must stay."""

    size_bytes: int
    mtime_ns: int
    device: int
    inode: int


class Medium(msgspec.Struct, omit_defaults=True):
    """What is in a drive."""

    drive: str
    path: str
    size_bytes: int
    head_hash: bytes                    # XXH3-128 of the first MiB of what is only read
    # From version 2 of the format on:
    samples_hash: bytes = b""           # … and of samples of all of it
    files: list[Stamp] = []
    readonly: bool = True
    layer: str | None = None            # name of the file in front of which it goes on; "": of the image
    beside_image: bool = True           # where that is; else beside the checkpoint
    data: bytes | None = None           # of a diskette that is written to


class Processor(msgspec.Struct):
    state: dict[str, Any]               # `_native.Vcpu.state`
    features: list[int]                 # what its CPUID says that a guest relies on
    tsc_hz: int


class Link(msgspec.Struct, array_like=True, frozen=True):
    """Another checkpoint in the same directory."""

    name: str                           # of its file
    identity: bytes


class Contents(msgspec.Struct):
    ring3: str                          # version that wrote it
    name: str                           # the machine's
    created_unix_s: float
    config: str                         # the machine file
    kernel: bytes | None                # of a configuration that has them as bytes
    initrd: bytes | None
    initrd_path: str                    # … or where it is, if the kernel is of those
    clock_ns: int
    memory_bytes: int                   # RAM
    video_bytes: int                    # … and video memory behind it
    processors: list[Processor]
    devices: dict[str, dict[str, Any]]
    media: list[Medium]
    rom: bytes | None                   # firmware, where the machine has one
    option_roms: dict[str, bytes]
    # From version 2 of the format on:
    identity: bytes = b""               # random; it keeps it when its file is written anew (family)
    ancestors: list[Link] = []          # what the machine went on from, the newest first
    sources: list[Link] = []            # the files that hold pages of it, besides its own
