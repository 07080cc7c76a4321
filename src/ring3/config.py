"""MachineConfig: what a machine is made of, however it was said — command line or Python.

The fields keep what the user said; `memory_bytes` and the like are what it means.  All checks that need no
file and no native module are made here, when the object is built; a wrong value is a ConfigError that names
the setting.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ring3.errors import ConfigError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
UNITS = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB}
MEMORY_MIN, MEMORY_MAX = 1 * MIB, 64 * GIB
PAGE = 4096                             # bytes: RAM is a whole number of pages
SERIAL_PORTS_MAX = 4

Engine = Literal["auto", "translate", "interp"]
Display = Literal["none"]
OnTripleFault = Literal["reset", "stop"]
File = str | os.PathLike[str] | bytes   # bytes: the contents themselves


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    memory: str | int = "512M"          # "512M", "2G"; as a number: bytes
    cpu: str = "max"                    # a model of `ring3._native.cpu_models()`
    kernel: File | None = None          # None: the embedded guest
    initrd: File | None = None
    append: str = ""                    # the kernel's command line
    # COM1 … COM4: "stdio", "file:PATH", "socket:PATH", "memory", "none", or an object like CharBackend.
    serial: Any = ("memory",)
    display: Display = "none"
    engine: Engine = "auto"
    reboot: bool = True                 # False: a guest's reset ends the machine
    on_triple_fault: OnTripleFault = "reset"
    debug_exit: str | int | None = None             # port of the isa-debug-exit chip
    rtc_start_unix_s: int | None = None             # None: the host's time

    def __post_init__(self) -> None:
        check_memory(self.memory_bytes)
        _choose("display", self.display, get_args(Display))
        _choose("engine", self.engine, get_args(Engine))
        _choose("on_triple_fault", self.on_triple_fault, get_args(OnTripleFault))
        if self.initrd is not None and self.kernel is None:
            raise ConfigError("initrd: an initrd needs a kernel: give --kernel, too")
        ports = self.serial_ports
        if len(ports) > SERIAL_PORTS_MAX:
            raise ConfigError(f"serial: {len(ports)} ports are too many: give at most {SERIAL_PORTS_MAX}")
        if ports.count("stdio") > 1:
            raise ConfigError("serial: only one port can be on stdio: give the others file:PATH")
        port = self.debug_exit_port
        if port is not None and not 0 <= port <= 0xFFFC:
            raise ConfigError(f"debug_exit: {port:#x} is no I/O port: give one like 0xf4")

    @property
    def memory_bytes(self) -> int:
        return parse_size("memory", self.memory)

    @property
    def serial_ports(self) -> list[Any]:
        """One entry for each COM port."""
        several = isinstance(self.serial, Sequence) and not isinstance(self.serial, str)
        return list(self.serial) if several else [self.serial]

    @property
    def debug_exit_port(self) -> int | None:
        if self.debug_exit is None or isinstance(self.debug_exit, int):
            return self.debug_exit
        try:
            return int(self.debug_exit, 0)
        except ValueError:
            raise ConfigError(f"debug_exit: {self.debug_exit!r} is no I/O port: give one like 0xf4") from None


def configure(settings: Mapping[str, Any]) -> MachineConfig:
    """A MachineConfig from settings by name; a name that isn't one is a ConfigError with the nearest."""
    known = [field.name for field in dataclasses.fields(MachineConfig)]
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"{name}: no such setting; there is {close[0] if close else ', '.join(known)}")
    return MachineConfig(**settings)


def parse_size(setting: str, value: str | int) -> int:
    """Bytes.  Text needs a unit, because 512 would mean bytes to one reader and MiB to the next."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d{1,15})\s*(?:([KMG])(?:i?B)?|B)\s*", str(value), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{setting}: {value!r} is no size: give one like 512M or 2G")
    return int(match[1]) * UNITS[(match[2] or "").upper()]


def check_memory(size: int) -> None:
    if not MEMORY_MIN <= size <= MEMORY_MAX:
        raise ConfigError(f"memory: {format_size(size)} is not between 1M and 64G: give a size like 512M")
    if size % PAGE:
        raise ConfigError(f"memory: {size} bytes is not a whole number of 4 KiB pages: give a size like 512M")
    host = host_memory()
    if size > host:
        raise ConfigError(
            f"memory: {format_size(size)} is more than this host's {format_size(host)}: give the machine less"
        )


def host_memory() -> int:
    """Bytes of RAM of this host."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def format_size(size: int) -> str:
    for unit, factor in (("G", GIB), ("M", MIB), ("K", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size / MIB:.1f}M" if size >= MIB else f"{size} bytes"


def _choose(setting: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{setting}: {value!r} is none of {', '.join(choices)}")
