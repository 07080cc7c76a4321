"""What is in a machine's drives: opened images, each with the worker that chips see as their drive.

Drives are called disk0 …, cdrom0 … and floppy0 …, in the order of the configuration.  None of this is called
under the machine lock but `open`.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ring3.boards.pc import Cdrom, Disk, Floppy
from ring3.config import CdromConfig, DiskConfig, FloppyConfig, MachineConfig
from ring3.config.media import EMPTY
from ring3.config.text import nearest
from ring3.devices.floppy import medium_of
from ring3.disk import DiskWorker, Image, open_image
from ring3.disk.modes import Layers, open_disk
from ring3.errors import ConfigError

Slot = DiskConfig | CdromConfig | FloppyConfig


class Media:
    def __init__(self, lock: Any, failed: Callable[[BaseException], None]) -> None:
        """`lock`: the machine's.  `failed` hears of bugs of ours in the workers' threads."""
        self._lock = lock
        self._failed = failed
        self._workers: dict[str, DiskWorker] = {}
        self._slots: dict[str, CdromConfig | FloppyConfig] = {}     # removable drives, and what is in them
        self._changing = threading.Lock()

    def disks(self, config: MachineConfig) -> list[Disk]:
        named = [(f"disk{n}", slot) for n, slot in enumerate(config.disks)]
        return [Disk(name, slot.bus, self._always(name, slot)) for name, slot in named]

    def cdroms(self, config: MachineConfig) -> list[Cdrom]:
        named = [(f"cdrom{n}", slot) for n, slot in enumerate(config.cdroms)]
        self._slots |= named
        return [Cdrom(name, slot.bus, self.open(name, slot)) for name, slot in named]

    def floppies(self, config: MachineConfig) -> list[Floppy]:
        named = [(f"floppy{n}", slot) for n, slot in enumerate(config.floppies)]
        self._slots |= named
        return [Floppy(name, slot.type, self.open(name, slot)) for name, slot in named]

    def open(self, name: str, slot: Slot) -> DiskWorker | None:
        """Opens what is to be in a drive; None if that is empty.  What is in it must be closed before."""
        return None if not isinstance(slot, DiskConfig) and slot.empty else self._always(name, slot)

    # --- removable drives of a machine that runs ---

    def contents(self) -> dict[str, str | None]:
        return {name: None if slot.empty else str(slot.path) for name, slot in self._slots.items()}

    def images(self) -> dict[str, Image]:
        """Of the drives that have one."""
        return {name: worker.image for name, worker in self._workers.items()}

    def insert(self, name: str, chip: Any, path: str | os.PathLike[str], *, readonly: bool = False) -> None:
        """Puts a medium in, in the place of what is there; a mistake leaves that there."""
        slot = replace(self._slot(name), path=path)
        if isinstance(slot, FloppyConfig):
            slot = replace(slot, readonly=readonly)
        with self._changing:
            if str(path) == self.contents()[name]:
                self._put(name, chip, replace(slot, path=EMPTY), None)      # its lock would be in the way
            self._put(name, chip, slot, DiskWorker(open_slot(slot), self._lock, self._failed))

    def eject(self, name: str, chip: Any, *, force: bool = False) -> None:
        """Takes the medium out; a guest that has locked the drive is asked, unless forced."""
        slot = self._slot(name)
        with self._changing:
            with self._lock:
                refused = not force and hasattr(chip, "request_eject") and not chip.request_eject()
            if refused:
                raise ConfigError(f"{name}: the guest has locked the drive, and was asked: wait, or force it")
            self._put(name, chip, replace(slot, path=EMPTY), None)

    def _slot(self, name: str) -> CdromConfig | FloppyConfig:
        if name not in self._slots:
            hint = nearest(name, self._slots) if self._slots else "; there are none"
            raise ConfigError(f"{name}: no such removable drive{hint}")
        return self._slots[name]

    def _put(
        self, name: str, chip: Any, slot: CdromConfig | FloppyConfig, worker: DiskWorker | None
    ) -> None:
        with self._lock:
            chip.insert(worker)
            before = self._workers.pop(name, None)
            self._slots[name] = slot
            if worker is not None:
                self._workers[name] = worker
        if before is not None:
            before.close()              # not under the lock: what is under way ends first

    # --- the end ---

    def close_drive(self, name: str) -> None:
        """After its chip has let it go."""
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        for name in list(self._workers):
            self.close_drive(name)

    def layers(self) -> dict[str, Layers]:
        """The disks that can be frozen (after `drain`, while the guest stands)."""
        images = {name: worker.image for name, worker in self._workers.items()}
        return {name: image for name, image in images.items() if isinstance(image, Layers)}

    def drain(self) -> None:
        """Waits until no drive has anything under way."""
        for worker in list(self._workers.values()):
            worker.drain()

    def _always(self, name: str, slot: Slot) -> DiskWorker:
        worker = self._workers[name] = DiskWorker(open_slot(slot), self._lock, self._failed)
        return worker


def open_slot(slot: Slot) -> Image:
    """The image that a drive's configuration names, or is."""
    if hasattr(slot.path, "read"):      # an object like Image, from Python
        image: Image = slot.path
        return image
    read_only = True if isinstance(slot, CdromConfig) else slot.readonly
    if isinstance(slot, DiskConfig):
        known = None if slot.format == "auto" else slot.format
        return open_disk(
            slot.path, slot.mode, read_only=read_only, format=known, snapshot=slot.snapshot or None,
            backing_anywhere=slot.backing_anywhere, cache=slot.cache,
            partition=int(slot.partition) if slot.partition else None, force=slot.force,
        )
    image = open_image(slot.path, read_only=read_only, format="raw", setting=slot.KIND)
    if isinstance(slot, FloppyConfig) and medium_of(image.size_bytes) is None:
        image.close()
        raise ConfigError(f"floppy: {slot.path} is larger than any diskette: give an image of at most 2.88M")
    return image
