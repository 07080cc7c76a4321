"""What is in a machine's drives: opened images, each with the worker that chips see as their drive.

Drives are called disk0 …, cdrom0 … and floppy0 …, in the order of the configuration.  None of this is called
under the machine lock but `open`.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ring3.boards.pc import Cdrom, Disk, Floppy
from ring3.config import CdromConfig, DiskConfig, FloppyConfig, MachineConfig
from ring3.config.media import EMPTY
from ring3.config.places import Place
from ring3.config.text import nearest
from ring3.devices.floppy import medium_of
from ring3.disk import DiskWorker, Image, open_image
from ring3.disk.modes import Frozen, Layers, open_disk, scratch_directory
from ring3.disk.shared import PREFIX, SharedLayers, remove_if_left
from ring3.disk.store import Store
from ring3.errors import ConfigError, HostError

Slot = DiskConfig | CdromConfig | FloppyConfig


class Media:
    def __init__(
        self,
        lock: Any,
        failed: Callable[[BaseException], None],
        pause: Callable[[str], None],
        at: Mapping[str, Place] | None = None,
    ) -> None:
        """`lock`: the machine's.  `failed` hears of bugs of ours in the workers' threads.  `pause` has the
        machine stand, for this reason, and returns at once.  `at`: the layers that disks go on from
        (ring3.disk.modes), in a machine out of a checkpoint."""
        self._lock = lock
        self._failed = failed
        self._pause = pause
        self._at = at or {}
        self._workers: dict[str, DiskWorker] = {}
        self._disks: dict[str, DiskConfig] = {}
        self._slots: dict[str, CdromConfig | FloppyConfig] = {}     # removable drives, and what is in them
        self.steady = threading.Lock()  # held by who changes what is in the drives, or needs it to stay
        self._shared = SharedLayers(scratch_directory())

    def disks(self, config: MachineConfig) -> list[Disk]:
        named = [(f"disk{n}", slot) for n, slot in enumerate(config.disks)]
        self._disks |= named
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
        with self.steady:
            if str(path) == self.contents()[name]:
                self._put(name, chip, replace(slot, path=EMPTY), None)      # its lock would be in the way
            self._put(name, chip, slot, DiskWorker(open_slot(slot), self._lock, self._failed))

    def eject(self, name: str, chip: Any, *, force: bool = False) -> None:
        """Takes the medium out; a guest that has locked the drive is asked, unless forced."""
        slot = self._slot(name)
        with self.steady:
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

    # --- checkpoints ---

    def slots(self) -> dict[str, Slot]:
        """All drives, with what is in them."""
        return {**self._disks, **self._slots}

    def freeze(self, checkpoint: Path) -> dict[str, Frozen]:
        """The disks that are written to, as they are now; after `drain`, while the guest stands.

        `checkpoint`: the file that is to hold them.
        """
        found: dict[str, Frozen] = {}
        try:
            for name, image in self.images().items():
                if isinstance(image, Layers) and not image.read_only:
                    found[name] = image.freeze(checkpoint, name)
        except BaseException:
            for frozen in found.values():
                frozen.drop()
            raise
        return found

    def settled(self, name: str, look: Callable[[Any], Any]) -> Any:
        """Has what was frozen of a disk on stable storage, and looks at it; while the guest runs."""
        worker = self._workers[name]

        def work() -> Any:
            if isinstance(worker.image, Layers):
                worker.image.settle()
            return look(worker.image)

        return worker.ask(work)

    def prepare(self, slots: Mapping[str, Slot], at: Mapping[str, Place]) -> "Prepared":
        """Opens what is to be in the drives, where that isn't what is there; they have it after `take`."""
        prepared = Prepared(self._workers, self._slots)
        try:
            for name, slot in slots.items():
                now = self._workers.get(name)
                if name in at:
                    assert now is not None
                    prepared.disks[name] = open_slot(slot, at[name], now.image)
                elif slot != self.slots()[name]:
                    worker = None if slot.empty else DiskWorker(open_slot(slot), self._lock, self._failed)
                    prepared.removable[name] = (slot, worker)
        except BaseException:
            prepared.close()
            raise
        return prepared

    # --- the end ---

    def close_drive(self, name: str) -> None:
        """After its chip has let it go."""
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        shared = self._shared_layers()
        refused = []
        with self.steady:
            for name in list(self._workers):
                try:
                    self.close_drive(name)
                except OSError as error:
                    refused.append(f"{name}: {why(error)}")
        for directory, name in shared:
            Store(directory, name).collect()            # but for those that other machines use
        self._shared.close()
        for directory in {each for each, _ in shared}:
            remove_if_left(directory)   # another machine's, which has ended before this one
        if refused:
            raise HostError(f"{'; '.join(refused)}: what the guest had not flushed is lost")

    def _shared_layers(self) -> set[tuple[Path, str]]:
        """Directories of layers that this machine and its copies share, and drives that have some there."""
        found = {(self._shared.path, name) for name in self._disks}
        for name, image in self.images().items():
            behind = image.behind() if isinstance(image, Layers) else ()
            found |= {(layer.parent, name) for layer in behind if layer.parent.name.startswith(PREFIX)}
        return found

    def place_for_copies(self) -> Path:
        """No file, but layers of disks whose changes end with the machine lie beside it."""
        try:
            self._shared.hold()
        except OSError as error:
            raise HostError(f"{self._shared.path}: {error.strerror}: set RING3_SCRATCH") from error
        return self._shared.path / "fork"

    def drain(self) -> None:
        """Waits until no drive has anything under way."""
        for name, worker in list(self._workers.items()):
            refused = worker.drain()
            if refused is not None:
                raise HostError(f"{name} waits for the host: {why(refused)}: mend that, and resume it")

    def retry(self) -> None:
        """What the host has refused is tried again, where the machine stands for it."""
        for worker in list(self._workers.values()):
            worker.retry()

    def _always(self, name: str, slot: Slot) -> DiskWorker:
        refused = None
        if isinstance(slot, DiskConfig) and slot.error == "pause":
            refused = partial(self._stand, name)
        image = open_slot(slot, self._at.get(name))
        worker = self._workers[name] = DiskWorker(image, self._lock, self._failed, refused)
        return worker

    def _stand(self, name: str, error: OSError) -> None:
        self._pause(f"{name}: {why(error)}")


def why(error: OSError) -> str:
    return error.strerror or str(error)


class Prepared:
    """Contents of drives as a checkpoint has them, opened."""

    def __init__(self, workers: dict[str, DiskWorker], slots: dict[str, Any]) -> None:
        self._workers = workers
        self._slots = slots
        self.disks: dict[str, Image] = {}
        self.removable: dict[str, tuple[Slot, DiskWorker | None]] = {}

    def images(self) -> dict[str, Image]:
        """What all the drives will have."""
        found = {name: worker.image for name, worker in self._workers.items()} | self.disks
        for name, (_, worker) in self.removable.items():
            found.pop(name, None)
            if worker is not None:
                found[name] = worker.image
        return found

    def take(self, devices: Mapping[str, Any]) -> None:
        """The drives have it.  The guest stands, nothing is under way, the caller holds the machine lock."""
        for image in self.images().values():
            if isinstance(image, Layers):
                image.take_place()
        for name, image in self.disks.items():
            before, self._workers[name].image = self._workers[name].image, image
            self.disks[name] = before
        for name, (slot, worker) in self.removable.items():
            devices[name].insert(worker)
            gone = self._workers.pop(name, None)
            if worker is not None:
                self._workers[name] = worker
            before_slot, self._slots[name] = self._slots[name], slot
            self.removable[name] = (before_slot, gone)

    def close(self) -> None:
        """What the drives don't have (any more); after `drain`."""
        for image in self.disks.values():
            if isinstance(image, Layers):
                image.abandon()
        for _, worker in self.removable.values():
            if worker is not None:
                worker.close()

    def __enter__(self) -> "Prepared":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_slot(slot: Slot, at: Place | None = None, instead_of: Image | None = None) -> Image:
    """The image that a drive's configuration names, or is.  `at`, `instead_of`: as for `open_disk`."""
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
            at=at, instead_of=instead_of if isinstance(instead_of, Layers) else None,
        )
    image = open_image(slot.path, read_only=read_only, format="raw", setting=slot.KIND)
    if isinstance(slot, FloppyConfig) and medium_of(image.size_bytes) is None:
        image.close()
        raise ConfigError(f"floppy: {slot.path} is larger than any diskette: give an image of at most 2.88M")
    return image
