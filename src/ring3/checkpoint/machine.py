"""A machine that stands still into a checkpoint, and out of it.

Order of a restore: everything is read and checked, then the CPU (which may refuse), RAM, and the chips from
the last one built to the first.  Chips drive their interrupt lines as they are restored; interrupt
controllers, which were built first, take in their own memory of the lines after that, and the CPU's state,
once more, is last, because it holds what is pending.

The clock goes on where it stopped, so a timer's deadline is as far away as it was: no burst, whenever the
machine is restored.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

import ring3
from ring3 import state
from ring3.checkpoint import drives, family
from ring3.checkpoint.contents import Contents, Medium, Processor
from ring3.checkpoint.family import Basis
from ring3.checkpoint.format import Buffer, Reader, cannot_write, write
from ring3.checkpoint.pages import Extents, Packed
from ring3.config import MachineConfig, replace, toml
from ring3.config.places import Place
from ring3.config.text import several
from ring3.disk.modes import Frozen, real, store_of
from ring3.disk.store import Store
from ring3.errors import CheckpointError, ConfigError, HostError

IDENTITY_BYTES = 16
LATER = {"generation_id"}              # chips that checkpoints lack from before there were any
LINES = ("serial", "virtio_console", "parallel", "firmware_log")
# CPUID leaves that a guest chooses its code by, and the bits of EAX … EDX that don't depend on its state.
FEATURES = (
    (0x0000_0001, 0, (0xFFFF_FFFF, 0, ~(1 << 27), ~(1 << 9))),
    (0x0000_0007, 0, (0, 0xFFFF_FFFF, ~(1 << 4), 0xFFFF_FFFF)),
    (0x0000_000D, 1, (0xFFFF_FFFF, 0, 0, 0)),
    (0x8000_0001, 0, (0, 0, 0xFFFF_FFFF, 0xFFFF_FFFF)),
    (0x8000_0008, 0, (0xFFFF_FFFF, 0xFFFF_FFFF, 0, 0)),
)


class Parts(Protocol):
    """What of a machine a checkpoint has to do with."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> MachineConfig: ...
    @property
    def vcpu(self) -> Any: ...
    @property
    def devices(self) -> Mapping[str, Any]: ...
    @property
    def vm(self) -> Any:
        """The _native.Vm."""
        ...
    @property
    def media(self) -> Any:
        """ring3.media.Media."""
        ...
    @property
    def rom(self) -> bytes | None: ...
    @property
    def option_roms(self) -> Mapping[str, bytes]: ...


class Ram(Protocol):
    """What RAM was."""

    def adopted_by(self, vm: Any) -> None:
        """Makes it a machine's RAM (`_native.Vm.adopt`)."""


class Saved(Protocol):
    """A machine that another can go on from."""

    @property
    def contents(self) -> Contents: ...
    @property
    def path(self) -> Path:
        """Where it is, and layers of its disks are beside."""
        ...
    @property
    def elapsed_s(self) -> int:
        """What the real-time clock is advanced by."""
        ...
    def ram(self, size_bytes: int) -> Ram:
        """Checked: it fits into so much."""
    def basis(self, freeze: Callable[[], Any]) -> Basis | None:
        """What the next checkpoint of a machine may rest on that goes on from here.  `freeze`: its RAM."""


class Moment:
    """A machine as it stood, in memory: what copies go on from, in this process and others."""

    elapsed_s = 0

    def __init__(self, contents: Contents, path: Path, extents: Sequence[tuple[int, int, int, int]],
                 files: Any, frozen: Iterable[Frozen] = ()) -> None:
        """`extents`: of RAM (`_native.RamImage`).  `files`: what holds theirs open."""
        self.contents = contents
        self.path = path
        self.extents = list(extents)
        self._files = files
        self._frozen = list(frozen)

    def basis(self, freeze: Callable[[], Any]) -> None:
        """No file."""

    def ram(self, size_bytes: int) -> "Moment":
        return self                     # `adopt` checks

    def adopted_by(self, vm: Any) -> None:
        vm.adopt(self.extents)

    def __enter__(self) -> "Moment":
        return self

    def __exit__(self, *_: object) -> None:
        """The copies have opened their disks."""
        for each in self._frozen:
            each.drop()


# --- out ---


class Capture:
    """A machine as it stood: made in a moment, while it stands; written down afterwards."""

    def __init__(self, parts: Parts, path: Path, clock_ns: int, tsc: int) -> None:
        """Nothing is under way in the drives, and the caller holds the machine lock.

        `path`: the file it is for.  `tsc`: the guest's when it stopped.
        """
        self._parts = parts
        self._path = path
        self._slots = parts.media.slots()
        drives.check_slots(self._slots)
        images = parts.media.images()
        self._diskettes = {
            name: images[name].read(0, images[name].size_bytes)
            for name in images
            if name.startswith("floppy") and not images[name].read_only
        }
        self._contents = describe(parts, self._slots, clock_ns, tsc)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            self._image = parts.vm.freeze()
        except OSError as error:
            raise HostError(f"the machine's memory cannot be frozen: {error.strerror}") from error
        self._frozen = parts.media.freeze(path)

    def write(
        self, *, picture: bytes = b"", compress: bool = False, basis: Basis | None = None
    ) -> Basis | None:
        """Writes the checkpoint; the caller doesn't hold the machine lock.  `picture`: the screen's, PNG.

        `basis`: what it may rest on.  Returns what the next one may.
        """
        try:
            self._contents.media = self._media()
            with family.locked(self._path.parent):
                return self._write(picture, compress, basis)
        except BaseException as error:
            for frozen in self._frozen.values():
                frozen.drop()
            if isinstance(error, OSError):
                raise cannot_write(self._path, error) from error
            raise

    def moment(self) -> Moment:
        """For copies, instead of `write`."""
        try:
            self._contents.media = self._media()
        except BaseException:
            for frozen in self._frozen.values():
                frozen.drop()
            raise
        image = self._image
        return Moment(self._contents, self._path, image.extents, image, self._frozen.values())

    def _media(self) -> list[Medium]:
        """With all that was frozen on stable storage."""
        found = []
        for name in self._parts.media.images():
            facts = (self._frozen.get(name), self._diskettes.get(name))
            look = partial(drives.describe, name, self._slots[name], frozen=facts[0], data=facts[1])
            found.append(self._parts.media.settled(name, look))
        return found

    def _write(self, picture: bytes, compress: bool, basis: Basis | None) -> Basis:
        path, contents, image = self._path, self._contents, self._image
        contents.identity = os.urandom(IDENTITY_BYTES)
        if basis is not None:
            contents.ancestors = basis.ancestors_of(path)
        if basis is not None and not compress and basis.serves(path):
            contents.sources, inherited = basis.inherited()
            packed = Packed(image, image.changed_since(basis.image), inherited)
            contents.sources, packed.extents = family.in_use(contents.sources, packed.extents)
        else:
            packed = Packed(image, None)
        sections: dict[str, list[Buffer]] = {"machine": [msgspec.msgpack.encode(contents)]}
        if picture:
            sections["picture"] = [picture]
        if path.exists():
            family.free(path)
        write(path, sections | packed.sections, compress=compress)
        for frozen in self._frozen.values():
            frozen.keep()
        return Basis(path, contents, packed.extents, image, is_raw=not compress)


def describe(parts: Parts, slots: Mapping[str, drives.Slot], clock_ns: int, tsc: int) -> Contents:
    """All but what is in the drives."""
    config, kernel, initrd = written_down(drives.configured(parts.config, slots))
    initrd_path = initrd if isinstance(initrd, str) else ""
    cpu = parts.vcpu.state() | {"tsc": tsc}
    return Contents(
        ring3=ring3.__version__,
        name=parts.name,
        created_unix_s=time.time(),
        config=config,
        kernel=kernel,
        initrd=initrd if isinstance(initrd, bytes) else None,
        initrd_path=initrd_path,
        clock_ns=clock_ns,
        memory_bytes=parts.vm.ram_bytes,
        video_bytes=parts.vm.total_bytes - parts.vm.ram_bytes,
        processors=[Processor(cpu, features(parts.vcpu), parts.vcpu.tsc_hz)],
        devices={name: state.record(chip.state) for name, chip in parts.devices.items()},
        media=[],
        rom=parts.rom,
        option_roms=dict(parts.option_roms),
    )


def features(vcpu: Any) -> list[int]:
    found = []
    for leaf, subleaf, masks in FEATURES:
        values = vcpu.cpuid(leaf, subleaf)
        found += [value & mask for value, mask in zip(values, masks, strict=True)]
    return found


def written_down(config: MachineConfig) -> tuple[str, bytes | None, bytes | str | None]:
    """The machine file, and kernel and initrd if it can't name them.  Lines to objects become `memory`."""
    changes: dict[str, Any] = {}
    for name in LINES:
        lines = several(getattr(config, name))
        changes[name] = tuple(line if isinstance(line, str) else "memory" for line in lines)
    kernel = config.kernel if isinstance(config.kernel, bytes) else None
    initrd = None
    if kernel is not None or isinstance(config.initrd, bytes):
        changes |= {"kernel": None if kernel is not None else config.kernel, "initrd": None}
        initrd = config.initrd if isinstance(config.initrd, bytes | None) else str(os.fspath(config.initrd))
    return toml.dumps(toml.anchored(replace(config, changes), Path.cwd())), kernel, initrd


def config_of(contents: Contents, settings: Mapping[str, Any]) -> MachineConfig:
    """The machine's configuration, but for settings given anew."""
    files: dict[str, Any] = {}
    if contents.kernel is not None:
        files["kernel"] = contents.kernel
    if contents.initrd is not None or contents.initrd_path:
        files["initrd"] = contents.initrd if contents.initrd is not None else contents.initrd_path
    config, changes = toml.loads(contents.config, "checkpoint"), files | dict(settings)
    return replace(config, changes) if changes else config


# --- in ---


class Restorer:
    """What fits a machine; `restore` is called once."""

    def __init__(self, saved: Saved, parts: Parts, prepared: Any) -> None:
        """Checks all that can be without changing anything of the machine.

        `prepared`: its drives' contents (ring3.media.Prepared).
        """
        contents = saved.contents
        self._prepared = prepared
        self._path = saved.path
        self._elapsed_s = saved.elapsed_s
        self._contents = contents
        self._parts = parts
        size = contents.memory_bytes + contents.video_bytes
        self._fits("memory", contents.memory_bytes, parts.vm.ram_bytes)
        self._fits("video_memory", size, parts.vm.total_bytes)
        self._ram = saved.ram(size)
        if len(contents.processors) != 1:
            raise CheckpointError(f"{self._path}: the checkpoint is damaged: it has no processor")
        if contents.processors[0].features != features(parts.vcpu):
            raise CheckpointError(
                f"{self._path}: its guest knows another CPU than this host can offer: "
                "it needs the host where it was made, or one with a CPU like that"
            )
        strange = (contents.devices.keys() ^ parts.devices.keys()) - (LATER - contents.devices.keys())
        if strange:
            names = ", ".join(sorted(strange))
            raise CheckpointError(f"{self._path}: it is of another machine: only one of the two has {names}")
        self._states = {
            name: state.load(type(chip.state), contents.devices[name])
            for name, chip in parts.devices.items()
            if name in contents.devices
        }
        self._check_media()

    def _fits(self, what: str, saved: int, own: int) -> None:
        if saved != own:
            raise CheckpointError(f"{self._path}: {what} is {saved} bytes there and {own} bytes here")

    def _check_media(self) -> None:
        images, slots = self._prepared.images(), self._parts.media.slots()
        saved = {each.drive: each for each in self._contents.media}
        for name in saved.keys() | images.keys():
            if name not in images or name not in saved:
                raise CheckpointError(f"{self._path}: {name} was not as empty or full as it is now")
            drives.check(saved[name], slots[name], images[name], self._path)

    def restore(self) -> int:
        """The machine stands, its clock at `clock_ns`, and the caller holds the machine lock.

        Returns the guest's TSC.
        """
        parts, processor = self._parts, self._contents.processors[0]
        before = parts.vcpu.state()
        try:
            cpu = with_tuples(processor.state)
            parts.vcpu.set_state(cpu)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{self._path}: the CPU's state does not fit: {error}") from error
        try:
            self._restore_media()
        except OSError as error:
            parts.vcpu.set_state(before)
            raise HostError(f"{self._path}: the drives' contents: {error.strerror}") from error
        self._ram.adopted_by(parts.vm)
        for name, chip in reversed(list(parts.devices.items())):
            if name in self._states:
                chip.restore(self._states[name])
        if self._elapsed_s:
            parts.devices["rtc"].advance(self._elapsed_s)
        if "vga" in parts.devices:
            video = parts.devices["vga"].memory
            video.disarm()              # all of it is new
            video.signal()
        parts.vcpu.set_state(cpu)
        return int(processor.state["tsc"])

    def _restore_media(self) -> None:
        images = self._prepared.images()
        for medium in self._contents.media:
            image = images[medium.drive]
            if medium.data is not None and image.read(0, image.size_bytes) != medium.data:
                image.write(0, medium.data)
                image.flush()
        self._prepared.take(self._parts.devices)


def with_tuples(cpu: Mapping[str, Any]) -> dict[str, Any]:
    """As `set_state` wants it: msgpack made lists of tuples."""
    pairs = {name: tuple(cpu[name]) for name in ("gdtr", "idtr")}
    rows = {name: [tuple(row) for row in cpu[name]] for name in ("segments", "messages")}
    return {**cpu, **pairs, **rows}


class SavedFile:
    """An open checkpoint, all of it checked."""

    def __init__(self, path: Path, clock: str = "keep") -> None:
        self.path = path
        self.reader, self.contents, self._sources = family.read(path)
        try:
            self.elapsed_s = elapsed(self.contents, clock)
            self._extents = Extents(self.reader, self._ram_bytes(), self._sources)
        except BaseException:
            self.close()
            raise

    def _ram_bytes(self) -> int:
        return self.contents.memory_bytes + self.contents.video_bytes

    def ram(self, size_bytes: int) -> Extents:
        return self._extents            # the Restorer has compared the sizes

    def basis(self, freeze: Callable[[], Any]) -> Basis:
        """What the next checkpoint of a machine may rest on that goes on from here.  `freeze`: its RAM."""
        is_raw = self.reader.place("pages") is not None
        return Basis(self.path, self.contents, self._extents.list, freeze(), is_raw=is_raw)

    def close(self) -> None:
        for each in (self.reader, *self._sources):
            each.close()

    def __enter__(self) -> "SavedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listed(path: Path) -> Contents:
    """What a checkpoint says of its machine; nothing else of the file is looked at."""
    with Reader(path, only="machine") as reader:
        found: Contents = reader.record("machine", Contents)
        return found


def layers(contents: Contents, config: MachineConfig, path: Path) -> dict[str, Place]:
    """The files that a machine's disks go on from; the checkpoint is in `path`."""
    disks = {f"disk{n}": slot for n, slot in enumerate(config.disks)}
    found = {
        medium.drive: drives.layer_of(medium, disks[medium.drive], path)
        for medium in contents.media
        if medium.drive in disks
    }
    return {name: layer for name, layer in found.items() if layer is not None}


def slots(contents: Contents, now: Mapping[str, drives.Slot]) -> dict[str, drives.Slot]:
    """What is to be in the drives that have something else now."""
    saved = {medium.drive: medium for medium in contents.media}
    return {name: drives.wanted(saved.get(name), slot) for name, slot in now.items()}


def remove(path: Path, images: Iterable[Any] = ()) -> None:
    """Removes a checkpoint, and what of disks nobody needs any more; others that rest on it get its pages.

    `images`: of disks, in case that the checkpoint is too damaged to say.  Stopped anywhere, it can be done
    again.
    """
    disks = {f"disk{n}": image for n, image in enumerate(images)}
    with contextlib.suppress(CheckpointError):
        disks |= {each.drive: each.path for each in listed(path).media if each.layer is not None}
    stores = [Store(path.absolute().parent, name) for name in disks]
    stores += [store_of(real(image)) for image in disks.values()]
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    with family.locked(path.absolute().parent):
        family.free(path)
        for store in stores:
            store.doubt(path)
        path.unlink()
    for store in stores:
        store.collect()


def elapsed(contents: Contents, policy: str) -> int:
    """Seconds to advance the real-time clock by: `host` has it right, `keep` goes on where it stopped."""
    if policy not in ("host", "keep"):
        raise ConfigError(f"clock: {policy!r} is none of host, keep")
    return max(0, round(time.time() - contents.created_unix_s)) if policy == "host" else 0
