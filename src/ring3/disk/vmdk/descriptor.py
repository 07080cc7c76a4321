"""A VMDK's descriptor: text that names the extents of a disk, and its parent."""

import re
from dataclasses import dataclass

from ring3.disk.image import SECTOR
from ring3.errors import ImageError

START = b"# Disk DescriptorFile"
BYTES_MAX = 1 << 20                     # a longer file that starts like one is a disk that a guest wrote
NO_PARENT = "ffffffff"
EXTENTS_MAX = 4096
EXTENT = re.compile(r'(RW|RDONLY|NOACCESS)\s+(\d{1,18})\s+([A-Z]+)(?:\s+"([^"]*)"(?:\s+(\d{1,18}))?)?\s*')
SETTING = re.compile(r'\s*([\w.]+)\s*=\s*"?([^"]*)"?\s*')


@dataclass(frozen=True)
class Extent:
    sectors: int
    kind: str                           # FLAT, SPARSE, ZERO …
    name: str
    offset_bytes: int


@dataclass(frozen=True)
class Descriptor:
    type: str
    extents: tuple[Extent, ...]
    parent: str                         # "": none


def parse(data: bytes) -> Descriptor:
    settings: dict[str, str] = {}
    extents = []
    for line in data.split(b"\0")[0].decode("utf-8", "surrogateescape").splitlines():
        found = EXTENT.fullmatch(line)
        if found:
            _, sectors, kind, name, offset = found.groups()
            extents.append(Extent(int(sectors), kind, name or "", int(offset or 0) * SECTOR))
        elif not line.startswith("#") and (found := SETTING.fullmatch(line)):
            settings[found[1].lower()] = found[2]
    if len(extents) > EXTENTS_MAX:
        raise ImageError(f"has {len(extents)} parts, and {EXTENTS_MAX} are the most")
    parent = settings.get("parentfilenamehint", "")
    return Descriptor(settings.get("createtype", ""), tuple(extents),
                      parent if settings.get("parentcid", NO_PARENT).lower() != NO_PARENT else "")


def write(kind: str, cid: int, extents: list[str], sectors: int) -> bytes:
    cylinders = min(sectors // (16 * 63), 16_383)
    return "\n".join((
        START.decode(), "version=1", f"CID={cid:08x}", f"parentCID={NO_PARENT}", f'createType="{kind}"', "",
        "# Extent description", *extents, "", "# The Disk Data Base", "#DDB", "",
        'ddb.virtualHWVersion = "4"', f'ddb.geometry.cylinders = "{cylinders}"', 'ddb.geometry.heads = "16"',
        'ddb.geometry.sectors = "63"', 'ddb.adapterType = "ide"', "",
    )).encode("utf-8", "surrogateescape")
