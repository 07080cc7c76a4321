"""What is in a machine's drives, as a checkpoint has it.

A disk that is written to is held by the file behind its overlay (ring3.disk.store): a layer, or the image
itself, which must not change from then on.  What is below the layers, and what is only read, is known by the
sizes and times of its files and a hash of samples; a copy elsewhere, with other times, is as good.  Diskettes
that are written to are in the checkpoint as they are.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from ring3.checkpoint.contents import Medium, Stamp
from ring3.config import CdromConfig, DiskConfig, FloppyConfig, MachineConfig, replace
from ring3.config.media import EMPTY
from ring3.config.places import Place
from ring3.disk.image import files_of
from ring3.disk.modes import Frozen, Layers, real, store_of
from ring3.disk.store import LAYER
from ring3.errors import CheckpointError, ConfigError

Slot = DiskConfig | CdromConfig | FloppyConfig
HEAD_BYTES = 1 << 20                    # of an image that are hashed
SAMPLES, SAMPLE_BYTES = 16, 64 << 10    # … and these, all over it
IMAGE_ITSELF = ""
SETTINGS = {"disk": "disks", "cdrom": "cdroms", "floppy": "floppies"}


def check_slots(slots: Mapping[str, Slot]) -> None:
    """What nobody could open again is refused."""
    for name, slot in slots.items():
        if hasattr(slot.path, "read"):
            raise ConfigError(f"{name}: an object of this program can't be in a checkpoint: give a file")


def configured(config: MachineConfig, slots: Mapping[str, Slot]) -> MachineConfig:
    """With what is in the drives now."""
    changes: dict[str, Any] = {}
    for kind, setting in SETTINGS.items():
        found = tuple(slots[f"{kind}{n}"] for n in range(len(getattr(config, setting))))
        if found:
            changes[kind] = found
    return replace(config, changes)


# --- out ---


def describe(drive: str, slot: Slot, image: Any, frozen: Frozen | None, data: bytes | None) -> Medium:
    """`frozen`: of a disk that is written to; `data`: of such a diskette.  The image is settled."""
    ground = ground_of(image)
    head, samples = (b"", b"") if data is not None else hashes(ground)
    found = Medium(drive, str(slot.path), image.size_bytes, head, samples,
                   readonly=image.read_only, data=data)
    if data is None:
        found.files = [stamp(fd) for fd in descriptors(ground)]
    if frozen is not None and (frozen.layer.suffix == LAYER or image.keeps):
        found.layer = frozen.layer.name if frozen.layer.suffix == LAYER else IMAGE_ITSELF
        found.beside_image = isinstance(frozen.layer, Path) and store_of(image.path).has(frozen.layer)
    return found


def ground_of(image: Any) -> Any:
    return image.ground if isinstance(image, Layers) else image


def hashes(image: Any) -> tuple[bytes, bytes]:
    """Of its first MiB, and of samples of all of it."""
    size = image.size_bytes
    samples = xxhash.xxh3_128()
    for n in range(SAMPLES):
        at = n * size // SAMPLES
        samples.update(image.read(at, min(SAMPLE_BYTES, size - at)))
    return xxhash.xxh3_128_digest(image.read(0, min(HEAD_BYTES, size))), samples.digest()


def descriptors(image: Any) -> Iterator[int]:
    """Of the files that an image and those behind it are made of."""
    yield from (file.fd for file in files_of(image) if hasattr(file, "fd"))


def stamp(fd: int) -> Stamp:
    found = os.fstat(fd)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)


# --- in ---


def layer_of(medium: Medium, slot: Slot, checkpoint: Path) -> Place | None:
    """The file that a disk goes on from; None: it is opened as ever."""
    if medium.layer is None:
        return None
    image = real(slot.path)
    if medium.layer == IMAGE_ITSELF:
        return image
    if Path(medium.layer).name != medium.layer:
        raise CheckpointError(f"{checkpoint}: {medium.drive}: {medium.layer!r} is no layer's name")
    directory = store_of(image).directory if medium.beside_image else checkpoint.absolute().parent
    path = directory / medium.layer
    if not path.exists():
        raise CheckpointError(f"{checkpoint}: {medium.drive}: the layer {path} is missing")
    return path


def wanted(medium: Medium | None, slot: Slot) -> Slot:
    """A removable drive with what is to be in it."""
    if isinstance(slot, DiskConfig):
        return slot
    path = EMPTY if medium is None else medium.path
    same = str(slot.path) == path
    if isinstance(slot, FloppyConfig) and medium is not None:
        return slot if same and slot.readonly == medium.readonly else dataclasses.replace(
            slot, path=path, readonly=medium.readonly
        )
    return slot if same else dataclasses.replace(slot, path=path)


def check(medium: Medium, slot: Slot, image: Any, checkpoint: Path) -> None:
    """What an opened drive has is what was there, below what was written since."""
    same = image.size_bytes == medium.size_bytes
    if same and medium.data is None:
        same = is_same(medium, ground_of(image))
    if not same:
        raise CheckpointError(
            f"{checkpoint}: {medium.drive}: {slot.path!s} is not the image that was there, "
            f"or was written to since: {medium.path}"
        )
    if medium.data is not None and image.read_only:
        raise CheckpointError(f"{checkpoint}: {medium.drive}: {slot.path!s} was writable")


def is_same(medium: Medium, image: Any) -> bool:
    files = [stamp(fd) for fd in descriptors(image)]
    if medium.files:
        if files == medium.files:
            return True
        if [each.size_bytes for each in files] != [each.size_bytes for each in medium.files]:
            return False
        known = {(each.device, each.inode): each.mtime_ns for each in medium.files}
        if any(known.get((each.device, each.inode), each.mtime_ns) != each.mtime_ns for each in files):
            return False                # written to; another file is a copy
    head, samples = hashes(image)
    return head == medium.head_hash and medium.samples_hash in (b"", samples)
