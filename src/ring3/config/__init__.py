"""What a machine is made of, however it was said: command line, machine file or Python, one to one.

    machine.py   MachineConfig: every setting, with its default
    media.py     disks, CDs, diskettes and consoles: a name and options, `disk.img,bus=scsi`
    text.py      that text form
    size.py      sizes with units
    toml.py      the machine file
"""

from ring3.config.machine import File, MachineConfig, configure, replace, settings
from ring3.config.media import (
    Bus,
    CdromConfig,
    DiskConfig,
    DisplayConfig,
    FloppyConfig,
)
from ring3.config.size import GIB, KIB, MIB, format_size, parse_size

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "Bus",
    "CdromConfig",
    "DiskConfig",
    "DisplayConfig",
    "File",
    "FloppyConfig",
    "MachineConfig",
    "configure",
    "format_size",
    "parse_size",
    "replace",
    "settings",
]
