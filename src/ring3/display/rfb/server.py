"""`--display vnc`: RFB on a TCP port or a Unix socket.

The socket is bound when the server is made, so that a port that is taken is a user's mistake in one line; it
listens from `start` on.  Where others could connect (any address but loopback) a password is wanted: the
user's, or one made here and shown with the address.
"""

import asyncio
import contextlib
import ipaddress
import os
import re
import secrets
import socket
import stat
from dataclasses import dataclass
from typing import Any, cast

from ring3.display.rfb.hub import Hub, Viewer
from ring3.display.rfb.session import Denied, Event
from ring3.errors import ConfigError

PORTS = range(5900, 6000)               # tried in this order where none is named
BACKLOG = 8
HANDSHAKE_S = 20.0                      # a viewer that hasn't joined by then is dropped
WAITING_MAX = 16                        # connections that haven't joined
HIGH_WATER = 1 << 18                    # bytes on their way to a viewer above which it gets no update
PASSWORD_MAX = 8                        # characters: what VNC authentication uses
LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"            # easily told apart
FAILURES_MAX = 5                        # wrong passwords from one address before it has to wait …
PENALTY_S = 10.0                        # … so long after the last one
ADDRESSES_MAX = 256                     # addresses remembered for that


@dataclass(frozen=True)
class Address:
    """Where a console listens: `host` and `port` (None: the first free one), or the path of a Unix socket."""

    host: str = "127.0.0.1"
    port: int | None = None
    path: str = ""

    @property
    def private(self) -> bool:
        """Nobody on another host can connect."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(setting: str, text: str) -> Address:
    """`HOST:PORT`, `[HOST]:PORT`, `:PORT`, `PORT`, `HOST` or `unix:PATH`; "": loopback, first free port."""
    if text.startswith("unix:"):
        if len(text) == 5 or len(os.fsencode(text)) > 105:
            raise ConfigError(f"{setting}: {text!r} is no socket's path: give one of 1 to 100 bytes")
        return Address(path=text[5:])
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]*?))(?:(?:^|:)(\d{1,5}))?", text)
    if match is None or (match[3] and not 0 < int(match[3]) < 1 << 16):
        raise ConfigError(f"{setting}: {text!r} is no address: give HOST:PORT or unix:PATH")
    return Address(match[1] or match[2] or "127.0.0.1", int(match[3]) if match[3] else None)


def listen(setting: str, address: Address, ports: range) -> socket.socket:
    """A bound socket; ConfigError where that can't be."""
    try:
        return _listen_unix(address.path) if address.path else _listen_tcp(address, ports)
    except OSError as error:
        where = f"unix:{address.path}" if address.path else f"{address.host}:{address.port or ports.start}"
        reason = error.strerror or str(error)
        raise ConfigError(f"{setting}: {where}: {reason}: give another address") from error


def _listen_tcp(address: Address, ports: range) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)[0]
    taken: OSError | None = None
    for port in (address.port,) if address.port is not None else ports:
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((place[0], port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            taken = error
            continue
        return listener
    raise taken or OSError("no port is free")


def _listen_unix(path: str) -> socket.socket:
    """For this user only.  A socket that a dead process left is replaced."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
            os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


class Gate:
    """Who guesses passwords has to wait."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, float]] = {}       # by address: how many, until when

    def open_for(self, address: str, now_s: float) -> bool:
        count, until_s = self._failures.get(address, (0, 0.0))
        return count < FAILURES_MAX or now_s >= until_s

    def failed(self, address: str, now_s: float) -> None:
        count = self._failures.pop(address, (0, 0.0))[0] + 1
        if len(self._failures) >= ADDRESSES_MAX:
            self._failures.pop(next(iter(self._failures)))
        self._failures[address] = (count, now_s + PENALTY_S)

    def passed(self, address: str) -> None:
        self._failures.pop(address, None)


class RfbServer:
    def __init__(self, hub: Hub, *, address: str = "", password: str = "", view_only: bool = False) -> None:
        self.hub = hub
        self.view_only = view_only
        self.gate = Gate()
        where = parse_address("display vnc", address)
        if len(password) > PASSWORD_MAX:
            raise ConfigError(f"display vnc: VNC passwords have at most {PASSWORD_MAX} characters"
                              ": shorten it")
        self.made_password = not password and not where.private
        self.password = password or ("".join(secrets.choice(LETTERS) for _ in range(PASSWORD_MAX))
                                     if self.made_password else None)
        self._path = where.path
        self.socket = listen("display vnc", where, PORTS)
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()

    @property
    def address(self) -> str:
        """HOST:PORT (viewers want it as HOST::PORT), or unix:PATH."""
        if self._path:
            return f"unix:{self._path}"
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def where(self) -> str:
        """What tells the user; a password of his own is not shown."""
        secret = f" (password {self.password})" if self.made_password else ""
        return f"vnc://{self.address}{secret}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._path:
            self._server = await loop.create_unix_server(lambda: _Connection(self), sock=self.socket)
        else:
            self._server = await loop.create_server(lambda: _Connection(self), sock=self.socket)

    async def stop(self) -> None:
        for connection in tuple(self.connections):
            connection.viewer.close("the machine has ended")
        if self._server is not None:
            self._server.close()
        self.close()

    def close(self) -> None:
        """Only the socket: for a server that was never started."""
        self.socket.close()
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def accepts(self, address: str) -> bool:
        waiting = sum(not connection.viewer.joined for connection in self.connections)
        return waiting < WAITING_MAX and self.gate.open_for(address, asyncio.get_running_loop().time())


class _GuardedViewer(Viewer):
    """Tells the gate how the password was."""

    connection: "_Connection"

    def _handle(self, event: Event) -> None:
        if isinstance(event, Denied):
            self.connection.denied()
        super()._handle(event)


class _Connection(asyncio.Protocol):
    """One socket; the viewer's Wire."""

    def __init__(self, server: RfbServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._patience: asyncio.TimerHandle | None = None
        self.full = False
        self.local = True

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        peer: Any = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self.local = not self._peer or ipaddress.ip_address(self._peer.partition("%")[0]).is_loopback
        server = self._server
        self.viewer = _GuardedViewer(server.hub, self, password=server.password, view_only=server.view_only)
        self.viewer.connection = self
        if not server.accepts(self._peer):
            self.viewer.close("too many connections or wrong passwords")
            return
        server.connections.add(self)
        self._patience = asyncio.get_running_loop().call_later(HANDSHAKE_S, self._lose_patience)
        self.viewer.start()

    def data_received(self, data: bytes) -> None:
        self.viewer.receive(data)
        if self.viewer.joined and self._patience is not None:
            self._patience.cancel()
            self._patience = None
            self._server.gate.passed(self._peer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._server.connections.discard(self)
        self.viewer.close("the connection is gone")

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.viewer.pump()

    # --- Wire ---

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self, reason: str) -> None:
        """What was sent still goes out, unless the viewer doesn't take it."""
        if self._transport is not None:
            if self.full:
                self._transport.abort()
            else:
                self._transport.close()

    def denied(self) -> None:
        self._server.gate.failed(self._peer, asyncio.get_running_loop().time())

    def _lose_patience(self) -> None:
        self._patience = None
        self.viewer.close("no handshake")
