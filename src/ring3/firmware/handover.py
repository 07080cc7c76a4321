"""What a boot loader is given and what it hands over: bytes to write and registers to set.

Every loader is a function of bytes: nothing is opened, nothing is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ring3.errors import ConfigError
from ring3.firmware.e820 import MIB, Region, split

PAGE = 4096


@dataclass(frozen=True)
class Target:
    """The machine that is booted, as far as a loader must know it."""

    memory: int                                     # bytes of RAM
    regions: list[Region]                           # the E820 map
    rsdp: int                                       # address of the ACPI root pointer
    long_mode: bool                                 # does the CPU model have it
    text_mode: bool = False                         # there is a VGA, and it shows text

    @property
    def low_memory(self) -> int:
        return split(self.memory)[0]


@dataclass(frozen=True)
class Kernel:
    """What the user named; `name` and `initrd_name` are for messages and command lines."""

    data: bytes
    name: str = "kernel"
    initrd: bytes | None = None
    initrd_name: str = "initrd"
    command_line: str = ""


@dataclass(frozen=True)
class Boot:
    """The state to put the machine into."""

    writes: list[tuple[int, bytes]] = field(default_factory=list)       # (address, bytes)
    registers: Mapping[str, int] = field(default_factory=dict)          # for Vcpu.set_registers


def encode_command_line(text: str, limit: int, name: str) -> bytes:
    """With its NUL.  `limit` counts bytes without it."""
    encoded = text.encode("utf-8", "surrogateescape")
    if b"\x00" in encoded:
        raise ConfigError("append: a kernel command line cannot contain a NUL byte")
    if len(encoded) > limit:
        raise ConfigError(f"append: {len(encoded)} bytes, but {name} takes a command line of at most {limit}")
    return encoded + b"\x00"


def too_small(what: str, needed: int, memory: int) -> ConfigError:
    """`needed`: bytes of RAM, counted from address 0."""
    needed_mib = -(-needed // MIB)
    return ConfigError(
        f"memory: {what} needs {needed_mib} MiB of RAM, the machine has {memory // MIB} MiB: raise --memory"
    )
