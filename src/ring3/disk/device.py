"""Block devices of the host as disks: whether somebody else uses one, which would ruin it.

A device is taken by opening it exclusively (O_EXCL, open(2)), which the kernel refuses while it or a part of
it is mounted, swapped to or held by another driver, and which keeps others from mounting it while a machine
runs.  What is said about it comes from /proc and /sys.
"""

import contextlib
import os
from pathlib import Path

from ring3.errors import ConfigError

ANYWAY = "use-it-anyway"                # the words that force it
SYS = Path("/sys/class/block")


def claim(
    path: Path, words: str = "", *, shared: bool = False, setting: str = "disk"
) -> int | None:
    """A descriptor that holds the device until it is closed; None: it is none, or was forced.

    `words`: ANYWAY, if the user knows better.  `shared`: it will only be read, perhaps by several machines,
    so nothing is held.
    """
    if words not in ("", ANYWAY):
        raise ConfigError(f"{setting}: {path}: {words!r} forces nothing: the words are {ANYWAY}")
    if not path.is_block_device():
        return None
    reason = user_of(path)
    if reason is None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
            if not shared:
                return fd
            os.close(fd)
            return None
        except OSError as error:
            reason = f"in use ({error.strerror})"
    if words == ANYWAY:
        return None
    raise ConfigError(f"{setting}: {path} is {reason}: give another, or add force={ANYWAY} and risk its data")


def user_of(path: Path) -> str | None:
    """Who uses a device, one of its partitions, or the disk that it is a partition of."""
    number = os.stat(path).st_rdev
    names = set(related(number))
    numbers = {number_of(name) for name in names} | {f"{os.major(number)}:{os.minor(number)}"}
    for line in lines("/proc/self/mountinfo"):
        fields = line.split()
        if len(fields) > 4 and fields[2] in numbers:
            return f"mounted at {fields[4]}"
    for line in lines("/proc/swaps")[1:]:
        with contextlib.suppress(OSError, IndexError):
            device = os.stat(line.split()[0]).st_rdev
            if f"{os.major(device)}:{os.minor(device)}" in numbers:
                return "swapped to"
    for name in sorted(names):
        with contextlib.suppress(OSError):
            holders = os.listdir(SYS / name / "holders")
            if holders:
                return f"held by {holders[0]}"
    return None


def related(number: int) -> list[str]:
    """Names of the device and of its partitions."""
    link = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    try:
        directory = link.resolve(strict=True)
        parts = [each.name for each in directory.iterdir() if (each / "partition").exists()]
    except OSError:
        return []
    return [directory.name, *parts]


def number_of(name: str) -> str:
    try:
        return (SYS / name / "dev").read_text().strip()
    except OSError:
        return ""


def lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
