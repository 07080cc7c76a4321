"""Directories of layers that a machine and its copies share, among temporary files.

The machine holds a shared lock (flock(2)) on its directory from before there is anything in it to its end,
and what copies use of it is locked as every image is.  So where the lock can be had alone no machine will
put anything there any more: what nobody uses goes, and the directory, once it is empty.
"""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from ring3.disk.store import Store

PREFIX = "ring3-layers-"


class SharedLayers:
    """The directory of one machine; it need not be there before `hold`."""

    def __init__(self, scratch: Path) -> None:
        self.path = scratch / f"{PREFIX}{secrets.token_hex(8)}"
        self._fd = -1

    def hold(self) -> None:
        """Makes it, and removes those that machines have left that were killed."""
        if self._fd >= 0:
            return
        remove_left(self.path.parent)
        while not self._held():         # who looks for those that are left may have taken it for one
            pass

    def _held(self) -> bool:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                    self._fd, fd = fd, -1
        finally:
            if fd >= 0:
                os.close(fd)
        return self._fd >= 0

    def close(self) -> None:
        """It stays as long as there is something in it."""
        with contextlib.suppress(OSError):
            self.path.rmdir()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def remove_left(scratch: Path) -> None:
    """What is left there of this user's machines, as far as nobody uses it."""
    with contextlib.suppress(OSError):
        for name in os.listdir(scratch):
            if name.startswith(PREFIX):
                remove_if_left(scratch / name)


def remove_if_left(path: Path) -> None:
    """Unless its machine still runs, or anybody uses something there."""
    with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened.callback(os.close, fd)
        if os.fstat(fd).st_uid != os.geteuid():
            return
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for drive in {name.split(".")[0] for name in os.listdir(path)}:
            Store(path, drive).collect()
        path.rmdir()
