"""MachineConfig: every setting of a machine, with its default.

The fields keep what the user said; the properties (`memory_bytes`, `disks`, …) are what it means.  Each
field is a flag of `ring3 run` (ring3/cli/options.py) and a key of the machine file.  All checks that need no
file and no native module are made here, when the object is built; a wrong value is a ConfigError that names
the setting.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ring3.config import text
from ring3.config.media import CdromConfig, DiskConfig, DisplayConfig, FloppyConfig
from ring3.config.size import GIB, MIB, format_size, parse_size
from ring3.errors import ConfigError

MEMORY_MIN, MEMORY_MAX = 1 * MIB, 64 * GIB
VIDEO_MEMORY_MIN, VIDEO_MEMORY_MAX = 1 * MIB, 256 * MIB
YEAR_9999_UNIX_S = 253_402_300_799      # its last second
PAGE = 4096                             # bytes: RAM is a whole number of pages
SERIAL_PORTS_MAX = 4
PARALLEL_PORTS_MAX = 3
VIRTIO_CONSOLES_MAX = 8
DRIVES_MAX = {
    "ide": 4,                           # two channels, two drives on each
    "scsi": 7,                          # a narrow bus's targets but the adapter itself
    "ahci": 6,
    "virtio": 8,
}
FLOPPIES_MAX = 2
BOOT = ("floppy", "cdrom", "disk", "network")
SOUND_CARDS = ("sb16", "es1371", "none")
LAYOUTS = ("us", "de", "fr", "gb", "es", "ru", "jp")
USB_DEVICES = ("tablet", "keyboard", "none")

Engine = Literal["auto", "translate", "interp"]
Hypervisor = Literal["ring3", "vmware", "none"]
Firmware = Literal["auto", "bios", "uefi"]
OnTripleFault = Literal["reset", "stop"]
File = str | os.PathLike[str] | bytes   # bytes: the contents themselves



@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Where a field takes several things (Any), one of them or a sequence; each as text or as its record."""

    memory: str | int = "512M"          # "512M", "2G"; as a number: bytes
    cpu: str = "max"                    # a model of `ring3._native.cpu_models()`
    hypervisor: Hypervisor = "vmware"   # what CPUID says: guests know VMware's clock and pointer

    # --- what it starts ---
    firmware: Firmware = "auto"         # auto: the BIOS where there is something to boot from (`starts_with`)
    boot: Any = BOOT[:3]                # where the firmware looks for a system, in this order
    boot_menu: bool = False             # the BIOS asks what to boot
    uefi_variables: str = ""            # file that keeps them; "": they end with the machine
    firmware_log: Any = "none"          # as `serial`: what the firmware says on its debug port
    kernel: File | None = None          # started without firmware
    initrd: File | None = None
    append: str = ""                    # the kernel's command line

    # --- drives ---
    disk: Any = ()                      # DiskConfig
    cdrom: Any = ("empty",)             # CdromConfig; "none": no drive
    floppy: Any = ()                    # FloppyConfig

    # --- what one sees, hears and types ---
    display: Any = ("auto",)            # DisplayConfig
    video_memory: str | int = "32M"
    font: Any = ()                      # files of fonts that text in graphics modes may be drawn in
    keyboard: str = "us"                # the guest's layout, for typed text; "us,ru": the ones it switches
    usb: Any = ()                       # "tablet", "keyboard"
    sound: Any = ()                     # "sb16", "es1371"
    audio: str = "none"                 # where sound goes besides the browser: "host", "wav:PATH", "none"

    # --- lines ---
    # COM1 … COM4: "stdio", "pty", "file:PATH", "socket:PATH", "memory", "none", or an object (CharBackend).
    serial: Any = ("memory",)
    parallel: Any = ()                  # LPT1 … LPT3: "file:PATH", "device:PATH", "command:TEXT", "none"
    virtio_console: Any = ()            # as `serial`
    virtio_rng: bool = False

    # --- how it behaves ---
    engine: Engine = "auto"
    reboot: bool = True                 # False: a guest's reset ends the machine
    on_triple_fault: OnTripleFault = "reset"
    debug_exit: str | int | None = None             # port of the isa-debug-exit chip
    rtc_start_unix_s: int | None = None             # None: the host's time

    def __post_init__(self) -> None:
        text.check_types("", self)
        check_memory(self.memory_bytes)
        check_video_memory(self.video_memory_bytes)
        for name in ("kernel", "initrd"):
            check_file(name, getattr(self, name))
        if self.initrd is not None and self.kernel is None:
            raise ConfigError("initrd: an initrd needs a kernel: give --kernel, too")
        if self.kernel is not None and self.firmware != "auto":
            raise ConfigError("firmware: a kernel is started without firmware: give one of the two")
        _all_of("boot", self.boot_order, BOOT)
        check_buses(self.disks, self.cdroms)
        _at_most("floppy", self.floppies, FLOPPIES_MAX, "drives")
        _ = self.displays
        for path in self.fonts:
            check_file("font", path)
        _all_of("keyboard", _words("keyboard", self.keyboard), LAYOUTS)
        _all_of("usb", self.usb_devices, USB_DEVICES)
        _all_of("sound", self.sound_cards, SOUND_CARDS)
        check_audio(self.audio)
        check_lines("serial", self.serial_ports)
        check_lines("parallel", self.parallel_ports)
        check_lines("virtio_console", self.virtio_consoles)
        _at_most("serial", self.serial_ports, SERIAL_PORTS_MAX, "ports")
        _at_most("parallel", self.parallel_ports, PARALLEL_PORTS_MAX, "ports")
        _at_most("virtio_console", self.virtio_consoles, VIRTIO_CONSOLES_MAX, "consoles")
        check_stdio(self.serial_ports)
        port = self.debug_exit_port
        if port is not None and not 0 <= port <= 0xFFFC:
            raise ConfigError(f"debug_exit: {port:#x} is no I/O port: give one like 0xf4")
        check_time("rtc_start_unix_s", self.rtc_start_unix_s)

    # --- what it means ---

    @property
    def memory_bytes(self) -> int:
        return parse_size("memory", self.memory)

    @property
    def video_memory_bytes(self) -> int:
        return parse_size("video_memory", self.video_memory)

    @property
    def starts_with(self) -> Literal["kernel", "bios", "uefi"]:
        """`kernel`: --kernel or, where there is nothing to boot from, the embedded guest."""
        if self.firmware != "auto":
            return self.firmware
        media = bool(self.disks) or any(not drive.empty for drive in (*self.cdroms, *self.floppies))
        return "bios" if media and self.kernel is None else "kernel"

    @property
    def boot_order(self) -> tuple[str, ...]:
        return _words("boot", self.boot)

    @property
    def disks(self) -> tuple[DiskConfig, ...]:
        """disk0, disk1, …"""
        return tuple(text.read("disk", value, DiskConfig) for value in text.several(self.disk))

    @property
    def cdroms(self) -> tuple[CdromConfig, ...]:
        """cdrom0, …"""
        return tuple(text.read("cdrom", value, CdromConfig) for value in _but_none(self.cdrom))

    @property
    def floppies(self) -> tuple[FloppyConfig, ...]:
        """floppy0, floppy1"""
        return tuple(text.read("floppy", value, FloppyConfig) for value in _but_none(self.floppy))

    @property
    def displays(self) -> tuple[DisplayConfig, ...]:
        return tuple(text.read("display", value, DisplayConfig) for value in text.several(self.display))

    @property
    def fonts(self) -> list[Any]:
        """Paths."""
        return text.several(self.font)

    @property
    def usb_devices(self) -> tuple[str, ...]:
        return _words("usb", self.usb)

    @property
    def sound_cards(self) -> tuple[str, ...]:
        return _words("sound", self.sound)

    @property
    def serial_ports(self) -> list[Any]:
        """One entry for each COM port."""
        return text.several(self.serial)

    @property
    def parallel_ports(self) -> list[Any]:
        """One entry for each LPT port."""
        return text.several(self.parallel)

    @property
    def virtio_consoles(self) -> list[Any]:
        return text.several(self.virtio_console)

    @property
    def debug_exit_port(self) -> int | None:
        if self.debug_exit is None or isinstance(self.debug_exit, int):
            return self.debug_exit
        try:
            return int(self.debug_exit, 0)
        except (ValueError, TypeError):
            raise ConfigError(f"debug_exit: {self.debug_exit!r} is no I/O port: give one like 0xf4") from None


def settings() -> dict[str, "dataclasses.Field[Any]"]:
    """MachineConfig's fields by name."""
    return {each.name: each for each in dataclasses.fields(MachineConfig)}


def configure(values: Mapping[str, Any]) -> MachineConfig:
    """A MachineConfig from settings by name; a name that isn't one is a ConfigError with the nearest."""
    known = list(settings())
    for name in values:
        if name not in known:
            raise ConfigError(f"{name}: no such setting{text.nearest(str(name), known)}")
    return MachineConfig(**values)


def replace(config: MachineConfig, values: Mapping[str, Any]) -> MachineConfig:
    """The same machine but for these settings."""
    return configure({name: getattr(config, name) for name in settings()} | dict(values))


# --- checks ---


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


def check_video_memory(size: int) -> None:
    if not VIDEO_MEMORY_MIN <= size <= VIDEO_MEMORY_MAX or size & (size - 1):
        raise ConfigError(
            f"video_memory: {format_size(size)} is no power of two between 1M and 256M: give a size like 32M"
        )


def host_memory() -> int:
    """Bytes of RAM of this host."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_file(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str | os.PathLike | bytes):
        raise ConfigError(f"{name}: {value!r} is no path")


def check_audio(value: str) -> None:
    if value not in ("host", "none") and not re.fullmatch(r"wav:.+", value, re.DOTALL):
        raise ConfigError(f"audio: {value!r} is none of host, wav:PATH, none")


def check_stdio(ports: list[Any]) -> None:
    if ports.count("stdio") > 1:
        raise ConfigError("serial: only one port can be on stdio: give the others file:PATH")


def check_lines(name: str, lines: list[Any]) -> None:
    for line in lines:
        if not isinstance(line, str) and not hasattr(line, "write"):
            raise ConfigError(f"{name}: {line!r} is neither text nor an object like CharBackend")


def check_time(name: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and 0 <= value <= YEAR_9999_UNIX_S):
        raise ConfigError(f"{name}: {value!r} is no time: give seconds since 1970")


def check_buses(disks: tuple[DiskConfig, ...], cdroms: tuple[CdromConfig, ...]) -> None:
    used: list[str] = [*(disk.bus for disk in disks), *(cdrom.bus for cdrom in cdroms)]
    for bus, most in DRIVES_MAX.items():
        if (count := used.count(bus)) > most:
            raise ConfigError(
                f"disk: {count} drives on {bus} are too many: give at most {most}, others another bus="
            )


def _at_most(name: str, values: Any, most: int, what: str) -> None:
    if len(values) > most:
        raise ConfigError(f"{name}: {len(values)} {what} are too many: give at most {most}")


def _all_of(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise ConfigError(f"{name}: {value!r} is none of {', '.join(known)}")


def _words(name: str, value: Any) -> tuple[str, ...]:
    """Words, one by one or with commas between; `none` is none of them."""
    words: list[str] = []
    for each in text.several(value):
        if not isinstance(each, str):
            raise ConfigError(f"{name}: {each!r} is no text")
        words += [word.strip() for word in each.split(",")] if each else []
    return tuple(word for word in words if word != "none")


def _but_none(value: Any) -> list[Any]:
    return [each for each in text.several(value) if each != "none"]
