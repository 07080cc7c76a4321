"""A lock on a file that belongs to an open file description: it ends with its process, killed or not.

Not flock(2), because asking whether flock's is held means taking it, and a machine that starts at that moment
would be told that it runs already; here F_OFD_GETLK asks (fcntl(2), "Open file description locks").
"""

import fcntl
import os
import struct
from pathlib import Path

NAME = "lock"                           # of the file in a machine's directory

FLOCK = "hhqqi4x"                       # struct flock of 64-bit Linux: type, whence, start, length, pid
WHOLE_FILE = (os.SEEK_SET, 0, 0, 0)


class Lock:
    """Held from `hold` to `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def hold(self) -> bool:
        """False if another holds it."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(FLOCK, fcntl.F_WRLCK, *WHOLE_FILE))
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    @property
    def current(self) -> bool:
        """The file is still the one that its path names."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except OSError:
            return False

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def held(path: Path) -> bool:
    """Whether somebody holds it; a file that isn't there is held by nobody."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack(FLOCK, fcntl.F_WRLCK, *WHOLE_FILE))
    finally:
        os.close(fd)
    return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)
