"""A lean HTTP/1.1 client: one keep-alive connection a user, whole requests as bytes, answers by httptools.

Under Locust's sessions, on purpose: at tens of thousands of requests a second, building a request and a
response object costs more than sending one.  Each way in which an exchange can go wrong raises
`RequestFailed` with a short name for it, which becomes the failure's name in every report.
"""

from __future__ import annotations

import socket as stdlib_socket
import ssl as stdlib_ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import gevent
import httptools
from gevent import socket, ssl

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
WATCHDOG_INTERVAL_S = 0.1
_CHUNK = 64 * 1024
_buffer = bytearray(_CHUNK)  # read into and parsed before any other greenlet runs, so one is enough
_view = memoryview(_buffer)


class RequestFailed(Exception):
    """An exchange that gave no whole answer; the message is its name in reports."""


@dataclass(frozen=True)
class Target:
    """Where requests go: a base URL, taken apart and resolved once."""

    url: str
    host: str
    port: int
    base_path: str
    context: stdlib_ssl.SSLContext | None
    family: int
    address: tuple[str | int, int | bytes]

    @classmethod
    def parse(cls, url: str, ca_file: str | None = None) -> Target:
        """The target of `url`, such as http://127.0.0.1:8000 or https://[::1]/base.

        Raises ValueError for what is no such URL, OSError when the name does not resolve.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"--host {url!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--host {url!r} is not a URL: write for example http://127.0.0.1:8000")
        secure = parts.scheme == "https"
        port = port or (443 if secure else 80)
        context = ssl.create_default_context(cafile=ca_file) if secure else None
        found = socket.getaddrinfo(parts.hostname, port, type=stdlib_socket.SOCK_STREAM)
        family, address = found[0][0], found[0][4]
        return cls(url, parts.hostname, port, parts.path.rstrip("/"), context, family, address[:2])

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.context else 80) else f"{host}:{self.port}"

    def connect(self, timeout_s: float) -> stdlib_socket.socket:
        """A connected socket without Nagle's delay; raises OSError."""
        sock = socket.socket(self.family, stdlib_socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(self.address)
            sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
            if self.context is not None:
                sock = self.context.wrap_socket(sock, server_hostname=self.host)
            sock.settimeout(None)  # from here on the watchdog keeps the time, which costs nothing a request
        except BaseException:
            sock.close()
            raise
        connected: stdlib_socket.socket = sock
        return connected

    def encode(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
    ) -> bytes:
        """A whole request as bytes, to be sent again and again."""
        head = (
            f"{method} {self.base_path}{path} HTTP/1.1\r\nHost: {self.authority}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nAccept: */*\r\n\r\n"
        )
        return head.encode("ascii") + body


class Watchdog:
    """Ends the exchanges of a process that outlast their deadline, by closing the socket under them.

    A timer per request would cost more than the request; one look a tenth of a second at what is in
    flight costs nothing, and a time-out of seconds needs no better.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.busy: dict[HttpClient, float] = {}
        self._greenlet = gevent.spawn(self._watch)

    def _watch(self) -> None:
        while True:
            gevent.sleep(WATCHDOG_INTERVAL_S)
            now = self._clock()
            for client, deadline in list(self.busy.items()):
                if deadline < now:
                    client.expire()

    def close(self) -> None:
        """Stop watching."""
        self._greenlet.kill(block=False)


class HttpClient:
    """One connection that sends prepared requests; at most one is under way at a time.

    After `request`, `body` is the answer's body, and `sent_at` the instant at which it began to be sent.
    """

    def __init__(
        self,
        target: Target,
        timeout_s: float,
        watchdog: Watchdog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._watchdog = watchdog
        self._clock = clock
        self._sock: stdlib_socket.socket | None = None
        self._expired = False
        self._pieces: list[bytes] = []
        self.sent_at = 0.0

    @property
    def body(self) -> bytes:
        """The body of the last answer."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    # What httptools calls back.
    def on_message_begin(self) -> None:
        """A status line begins: the final answer, an interim one, or one nobody asked for."""
        self._messages += 1

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head_done = True

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """An answer is whole; an interim one (1xx) is not the answer."""
        if self._parser.get_status_code() >= 200:
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # the parser knows only until it looks further
        else:
            self._head_done = False
            self._messages -= 1

    def request(self, data: bytes) -> int:
        """Send a whole request and read the answer; returns its HTTP status.

        A connection that was kept alive and turns out to be closed before the first byte of an answer is
        opened once more: the server had hung up between two requests.  Raises RequestFailed otherwise.
        """
        self._expired = False
        self.sent_at = now = self._clock()
        self._watchdog.busy[self] = now + self._timeout_s
        try:
            if self._sock is not None:
                try:
                    return self._exchange(data)
                except _HungUp:
                    if self._expired:
                        raise
                    self.close()
            self._open()
            return self._exchange(data)
        except BaseException as error:
            self.close()
            if isinstance(error, RequestFailed | gevent.GreenletExit):
                raise
            raise RequestFailed(self._name(error)) from error
        finally:
            del self._watchdog.busy[self]

    def _open(self) -> None:
        self._sock = self._target.connect(self._timeout_s)
        self._parser = httptools.HttpResponseParser(self)

    def _exchange(self, data: bytes) -> int:
        sock, parser = self._sock, self._parser
        assert sock is not None
        self._pieces = []
        self._complete = self._head_done = self._keep = False
        self._messages = received = 0
        head = b""
        try:
            if (n := sock.send(data)) < len(data):
                sock.sendall(memoryview(data)[n:])
            while not self._complete:
                n = sock.recv_into(_buffer)
                if not n:
                    if not received:
                        raise _HungUp
                    return self._end_of_stream(head)
                received += n
                parser.feed_data(_view[:n])
                if not self._complete:
                    head = self._keep_head(head, n, received)
        except (ConnectionResetError, BrokenPipeError) as error:
            if received or self._expired:
                raise
            raise _HungUp from error
        status: int = parser.get_status_code()
        if self._messages > 1 or not self._keep:
            self.close()
        return status

    def _keep_head(self, head: bytes, n: int, received: int) -> bytes:
        """The first bytes of an answer in pieces, kept to tell at its end how its length was given."""
        if received > MAX_ANSWER_BYTES:
            raise RequestFailed(f"answer larger than {MAX_ANSWER_BYTES >> 20} MiB")
        if not self._head_done and received > MAX_HEAD_BYTES:
            raise RequestFailed(f"headers larger than {MAX_HEAD_BYTES >> 10} KiB")
        return head + bytes(_view[:n]) if len(head) < MAX_HEAD_BYTES else head

    def _end_of_stream(self, head: bytes) -> int:
        """The server closed: the end of an answer without a length, or a cut in one that has one."""
        fields = head.partition(b"\r\n\r\n")[0].lower()
        if self._expired or not self._head_done or b"content-length:" in fields or b"chunked" in fields:
            raise ConnectionAbortedError
        self.close()
        return int(self._parser.get_status_code())

    def expire(self) -> None:
        """Called by the watchdog: end the exchange under way as timed out."""
        self._expired = True
        if self._sock is not None:
            try:
                self._sock.shutdown(stdlib_socket.SHUT_RDWR)
            except OSError:
                self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _name(self, error: BaseException) -> str:
        if self._expired or isinstance(error, TimeoutError):
            return f"timeout after {self._timeout_s:g} s"
        return name_of(error)


class _HungUp(Exception):
    """The server closed a connection before it answered anything."""


def name_of(error: BaseException) -> str:
    """A short, stable name for what went wrong, so that failures of one kind are counted together."""
    match error:
        case _HungUp():
            return "connection closed before an answer"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionAbortedError():
            return "connection closed in the middle of an answer"
        case ConnectionResetError() | BrokenPipeError():
            return "connection reset"
        case stdlib_ssl.SSLCertVerificationError():
            return f"TLS certificate refused: {error.verify_message}"
        case stdlib_ssl.SSLError():
            return f"TLS failed: {error.reason or error}"
        case TimeoutError():
            return "timeout"
        case httptools.HttpParserUpgrade():
            return "not an HTTP answer: protocol upgrade"
        case httptools.HttpParserError():
            return f"not an HTTP answer: {error}"
        case OSError():
            return f"network: {error.strerror or error}"
        case _:
            return f"{type(error).__name__}: {error}"
