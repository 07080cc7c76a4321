"""The control protocol without I/O: JSON-RPC 2.0, one message or batch a line (docs/control-protocol.md).

    lines = Lines()
    for line in lines.feed(received):
        for call in parse(line).calls: …

1. Whatever bytes come, the answer is a Request, or a RpcError to be sent back; nothing raises but
   `TooLongError`, after which the connection is of no use any more.
2. What a message may hold is bounded: its length, and the requests of a batch.
"""

import difflib
from dataclasses import dataclass
from typing import Any

import msgspec

LINE_MAX = 1 << 20                      # bytes of a message to a machine
ANSWER_MAX = 256 << 20                  # … from one: a picture of a large screen
WAIT_MAX_S = 3600.0                     # the longest a request may wait
BATCH_MAX = 64                          # requests

PARSE_ERROR = -32700                    # these five are JSON-RPC's
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
BAD_INPUT = -32001                      # what was asked for makes no sense for this machine: ConfigError
HOST_REFUSED = -32002                   # HostError
ENDED = -32003                          # the machine has ended meanwhile
TIMED_OUT = -32004                      # TimeoutError

Id = str | int | float | None


class TooLongError(Exception):
    """A message longer than any may be."""


class Lines:
    """Bytes as they arrive, to lines."""

    def __init__(self, limit: int = LINE_MAX) -> None:
        self._limit = limit
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        start = len(self._pending)      # a newline can only be in what is new
        self._pending += data
        if self._pending.find(b"\n", start) < 0:
            if len(self._pending) > self._limit:
                raise TooLongError
            return []
        *lines, rest = self._pending.split(b"\n")
        self._pending = rest
        if max(map(len, (*lines, rest))) > self._limit:
            raise TooLongError
        return [bytes(line) for line in lines if line.strip()]

    @property
    def partial(self) -> bool:
        """A message has begun and not ended."""
        return bool(self._pending)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    params: dict[str, Any]
    id: Id = None
    notification: bool = False          # nobody wants the answer


class RpcError(Exception):
    """An error as an answer."""

    def __init__(self, code: int, message: str, id: Id = None) -> None:  # noqa: A002
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id


@dataclass(frozen=True, slots=True)
class Message:
    """A line: what is asked for, and whether the answers belong in one array."""

    calls: list[Request | RpcError]
    batch: bool = False


def parse(line: bytes) -> Message:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return Message([RpcError(PARSE_ERROR, f"no JSON: {error}")])
    if not isinstance(value, list):
        return Message([_request(value)])
    if not 0 < len(value) <= BATCH_MAX:
        return Message([RpcError(INVALID_REQUEST, f"a batch has 1 to {BATCH_MAX} requests")])
    return Message([_request(each) for each in value], batch=True)


def _request(value: Any) -> Request | RpcError:
    if not isinstance(value, dict):
        return RpcError(INVALID_REQUEST, "a request is an object")
    id_ = value.get("id")
    if isinstance(id_, bool) or not isinstance(id_, str | int | float | None):
        return RpcError(INVALID_REQUEST, "id: give text or a number")
    if value.get("jsonrpc") != "2.0":
        return RpcError(INVALID_REQUEST, 'jsonrpc: give "2.0"', id_)
    method, params = value.get("method"), value.get("params", {})
    if not isinstance(method, str):
        return RpcError(INVALID_REQUEST, "method: give its name", id_)
    if not isinstance(params, dict):
        return RpcError(INVALID_PARAMS, "params: give them by name, as an object", id_)
    unknown = set(value) - {"jsonrpc", "id", "method", "params"}
    if unknown:
        return RpcError(INVALID_REQUEST, f"a request has no {sorted(unknown)[0]!r}", id_)
    return Request(method, params, id_, notification="id" not in value)


def arguments(params: dict[str, Any], record: type[msgspec.Struct]) -> Any:
    """The parameters as the method's record; a RpcError names what is wrong."""
    known = record.__struct_fields__
    for name in params:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; there is {close[0] if close else ', '.join(known)}" if known else ""
            raise RpcError(INVALID_PARAMS, f"no such parameter: {name}{hint}")
    try:
        return msgspec.convert(params, record)
    except msgspec.ValidationError as error:
        raise RpcError(INVALID_PARAMS, str(error)) from error


# --- messages to send ---


def request(method: str, params: dict[str, Any], id_: Id) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": id_}) + b"\n"


def result(value: Any, id_: Id) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "result": value, "id": id_}


def failure(error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": error.code, "message": error.message}, "id": error.id}


def answer(value: Any) -> bytes:
    """One answer or the array of a batch's."""
    return msgspec.json.encode(value) + b"\n"


class _Error(msgspec.Struct):
    code: int
    message: str


class _Answer(msgspec.Struct):
    jsonrpc: str
    id: Any
    result: Any = None
    error: _Error | None = None


def read_answer(line: bytes, id_: Id) -> Any:
    """The result in an answer; raises RpcError where it is an error, or no answer to that request."""
    try:
        found = msgspec.json.decode(line, type=_Answer)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RpcError(PARSE_ERROR, f"the machine's answer makes no sense: {error}") from error
    if found.error is not None:
        raise RpcError(found.error.code, found.error.message, found.id)
    if found.id != id_:
        raise RpcError(INVALID_REQUEST, "the machine's answer is to another request")
    return found.result
