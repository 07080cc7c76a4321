"""An initramfs made in memory: a cpio archive in the "newc" format (Linux, buffer-format.rst in
Documentation/driver-api/early-userspace), the first root file system of a Linux guest.

    root = Initramfs()
    root.file("/init", b"#!/bin/busybox sh\\n…", mode=0o755)
    root.device("/dev/console", 5, 1)
    Path("initrd").write_bytes(root.build())

Parent directories come by themselves.  Owners are root, times are 0: the same contents give the same bytes.
"""

import stat
from dataclasses import dataclass

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
ALIGNMENT = 4                           # bytes, of headers and of data


@dataclass(frozen=True, slots=True)
class Entry:
    mode: int                           # type and permissions, as in st_mode
    data: bytes = b""
    device: tuple[int, int] = (0, 0)    # major, minor


class Initramfs:
    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._add(path, Entry(stat.S_IFDIR | mode))

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._add(path, Entry(stat.S_IFREG | mode, data))

    def symlink(self, path: str, target: str) -> None:
        self._add(path, Entry(stat.S_IFLNK | 0o777, target.encode()))

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """A character device."""
        self._add(path, Entry(stat.S_IFCHR | mode, device=(major, minor)))

    def build(self) -> bytes:
        archive = bytearray()
        for inode, (name, entry) in enumerate([*self._entries.items(), (TRAILER, Entry(0))], 1):
            archive += _pad(_header(inode, name, entry) + name.encode() + b"\0")
            archive += _pad(entry.data)
        return bytes(archive)

    def _add(self, path: str, entry: Entry) -> None:
        name = path.strip("/")
        parent = name.rpartition("/")[0]
        if parent and parent not in self._entries:
            self.directory(parent)
        self._entries[name] = entry


def _header(inode: int, name: str, entry: Entry) -> bytes:
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device,
              len(name.encode()) + 1, 0)
    return MAGIC + b"".join(b"%08X" % field for field in fields)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
