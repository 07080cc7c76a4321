"""What tests/disk kill: WHAT DIRECTORY SEED [URL]; it says `go` and works until it is done."""

import random
import sys
from pathlib import Path

from ring3.disk import create_image, modes, open_image, tools

SIZE = 24 << 20


def grow(directory: Path, rng: random.Random) -> None:
    """An overlay that a guest fills, with flushes."""
    disk = modes.open_disk(directory / "base.img", "undoable")
    while True:
        disk.write(rng.randrange(SIZE - 100_000), rng.randbytes(rng.randrange(1, 100_000)))
        if not rng.randrange(4):
            disk.flush()


def commit(directory: Path, rng: random.Random) -> None:
    modes.keep(directory / "base.img")


def convert(directory: Path, rng: random.Random) -> None:
    source = open_image(directory / "base.img", read_only=True)
    tools.convert(source, directory / "converted", rng.choice(["raw", "qcow2", "vmdk"]))


def create(directory: Path, rng: random.Random) -> None:
    for number in range(1000):
        create_image(directory / f"created{number}", 1 << 40, "qcow2")


def freeze(directory: Path, rng: random.Random) -> None:
    """Checkpoints, as far as the disk knows; every third is never finished."""
    disk = modes.open_disk(directory / "base.img", "undoable")
    for number in range(modes.LAYERS_MAX):
        disk.write(rng.randrange(SIZE - 1000), rng.randbytes(1000))
        checkpoint = directory / f"{number}.ring3"
        frozen = disk.freeze(checkpoint)
        if number % 3:
            disk.settle()
            (directory / f"{number}.names").write_text(frozen.layer.name)
            checkpoint.touch()
            for pin in frozen.pins:
                pin.keep()


def fetch(directory: Path, rng: random.Random) -> None:
    """All of a remote image, here and there."""
    image = open_image(sys.argv[4], read_only=True)
    while True:
        offset = rng.randrange(image.size_bytes)
        image.read(offset, min(rng.randrange(1, 300_000), image.size_bytes - offset))


if __name__ == "__main__":
    what, directory, seed = sys.argv[1:4]
    print("go", flush=True)
    globals()[what](Path(directory), random.Random(int(seed)))
