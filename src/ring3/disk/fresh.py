"""A new file that gets its name when it is whole: who dies before that leaves nothing behind.

It is opened without a name (O_TMPFILE, open(2)); a file system that has no such files gets a hidden one.
"""

import contextlib
import errno
import os
import secrets
from pathlib import Path

from ring3.errors import ConfigError

UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


class Fresh:
    """`path` opens it again, as long as this object is open."""

    def __init__(self, directory: Path) -> None:
        self._hidden: Path | None = None
        try:
            self.fd = _open(directory)
        except OSError as error:
            if error.errno not in UNSUPPORTED or not directory.is_dir():
                raise ConfigError(
                    f"disk: {directory}: {error.strerror}: give a directory that can be written"
                ) from error
            self._hidden = directory / f".ring3-{secrets.token_hex(8)}"
            self.fd = os.open(self._hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.path = Path(f"/proc/self/fd/{self.fd}")

    def name(self, path: Path, *, replace: bool = False) -> None:
        """What was written is on stable storage under this name; `replace`: in the place of what is there."""
        os.fsync(self.fd)
        self.link(path, replace=replace)
        sync_directory(path.parent)

    def link(self, path: Path, *, replace: bool = False) -> None:
        """As `name`, without waiting for the host's disk."""
        if replace:
            between = path.with_name(f".{path.name}.new")
            between.unlink(missing_ok=True)         # of one who was killed right here
            self._link(between)
            os.replace(between, path)
            return
        try:
            self._link(path)
        except FileExistsError:
            raise ConfigError(f"disk: {path} exists already: give another name") from None

    def _link(self, path: Path) -> None:
        if self._hidden is not None:
            os.link(self._hidden, path)
        else:
            # Through a directory's descriptor: only so does the call follow the link in /proc.
            proc = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.link(str(self.fd), path, src_dir_fd=proc, follow_symlinks=True)
            finally:
                os.close(proc)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            if self._hidden is not None:
                self._hidden.unlink(missing_ok=True)

    def __enter__(self) -> "Fresh":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(directory: Path) -> int:
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)


def sync_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # a file system that cannot
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
