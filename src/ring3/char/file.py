"""`file:PATH`: what the guest sends goes to a file; it has nothing to read."""

import os

from ring3.char.outlet import Sink
from ring3.errors import ConfigError


class File(Sink):
    def __init__(self, path: str, setting: str = "serial") -> None:
        try:
            # A FIFO without a reader would hold the open up: take it for reading, too, as Linux lets us.
            flags = os.O_RDWR if os.path.exists(path) and not os.path.isfile(path) else os.O_WRONLY
            fd = os.open(path, flags | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"{setting} file:{path}: {error.strerror}; give a writable path") from error
        super().__init__(fd)
