"""The HTTP client against servers that misbehave in every way that we could think of, and some by chance.

Servers and client share this process and gevent's loop; each server has a free port of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import socket as stdlib_socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer
from hypothesis import given, settings
from hypothesis import strategies as st

from locustfiles.engine import client as client_module
from locustfiles.engine.client import (
    HttpClient,
    RequestFailed,
    Target,
    Watchdog,
    name_of,
    tcp_address,
    without_login,
)

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: Any, server: Server) -> None:
        self.sock = sock
        self.server = server
        self._received = b""

    def request(self) -> bytes:
        """The next request in full; empty when the client hung up."""
        while True:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            match = re.search(rb"content-length: (\d+)", head.lower())
            length = int(match[1]) if match else 0
            if end and len(rest) >= length:
                self._received = rest[length:]
                self.server.requests.append(head + end + rest[:length])
                return self.server.requests[-1]
            if not (data := self.sock.recv(65536)):
                return b""
            self._received += data

    def send(self, *pieces: bytes) -> None:
        """Send each piece in a packet of its own, which the client has read before the next."""
        self.sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        for piece in pieces:
            self.sock.sendall(piece)
            gevent.idle()

    def reset(self) -> None:
        """End the connection with RST, not FIN."""
        self.sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def linger(self) -> None:
        """Do nothing until the client hangs up."""
        while self.sock.recv(65536):
            pass


Talk = Callable[[Peer], None]


class Server:
    """Runs `talk` on each connection, and counts them."""

    def __init__(self, talk: Talk, address: tuple[str, int] = ("127.0.0.1", 0), **tls: Any) -> None:
        self.talk = talk
        self.connections = 0
        self.requests: list[bytes] = []
        self._server = StreamServer(address, self._handle, **tls)
        self._server.start()
        assert self._server.server_port is not None
        self.port = self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _handle(self, sock: Any, address: Any) -> None:
        self.connections += 1
        try:
            self.talk(Peer(sock, self))
        except OSError:  # the client was right to hang up
            pass
        finally:
            sock.close()

    def stop(self) -> None:
        self._server.stop()


def answering(*pieces: bytes) -> Talk:
    """Answers every request on every connection with the same bytes, each piece in its own packet."""

    def talk(peer: Peer) -> None:
        while peer.request():
            peer.send(*pieces)

    return talk


def once(*pieces: bytes) -> Talk:
    """Answers the first request of a connection and closes it."""

    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(*pieces)

    return talk


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """A function that starts a server which does the given talk."""
    started: list[Server] = []

    def start(talk: Talk, **arguments: Any) -> Server:
        started.append(Server(talk, **arguments))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@dataclasses.dataclass
class Caller:
    """A client and the request that it sends."""

    client: HttpClient
    data: bytes

    def call(self) -> tuple[int, bytes]:
        return self.client.request(self.data), self.client.body

    def failure(self) -> str:
        with pytest.raises(RequestFailed) as failed:
            self.client.request(self.data)
        return str(failed.value)


@pytest.fixture
def caller() -> Iterator[Callable[..., Caller]]:
    """A function that makes a client for a URL or target."""
    watchdog, made = Watchdog(), []

    def make(where: str | Target, timeout_s: float = 10.0, body: bytes = b"{}") -> Caller:
        target = Target.parse(where) if isinstance(where, str) else where
        made.append(Caller(HttpClient(target, timeout_s, watchdog), target.encode("POST", "/predict", body)))
        return made[-1]

    yield make
    assert not watchdog.busy, "the watchdog still watches an exchange that is over"
    for each in made:
        each.client.close()
    watchdog.close()


Serve = Callable[..., Server]
Call = Callable[..., Caller]


class TestTarget:
    @pytest.mark.parametrize(
        ("url", "authority", "path"),
        [
            ("http://127.0.0.1:8000", "127.0.0.1:8000", ""),
            ("http://127.0.0.1", "127.0.0.1", ""),
            ("http://127.0.0.1:80/", "127.0.0.1", ""),
            ("https://127.0.0.1:443", "127.0.0.1", ""),
            ("https://127.0.0.1:80", "127.0.0.1:80", ""),
            ("http://[::1]:8000/v1/", "[::1]:8000", "/v1"),
            ("HTTP://LocalHost:1/A b/%20é", "localhost:1", "/A%20b/%20%C3%A9"),
        ],
    )
    def test_is_a_base_url_with_the_host_header_that_belongs_to_it(
        self, url: str, authority: str, path: str
    ) -> None:
        request = Target.parse(url).encode("POST", "/predict", b"{}")
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[:2] == [
            f"POST {path}/predict HTTP/1.1".encode(),
            f"Host: {authority}".encode(),
        ]
        assert b"Content-Length: 2" in head.split(b"\r\n")
        assert body == b"{}"

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "127.0.0.1:8000",
            "localhost:8000",
            "ftp://127.0.0.1",
            "http://",
            "http://:8000",
            "http://127.0.0.1:port",
            "http://127.0.0.1:99999",
            "http://127.0.0.1:0",
            "http://[::1",
            "http://a..b",
            f"http://{'a' * 70}.example",
            "http://user:secret@127.0.0.1",
            "http://127.0.0.1/?model=1",
            "http://127.0.0.1/#top",
        ],
    )
    def test_refuses_what_is_no_base_url_with_an_example(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"--host .*: write for example http://127\.0\.0\.1:8000"):
            Target.parse(url)

    def test_encodes_a_name_of_other_letters_as_dns_has_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            asked.append((host, port))
            return [(stdlib_socket.AF_INET, 1, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        target = Target.parse("http://bücher.example:8000")
        assert asked == [("xn--bcher-kva.example", 8000)]
        assert target.authority == "xn--bcher-kva.example:8000"

    def test_that_does_not_resolve_is_a_network_failure(self) -> None:
        with pytest.raises(OSError, match=r"not known|resolution") as failed:
            Target.parse("http://nowhere.invalid")
        assert name_of(failed.value).startswith("network: ")

    def test_is_tried_at_each_of_its_addresses(self, serve: Serve, caller: Call, closed_port: int) -> None:
        server = serve(answering(FINE))
        target = Target.parse(server.url)
        addresses = ((stdlib_socket.AF_INET, ("127.0.0.1", closed_port)), *target.addresses)
        both = dataclasses.replace(target, addresses=addresses)
        assert caller(both).call() == (200, b"fine")

    def test_is_reached_over_ipv6(self, serve: Serve, caller: Call) -> None:
        try:
            server = serve(answering(FINE), address=("::1", 0))
        except OSError as error:
            pytest.skip(f"this machine has no ::1: {error}")
        assert caller(f"http://[::1]:{server.port}").call() == (200, b"fine")
        assert f"Host: [::1]:{server.port}".encode() in server.requests[0].split(b"\r\n")


HEAD = b"HTTP/1.1 200 OK\r\n"
ANSWERS: dict[str, tuple[tuple[bytes, ...], int, bytes]] = {
    "content-length": ((FINE,), 200, b"fine"),
    "content-length, no body": ((HEAD + b"Content-Length: 0\r\n\r\n",), 200, b""),
    "chunked": ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n2\r\nne\r\n0\r\n\r\n",), 200, b"fine"),
    "chunked, with extension and trailer": (
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n4;x=1\r\nfine\r\n0\r\nChecksum: 1\r\n\r\n",),
        200,
        b"fine",
    ),
    "1xx before the answer": ((b"HTTP/1.1 100 Continue\r\n\r\n" + FINE,), 200, b"fine"),
    "1xx in packets of their own": (
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", FINE),
        200,
        b"fine",
    ),
    "204": ((b"HTTP/1.1 204 No Content\r\n\r\n",), 204, b""),
    "304 with the length of what it stands for": (
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",),
        304,
        b"",
    ),
    "500": ((b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno",), 500, b"no"),
    "no reason phrase": ((b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nfine",), 200, b"fine"),
    "HTTP/1.0 that keeps alive": (
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nfine",),
        200,
        b"fine",
    ),
    "an upgrade that is only offered": (
        (HEAD + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 4\r\n\r\nfine",),
        200,
        b"fine",
    ),
    "cut in the middle of everything": (
        (b"HT", b"TP/1.1 20", b"0 OK\r", b"\nContent-Len", b"gth: 4\r\n\r", b"\nf", b"in", b"e"),
        200,
        b"fine",
    ),
    "byte by byte": (tuple(bytes([b]) for b in FINE), 200, b"fine"),
    "byte by byte, chunked": (
        tuple(bytes([b]) for b in HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n"),
        200,
        b"fine",
    ),
    "several buffers long": (
        (HEAD + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000,),
        200,
        b"x" * 300_000,
    ),
}
UNTIL_CLOSE: dict[str, tuple[tuple[bytes, ...], int, bytes]] = {
    "Connection: close": (
        (HEAD + b"Connection: close\r\nContent-Length: 4\r\n\r\nfine",),
        200,
        b"fine",
    ),
    "no length until close": ((HEAD + b"\r\nfi", b"ne"), 200, b"fine"),
    "no length and no body": ((HEAD + b"\r\n",), 200, b""),
    "no length after an interim answer": (
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n", HEAD + b"\r\nfi", b"ne"),
        200,
        b"fine",
    ),
    "a transfer encoding that marks no end": (
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\nfi", b"ne"),
        200,
        b"fine",
    ),
    "the words content-length and chunked in the body": (
        (HEAD + b"\r\nContent-Length: 9, ", b"Transfer-Encoding: chunked"),
        200,
        b"Content-Length: 9, Transfer-Encoding: chunked",
    ),
    "HTTP/1.0": ((b"HTTP/1.0 200 OK\r\n\r\nfi", b"ne"), 200, b"fine"),
    "HTTP/1.0 with a length": ((b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine",), 200, b"fine"),
}


def table(rows: dict[str, tuple[Any, ...]], names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(names.split(), [pytest.param(*row, id=name) for name, row in rows.items()])


class TestAnybodysHost:
    @pytest.mark.parametrize(
        ("host", "found"),
        [
            pytest.param("localhost:18765", ("localhost", 18765), id="as grpcio has it"),
            pytest.param("[::1]:18765", ("::1", 18765), id="IPv6"),
            pytest.param("ws://10.0.0.1:8000/chat?room=1", ("10.0.0.1", 8000), id="a web socket"),
            pytest.param("wss://example.com", ("example.com", 443), id="a default port"),
            pytest.param("http://user:pw@127.0.0.1:8000", ("127.0.0.1", 8000), id="with a login"),
            pytest.param("coap://127.0.0.1:5683", None, id="not TCP"),
            pytest.param("127.0.0.1", None, id="no port"),
            pytest.param("unix:/run/server.sock", None, id="a Unix socket"),
            pytest.param("dns:///example.com:443", None, id="a resolver of grpcio"),
            pytest.param("a:9092,b:9092", None, id="several"),
            pytest.param("http://[::1", None, id="broken"),
            pytest.param("", None, id="none"),
        ],
    )
    def test_is_told_where_it_speaks_tcp(self, host: str, found: tuple[str, int] | None) -> None:
        assert tcp_address(host) == found

    @pytest.mark.parametrize(
        ("host", "shown"),
        [
            ("http://user:pw@127.0.0.1:8000/x", "http://127.0.0.1:8000/x"),
            ("user:p/w@host:1", "user:p/w@host:1"),
            ("user:pw@host:1", "host:1"),
            ("http://host/a@b", "http://host/a@b"),
            ("", ""),
        ],
    )
    def test_is_shown_without_its_login(self, host: str, shown: str) -> None:
        assert without_login(host) == shown


class TestAnswers:
    @table(ANSWERS, "pieces status body")
    def test_are_read_whatever_their_form_and_the_connection_is_kept(
        self, serve: Serve, caller: Call, pieces: tuple[bytes, ...], status: int, body: bytes
    ) -> None:
        server = serve(answering(*pieces))
        calls = caller(server.url)
        assert [calls.call() for _ in range(3)] == [(status, body)] * 3
        assert server.connections == 1

    @table(UNTIL_CLOSE, "pieces status body")
    def test_that_end_their_connection_are_read_and_the_next_one_is_opened(
        self, serve: Serve, caller: Call, pieces: tuple[bytes, ...], status: int, body: bytes
    ) -> None:
        server = serve(once(*pieces))
        calls = caller(server.url)
        assert [calls.call() for _ in range(3)] == [(status, body)] * 3
        assert server.connections == 3

    def test_of_a_hundred_requests_come_over_one_connection(self, serve: Serve, caller: Call) -> None:
        server = serve(answering(FINE))
        calls = caller(server.url)
        assert {calls.call() for _ in range(100)} == {(200, b"fine")}
        assert server.connections == 1
        assert server.requests == [calls.data] * 100

    def test_do_not_mix_when_users_share_the_buffer(self, serve: Serve, caller: Call) -> None:
        def echo(peer: Peer) -> None:
            while request := peer.request():
                body = request.partition(b"\r\n\r\n")[2] * 50
                peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body), body[:100], body[100:])

        server = serve(echo)
        bodies = [bytes([65 + k]) * 20 for k in range(10)]
        users = [caller(server.url, body=body) for body in bodies]
        greenlets = [gevent.spawn(lambda u: [u.call() for _ in range(5)], user) for user in users]
        gevent.joinall(greenlets, timeout=10, raise_error=True)
        assert [g.value for g in greenlets] == [[(200, body * 50)] * 5 for body in bodies]

    def test_come_to_requests_that_are_larger_than_any_buffer(self, serve: Serve, caller: Call) -> None:
        server = serve(answering(FINE))
        calls = caller(server.url, body=b"x" * 8_000_000)
        assert calls.call() == (200, b"fine")
        assert len(server.requests[0]) == len(calls.data)

    def test_may_come_before_the_request_was_read(self, serve: Serve, caller: Call) -> None:
        def talk(peer: Peer) -> None:
            peer.sock.recv(1000)
            peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\n", b"too")
            gevent.sleep(0.02)
            peer.send(b" big")
            peer.linger()

        calls = caller(serve(talk).url, timeout_s=2.0, body=b"x" * 8_000_000)
        assert calls.call() == (413, b"too")
        assert calls.call() == (413, b"too")

    def test_are_timed_from_the_instant_of_the_request(self, serve: Serve, caller: Call) -> None:
        calls = caller(serve(answering(FINE)).url)
        before = time.monotonic()
        calls.call()
        assert before <= calls.client.sent_at <= time.monotonic()


class TestAKeptConnection:
    each_end = pytest.mark.parametrize("end", [lambda peer: None, Peer.reset], ids=["closes", "resets"])

    @each_end
    def test_that_the_server_ended_meanwhile_is_opened_again(
        self, serve: Serve, caller: Call, end: Talk
    ) -> None:
        def talk(peer: Peer) -> None:
            peer.request()
            peer.send(FINE)
            end(peer)

        server = serve(talk)
        calls = caller(server.url)
        for _ in range(3):
            assert calls.call() == (200, b"fine")
            gevent.sleep(0.01)  # lets the server end it
        assert server.connections == 3

    @each_end
    def test_is_opened_again_once_when_the_server_ends_it_as_the_request_arrives(
        self, serve: Serve, caller: Call, end: Talk
    ) -> None:
        def talk(peer: Peer) -> None:
            peer.request()
            if peer.server.connections != 2:  # the second connection never answers
                peer.send(FINE)
                peer.request()
            end(peer)

        server = serve(talk)
        calls = caller(server.url)
        assert calls.call() == (200, b"fine")
        assert calls.failure() in ("connection closed before an answer", "connection reset")
        assert server.connections == 2  # one safe attempt, not a loop
        assert calls.call() == (200, b"fine")

    def test_is_not_opened_again_after_the_first_byte_of_an_answer(self, serve: Serve, caller: Call) -> None:
        def talk(peer: Peer) -> None:
            peer.request()
            peer.send(FINE)
            peer.request()
            peer.send(b"H")

        server = serve(talk)
        calls = caller(server.url)
        calls.call()
        assert calls.failure() == "connection closed in the middle of an answer"
        assert server.connections == 1

    def test_is_not_opened_again_after_a_time_out(self, serve: Serve, caller: Call) -> None:
        def talk(peer: Peer) -> None:
            peer.request()
            peer.send(FINE)
            peer.linger()

        server = serve(talk)
        calls = caller(server.url, timeout_s=0.2)
        calls.call()
        assert calls.failure() == "timeout after 0.2 s"
        gevent.sleep(0.01)
        assert server.connections == 1

    SECOND = b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad"

    @pytest.mark.parametrize(
        "surplus",
        [SECOND, SECOND[:10], b"garbage", b"more of the body than its length said", FINE],
        ids=["an answer", "a part of an answer", "garbage", "body", "the same answer"],
    )
    @pytest.mark.parametrize("separate", [False, True], ids=["at once", "later"])
    def test_with_bytes_that_answer_nothing_is_not_used_again(
        self, serve: Serve, caller: Call, surplus: bytes, separate: bool
    ) -> None:
        sent = Event()

        def talk(peer: Peer) -> None:
            while peer.request():
                if separate:
                    peer.send(FINE)
                    gevent.sleep(0.005)
                    peer.send(surplus)
                else:
                    peer.send(FINE + surplus)
                sent.set()

        server = serve(talk)
        calls = caller(server.url)
        for _ in range(3):
            assert calls.call() == (200, b"fine")
            sent.wait()
            sent.clear()
        assert server.connections == 3

    def test_with_an_empty_line_after_the_answer_is_used_again(self, serve: Serve, caller: Call) -> None:
        server = serve(answering(FINE + b"\r\n"))
        calls = caller(server.url)
        assert [calls.call() for _ in range(3)] == [(200, b"fine")] * 3
        assert server.connections == 1


def cut(peer: Peer, *pieces: bytes) -> None:
    peer.request()
    peer.send(*pieces)


CUT = "connection closed in the middle of an answer"
GARBAGE = "not an HTTP answer: "
BAD: dict[str, tuple[Talk, str]] = {
    "closed at once": (lambda p: None, "connection closed before an answer"),
    "empty reply": (lambda p: cut(p), "connection closed before an answer"),
    "cut in the status line": (lambda p: cut(p, b"HTTP/1.1 2"), CUT),
    "cut in the headers": (lambda p: cut(p, HEAD + b"Content-Le"), CUT),
    "cut in the body": (lambda p: cut(p, FINE[:-1]), CUT),
    "content-length larger than the body": (
        lambda p: cut(p, HEAD + b"content-LENGTH: 9\r\n\r\nfine"),
        CUT,
    ),
    "cut in the body, with the length in a later packet": (
        lambda p: cut(p, HEAD, b"Content-Length: 4\r\n", b"X: y\r\n\r\n", b"fin"),
        CUT,
    ),
    "cut in a chunk": (lambda p: cut(p, HEAD + b"transfer-encoding: Chunked\r\n\r\n9\r\nfine"), CUT),
    "cut between chunks": (lambda p: cut(p, HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n"), CUT),
    "cut after an interim answer": (lambda p: cut(p, b"HTTP/1.1 100 Continue\r\n\r\n"), CUT),
    "cut in the body after an interim answer": (
        lambda p: cut(p, b"HTTP/1.1 100 Continue\r\n\r\n" + FINE[:-1]),
        CUT,
    ),
    "cut in the body after one in its own packet": (
        lambda p: cut(p, b"HTTP/1.1 100 Continue\r\n\r\n", FINE[:20], FINE[20:-1]),
        CUT,
    ),
    "garbage": (lambda p: cut(p, b"\x00\xff\x17garbage\r\n\r\n"), GARBAGE + "Expected HTTP/"),
    "another protocol": (lambda p: cut(p, b"SSH-2.0-OpenSSH_9.2\r\n"), GARBAGE),
    "HTTP/0.9": (lambda p: cut(p, b"<html>fine</html>"), GARBAGE),
    "a status that is no number": (lambda p: cut(p, b"HTTP/1.1 abc OK\r\n\r\n"), GARBAGE + "Invalid status"),
    "a content-length that is no number": (
        lambda p: cut(p, HEAD + b"Content-Length: four\r\n\r\nfine"),
        GARBAGE + "Invalid character in Content-Length",
    ),
    "a content-length beyond 64 bits": (
        lambda p: cut(p, HEAD + b"Content-Length: 99999999999999999999\r\n\r\nfine"),
        GARBAGE + "Content-Length overflow",
    ),
    "two content-lengths": (
        lambda p: cut(p, HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nfine"),
        GARBAGE,
    ),
    "a chunk size that is no number": (
        lambda p: cut(p, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nfine"),
        GARBAGE + "Invalid character in chunk size",
    ),
    "a header without a colon": (lambda p: cut(p, HEAD + b"fine\r\n\r\n"), GARBAGE + "Invalid header"),
    "an upgrade": (
        lambda p: cut(p, b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nxx"),
        GARBAGE + "protocol upgrade",
    ),
    "an upgrade to nothing": (lambda p: cut(p, b"HTTP/1.1 101 Switching\r\n\r\n"), GARBAGE),
    "one header without end": (
        lambda p: cut(p, HEAD + b"X: ", *[b"x" * 30_000] * 5),
        "headers larger than 64 KiB",
    ),
    "headers without end": (lambda p: cut(p, HEAD, *[b"X: y\r\n" * 5000] * 5), "headers larger than 64 KiB"),
    "interim answers without end": (
        lambda p: cut(p, *[b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 5),
        "headers larger than 64 KiB",
    ),
    "a body larger than the maximum": (
        lambda p: cut(p, HEAD + b"Content-Length: 20000000\r\n\r\n", *[b"x" * 1_000_000] * 20),
        "answer larger than 16 MiB",
    ),
    "a body without end": (
        lambda p: cut(p, HEAD + b"\r\n", *[b"x" * 1_000_000] * 40),
        "answer larger than 16 MiB",
    ),
    "chunks without end": (
        lambda p: cut(
            p, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n"] * 40
        ),
        "answer larger than 16 MiB",
    ),
}


class TestBadAnswers:
    @table(BAD, "talk name")
    def test_are_failures_with_a_name_and_the_next_request_is_not_harmed(
        self, serve: Serve, caller: Call, talk: Talk, name: str
    ) -> None:
        def bad_then_fine(peer: Peer) -> None:
            (talk if peer.server.connections == 1 else answering(FINE))(peer)

        server = serve(bad_then_fine)
        calls = caller(server.url)
        assert calls.failure().startswith(name)
        assert calls.call() == (200, b"fine")
        assert server.connections == 2

    def test_are_a_reset_when_the_server_resets_after_the_first_byte(
        self, serve: Serve, caller: Call
    ) -> None:
        def talk(peer: Peer) -> None:
            cut(peer, FINE[:30])
            gevent.sleep(0.01)  # a reset overtakes what was not read yet
            peer.reset()

        assert caller(serve(talk).url).failure() == "connection reset"

    def test_are_a_hang_up_when_the_server_resets_before_the_first_byte(
        self, serve: Serve, caller: Call
    ) -> None:
        def talk(peer: Peer) -> None:
            peer.request()
            peer.reset()

        server = serve(talk)
        assert caller(server.url).failure() in ("connection closed before an answer", "connection reset")
        assert server.connections == 1  # a new connection is not tried twice

    def test_do_not_come_at_all_when_the_connection_is_refused(self, caller: Call, closed_port: int) -> None:
        calls = caller(f"http://127.0.0.1:{closed_port}")
        assert [calls.failure() for _ in range(2)] == ["connection refused"] * 2


def silent(*pieces: bytes) -> Talk:
    """Answers a request with `pieces` and nothing more, and keeps the connection open."""

    def talk(peer: Peer) -> None:
        cut(peer, *pieces)
        peer.linger()

    return talk


def stop_early(peer: Peer) -> None:
    peer.sock.recv(1000)
    peer.send(HEAD)
    gevent.sleep(5)


def drip(peer: Peer, *pieces: bytes) -> None:
    peer.request()
    peer.send(*pieces)
    while True:
        gevent.sleep(0.01)
        peer.send(b"x")


SLOW: dict[str, tuple[Talk]] = {
    "never answers": (silent(),),
    "stops in the headers": (silent(HEAD),),
    "stops in the body": (silent(FINE[:-1]),),
    "drips headers": (lambda p: drip(p, HEAD + b"X: "),),
    "drips a body": (lambda p: drip(p, HEAD + b"Content-Length: 1000000\r\n\r\n"),),
    "drips a body without end": (lambda p: drip(p, HEAD + b"\r\n"),),
    "stops before it has read the request": (lambda p: stop_early(p),),
    "never reads": (lambda p: gevent.sleep(5),),
}


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose listener accepts nothing: its backlog is full, so the kernel drops further SYNs."""
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()[1]


class TestTimeOuts:
    TIMEOUT_S = 0.3

    def assert_on_time(self, calls: Caller, timeout_s: float = TIMEOUT_S) -> None:
        began = time.monotonic()
        assert calls.failure() == f"timeout after {timeout_s} s"
        assert timeout_s <= time.monotonic() - began < timeout_s + 0.3

    @table(SLOW, "talk")
    def test_come_soon_after_the_deadline_when_the_server(
        self, serve: Serve, caller: Call, talk: Talk
    ) -> None:
        calls = caller(serve(talk).url, self.TIMEOUT_S, body=b"x" * 8_000_000)
        self.assert_on_time(calls)

    def test_come_when_nobody_accepts_the_connection(self, caller: Call, full_port: int) -> None:
        self.assert_on_time(caller(f"http://127.0.0.1:{full_port}", self.TIMEOUT_S))

    def test_are_not_spent_once_for_each_address(self, serve: Serve, caller: Call, full_port: int) -> None:
        target = Target.parse(serve(answering(FINE)).url)
        addresses = ((stdlib_socket.AF_INET, ("127.0.0.1", full_port)), *target.addresses)
        self.assert_on_time(caller(dataclasses.replace(target, addresses=addresses), self.TIMEOUT_S))

    def test_count_from_the_request_also_when_it_has_to_connect_again(
        self, serve: Serve, caller: Call, full_port: int
    ) -> None:
        def talk(peer: Peer) -> None:
            peer.request()
            peer.send(FINE)
            peer.request()
            gevent.sleep(0.4)  # then hangs up

        calls = caller(serve(talk).url, timeout_s=0.5)
        calls.call()
        calls.client._target = Target.parse(f"http://127.0.0.1:{full_port}")
        self.assert_on_time(calls, 0.5)

    def test_are_not_taken_for_the_end_of_an_answer_without_length(
        self, serve: Serve, caller: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = caller(serve(silent(HEAD + b"\r\nfi")).url)
        feed = calls.client._feed

        def feed_as_the_deadline_passes(n: int) -> None:
            feed(n)
            calls.client.expire()

        monkeypatch.setattr(calls.client, "_feed", feed_as_the_deadline_passes)
        assert calls.failure() == "timeout after 10 s"

    def test_leave_other_users_alone(self, serve: Serve, caller: Call) -> None:
        def talk(peer: Peer) -> None:
            if peer.request().endswith(b"slow"):
                peer.linger()
            peer.send(FINE)
            answering(FINE)(peer)

        server = serve(talk)
        slow, quick = caller(server.url, self.TIMEOUT_S, b"slow"), caller(server.url, self.TIMEOUT_S)
        timed_out = gevent.spawn(slow.failure)
        while not timed_out.ready():
            assert quick.call() == (200, b"fine")
            gevent.sleep(0.01)
        assert timed_out.get() == "timeout after 0.3 s"

    def test_of_the_caller_itself_pass_through(self, serve: Serve, caller: Call) -> None:
        calls = caller(serve(Peer.linger).url)
        with gevent.Timeout(0.05) as own, pytest.raises(gevent.Timeout) as raised:
            calls.call()
        assert raised.value is own


class TestAUserThatIsKilled:
    def test_leaves_nothing_behind(self, serve: Serve, caller: Call) -> None:
        hung_up = Event()

        def talk(peer: Peer) -> None:
            peer.request()
            peer.linger()
            hung_up.set()

        server = serve(talk)
        calls = caller(server.url)
        user = gevent.spawn(calls.call)
        while not server.requests:
            gevent.sleep(0.001)
        user.kill()
        assert hung_up.wait(timeout=5)  # the connection is closed; the fixture looks at the watchdog


@dataclasses.dataclass
class Authority:
    """A certificate authority in a folder."""

    folder: Path

    @property
    def file(self) -> str:
        return str(self.folder / "ca.pem")

    def context(self, *names: str) -> ssl.SSLContext:
        """A server's context with a certificate for `names`."""
        stem = self.folder / re.sub(r"\W", "_", "-".join(names))
        (self.folder / "names").write_text("subjectAltName=" + ",".join(names))
        openssl(
            "req", "-newkey", *KEY, "-subj", "/CN=server", "-keyout", f"{stem}.key", "-out", f"{stem}.csr"
        )
        openssl(
            *("x509", "-req", "-in", f"{stem}.csr", "-CA", self.file, "-CAkey", str(self.folder / "ca.key")),
            *("-CAcreateserial", "-days", "2", "-extfile", str(self.folder / "names"), "-out", f"{stem}.pem"),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{stem}.pem", f"{stem}.key")
        return context


KEY = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the certificates, and is not installed")
    made = Authority(tmp_path_factory.mktemp("ca"))
    key = str(made.folder / "ca.key")
    openssl(
        "req", "-x509", "-newkey", *KEY, "-days", "2", "-subj", "/CN=ca", "-keyout", key, "-out", made.file
    )
    return made


@pytest.fixture(scope="module")
def for_localhost(authority: Authority) -> ssl.SSLContext:
    return authority.context("DNS:localhost", "IP:127.0.0.1")


@pytest.fixture
def known_authority(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority, which the client trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", authority.file)
    return authority


@pytest.fixture
def trusted(known_authority: Authority, for_localhost: ssl.SSLContext) -> ssl.SSLContext:
    """A server's context that the client trusts to be localhost."""
    return for_localhost


class TestTLS:
    def test_serves_requests_over_one_connection_when_the_authority_is_known(
        self, serve: Serve, caller: Call, trusted: ssl.SSLContext
    ) -> None:
        asked: list[str | None] = []
        trusted.sni_callback = lambda _sock, name, _context: asked.append(name)
        server = serve(answering(FINE[:9], FINE[9:]), ssl_context=trusted)
        calls = caller(f"https://localhost:{server.port}")
        assert [calls.call() for _ in range(10)] == [(200, b"fine")] * 10
        assert server.connections == 1
        assert asked == ["localhost"]
        assert b"Host: localhost:%d" % server.port in server.requests[0].split(b"\r\n")

    def test_serves_an_address_that_is_in_the_certificate(
        self, serve: Serve, caller: Call, trusted: ssl.SSLContext
    ) -> None:
        server = serve(answering(FINE), ssl_context=trusted)
        assert caller(f"https://127.0.0.1:{server.port}").call() == (200, b"fine")

    def test_refuses_a_certificate_of_an_unknown_authority(
        self, serve: Serve, caller: Call, for_localhost: ssl.SSLContext
    ) -> None:
        server = serve(answering(FINE), ssl_context=for_localhost)
        name = caller(f"https://localhost:{server.port}").failure()
        assert name == "TLS certificate refused: unable to get local issuer certificate"
        assert server.requests == []

    @pytest.mark.parametrize(
        ("host", "reason"), [("localhost", "Hostname mismatch"), ("127.0.0.1", "IP address mismatch")]
    )
    def test_refuses_a_certificate_for_another_host(
        self, serve: Serve, caller: Call, known_authority: Authority, host: str, reason: str
    ) -> None:
        server = serve(answering(FINE), ssl_context=known_authority.context("DNS:other.example"))
        name = caller(f"https://{host}:{server.port}").failure()
        assert name == f"TLS certificate refused: {reason}"
        assert server.requests == []

    def test_fails_by_name_when_the_server_speaks_no_tls(self, serve: Serve, caller: Call) -> None:
        server = serve(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        assert re.fullmatch(r"TLS failed: [A-Z_]+", caller(f"https://127.0.0.1:{server.port}").failure())

    def test_fails_by_name_when_the_server_hangs_up_in_the_handshake(
        self, serve: Serve, caller: Call
    ) -> None:
        name = caller(f"https://127.0.0.1:{serve(lambda peer: None).port}").failure()
        assert re.fullmatch(r"TLS failed: [A-Z_]+|connection reset", name)

    @pytest.mark.parametrize("drips", [False, True], ids=["never comes", "drips"])
    def test_times_out_while_the_handshake(self, serve: Serve, caller: Call, drips: bool) -> None:
        def talk(peer: Peer) -> None:
            while drips:
                peer.send(b"\x16\x03\x03\x3f\xff" if not peer.server.requests else b"\x02")
                peer.server.requests.append(b"")
                gevent.sleep(0.01)
            peer.linger()

        calls = caller(f"https://127.0.0.1:{serve(talk).port}", timeout_s=0.3)
        TestTimeOuts().assert_on_time(calls)

    def test_times_out_while_the_answer_never_comes(
        self, serve: Serve, caller: Call, trusted: ssl.SSLContext
    ) -> None:
        server = serve(silent(FINE[:-1]), ssl_context=trusted)
        TestTimeOuts().assert_on_time(caller(f"https://localhost:{server.port}", timeout_s=0.3))

    def test_opens_a_connection_again_that_was_closed_meanwhile(
        self, serve: Serve, caller: Call, trusted: ssl.SSLContext
    ) -> None:
        server = serve(once(FINE), ssl_context=trusted)
        calls = caller(f"https://localhost:{server.port}")
        for _ in range(3):
            assert calls.call() == (200, b"fine")
            gevent.sleep(0.01)
        assert server.connections == 3


STABLE_NAME = re.compile(
    r"connection (refused|reset|closed before an answer|closed in the middle of an answer)"
    r"|timeout after 0\.05 s|answer larger than 16 MiB|headers larger than 64 KiB"
    r"|not an HTTP answer: [A-Z][A-Za-z ,/'`:-]+|not an HTTP answer: protocol upgrade"
)
TOKENS = [
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 S\r\n\r\n",
        b"HTTP/1.0 500 Oh\r\n",
    ),
    *(
        b"Content-Length: 4\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: -1\r\n",
        b"Connection: close\r\n",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b"4\r\nfine\r\n", b"0\r\n\r\n", b"Upgrade: h2c\r\n", b"X: y\r\n"),
    *(b"\r\n", b"\n", b"fine", b"\x00", FINE, FINE, HEAD + b"\r\n", HEAD + b"Content-Length: 4\r\n\r\n"),
]
PIECES = st.lists(st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=40), max_size=8)
CUTS = st.lists(st.integers(1, 60), max_size=8)


def cut_up(data: bytes, lengths: list[int]) -> list[bytes]:
    pieces = []
    for length in lengths:
        pieces.append(data[:length])
        data = data[length:]
    return [piece for piece in [*pieces, data] if piece]


class TestAFuzzedServer:
    @given(PIECES, CUTS, st.sampled_from(["close", "reset", "keep", "keep", "linger"]))
    @settings(max_examples=300)
    def test_never_hangs_crashes_or_confuses_a_user(
        self, tokens: list[bytes], cuts: list[int], end: str
    ) -> None:
        pieces, over = cut_up(b"".join(tokens), cuts), Event()

        def talk(peer: Peer) -> None:
            peer.request()
            try:
                if peer.server.connections > 1:
                    peer.send(FINE)
                else:
                    peer.send(*pieces)
            finally:
                if end == "reset":
                    peer.reset()
                elif end == "close":
                    peer.sock.close()
                over.set()
            if end == "keep":
                answering(FINE)(peer)
            peer.linger()

        patch = pytest.MonkeyPatch()
        patch.setattr(client_module, "WATCHDOG_INTERVAL_S", 0.01)  # or three hundred time-outs take a minute
        server, watchdog = Server(talk), Watchdog()
        target = Target.parse(server.url)
        client, request = HttpClient(target, 0.05, watchdog), target.encode("POST", "/predict", b"{}")
        try:
            try:
                assert 200 <= client.request(request) <= 999
            except RequestFailed as failed:
                assert STABLE_NAME.fullmatch(str(failed)), str(failed)  # noqa: PT017  # both ends are right
            over.wait()
            client._timeout_s = 10.0
            assert (client.request(request), client.body) == (200, b"fine")
            assert not watchdog.busy
        finally:
            client.close()
            watchdog.close()
            server.stop()
            patch.undo()


class TestNames:
    @pytest.mark.parametrize(
        ("error", "name"),
        [
            (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
            (ConnectionResetError(104, "Connection reset by peer"), "connection reset"),
            (BrokenPipeError(32, "Broken pipe"), "connection reset"),
            (TimeoutError("timed out"), "timeout"),
            (OSError(113, "No route to host"), "network: No route to host"),
            (stdlib_socket.gaierror(-2, "Name or service not known"), "network: Name or service not known"),
            (OSError("at 10.0.0.1:4711"), "network: OSError"),
            (ValueError("no such\n  thing"), "ValueError: no such thing"),
            (KeyError(), "KeyError"),
        ],
    )
    def test_are_short_and_hold_no_addresses(self, error: Exception, name: str) -> None:
        assert name_of(error) == name

    def test_are_cut_when_an_exception_has_much_to_say(self) -> None:
        name = name_of(RuntimeError("x" * 10_000))
        assert len(name) == 120
        assert name.endswith("…")
