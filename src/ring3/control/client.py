"""The other end of a control socket: calls from any thread, each with a connection to itself."""

import contextlib
import itertools
import socket
import threading
import time
from typing import Any

from ring3.control import protocol
from ring3.control.home import Directory
from ring3.control.protocol import ANSWER_MAX, Lines, RpcError
from ring3.errors import ConfigError, EngineError, HostError, VmError

CHUNK = 1 << 18                         # bytes
IDLE_MAX = 4                            # connections kept for the next calls
SLACK_S = 10.0                          # an answer may be later than what was asked for by this

ERRORS: dict[int, type[VmError]] = {
    protocol.BAD_INPUT: ConfigError,
    protocol.INVALID_PARAMS: ConfigError,
    protocol.HOST_REFUSED: HostError,
    protocol.INTERNAL_ERROR: EngineError,
}


class Gone(VmError):  # noqa: N818
    """The machine has ended."""


class Client:
    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()
        self._ids = itertools.count(1)

    def call(self, method: str, *, within_s: float = 60.0, **params: Any) -> Any:
        """The method's result; errors are raised as they would be in the machine's own process."""
        connection = self._take()
        try:
            answer = self._exchange(connection, method, params, within_s + SLACK_S)
        except RpcError as error:
            self._give_back(connection)
            if error.code == protocol.TIMED_OUT:
                raise TimeoutError(error.message) from error
            raise ERRORS.get(error.code, HostError)(error.message) from error
        except BaseException as error:
            connection.close()
            if isinstance(error, TimeoutError):
                raise HostError(f"{self.directory.name} did not answer within {within_s:g} s") from error
            if isinstance(error, OSError):
                raise Gone(f"{self.directory.name} has ended") from error
            raise
        self._give_back(connection)
        return answer

    def wait_for_end(self, timeout_s: float | None) -> bool:
        """Until its process lets go of the socket; False after the time."""
        try:
            with self._take() as connection:    # one of before, if any: who is ending takes no more
                connection.settimeout(timeout_s)
                while connection.recv(CHUNK):
                    pass
        except TimeoutError:
            return False
        except (OSError, Gone):
            return True
        return True

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _exchange(
        self, connection: socket.socket, method: str, params: dict[str, Any], timeout_s: float
    ) -> Any:
        number = next(self._ids)
        deadline_s = time.monotonic() + timeout_s
        connection.settimeout(timeout_s)
        connection.sendall(protocol.request(method, params, number))
        lines = Lines(ANSWER_MAX)
        while True:
            data = connection.recv(CHUNK)
            if not data:
                raise ConnectionResetError("the connection was closed")
            for line in lines.feed(data):
                return protocol.read_answer(line, number)
            connection.settimeout(max(deadline_s - time.monotonic(), 0.001))

    def _take(self) -> socket.socket:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if _open(connection):
                    return connection
                connection.close()
        try:
            return self.directory.connect()
        except OSError as error:
            name = self.directory.name
            raise Gone(f"{name} does not run: start it: ring3 start {name}") from error

    def _give_back(self, connection: socket.socket) -> None:
        with self._lock:
            if len(self._idle) < IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()


def _open(connection: socket.socket) -> bool:
    """The machine has not closed its end meanwhile."""
    connection.settimeout(0)
    with contextlib.suppress(OSError):
        connection.recv(1)              # nothing is expected: end of file, or an answer nobody waits for
        return False
    return True
