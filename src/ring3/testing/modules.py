"""Kernel modules for a guest's initramfs: which others one needs, in the order they are to be loaded.

    tree = ModuleTree("modules-amd64.tar")
    for name, data in tree.load_order("virtio_blk", "virtio_pci"):
        root.file(f"/modules/{name}.ko", data)

The archive holds .ko files, as a Debian kernel package has them.  What a module depends on stands in its
.modinfo section (Linux, Documentation/kbuild/modules.rst).
"""

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


class ModuleTree:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        with tarfile.open(path) as archive:
            members = [m for m in archive.getmembers() if m.isfile() and m.name.endswith(".ko")]
        self._members = {_name(PurePosixPath(m.name).stem): m for m in members}

    def read(self, name: str) -> bytes:
        """A module's file; KeyError where there is none: it is built in, or not at all."""
        with tarfile.open(self._path) as archive:
            file = archive.extractfile(self._members[_name(name)])
            assert file is not None         # only regular files are kept
            return file.read()

    def load_order(self, *names: str) -> list[tuple[str, bytes]]:
        """These modules and all they need, each after what it needs."""
        loaded: dict[str, bytes] = {}
        for name in names:
            for each, data in self._with_needs(_name(name), loaded.keys() | set()):
                loaded.setdefault(each, data)
        return list(loaded.items())

    def _with_needs(self, name: str, done: set[str]) -> Iterator[tuple[str, bytes]]:
        if name in done:
            return
        done.add(name)
        data = self.read(name)
        match = DEPENDS.search(data)
        for need in match[1].decode().split(",") if match else ():
            if need:
                yield from self._with_needs(_name(need), done)
        yield name, data


def _name(name: str) -> str:
    """Modules are known with underscores, whatever their files have."""
    return name.replace("-", "_")
