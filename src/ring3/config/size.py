"""Sizes as people write them: a number and a unit; inside, bytes."""

import re

from ring3.errors import ConfigError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
UNITS = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB}


def parse_size(setting: str, value: str | int) -> int:
    """Bytes.  Text needs a unit, because 512 would mean bytes to one reader and MiB to the next."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d{1,15})\s*(?:([KMG])(?:i?B)?|B)\s*", str(value), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{setting}: {value!r} is no size: give one like 512M or 2G")
    return int(match[1]) * UNITS[(match[2] or "").upper()]


def format_size(size: int) -> str:
    for unit, factor in (("G", GIB), ("M", MIB), ("K", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size / MIB:.1f}M" if size >= MIB else f"{size} bytes"
