"""A machine that stands still into a checkpoint, and out of it.

Order of a restore: everything is read and checked, then the CPU (which may refuse), RAM, and the chips from
the last one built to the first.  Chips drive their interrupt lines as they are restored; interrupt
controllers, which were built first, take in their own memory of the lines after that, and the CPU's state,
once more, is last, because it holds what is pending.

The clock goes on where it stopped, so a timer's deadline is as far away as it was: no burst, whenever the
machine is restored.
"""

import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import msgspec
import xxhash

from ring3 import state
from ring3.checkpoint.contents import Contents, Medium, Processor
from ring3.checkpoint.format import Buffer, Reader, write
from ring3.checkpoint.pages import Extents, Packed
from ring3.config import MachineConfig, replace, toml
from ring3.config.text import several
from ring3.disk import Image
from ring3.errors import CheckpointError, ConfigError

VERSION = version("ring3")
HEAD_BYTES = 1 << 20                    # of an image that are hashed
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
    def images(self) -> Mapping[str, Image]:
        """What is in the drives."""
        ...
    @property
    def rom(self) -> bytes | None: ...
    @property
    def option_roms(self) -> Mapping[str, bytes]: ...


# --- out ---


def save(
    parts: Parts, path: Path, clock_ns: int, tsc: int, *, picture: bytes = b"", compress: bool = False
) -> None:
    """Writes the checkpoint of a machine that stands; the caller holds the machine lock.

    `tsc`: the guest's when it stopped.  `picture`: a PNG of its screen.
    """
    check_media(parts.config, parts.images)
    image = parts.vm.freeze()
    packed = Packed(memoryview(image), [(start, length) for start, length, *_ in image.extents])
    contents = describe(parts, clock_ns, tsc)
    sections: dict[str, list[Buffer]] = {"machine": [msgspec.msgpack.encode(contents)]}
    if picture:
        sections["picture"] = [picture]
    sections |= {"extents": [packed.table], "pages": packed.pieces}
    write(path, sections, compress=compress)


def describe(parts: Parts, clock_ns: int, tsc: int) -> Contents:
    config, kernel, initrd = written_down(parts.config)
    initrd_path = initrd if isinstance(initrd, str) else ""
    cpu = parts.vcpu.state() | {"tsc": tsc}
    return Contents(
        ring3=VERSION,
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
        media=[medium(name, image, parts.config) for name, image in parts.images.items()],
        rom=parts.rom,
        option_roms=dict(parts.option_roms),
    )


def check_media(config: MachineConfig, images: Mapping[str, Any]) -> None:
    """What a guest could change, or nobody could open again, is refused."""
    for name, image in images.items():
        if hasattr(slot(name, config).path, "read"):
            raise ConfigError(f"{name}: an object of this program can't be in a checkpoint: give a file")
        if not image.read_only:
            raise ConfigError(
                f"{name}: a checkpoint does not hold what is written to a disk: give {name} as PATH,readonly"
            )


def slot(name: str, config: MachineConfig) -> Any:
    drives: Mapping[str, Any] = {"disk": config.disks, "cdrom": config.cdroms, "floppy": config.floppies}
    kind = name.rstrip("0123456789")
    return drives[kind][int(name[len(kind):])]


def medium(name: str, image: Any, config: MachineConfig) -> Medium:
    head = image.read(0, min(HEAD_BYTES, image.size_bytes))
    path = os.fspath(slot(name, config).path)
    return Medium(name, str(path), image.size_bytes, xxhash.xxh3_128_digest(head))


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
    return replace(toml.loads(contents.config, "checkpoint"), files | dict(settings))


# --- in ---


class Restorer:
    """A checkpoint that fits a machine; `restore` is called once."""

    def __init__(self, reader: Reader, contents: Contents, parts: Parts) -> None:
        """Checks all that can be without changing anything of the machine."""
        self._reader = reader
        self._contents = contents
        self._parts = parts
        size = contents.memory_bytes + contents.video_bytes
        self._fits("memory", contents.memory_bytes, parts.vm.ram_bytes)
        self._fits("video_memory", size, parts.vm.total_bytes)
        self._extents = Extents(reader, size)
        if len(contents.processors) != 1:
            raise reader.damaged("it has no processor")
        if contents.processors[0].features != features(parts.vcpu):
            raise CheckpointError(
                f"{reader.path}: its guest knows another CPU than this host can offer: "
                "it needs the host where it was made, or one with a CPU like that"
            )
        strange = contents.devices.keys() ^ parts.devices.keys()
        if strange:
            names = ", ".join(sorted(strange))
            raise CheckpointError(f"{reader.path}: it is of another machine: only one of the two has {names}")
        self._states = {
            name: state.load(type(chip.state), contents.devices[name])
            for name, chip in parts.devices.items()
        }
        self._check_media()

    def _fits(self, what: str, saved: int, own: int) -> None:
        if saved != own:
            raise CheckpointError(f"{self._reader.path}: {what} is {saved} bytes there and {own} bytes here")

    def _check_media(self) -> None:
        images = self._parts.images
        saved = {each.drive: each for each in self._contents.media}
        for name in saved.keys() | images.keys():
            if name not in images or name not in saved:
                raise CheckpointError(f"{self._reader.path}: {name} was not as empty or full as it is now")
            there, here = saved[name], medium(name, images[name], self._parts.config)
            if (there.size_bytes, there.head_hash) != (here.size_bytes, here.head_hash):
                raise CheckpointError(
                    f"{self._reader.path}: {name}: {here.path} is not the image that was there: {there.path}"
                )

    def restore(self, elapsed_s: int) -> int:
        """The machine stands, its clock at `clock_ns`, and the caller holds the machine lock.

        `elapsed_s`: what the real-time clock is advanced by.  Returns the guest's TSC.
        """
        parts, processor = self._parts, self._contents.processors[0]
        try:
            cpu = with_tuples(processor.state)
            parts.vcpu.set_state(cpu)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{self._reader.path}: the CPU's state does not fit: {error}") from error
        self._extents.adopted_by(parts.vm)
        for name, chip in reversed(list(parts.devices.items())):
            chip.restore(self._states[name])
        if elapsed_s:
            parts.devices["rtc"].advance(elapsed_s)
        if "vga" in parts.devices:
            video = parts.devices["vga"].memory
            video.disarm()              # all of it is new
            video.signal()
        parts.vcpu.set_state(cpu)
        return int(processor.state["tsc"])


def with_tuples(cpu: Mapping[str, Any]) -> dict[str, Any]:
    """As `set_state` wants it: msgpack made lists of tuples."""
    pairs = {name: tuple(cpu[name]) for name in ("gdtr", "idtr")}
    rows = {name: [tuple(row) for row in cpu[name]] for name in ("segments", "messages")}
    return {**cpu, **pairs, **rows}


def read(path: Path) -> tuple[Reader, Contents]:
    """The whole checkpoint, checked."""
    reader = Reader(path)
    try:
        return reader, reader.record("machine", Contents)
    except BaseException:
        reader.close()
        raise


def listed(path: Path) -> Contents:
    """What a checkpoint says of its machine; nothing else of the file is looked at."""
    with Reader(path, only="machine") as reader:
        found: Contents = reader.record("machine", Contents)
        return found


def elapsed(contents: Contents, policy: str) -> int:
    """Seconds to advance the real-time clock by: `host` has it right, `keep` goes on where it stopped."""
    if policy not in ("host", "keep"):
        raise ConfigError(f"clock: {policy!r} is none of host, keep")
    return max(0, round(time.time() - contents.created_unix_s)) if policy == "host" else 0
