"""What guests/test_checkpoint_killed.py kills: DIRECTORY SEED; it says `go`, makes and removes checkpoints.

The machine's memory and its disk hold the same number, which grows from checkpoint to checkpoint.
"""

import contextlib
import random
import sys
from pathlib import Path

import ring3
from ring3 import Machine
from ring3.errors import VmError

EMBEDDED = Path(ring3.__file__).with_name("firmware") / "embedded_guest.bin"
MEMORY_AT, DISK_AT = 4 << 20, 64 << 10
TAGS = "abcd"


def machine(directory: Path) -> Machine:
    disk = f"{directory / 'disk.img'},bus=virtio"
    return Machine(kernel=EMBEDDED, memory="8M", disk=disk, checkpoints=directory / "checkpoints")


def number_of(vm: Machine) -> tuple[int, int]:
    """In memory, and on the disk."""
    disk = vm.media.images()["disk0"].read(DISK_AT, 8)
    return int.from_bytes(vm.memory.read(MEMORY_AT, 8), "little"), int.from_bytes(disk, "little")


def work(directory: Path, rng: random.Random) -> None:
    vm = machine(directory)
    print("go", flush=True)
    for number in range(1, 1_000_000):
        vm.memory.write(MEMORY_AT, number.to_bytes(8, "little") + rng.randbytes(rng.randrange(300_000)))
        disk = vm.media.images()["disk0"]
        disk.write(DISK_AT, number.to_bytes(8, "little") + rng.randbytes(rng.randrange(100_000)))
        vm.checkpoint(rng.choice(TAGS))
        with contextlib.suppress(VmError):              # there is no such checkpoint
            if not rng.randrange(3):
                vm.remove_checkpoint(rng.choice(TAGS))
            elif not rng.randrange(3):
                vm.restore(rng.choice(TAGS))


if __name__ == "__main__":
    work(Path(sys.argv[1]), random.Random(int(sys.argv[2])))
