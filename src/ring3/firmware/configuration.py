"""What firmware configuration holds for SeaBIOS and OVMF: memory, tables, boot order, option ROMs.

Names and formats are those that SeaBIOS reads (its docs/Runtime_config.md) and QEMU publishes.  Numbers are
little-endian.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ring3.devices.fw_cfg import Key
from ring3.firmware import acpi, loader, smbios
from ring3.firmware.e820 import HIGH, Kind, split

NO_SLEEP, SOFT_OFF = 0x00, 0x80         # of etc/system-states: S3 and S4 off, S5 there
BOOT_MENU_WAIT_MS = 3000


@dataclass(frozen=True)
class Settings:
    memory: int                         # bytes
    processors: int
    platform: acpi.Platform
    boot_menu: bool = False
    boot_order: Sequence[str] = ()      # Open Firmware paths of devices
    roms: Mapping[str, bytes] = field(default_factory=dict)     # option ROMs by file name
    uuid: bytes = bytes(16)


def items(settings: Settings) -> dict[int, bytes]:
    return {
        Key.MEMORY: struct.pack("<Q", settings.memory),
        Key.CPUS: struct.pack("<H", settings.processors),
        Key.MAX_CPUS: struct.pack("<H", settings.processors),
        Key.BOOT_MENU: struct.pack("<H", settings.boot_menu),
    }


def files(settings: Settings) -> dict[str, bytes]:
    tables = smbios.build(settings.memory, settings.processors, settings.uuid)
    found = {
        **loader.files(acpi.lay_out(settings.platform)),
        "etc/smbios/smbios-anchor": tables.anchor,
        "etc/smbios/smbios-tables": tables.tables,
        "etc/e820": e820_entries(settings.memory),
        "etc/max-cpus": struct.pack("<H", settings.processors),
        "etc/system-states": bytes((SOFT_OFF, 0, 0, NO_SLEEP, NO_SLEEP, SOFT_OFF)),
        **settings.roms,
    }
    if settings.boot_menu:
        found["etc/boot-menu-wait"] = struct.pack("<H", BOOT_MENU_WAIT_MS)
    if settings.boot_order:
        found["bootorder"] = "\n".join(settings.boot_order).encode("ascii") + b"\0"
    return found


def e820_entries(memory: int) -> bytes:
    """RAM alone: the firmware knows what it takes of it."""
    low, high = split(memory)
    regions = [(0, low), *([(HIGH, high)] if high else [])]
    return b"".join(struct.pack("<QQI", base, length, Kind.USABLE) for base, length in regions)
