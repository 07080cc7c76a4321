"""Disk images on the host's side, without a guest: what formats and modes cost beside a raw file.

    bench/images.py [--directory DIR] [--rounds N] [--request KIB]

A round does everything once, in turn, so that what else the host does meets all alike; the best of a kind
counts, by wall clock and by CPU time of this process, the kernel's work in it included.  Everything stays in
the page cache: writes end with a flush where DIR is in memory (default /dev/shm).
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ring3.disk import create_image
from ring3.disk.modes import Layers, Mode, discard, open_disk

SIZE = 256 << 20
Work = Callable[[Layers, bytes], None]      # in requests as long as these bytes


def write(disk: Layers, data: bytes) -> None:
    """All of it, and to the host's disk."""
    for offset in range(0, SIZE, len(data)):
        disk.write(offset, data)
    disk.flush()


def read(disk: Layers, data: bytes) -> None:
    for offset in range(0, SIZE, len(data)):
        disk.read(offset, len(data))


def read_now(disk: Layers, data: bytes) -> None:
    for offset in range(0, SIZE, len(data)):
        if disk.read_now(offset, len(data)) is None:
            disk.read(offset, len(data))


def measured(data: bytes, path: Path, mode: Mode, work: Work) -> tuple[float, float]:
    """Seconds of wall clock and of CPU, without opening the image."""
    disk = open_disk(path, mode)
    wall, cpu = time.perf_counter(), time.process_time()
    work(disk, data)
    spent = time.perf_counter() - wall, time.process_time() - cpu
    disk.close()
    return spent


def fresh(path: Path) -> None:
    """A file without data: what an overlay is compared with takes new space as well."""
    path.unlink(missing_ok=True)
    create_image(path, SIZE, "raw")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--request", type=int, default=256, metavar="KIB")
    options = parser.parse_args()
    data = os.urandom(options.request << 10)
    with tempfile.TemporaryDirectory(dir=options.directory) as where:
        raw, base, qcow2 = (Path(where) / name for name in ("raw", "base", "qcow2"))
        fresh(base)
        create_image(qcow2, SIZE, "qcow2")
        measured(data, qcow2, "persistent", write)
        kinds: dict[str, tuple[Path, Mode, Work]] = {
            "write raw": (raw, "persistent", write),
            "write undoable": (base, "undoable", write),
            "write raw again": (raw, "persistent", write),
            "write undoable again": (base, "undoable", write),
            "write qcow2 again": (qcow2, "persistent", write),
            "read raw": (raw, "persistent", read),
            "read raw at once": (raw, "persistent", read_now),
            "read qcow2": (qcow2, "persistent", read),
            "read qcow2 at once": (qcow2, "persistent", read_now),
            "read undoable": (base, "undoable", read),
        }
        best: dict[str, tuple[float, float]] = {}
        for _ in range(options.rounds):
            fresh(raw)
            for kind, arguments in kinds.items():
                wall, cpu = measured(data, *arguments)
                before = best.get(kind, (wall, cpu))
                best[kind] = min(wall, before[0]), min(cpu, before[1])
            discard(base)
    for kind, (wall, cpu) in best.items():
        print(f"{kind:22} {SIZE / wall / 1e9:6.2f} GB/s   {SIZE / cpu / 1e9:6.2f} GB per CPU second")
    for kind in "write undoable", "write undoable again":
        raw_wall, raw_cpu = best[kind.replace("undoable", "raw")]
        wall, cpu = best[kind]
        print(f"overhead: {kind:22} {wall / raw_wall - 1:+6.1%}   {cpu / raw_cpu - 1:+6.1%} CPU")


if __name__ == "__main__":
    main()
