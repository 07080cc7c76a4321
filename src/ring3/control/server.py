"""The control socket of a running machine: any number of requests a connection, answered as they are ready.

Theory.  The server has an event loop in a thread of its own, so that it answers while the machine is built,
and after it has ended.  A connection is a task that reads; each request is one, too, so a client that waits
for text can go on asking.  What a client can take up is bounded by the constants here, and a client that
breaks a rule loses its connection and nothing else.

1. One line is written at a time, and a client that doesn't read what it asked for within WRITE_S is cut off.
2. A message that has begun must end within PARTIAL_S.
3. With CONNECTIONS_MAX connections open, a new one takes the place of the one that has idled longest.
"""

import asyncio
import contextlib
import inspect
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ring3 import errors
from ring3.config.text import nearest
from ring3.control import protocol
from ring3.control.methods import METHODS, Host, Session
from ring3.control.protocol import Lines, Request, RpcError, TooLongError

CONNECTIONS_MAX = 64
UNDER_WAY_MAX = 8                       # requests of one connection
THREADS = 32
CHUNK = 65_536                          # bytes
PARTIAL_S = 10.0
WRITE_S = 30.0
FAREWELL_S = 1.0                        # answers of the last moment have this long to leave


class ControlServer:
    """Listens from `start` to `close`."""

    def __init__(self, host: Host, listener: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._listener = listener
        self._loop = loop
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._accepting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._accepting = self._loop.create_task(self._accept())

    async def farewell(self) -> None:
        """Takes no more connections, and lets answers under way leave."""
        if self._accepting is not None:
            self._accepting.cancel()
        self._listener.close()
        busy = [task for connection in self._connections for task in connection.requests]
        if busy:
            await asyncio.wait(busy, timeout=FAREWELL_S)

    async def close(self) -> None:
        await self.farewell()
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(self._listener)
            except OSError:             # out of descriptors, or the client gave up: let others end meanwhile
                await asyncio.sleep(0.1)
                continue
            if len(self._connections) >= CONNECTIONS_MAX and not self._make_room():
                client.close()
                continue
            connection = Connection(client, Session(self._host, self._loop), self._loop)
            task = self._loop.create_task(connection.run())
            self._connections[connection] = task
            task.add_done_callback(partial(self._gone, connection))

    def _gone(self, connection: "Connection", _: "asyncio.Task[None]") -> None:
        connection.close()              # here, because a task that is cancelled early never runs
        del self._connections[connection]

    def _make_room(self) -> bool:
        idle = [connection for connection in self._connections if not connection.requests]
        if not idle:
            return False
        oldest = min(idle, key=lambda connection: connection.active_s)
        self._connections[oldest].cancel()
        return True


class Connection:
    def __init__(self, client: socket.socket, session: Session, loop: asyncio.AbstractEventLoop) -> None:
        client.setblocking(False)
        self._socket = client
        self._session = session
        self._loop = loop
        self._writing = asyncio.Lock()
        self._room = asyncio.Semaphore(UNDER_WAY_MAX)
        self.requests: set[asyncio.Task[None]] = set()
        self.active_s = time.monotonic()

    async def run(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):        # the client is gone, or too slow
            await self._read()

    def close(self) -> None:
        for task in self.requests:
            task.cancel()
        self._session.close()
        self._socket.close()

    async def _read(self) -> None:
        lines = Lines()
        while True:
            async with asyncio.timeout(PARTIAL_S if lines.partial else None):
                data = await self._loop.sock_recv(self._socket, CHUNK)
            if not data:
                return await self._finish()
            self.active_s = time.monotonic()
            try:
                complete = lines.feed(data)
            except TooLongError:
                error = RpcError(protocol.INVALID_REQUEST, f"longer than {protocol.LINE_MAX} bytes")
                return await self._send(protocol.failure(error))
            for line in complete:
                await self._room.acquire()
                task = self._loop.create_task(self._serve(line))
                self.requests.add(task)
                task.add_done_callback(self._served)

    async def _finish(self) -> None:
        """The client has closed its side, and may still read answers."""
        if self.requests:
            await asyncio.wait(self.requests)

    def _served(self, task: "asyncio.Task[None]") -> None:
        self.requests.discard(task)
        self._room.release()
        if not task.cancelled() and task.exception() is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)     # it could not be told

    async def _serve(self, line: bytes) -> None:
        message = protocol.parse(line)
        answers = [await self._answer(call) for call in message.calls]
        wanted = [answer for answer in answers if answer is not None]
        if wanted:
            await self._send(wanted if message.batch else wanted[0])

    async def _send(self, value: Any) -> None:
        async with self._writing, asyncio.timeout(WRITE_S):
            await self._loop.sock_sendall(self._socket, protocol.answer(value))

    async def _answer(self, call: Request | RpcError) -> dict[str, Any] | None:
        if isinstance(call, RpcError):
            return protocol.failure(call)
        try:
            value = protocol.result(await self._call(call), call.id)
        except Exception as error:
            failure = as_failure(error)
            failure.id = call.id
            value = protocol.failure(failure)
        return None if call.notification else value

    async def _call(self, request: Request) -> Any:
        if request.method not in METHODS:
            hint = nearest(request.method, METHODS)
            raise RpcError(protocol.METHOD_NOT_FOUND, f"no such method: {request.method[:100]}{hint}")
        record, function = METHODS[request.method]
        params = protocol.arguments(request.params, record)
        if inspect.iscoroutinefunction(function):
            return await function(self._session, params)
        return await self._loop.run_in_executor(None, function, self._session, params)


def as_failure(error: Exception) -> RpcError:
    """What the client hears of it."""
    match error:
        case RpcError():
            return error
        case errors.ConfigError():
            return RpcError(protocol.BAD_INPUT, str(error))
        case errors.HostError() | errors.CheckpointError():
            return RpcError(protocol.HOST_REFUSED, str(error))
        case TimeoutError():
            return RpcError(protocol.TIMED_OUT, str(error) or "the guest did not answer in time")
        case OSError():
            return RpcError(protocol.HOST_REFUSED, f"{error.filename or 'host'}: {error.strerror or error}")
    return RpcError(protocol.INTERNAL_ERROR, f"{type(error).__name__}: {error}")


class ServerThread:
    """A ControlServer with its loop and thread."""

    def __init__(self, host: Host, listener: socket.socket) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="control"))
        self._server = ControlServer(host, listener, self.loop)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self.loop).result()

    def farewell(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.farewell(), self.loop).result()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
