"""A lean HTTP/1.1 client: one keep-alive connection a user, whole requests as bytes, answers by httptools.

Under Locust's sessions, on purpose: at tens of thousands of requests a second, building a request and a
response object costs more than sending one.  Each way in which an exchange can go wrong raises
`RequestFailed` with a short name for it, which becomes the failure's name in every report.
"""

from __future__ import annotations

import contextlib
import re
import socket as stdlib_socket
import ssl as stdlib_ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote, urlsplit

import gevent
import httptools
from gevent import socket, ssl

from locustfiles.engine.wire import TcpWire, TlsWire, Wire

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_NAME_LENGTH = 120
WATCHDOG_INTERVAL_S = 0.1
_CHUNK = 64 * 1024
_buffer = bytearray(_CHUNK)  # read into and parsed before any other greenlet runs, so one is enough
_view = memoryview(_buffer)
_SECURE = {"http": False, "https": True, "grpc": False, "grpcs": True}
_TCP_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "grpc": 80, "grpcs": 443, "tcp": None, "": None}
"""Schemes of hosts that speak TCP, with their default ports; grpcio's own form has no scheme."""
Data = TypeVar("Data")


class RequestFailed(Exception):
    """An exchange that gave no whole answer; the message is its name in reports."""


@dataclass(frozen=True)
class Target:
    """Where requests go: a base URL, taken apart and resolved once.

    `addresses` are (family, address) as getaddrinfo gives them; `authority` is the Host header.
    TLS certificates are checked against the system's authorities, or those in `SSL_CERT_FILE`.
    """

    url: str
    host: str
    authority: str
    base_path: str
    context: stdlib_ssl.SSLContext | None
    addresses: tuple[tuple[int, Any], ...]

    @classmethod
    def parse(cls, url: str) -> Target:
        """The target of `url`, such as http://127.0.0.1:8000, https://[::1]/base or grpc://127.0.0.1:8001.

        Raises ValueError for what is no such URL, OSError when the name does not resolve.
        """
        example = "write for example http://127.0.0.1:8000"
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").encode("idna").decode("ascii")
            port = parts.port
        except ValueError as error:
            raise ValueError(f"--host {url!r} is not a URL ({error}): {example}") from error
        if parts.scheme not in _SECURE or not host or port == 0:
            raise ValueError(f"--host {url!r} is not a URL: {example}")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(f"--host {url!r} holds more than scheme, host, port and path: {example}")
        secure = _SECURE[parts.scheme]
        default = 443 if secure else 80
        context = ssl.create_default_context() if secure else None
        if context is not None and parts.scheme == "grpcs":
            context.set_alpn_protocols(["h2"])
        name = f"[{host}]" if ":" in host else host
        found = socket.getaddrinfo(host, port or default, type=stdlib_socket.SOCK_STREAM)
        return cls(
            url=url,
            host=host,
            authority=name if port in (None, default) else f"{name}:{port}",
            base_path=quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~"),
            context=context,
            addresses=tuple((family, address) for family, _, _, _, address in found),
        )

    def connect(self, timeout_s: float) -> Wire:
        """A connection without Nagle's delay, to the first address that takes one; raises OSError."""
        refused: OSError = TimeoutError()
        with gevent.Timeout(timeout_s, TimeoutError):  # one for all, or a handshake could drip for ever
            for family, address in self.addresses:
                try:
                    return self._connect(family, address)
                except TimeoutError:
                    raise
                except OSError as error:
                    refused = error
        raise refused

    def _connect(self, family: int, address: Any) -> Wire:
        sock: stdlib_socket.socket = socket.socket(family, stdlib_socket.SOCK_STREAM)
        try:
            sock.connect(address)
            sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
            if self.context is not None:
                sock = self.context.wrap_socket(
                    sock, server_hostname=self.host, do_handshake_on_connect=False
                )
                sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        return TcpWire(sock) if self.context is None else TlsWire(sock)

    def encode(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """A whole request as bytes, to be sent again and again."""
        further = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"{method} {self.base_path}{path} HTTP/1.1\r\nHost: {self.authority}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nAccept: */*\r\n{further}\r\n"
        )
        return head.encode("ascii") + body


class Watchdog:
    """Ends the exchanges of a process that outlast their deadline, by closing the socket under them.

    A timer per request would cost more than the request; one look a tenth of a second at what is in
    flight costs nothing, and a time-out of seconds needs no better.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.busy: dict[Client[Any], float] = {}
        self._greenlet = gevent.spawn(self._watch)

    def _watch(self) -> None:
        while True:
            gevent.sleep(WATCHDOG_INTERVAL_S)
            now = self._clock()
            # In the order in which they began, and all have the same patience; `expire` lets nobody else run.
            for client, deadline in self.busy.items():
                if deadline >= now:
                    break
                client.expire()

    def close(self) -> None:
        """Stop watching."""
        self._greenlet.kill(block=False)


class Client(ABC, Generic[Data]):
    """A caller's connection: one exchange at a time, a deadline for each, one safe reconnect.

    After `request`, `body` is the answer's, and `sent_at` the instant at which it began to be sent.
    """

    ok: ClassVar[range]
    """The statuses of a right answer."""

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
        self._wire: Wire | None = None
        self._expired = False
        self.sent_at = 0.0

    @property
    @abstractmethod
    def body(self) -> bytes:
        """The body of the last answer."""

    @abstractmethod
    def describe(self, status: int) -> str:
        """The failure's name for a status that is not `ok`."""

    @abstractmethod
    def _open(self, timeout_s: float) -> None: ...

    @abstractmethod
    def _may_reuse(self, wire: Wire) -> bool: ...

    @abstractmethod
    def _exchange(self, data: Data) -> int: ...

    def open_ahead(self) -> None:
        """Connect before there is anything to send; a failure shows at the first request."""
        with contextlib.suppress(OSError):
            self._open(self._timeout_s)

    def request(self, data: Data) -> int:
        """Send a whole request and read the answer; returns its status.

        A connection that was kept alive and turns out to be closed before the first byte of an answer is
        opened once more: the server had hung up between two requests.  Raises RequestFailed otherwise.
        """
        self._expired = False
        self.sent_at = now = self._clock()
        deadline = self._watchdog.busy[self] = now + self._timeout_s
        try:
            if self._wire is not None:
                try:
                    if self._may_reuse(self._wire):
                        return self._exchange(data)
                except HungUp:
                    if self._expired:  # we hung up ourselves
                        raise
                self.close()  # the server closed it, or sent bytes that answer nothing
            self._open(max(0.0, deadline - self._clock()))
            return self._exchange(data)
        except RequestFailed:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise RequestFailed(self._name(error)) from error
        except BaseException:  # this user is being stopped
            self.close()
            raise
        finally:
            del self._watchdog.busy[self]

    def expire(self) -> None:
        """Called by the watchdog: end the exchange under way as timed out."""
        self._expired = True
        if self._wire is not None:
            # Not connected any more: then whoever waits for it knows already.
            with contextlib.suppress(OSError):
                self._wire.shutdown()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _name(self, error: BaseException) -> str:
        if self._expired or isinstance(error, TimeoutError):
            return f"timeout after {self._timeout_s:g} s"
        return name_of(error)


def tcp_address(url: str) -> tuple[str, int] | None:
    """Host and port of anybody's host, such as localhost:50051 or ws://10.0.0.1/path; None for any other."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = parts.port or _TCP_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.scheme in _TCP_PORTS and parts.hostname and port else None


def without_login(url: str) -> str:
    """A host as it may be shown and kept: without the user and the password in it."""
    return re.sub(r"^([\w+.-]+://)?[^/@]*@", r"\1", url)


class HttpClient(Client[bytes]):
    """HTTP/1.1 over one keep-alive connection."""

    ok = range(200, 300)
    _complete = _head_done = _keep = False
    _status = 0

    @property
    def body(self) -> bytes:
        """The body of the last answer."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def describe(self, status: int) -> str:
        """As `Client.describe`."""
        return f"HTTP {status}"

    # What httptools calls back.
    def on_message_begin(self) -> None:
        """A status line begins: of an interim answer, the answer, or one that nobody asked for."""
        self._keep = False

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head_done = True

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if not self._complete:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        """An answer is whole; an interim one (1xx) is not the answer, nor is what follows the answer."""
        status = self._parser.get_status_code()
        if self._complete:
            self._keep = False
        elif status < 200:
            self._head_done = False
        else:
            self._status = status
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # the parser knows only until it looks further

    def _open(self, timeout_s: float) -> None:
        self._wire = self._target.connect(timeout_s)
        self._parser = httptools.HttpResponseParser(self)

    def _may_reuse(self, wire: Wire) -> bool:
        return not wire.unread  # closed, or bytes that answer nothing

    def _exchange(self, data: bytes) -> int:
        wire = self._wire
        assert wire is not None
        self._pieces: list[bytes] = []
        self._complete = self._head_done = self._keep = False
        received = 0
        head: list[bytes] = []
        head_done = False
        try:
            wire.send(data)
            while not self._complete:
                n = wire.receive(_buffer)
                if not n:
                    if not received:
                        raise HungUp
                    return self._end_of_stream(head)
                received += n
                self._feed(n)
                if not self._complete:
                    if not head_done:
                        head.append(bytes(_view[:n]))
                        head_done = self._head_done
                    self._check_size(received)
        except (ConnectionResetError, BrokenPipeError) as error:
            if received or self._expired:
                raise
            raise HungUp from error
        if not self._keep:
            self.close()
        return self._status

    def _feed(self, n: int) -> None:
        try:
            self._parser.feed_data(_view[:n])
        except httptools.HttpParserError:
            if not self._complete:  # what follows a whole answer only ends the connection
                raise

    def _check_size(self, received: int) -> None:
        if received > MAX_ANSWER_BYTES:
            raise RequestFailed(f"answer larger than {MAX_ANSWER_BYTES >> 20} MiB")
        if not self._head_done and received > MAX_HEAD_BYTES:
            raise RequestFailed(f"headers larger than {MAX_HEAD_BYTES >> 10} KiB")

    def _end_of_stream(self, head: Sequence[bytes]) -> int:
        """The server closed: the end of an answer without a length, or a cut in one that has one."""
        if self._expired or not self._head_done or _Framing.marks_end(head):
            raise ConnectionAbortedError
        self.close()
        status: int = self._parser.get_status_code()
        return status


class _Framing:
    """Reads an answer's head once more, to tell whether it says where the answer ends.

    The first parser is not asked for headers, since that would cost every request.
    """

    def __init__(self) -> None:
        self._marked = False

    def on_message_begin(self) -> None:
        self._marked = False  # an interim answer came before

    def on_header(self, name: bytes, value: bytes) -> None:
        chunked = name.lower() == b"transfer-encoding" and b"chunked" in value.lower()
        self._marked |= chunked or name.lower() == b"content-length"

    @classmethod
    def marks_end(cls, head: Sequence[bytes]) -> bool:
        framing = cls()
        parser = httptools.HttpResponseParser(framing)
        for piece in head:
            parser.feed_data(piece)
        return framing._marked


class HungUp(Exception):
    """The server closed a connection before it answered anything."""


def name_of(error: BaseException) -> str:
    """A short, stable name for what went wrong, so that failures of one kind are counted together."""
    match error:
        case HungUp():
            return "connection closed before an answer"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionAbortedError():
            return "connection closed in the middle of an answer"
        case ConnectionResetError() | BrokenPipeError():
            return "connection reset"
        case stdlib_ssl.SSLCertVerificationError():
            reason, _, _ = error.verify_message.partition(", certificate is not valid for")
            return f"TLS certificate refused: {reason}"
        case stdlib_ssl.SSLError():
            return f"TLS failed: {error.reason or type(error).__name__}"
        case TimeoutError():
            return "timeout"
        case httptools.HttpParserUpgrade():
            return "not an HTTP answer: protocol upgrade"
        case httptools.HttpParserError():
            return f"not an HTTP answer: {error}"
        case OSError():
            return f"network: {error.strerror or type(error).__name__}"
        case _:
            text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
            return text if len(text) <= MAX_NAME_LENGTH else f"{text[: MAX_NAME_LENGTH - 1]}…"
