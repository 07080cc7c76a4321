"""Character backends: where the bytes of a serial port come from and go to on the host.

A device knows only `CharBackend`; which class stands behind it is the board's business.

Threads: `write` and `room` come from whichever thread runs the device (a vCPU's or the event loop's, under
the machine lock).  `receive` is always called from the event loop's thread, never from inside `write` or
`room`; who passes it takes the machine lock in it.  Lock order: machine lock, then a backend's own.
Nothing here waits without bound, so a stuck terminal or pipe cannot stop the guest.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from ring3.errors import ConfigError

if TYPE_CHECKING:
    import asyncio

Receive = Callable[[bytes], int]        # (data) -> how many of the first bytes the device took

SPECS = ("stdio", "pty", "file:PATH", "socket:PATH", "none")


class CharBackend(Protocol):
    """The host's end of a serial line."""

    def attach(self, loop: "asyncio.AbstractEventLoop", receive: Receive) -> None:
        """Starts it: from now on input is offered through `receive`, in `loop`'s thread."""

    def write(self, data: bytes) -> None:
        """Bytes the guest sent.  Returns at once, or after a bounded wait when the host is slow."""

    def room(self) -> None:
        """The device can take input again; cheap when none is waiting."""

    def close(self) -> None:
        """Hands out what is still buffered (waiting a bounded time) and gives back what the host lent."""


class NoBackend:
    """`none`: nothing is connected."""

    def attach(self, loop: "asyncio.AbstractEventLoop", receive: Receive) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass

    def room(self) -> None:
        pass

    def close(self) -> None:
        pass


def open_backend(spec: str, menu: "Mapping[str, Callable[[], None]] | None" = None) -> CharBackend:
    """The backend that `stdio`, `pty`, `file:PATH`, `socket:PATH`, `none` or, for programs, `memory` names.

    `menu` has what the keys after Ctrl-] do under `stdio` (see ring3.char.stdio).
    """
    kind, colon, path = spec.partition(":")
    if (kind in ("file", "socket")) != bool(path) or (colon and not path):
        raise ConfigError(f"serial {spec!r}: give one of {', '.join(SPECS)}")
    match kind:
        case "none":
            return NoBackend()
        case "memory":
            from ring3.char.memory import MemoryBackend
            return MemoryBackend()
        case "stdio":
            from ring3.char.stdio import Stdio
            return Stdio(menu or {})
        case "pty":
            from ring3.char.pty import Pty
            return Pty()
        case "file":
            from ring3.char.file import File
            return File(path)
        case "socket":
            from ring3.char.socket import UnixSocket
            return UnixSocket(path)
    raise ConfigError(f"serial {spec!r}: give one of {', '.join(SPECS)}")
