"""What is in a machine's drives: opened images, each with the worker that chips see as their drive.

Drives are called disk0 …, cdrom0 … and floppy0 …, in the order of the configuration.  None of this is called
under the machine lock but `open`.
"""

from collections.abc import Callable
from typing import Any

from ring3.boards.pc import Cdrom, Disk, Floppy
from ring3.config import CdromConfig, DiskConfig, FloppyConfig, MachineConfig
from ring3.disk import DiskWorker, Image, open_image

Slot = DiskConfig | CdromConfig | FloppyConfig


class Media:
    def __init__(self, lock: Any, failed: Callable[[BaseException], None]) -> None:
        """`lock`: the machine's.  `failed` hears of bugs of ours in the workers' threads."""
        self._lock = lock
        self._failed = failed
        self._workers: dict[str, DiskWorker] = {}

    def disks(self, config: MachineConfig) -> list[Disk]:
        named = [(f"disk{n}", slot) for n, slot in enumerate(config.disks)]
        return [Disk(name, slot.bus, self._always(name, slot)) for name, slot in named]

    def cdroms(self, config: MachineConfig) -> list[Cdrom]:
        named = [(f"cdrom{n}", slot) for n, slot in enumerate(config.cdroms)]
        return [Cdrom(name, slot.bus, self.open(name, slot)) for name, slot in named]

    def floppies(self, config: MachineConfig) -> list[Floppy]:
        named = [(f"floppy{n}", slot) for n, slot in enumerate(config.floppies)]
        return [Floppy(name, slot.type, self.open(name, slot)) for name, slot in named]

    def open(self, name: str, slot: Slot) -> DiskWorker | None:
        """Opens what is to be in a drive; None if that is empty.  What is in it must be closed before."""
        return None if not isinstance(slot, DiskConfig) and slot.empty else self._always(name, slot)

    def close_drive(self, name: str) -> None:
        """After its chip has let it go."""
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        for name in list(self._workers):
            self.close_drive(name)

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
    known = slot.format if isinstance(slot, DiskConfig) else "raw"
    return open_image(
        slot.path, read_only=read_only, format=None if known == "auto" else known, setting=slot.KIND
    )
