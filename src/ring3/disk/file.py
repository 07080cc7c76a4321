"""A file or block device of the host that holds an image: opened, locked, read and written at offsets.

Locks.  Two machines that write to one image ruin it, so an opened image is locked by open file description
locks (fcntl(2)): they vanish with the process, however that ends, and belong to the opening, not to the
process.  A writer locks the whole file.  A reader locks two bytes only, so that readers don't meet; the bytes
are those by which QEMU tells that it reads and that it bears no writer, and a third is looked at by which it
tells that it writes.  So the two refuse each other's images where they must.  File systems without locks are
taken as they are.
"""

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Hashable
from pathlib import Path
from typing import Protocol

from ring3.config.places import Place
from ring3.errors import ConfigError

READS, WRITES, BEARS_NO_WRITER = 100, 101, 201      # bytes of the file that stand for it
LOCK_REFUSED = (errno.EAGAIN, errno.EACCES)
FLOCK = "hhqqi4x"                                   # struct flock: type, whence, start, length, pid
PUNCH_HOLE, KEEP_SIZE = 0x02, 0x01                  # fallocate(2)
READ_MAX = 1 << 30                                  # bytes: the kernel ends a longer read short
NOW_MAX = 1 << 20                                   # bytes that a read at once may have

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class File(Protocol):
    """What an image format reads from and writes to: a HostFile, or one of ring3.disk.remote."""

    @property
    def path(self) -> Place: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def identity(self) -> Hashable:
        """The same for all openings of one file."""

    @property
    def host_bytes(self) -> int:
        """What it takes on the host."""

    def read(self, offset: int, length: int) -> bytes: ...
    def read_now(self, offset: int, length: int) -> bytes | None: ...
    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None: ...
    def flush(self) -> None: ...
    def punch(self, offset: int, length: int) -> bool: ...
    def data_at(self, offset: int) -> int | None: ...
    def hole_at(self, offset: int) -> int: ...
    def close(self) -> None: ...


class HostFile:
    """Bytes past the file's end read as zeros; writing there makes it grow."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool, setting: str = "disk") -> None:
        """`setting`: whose mistake a message speaks of."""
        self.path = Path(path)
        self.read_only = read_only
        self._scratch = memoryview(bytearray(NOW_MAX))
        self.fd = _open(path, read_only, setting)
        try:
            _lock(self.fd, read_only, f"{setting}: {path}")
            self.size_bytes = os.lseek(self.fd, 0, os.SEEK_END)
        except BaseException:
            os.close(self.fd)
            raise

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self.fd, min(length, READ_MAX), offset)
        except OverflowError:           # a damaged image's idea of where its data is
            raise OSError(errno.EIO, f"the image is damaged: it refers to byte {offset}") from None
        if len(data) == length:
            return data
        parts = [data]
        left = length - len(data)
        while left and data:
            offset += len(data)
            data = os.pread(self.fd, min(left, READ_MAX), offset)
            parts.append(data)
            left -= len(data)
        return b"".join(parts) + bytes(left)

    def read_now(self, offset: int, length: int) -> bytes | None:
        """From the host's page cache, if all of it is there."""
        if length > NOW_MAX:
            return None
        scratch = self._scratch[:length]            # fresh memory each time would cost more than the copy
        try:
            count = os.preadv(self.fd, [scratch], offset, os.RWF_NOWAIT)
        except OSError:                             # EAGAIN: not there; or a file system that cannot tell
            return None
        if count == length:
            return bytes(scratch)
        if offset + count < self.size_bytes:
            return None
        return bytes(scratch[:count]) + bytes(length - count)

    def in_file(self, offset: int, length: int) -> tuple[int, int] | None:
        if length > NOW_MAX or offset + length > self.size_bytes:
            return None
        return self.fd, offset

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        end = offset + len(view)
        while view:
            count = os.pwrite(self.fd, view, offset)
            offset += count
            view = view[count:]
        self.size_bytes = max(self.size_bytes, end)

    def flush(self) -> None:
        os.fdatasync(self.fd)

    def punch(self, offset: int, length: int) -> bool:
        """Gives the space back to the host; the bytes then read as zeros.  False: the host cannot."""
        while _libc.fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length):
            error = ctypes.get_errno()
            if error != errno.EINTR:
                return False
        return True

    def data_at(self, offset: int) -> int | None:
        """Where the next bytes that may not be zeros begin; None: there are none."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            return None if error.errno == errno.ENXIO else offset

    def hole_at(self, offset: int) -> int:
        """Where the next hole begins, or the file ends."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_HOLE)
        except OSError:
            return self.size_bytes

    def share(self) -> None:
        """It is only read from now on: other readers may come."""
        self.read_only = True
        try:
            _ofd(self.fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, READS, 1)
            _ofd(self.fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, BEARS_NO_WRITER, 1)
            between = BEARS_NO_WRITER - READS - 1
            for start, length in ((0, READS), (READS + 1, between), (BEARS_NO_WRITER + 1, 0)):
                _ofd(self.fd, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, start, length)
        except OSError:                 # a file system without locks
            return

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)
        self.size_bytes = size

    @property
    def identity(self) -> Hashable:
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    @property
    def host_bytes(self) -> int:
        return os.fstat(self.fd).st_blocks * 512

    @property
    def closed(self) -> bool:
        return self.fd < 0

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _open(path: str | os.PathLike[str], read_only: bool, setting: str) -> int:
    flags = os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDONLY if read_only else os.O_RDWR)
    try:
        fd = os.open(path, flags)                   # O_NONBLOCK: a FIFO must not hold us
    except FileNotFoundError:
        raise ConfigError(f"{setting}: {path}: no such file: give the path of a disk image") from None
    except IsADirectoryError:
        raise ConfigError(f"{setting}: {path} is a directory: give the path of a disk image") from None
    except (PermissionError, OSError) as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ETXTBSY) and not read_only:
            if os.access(path, os.R_OK):
                remedy = "make it writable, or attach it read-only"
                raise ConfigError(f"{setting}: {path} cannot be written: {remedy}") from error
        reason = error.strerror or str(error)
        raise ConfigError(f"{setting}: {path}: {reason}: give the path of a readable image") from error
    except ValueError as error:                     # a NUL in the path
        raise ConfigError(f"{setting}: {str(path)!r} is no path ({error})") from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        os.close(fd)
        what = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a block device"
        raise ConfigError(f"{setting}: {path} is {what}: give the path of a disk image")
    return fd


def _lock(fd: int, read_only: bool, name: str) -> None:
    try:
        if not read_only:
            _ofd(fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, 0, 0)
            return
        _ofd(fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, READS, 1)
        _ofd(fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, BEARS_NO_WRITER, 1)
        writer = _ofd(fd, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, WRITES, 1) != fcntl.F_UNLCK
    except OSError as error:
        if error.errno not in LOCK_REFUSED:
            return
        writer = True
    if writer:
        raise ConfigError(f"{name} is in use by another machine: stop that one, or give this one a copy")


def _ofd(fd: int, command: int, kind: int, start: int, length: int) -> int:
    """One fcntl on a range; length 0: to the end.  The kind of lock it answers with."""
    answer = fcntl.fcntl(fd, command, struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0))
    return int(struct.unpack(FLOCK, answer)[0])
