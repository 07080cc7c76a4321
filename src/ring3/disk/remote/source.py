"""A file on a web server, read in ranges: RFC 9110, sections 13 (validators) and 14 (ranges), HTTP/1.1.

Every answer is held against the first one: the same size, the same entity tag or date.  What fails on the
way is tried again, later and later, until `LIMIT_S` is over; what the server says clearly is not.  Redirects
are followed, from https to https only.  Proxies are the environment's, as elsewhere (https_proxy, no_proxy).

Times in seconds.  Not modelled: passwords, compressed content, several ranges in one answer.
"""

import contextlib
import errno
import http.client
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote, urljoin, urlsplit

from ring3.config.places import SCHEMES, Url
from ring3.disk.remote.version import Version

LIMIT_S = 25.0                          # of one read: Linux gives a drive 30 seconds
OPENING_S = 5.0                         # … and while somebody waits at the terminal
CONNECTING_S = 2.0                      # of one attempt
SILENCE_S = 10.0                        # that the server may keep
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
NAP_S = 0.25                            # of a pause, between looks whether anybody still waits
REDIRECTS_MAX = 5
OK, PARTIAL, UNSATISFIABLE = 200, 206, 416
MOVED = (301, 302, 303, 307, 308)
LATER = (408, 425, 429, 500, 502, 503, 504)     # statuses of a server that may soon do better
CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
UNRESERVED = "%/:=&?~#+!$,;'@()*[]-._"
DOWNLOAD = "download it, and give the file"


class RefusedError(OSError):
    """The server has answered, and asking again would not help."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EIO, what)


class LaterError(Exception):
    """The server asks to be left alone for a while, or has answered nonsense that a busy proxy may have."""


class Source:
    def __init__(self, url: Url) -> None:
        """Asks the server for the file's version; OSError: why it cannot be used."""
        self._url = url.text
        self._at = url.text             # where redirects have led
        self._connection: http.client.HTTPConnection | None = None
        self._prefix = ""               # of paths, where a proxy is asked
        self._answer: http.client.HTTPResponse | None = None
        self._position = self._end = 0  # what is still to come of the answer
        self._version: Version | None = None
        self._given_up = False
        self.read(0, 1, limit_s=OPENING_S)

    @property
    def version(self) -> Version:
        assert self._version is not None
        return self._version

    def read(self, offset: int, length: int, ahead: int = 0, limit_s: float = LIMIT_S) -> bytes:
        """`ahead`: so many bytes more are asked for, which the next read may find on their way already."""
        data = bytearray()
        why: Exception = TimeoutError("no answer")
        deadline = time.monotonic() + limit_s
        for _ in self._attempts(deadline):
            try:
                while len(data) < length:
                    data += self._some(offset + len(data), length - len(data), ahead)
                    if time.monotonic() > deadline:
                        raise TimeoutError("too slow")
                return bytes(data)
            except (http.client.HTTPException, LaterError, OSError) as error:
                self.close()
                if isinstance(error, RefusedError):
                    raise
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise RefusedError(f"the server is not who it says: {error.verify_message}") from error
                why = error
        raise OSError(errno.ETIMEDOUT, f"{urlsplit(self._at).hostname} does not deliver: {said(why)}")

    def _some(self, offset: int, length: int, ahead: int) -> bytes:
        if self._answer is None or self._position != offset:
            self._ask(offset, length + ahead)
        assert self._answer is not None
        data = self._answer.read1(min(length, self._end - self._position))
        if not data:
            raise LaterError("its answer was cut off")
        self._position += len(data)
        if self._position == self._end:
            if self._answer.length == 0:
                self._answer.read()     # nothing: the connection is free for the next request
                self._answer = None
            else:                       # of a length that it did not tell
                self.close()
        return data

    def _ask(self, offset: int, length: int) -> None:
        if self._answer is not None:    # what is left of it is not wanted
            self.close()
        end = offset + length
        if self._version is not None:
            end = min(end, self._version.size_bytes)
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._answer = self._request(offset, end)
            if answer.status not in MOVED:
                break
            self._at = follow(self._at, answer.headers.get("Location", ""))
            self.close()
        else:
            raise RefusedError(f"{self._url} leads in circles")
        self._check_status(answer)
        self._position = offset
        self._end = self._check_range(answer, offset, end)
        self._check_version(answer)

    def _request(self, offset: int, end: int) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection, self._prefix = connection_to(self._at)
            self._connection.connect()
            self._connection.sock.settimeout(SILENCE_S)
            if self._given_up:          # before there was a connection to end
                raise LaterError("nobody waits for it")
        parts = urlsplit(self._at)
        path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), UNRESERVED)
        headers = {"Range": f"bytes={offset}-{end - 1}", "Accept-Encoding": "identity", "User-Agent": "Ring3"}
        self._connection.request("GET", self._prefix + path, headers=headers)
        return self._connection.getresponse()

    def _check_status(self, answer: http.client.HTTPResponse) -> None:
        if answer.status == PARTIAL:
            return
        if answer.status in LATER:
            raise LaterError(f"status {answer.status}")
        if self._at != self._url:       # where it led may hold for a time only
            self._at = self._url
            if self._version is not None:
                raise LaterError(f"status {answer.status}")
        if answer.status == OK:
            raise RefusedError(f"the server does not answer range requests: {DOWNLOAD}")
        if answer.status == UNSATISFIABLE:
            raise RefusedError("the server says that it is empty")
        raise RefusedError(f"the server answers {answer.status} {answer.reason}")

    def _check_range(self, answer: http.client.HTTPResponse, offset: int, end: int) -> int:
        """Where the answer ends: a server may send less than it was asked for."""
        given = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        first, last, size = map(int, given.groups()) if given else (0, 0, 0)
        length = answer.headers.get("Content-Length")
        wrong_length = length is not None and length != str(last - first + 1)
        coded = answer.headers.get("Content-Encoding", "identity") != "identity"
        if first != offset or not offset <= last < min(end, size) or wrong_length or coded:
            raise RefusedError(f"the server answers range requests wrongly: {DOWNLOAD}")
        return last + 1

    def _check_version(self, answer: http.client.HTTPResponse) -> None:
        headers = answer.headers
        size = int(headers["Content-Range"].rpartition("/")[2])
        version = Version(size, headers.get("ETag", ""), headers.get("Last-Modified", ""))
        if not version.etag and not version.modified:
            raise RefusedError(f"the server tells neither ETag nor Last-Modified: {DOWNLOAD}")
        if self._version is None:
            self._version = version
        elif not version.is_of(self._version):
            raise RefusedError("it was changed on the server while in use")

    def _attempts(self, deadline: float) -> Iterator[None]:
        """Until the deadline, or nobody waits any more."""
        for pause in pauses():
            if self._given_up or (pause and time.monotonic() + pause > deadline):
                return
            self._sleep(pause)
            yield

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._given_up and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, NAP_S))

    def give_up(self) -> None:
        """Ends reads that are under way, and refuses others.  For any thread."""
        self._given_up = True
        connection = self._connection
        connected = connection.sock if connection is not None else None
        if connected is not None:
            with contextlib.suppress(OSError):          # TLS says nothing to the other side: it is silent
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

    def close(self) -> None:
        answer, self._answer = self._answer, None
        connection, self._connection = self._connection, None
        for each in (answer, connection):
            if each is not None:
                each.close()


def pauses() -> Iterator[float]:
    """None before the second attempt, for a connection that was only too old; then growing ones."""
    yield from (0.0, 0.0)
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


def connection_to(url: str) -> tuple[http.client.HTTPConnection, str]:
    """To the server, or to the proxy that the environment wants asked for it; and what paths begin with."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if not secure:
            plain = http.client.HTTPConnection(through.hostname or "", through.port, timeout=CONNECTING_S)
            return plain, f"http://{parts.netloc}"
        tunnel = http.client.HTTPSConnection(through.hostname or "", through.port, timeout=CONNECTING_S)
        tunnel.set_tunnel(host, parts.port)
        return tunnel, ""
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    return kind(host, parts.port, timeout=CONNECTING_S), ""


def follow(url: str, location: str) -> str:
    """Where a redirect leads, if it may be followed."""
    with contextlib.suppress(ValueError):
        target = urljoin(url, location)
        parts = urlsplit(target)
        if url.startswith("https:") and parts.scheme != "https":
            raise RefusedError(f"the server leads from https to {target}, which is not followed")
        if location and parts.scheme in SCHEMES and parts.hostname and target.isprintable():
            return target
    raise RefusedError(f"the server leads to {location!r}, which is not followed")


def said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
