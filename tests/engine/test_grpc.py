"""The gRPC client against grpcio's server, and against servers that misbehave in HTTP/2's many ways."""

from __future__ import annotations

import contextlib
import json
import socket as stdlib_socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from locustfiles.engine import grpc as h2
from locustfiles.engine.client import RequestFailed, Target, Watchdog
from locustfiles.engine.grpc import CODES, Call, GrpcClient, frame
from tests.projects import ROOT

PREFACE_BYTES = 24
HEAD = ((":status", "200"), ("content-type", "application/grpc"))
FINE = (("grpc-status", "0"),)


def block(fields: Any, encoder: Encoder | None = None) -> bytes:
    """A header block; without an encoder one that uses no table, as we ask for."""
    encoder = encoder or tableless()
    return bytes(encoder.encode(fields))


def tableless() -> Encoder:
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder


def headers(stream: int, fields: Any = HEAD, end: bool = False) -> bytes:
    flags = h2.END_HEADERS | (h2.END_STREAM if end else 0)
    return frame(h2.HEADERS, flags, stream, block(fields))


def data(stream: int, message: bytes) -> bytes:
    return frame(h2.DATA, 0, stream, b"\0" + struct.pack(">I", len(message)) + message)


def trailers(stream: int, fields: Any = FINE) -> bytes:
    return headers(stream, fields, end=True)


def answer(stream: int, message: bytes = b"fine") -> bytes:
    return headers(stream) + data(stream, message) + trailers(stream)


SETTINGS = frame(h2.SETTINGS, 0, 0)
NAMES = st.text("abc", min_size=1, max_size=3) | st.sampled_from(["grpc-status", "x" * 900])


@dataclass
class Peer:
    """The server's end of one connection."""

    sock: Any
    server: Server
    received: bytes = b""
    frames: list[tuple[int, int, int, bytes]] = field(default_factory=list)

    def more(self) -> bool:
        got = self.sock.recv(65536)
        self.received += got
        return bool(got)

    def frame(self) -> tuple[int, int, int, bytes]:
        """The next frame: kind, flags, stream, payload."""
        while True:
            if len(self.received) >= 9:
                length = int.from_bytes(self.received[:3], "big")
                if len(self.received) >= 9 + length:
                    kind, flags, stream = struct.unpack(">BBI", self.received[3:9])
                    payload, self.received = self.received[9 : 9 + length], self.received[9 + length :]
                    self.frames.append((kind, flags, stream, payload))
                    return self.frames[-1]
            if not self.more():
                raise ConnectionResetError

    def greet(self, settings: bytes = SETTINGS) -> None:
        while len(self.received) < PREFACE_BYTES:
            if not self.more():
                raise ConnectionResetError
        assert self.received.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.received = self.received[PREFACE_BYTES:]
        self.sock.sendall(settings)

    def call(self) -> int:
        """Read until a request is whole; returns its stream."""
        while True:
            kind, flags, stream, payload = self.frame()
            if kind == h2.DATA:
                self.server.message += payload
                if flags & h2.END_STREAM:
                    return stream

    def send(self, *pieces: bytes) -> None:
        self.sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        for piece in pieces:
            self.sock.sendall(piece)
            gevent.idle()

    def linger(self) -> None:
        while self.more():
            pass


Talk = Callable[[Peer], None]


class Server:
    """Runs `talk` on each connection, and counts them."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.connections = 0
        self.message = b""
        self.problem: BaseException | None = None
        self._server = StreamServer(("127.0.0.1", 0), self._handle)
        self._server.start()
        self.url = f"grpc://127.0.0.1:{self._server.server_port}"

    def _handle(self, sock: Any, _: Any) -> None:
        self.connections += 1
        try:
            self.talk(Peer(sock, self))
        except OSError:
            pass  # the client was right to hang up
        except AssertionError as problem:
            self.problem = problem
        finally:
            sock.close()

    def stop(self) -> None:
        self._server.stop()
        if self.problem:
            raise self.problem


@contextlib.contextmanager
def serving(talk: Talk) -> Iterator[Server]:
    server = Server(talk)
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Caller:
    client: GrpcClient
    target: Target

    def call(self, message: bytes = b"{}", method: str = "/test/Echo") -> bytes:
        status = self.client.request(Call.encode(self.target, method, message))
        assert status == 0, (self.client.describe(status), self.client.explanation)
        return self.client.body

    def status(self, message: bytes, method: str) -> str:
        status = self.client.request(Call.encode(self.target, method, message))
        assert status not in self.client.ok
        return self.client.describe(status)

    def failure(self, message: bytes = b"{}") -> str:
        with pytest.raises(RequestFailed) as failed:
            self.client.request(Call.encode(self.target, "/test/Echo", message))
        return str(failed.value)


@contextlib.contextmanager
def calling(url: str, timeout_s: float = 10.0) -> Iterator[Caller]:
    watchdog, target = Watchdog(), Target.parse(url)
    client = GrpcClient(target, timeout_s, watchdog)
    try:
        yield Caller(client, target)
        assert not watchdog.busy, "the watchdog still watches an exchange that is over"
    finally:
        client.close()
        watchdog.close()


def talking(*pieces: bytes, settings: bytes = SETTINGS) -> Talk:
    """Answers the first call of a connection with bytes, then waits for the client to hang up."""

    def talk(peer: Peer) -> None:
        peer.greet(settings)
        peer.call()
        peer.send(*pieces)
        peer.linger()

    return talk


def closing(*pieces: bytes) -> Talk:
    """The same, but hangs up by itself."""

    def talk(peer: Peer) -> None:
        peer.greet()
        peer.call()
        peer.send(*pieces)
        peer.sock.shutdown(stdlib_socket.SHUT_WR)
        peer.linger()  # or what is unread turns the close into a reset

    return talk


def failure_of(talk: Talk, timeout_s: float = 10.0, message: bytes = b"{}") -> str:
    with serving(talk) as server, calling(server.url, timeout_s) as caller:
        return caller.failure(message)


def body_of(talk: Talk, message: bytes = b"{}") -> bytes:
    with serving(talk) as server, calling(server.url) as caller:
        return caller.call(message)


class TestCall:
    def test_is_the_headers_that_grpc_asks_for_and_a_prefixed_message(self) -> None:
        call = Call.encode(Target.parse("grpc://127.0.0.1:8001/base"), "/package.Service/Method", b"abc")
        assert dict(Decoder().decode(call.head)) == {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/base/package.Service/Method",
            ":authority": "127.0.0.1:8001",
            "te": "trailers",
            "content-type": "application/grpc",
            "user-agent": "modelswarm",
        }
        assert call.message == b"\0\0\0\0\3abc"

    def test_leaves_no_trace_in_the_tables_of_a_connection(self) -> None:
        decoder = Decoder()
        decoder.decode(Call.encode(Target.parse("grpc://127.0.0.1"), "/a/B", b"").head)
        assert not decoder.header_table.dynamic_entries

    @pytest.mark.parametrize("size", [0, 1, 16379, 16380, 100_000])
    def test_has_its_streams_number_in_every_frame(self, size: int) -> None:
        call = Call.encode(Target.parse("grpc://127.0.0.1"), "/a/B", b"x" * size)
        sent = struct.pack(">I", 7).join(call.parts)
        kinds, message = [], b""
        while sent:
            length = int.from_bytes(sent[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", sent[3:9])
            assert stream == 7
            assert length <= 16384
            kinds.append((kind, flags))
            message += sent[9 : 9 + length] if kind == h2.DATA else b""
            sent = sent[9 + length :]
        assert kinds[0] == (h2.HEADERS, h2.END_HEADERS)
        assert kinds[-1] == (h2.DATA, h2.END_STREAM)
        assert set(kinds[1:-1]) <= {(h2.DATA, 0)}
        assert message == call.message


@contextlib.contextmanager
def grpcio(*arguments: str) -> Iterator[int]:
    """grpcio's server in a process of its own; yields its port."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("grpc_echo_server.py"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def real() -> Iterator[int]:
    with grpcio() as port:
        yield port


class TestRealServer:
    @pytest.mark.parametrize("size", [0, 1, 12_000, 65_530, 65_531, 600_000, 4_000_000])
    def test_echoes_messages_of_every_size(self, real: int, size: int) -> None:
        with calling(f"grpc://127.0.0.1:{real}") as caller:
            assert caller.call(b"x" * size) == b"x" * size

    def test_takes_many_calls_over_one_connection(self, real: int) -> None:
        with calling(f"grpc://127.0.0.1:{real}") as caller:
            caller.call()
            wire = caller.client._wire
            for i in range(300):
                message = bytes([i % 256]) * (i * 100)
                assert caller.call(message) == message
            assert caller.client._wire is wire

    def test_is_given_its_window_back_after_many_large_answers(
        self, real: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            h2, "_OUR_WINDOW", 200_000
        )  # the server was told of a larger one; half of this is due
        with calling(f"grpc://127.0.0.1:{real}") as caller:
            for _ in range(5):
                assert len(caller.call(b"150000", "/test/Size")) == 150_000
            assert caller.client._consumed < 150_000

    @pytest.mark.parametrize("number", range(1, 17))
    def test_s_status_names_the_failure_and_keeps_the_connection(self, real: int, number: int) -> None:
        with calling(f"grpc://127.0.0.1:{real}") as caller:
            assert caller.status(str(number).encode(), "/test/Fail") == CODES[number]
            assert caller.client.explanation == "so: ä 100%\n"
            assert caller.client.body == b""
            wire = caller.client._wire
            assert caller.call(b"after") == b"after"
            assert caller.client._wire is wire

    def test_without_the_method_says_so(self, real: int) -> None:
        with calling(f"grpc://127.0.0.1:{real}") as caller:
            assert caller.status(b"", "/test/Nothing") == "UNIMPLEMENTED"

    def test_refuses_a_message_larger_than_it_takes_and_goes_on(self, real: int) -> None:
        with calling(f"grpc://127.0.0.1:{real}") as caller:
            assert caller.status(b"x" * 5_000_000, "/test/Echo") == "RESOURCE_EXHAUSTED"
            assert caller.call(b"after") == b"after"

    def test_sends_no_more_than_we_take(self, real: int) -> None:
        with calling(f"grpc://127.0.0.1:{real}") as caller:
            with pytest.raises(RequestFailed, match="answer larger than 16 MiB"):
                caller.call(b"17000000", "/test/Size")
            assert caller.call(b"after") == b"after"

    def test_serves_callers_side_by_side(self, real: int) -> None:
        def one(i: int) -> None:
            with calling(f"grpc://127.0.0.1:{real}") as caller:
                for size in (10, 100_000, 1_000):
                    assert caller.call(bytes([i]) * size) == bytes([i]) * size

        gevent.joinall([gevent.spawn(one, i) for i in range(20)], raise_error=True)

    def test_that_was_started_again_is_found_again(self) -> None:
        with grpcio() as port, calling(f"grpc://127.0.0.1:{port}") as caller:
            caller.call()
        with calling(f"grpc://127.0.0.1:{port}") as caller:
            assert caller.failure() == "connection refused"
            with grpcio(str(port)):
                assert caller.call(b"back") == b"back"
            assert caller.failure() == "connection refused"

    def test_speaks_tls_to_those_who_trust_its_certificate(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key, certificate = str(tmp_path / "key"), str(tmp_path / "certificate")
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-keyout", key, "-out", certificate]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run(command, check=True, capture_output=True)
        with grpcio("0", key, certificate) as port:
            with calling(f"grpcs://127.0.0.1:{port}") as caller:
                assert caller.failure().startswith("TLS certificate refused")
            monkeypatch.setenv("SSL_CERT_FILE", certificate)
            with calling(f"grpcs://127.0.0.1:{port}") as caller:
                assert caller.call(b"x" * 100_000) == b"x" * 100_000


class TestAnswers:
    """Forms that an answer may take and grpcio's does not."""

    def test_arrive_in_pieces_of_a_byte(self) -> None:
        whole = answer(1)
        assert body_of(talking(*(whole[i : i + 1] for i in range(len(whole))))) == b"fine"

    def test_arrive_cut_anywhere(self) -> None:
        whole = frame(h2.PING, 0, 0, b"12345678") + answer(1)
        for at in range(1, len(whole)):
            assert body_of(talking(whole[:at], whole[at:])) == b"fine"

    def test_come_in_many_frames(self) -> None:
        message = bytes(range(256)) * 400
        prefixed = b"\0" + struct.pack(">I", len(message)) + message
        pieces = [frame(h2.DATA, 0, 1, prefixed[at : at + 1000]) for at in range(0, len(prefixed), 1000)]
        assert body_of(talking(headers(1), *pieces, trailers(1))) == message

    def test_are_padded_and_prioritised(self) -> None:
        head = b"\x03" + b"\0\0\0\0\x10" + block(HEAD) + b"\0\0\0"
        flags = h2.END_HEADERS | h2.PADDED | h2.WITH_PRIORITY
        padded = b"\x02" + data(1, b"fine")[9:] + b"\0\0"
        talk = talking(frame(h2.HEADERS, flags, 1, head), frame(h2.DATA, h2.PADDED, 1, padded), trailers(1))
        assert body_of(talk) == b"fine"

    def test_have_headers_that_continue(self) -> None:
        head = block(HEAD)
        first = frame(h2.HEADERS, 0, 1, head[:3])
        rest = frame(h2.CONTINUATION, 0, 1, b"") + frame(h2.CONTINUATION, h2.END_HEADERS, 1, head[3:])
        assert body_of(talking(first, rest, data(1, b"fine"), trailers(1))) == b"fine"

    def test_follow_an_interim_one(self) -> None:
        interim = headers(1, ((":status", "103"),))
        assert body_of(talking(interim, answer(1))) == b"fine"

    def test_come_among_frames_that_mean_nothing_to_us(self) -> None:
        others = frame(h2.PRIORITY, 0, 1, b"\0\0\0\0\0") + frame(0x42, 0xFF, 99, b"whatever")
        assert body_of(talking(others, headers(1), others, data(1, b"fine"), others, trailers(1))) == b"fine"

    def test_are_trailers_alone_when_the_call_failed(self) -> None:
        fields = (*HEAD, ("grpc-status", "14"), ("grpc-message", "gone%20fishing"))
        with serving(talking(headers(1, fields, end=True))) as server, calling(server.url) as caller:
            assert caller.status(b"", "/test/Echo") == "UNAVAILABLE"
            assert caller.client.explanation == "gone fishing"

    def test_have_a_status_that_grpc_does_not_know(self) -> None:
        talk = talking(headers(1, (*HEAD, ("grpc-status", "99")), end=True))
        with serving(talk) as server, calling(server.url) as caller:
            assert caller.status(b"", "/test/Echo") == "grpc-status 99"

    def test_are_read_although_the_server_compresses_with_a_table(self) -> None:
        def talk(peer: Peer) -> None:
            peer.greet()
            encoder = Encoder()  # heeds our setting of no table as little as some do
            for _ in range(3):
                stream = peer.call()
                head, tail = block(HEAD, encoder), block((*FINE, ("x", "y" * 20)), encoder)
                peer.send(
                    frame(h2.HEADERS, h2.END_HEADERS, stream, head) + data(stream, b"fine"),
                    frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, tail),
                )
            peer.linger()

        with serving(talk) as server, calling(server.url) as caller:
            assert [caller.call() for _ in range(3)] == [b"fine"] * 3

    @given(st.lists(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=4), max_size=20), st.booleans())
    def test_have_headers_that_mean_what_hpack_says(self, blocks: Any, heeds: bool) -> None:
        with calling("grpc://127.0.0.1:1") as caller:
            client, encoder = caller.client, tableless() if heeds else Encoder()
            client._decoder, client._skipped = Decoder(), deque(maxlen=128)
            for fields in blocks:
                fields = [("grpc-message", fields[0][0]), *fields]
                assert client._decode(block(fields, encoder)).grpc_message == fields[0][1].encode()

    def test_have_headers_that_refer_to_one_of_hundreds_before(self) -> None:
        with calling("grpc://127.0.0.1:1") as caller:
            client, hpack = caller.client, Decoder()
            client._decoder, client._skipped = Decoder(), deque(maxlen=128)
            for i in range(1000):  # as nginx does: adds to the table, and does not use it
                adds = b"\x40\x0cgrpc-message" + bytes([3]) + f"{i:03d}".encode()
                hpack.decode(adds)
                assert client._decode(adds).grpc_message == f"{i:03d}".encode()
                if i % 300 == 299:
                    for index in range(62, 62 + len(hpack.header_table.dynamic_entries)):
                        refers = bytes([0x80 | index]) if index < 127 else bytes([0xFF, index - 127])
                        (field,) = hpack.decode(refers)
                        assert client._decode(refers).grpc_message == field[1].encode()

    def test_come_with_pings_that_are_answered(self) -> None:
        echoed = []

        def talk(peer: Peer) -> None:
            peer.greet()
            stream = peer.call()
            peer.send(frame(h2.PING, 0, 0, b"12345678"))
            while (got := peer.frame())[0] != h2.PING:
                pass
            echoed.append(got)
            peer.send(answer(stream))
            peer.linger()

        assert body_of(talk) == b"fine"
        assert echoed == [(h2.PING, h2.ACK, 0, b"12345678")]


class TestFlowControl:
    def test_sends_what_the_stream_has_room_for_and_waits_for_more(self) -> None:
        sizes = []

        def talk(peer: Peer) -> None:
            peer.greet(frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 4, 100)))
            peer.frame()  # the headers may come before the settings have arrived
            while True:
                kind, flags, stream, payload = peer.frame()
                if kind != h2.DATA:
                    continue
                peer.server.message += payload
                sizes.append(len(payload))
                if flags & h2.END_STREAM:
                    break
                more = struct.pack(">I", len(payload))
                peer.send(frame(h2.WINDOW_UPDATE, 0, stream, more) + frame(h2.WINDOW_UPDATE, 0, 0, more))
            peer.send(answer(stream))
            peer.linger()

        with serving(talk) as server, calling(server.url) as caller:
            caller.client.open_ahead()
            gevent.sleep(0.05)
            message = bytes(range(256)) * 260  # more than a first window, so that the settings are read
            assert caller.call(message) == b"fine"
            assert server.message[5:] == message
            assert max(sizes[-5:]) <= 100

    def test_sends_what_the_connection_has_room_for(self) -> None:
        def talk(peer: Peer) -> None:
            peer.greet(frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1)))
            left = 65535
            while True:
                kind, flags, stream, payload = peer.frame()
                if kind != h2.DATA:
                    continue
                left -= len(payload)
                assert left >= 0, "sent more than the connection's window"
                peer.server.message += payload
                if flags & h2.END_STREAM:
                    break
                if left == 0:
                    peer.send(frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 20_000)))
                    left = 20_000
            peer.send(answer(stream))
            peer.linger()

        with serving(talk) as server, calling(server.url) as caller:
            assert caller.call(b"z" * 200_000) == b"fine"
            assert server.message[5:] == b"z" * 200_000

    def test_gives_up_on_a_server_that_makes_no_room(self) -> None:
        def talk(peer: Peer) -> None:
            peer.greet()
            peer.linger()

        assert failure_of(talk, timeout_s=0.3, message=b"x" * 100_000) == "timeout after 0.3 s"

    def test_takes_an_answer_that_comes_before_all_was_sent(self) -> None:
        def talk(peer: Peer) -> None:
            peer.greet()
            while peer.frame()[0] != h2.HEADERS:
                pass
            peer.send(headers(1, (*HEAD, ("grpc-status", "8")), end=True))
            peer.linger()

        with serving(talk) as server, calling(server.url) as caller:
            assert caller.status(b"x" * 100_000, "/test/Echo") == "RESOURCE_EXHAUSTED"
            assert caller.client._wire is None  # half a request is in it

    @pytest.mark.parametrize("size", [16384, 40_000])
    def test_sends_frames_as_large_as_the_server_takes(self, size: int) -> None:
        sizes = []

        def talk(peer: Peer) -> None:
            peer.greet(frame(h2.SETTINGS, 0, 0, struct.pack(">HIHI", 5, size, 4, 2**20)))
            peer.send(frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**20)))
            while True:
                kind, flags, stream, payload = peer.frame()
                sizes.append(len(payload) if kind == h2.DATA else 0)
                if kind == h2.DATA and flags & h2.END_STREAM:
                    break
            peer.send(answer(stream))
            peer.linger()

        assert body_of(talk, b"x" * 300_000) == b"fine"
        assert max(sizes) <= size


def reset(code: int, stream: int = 1) -> bytes:
    return frame(h2.RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(code: int, last: int = 0) -> bytes:
    return frame(h2.GOAWAY, 0, 0, struct.pack(">II", last, code))


def settings(name: int, value: int) -> bytes:
    return frame(h2.SETTINGS, 0, 0, struct.pack(">HI", name, value))


WRONG = "not a gRPC answer: "
FAILURES: dict[str, tuple[bytes, str]] = {
    "HTTP/1.1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", f"{WRONG}a frame larger than allowed"),
    "a stream reset": (reset(2), "stream reset: INTERNAL_ERROR"),
    "a reset that nobody knows": (reset(77), "stream reset: error 77"),
    "a broken reset": (frame(h2.RST_STREAM, 0, 1, b"x"), f"{WRONG}a broken reset"),
    "a refused stream": (reset(7), "connection closed before an answer"),
    "an angry goodbye": (goaway(11), "connection ended by the server: ENHANCE_YOUR_CALM"),
    "a goodbye": (goaway(0), "connection closed before an answer"),
    "a broken goodbye": (frame(h2.GOAWAY, 0, 0, b"xx"), f"{WRONG}a broken goodbye"),
    "HTTP 503": (headers(1, ((":status", "503"), ("content-type", "text/html")), end=True), "HTTP 503"),
    "HTTP 404 with a body": (
        headers(1, ((":status", "404"),)) + frame(h2.DATA, h2.END_STREAM, 1, b"nope"),
        "HTTP 404",
    ),
    "no grpc-status": (headers(1) + data(1, b"x") + trailers(1, (("x", "y"),)), f"{WRONG}no grpc-status"),
    "no trailers": (headers(1) + frame(h2.DATA, h2.END_STREAM, 1, b""), f"{WRONG}no grpc-status"),
    "a status in words": (trailers(1, (*HEAD, ("grpc-status", "ok"))), f"{WRONG}an unreadable grpc-status"),
    "no HTTP status": (headers(1, (("x", "y"),)), f"{WRONG}no status"),
    "no message": (headers(1) + trailers(1), f"{WRONG}not one whole message"),
    "a cut message": (
        headers(1) + frame(h2.DATA, 0, 1, b"\0\0\0\0\x09abc") + trailers(1),
        f"{WRONG}not one whole message",
    ),
    "two messages": (
        headers(1) + data(1, b"a") + data(1, b"b") + trailers(1),
        f"{WRONG}not one whole message",
    ),
    "a compressed message": (
        headers(1) + frame(h2.DATA, 0, 1, b"\1\0\0\0\1a") + trailers(1),
        f"{WRONG}a compressed message",
    ),
    "a message before the headers": (data(1, b"x"), f"{WRONG}a message before the headers"),
    "trailers that do not end": (headers(1) + headers(1, FINE), f"{WRONG}trailers before the end"),
    "a stream of its own": (headers(3), f"{WRONG}a stream that nobody opened"),
    "headers on no stream": (headers(0), f"{WRONG}a stream that nobody opened"),
    "a push": (frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\2"), f"{WRONG}a push"),
    "a broken ping": (frame(h2.PING, 0, 0, b"short"), f"{WRONG}a broken ping"),
    "broken settings": (frame(h2.SETTINGS, 0, 0, b"short"), f"{WRONG}broken settings"),
    "a window too large": (settings(4, 2**31), f"{WRONG}a window beyond 2^31"),
    "a window that overflows": (
        frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)),
        f"{WRONG}a window beyond 2^31",
    ),
    "an empty window update": (frame(h2.WINDOW_UPDATE, 0, 0, bytes(4)), f"{WRONG}a broken window update"),
    "a broken window update": (frame(h2.WINDOW_UPDATE, 0, 0, b"x"), f"{WRONG}a broken window update"),
    "a frame size out of range": (settings(5, 1), f"{WRONG}a frame size out of range"),
    "a huge frame": (b"\xff\xff\xff\0\0\0\0\0\1", f"{WRONG}a frame larger than allowed"),
    "unreadable headers": (
        frame(h2.HEADERS, h2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        f"{WRONG}unreadable headers",
    ),
    "padding longer than the frame": (
        frame(h2.DATA, h2.PADDED, 1, b"\x09abc"),
        f"{WRONG}a message before the headers",
    ),
    "broken padding": (headers(1) + frame(h2.DATA, h2.PADDED, 1, b"\x09abc"), f"{WRONG}broken padding"),
    "an interrupted block": (
        frame(h2.HEADERS, 0, 1, block(HEAD)) + frame(h2.PING, 0, 0, bytes(8)),
        f"{WRONG}a header block that is interrupted",
    ),
    "a block without a beginning": (
        frame(h2.CONTINUATION, 4, 1, block(HEAD)),
        f"{WRONG}a header block without a beginning",
    ),
}


class TestFailures:
    @pytest.mark.parametrize("name", FAILURES)
    def test_are_named(self, name: str) -> None:
        sent, expected = FAILURES[name]
        assert failure_of(talking(sent)) == expected

    def test_no_settings_first(self) -> None:
        assert failure_of(talking(answer(1), settings=b"")) == f"{WRONG}no HTTP/2"

    def test_a_server_of_http_1(self) -> None:
        def talk(peer: Peer) -> None:
            peer.more()
            peer.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        assert failure_of(talk) == f"{WRONG}no HTTP/2"

    def test_closed_before_an_answer(self) -> None:
        assert failure_of(closing()) == "connection closed before an answer"

    def test_closed_in_the_middle(self) -> None:
        assert failure_of(closing(headers(1))) == "connection closed in the middle of an answer"

    def test_reset_in_the_middle(self) -> None:
        def talk(peer: Peer) -> None:
            peer.greet()
            peer.call()
            peer.send(headers(1))
            gevent.sleep(0.05)
            peer.sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))

        assert failure_of(talk) in ("connection reset", "connection closed in the middle of an answer")

    @pytest.mark.parametrize("sent", [b"", SETTINGS, headers(1), headers(1) + data(1, b"x")])
    def test_silence(self, sent: bytes) -> None:
        assert failure_of(talking(sent), timeout_s=0.3) == "timeout after 0.3 s"

    def test_a_drip_that_never_ends(self) -> None:
        def talk(peer: Peer) -> None:
            peer.greet()
            peer.call()
            peer.send(headers(1))
            while True:
                peer.send(frame(h2.DATA, 0, 1, b"x"))
                gevent.sleep(0.02)

        assert failure_of(talk, timeout_s=0.4) == "timeout after 0.4 s"

    @pytest.mark.parametrize(
        ("piece", "name"),
        [
            (frame(h2.DATA, 0, 1, bytes(16384)), "answer larger than 16 MiB"),
            (frame(h2.PING, 0, 0, bytes(8)) * 1000, f"{WRONG}frames without end"),
            (SETTINGS * 1000, f"{WRONG}frames without end"),
            (frame(h2.DATA, 0, 1) * 1000, f"{WRONG}frames without end"),
            (frame(0x42, 0, 0, b"what is this?") * 1000, f"{WRONG}frames without end"),
        ],
    )
    def test_an_endless_answer(self, piece: bytes, name: str) -> None:
        def talk(peer: Peer) -> None:
            peer.greet()
            peer.call()
            peer.sock.sendall(headers(1))
            reader = gevent.spawn(peer.linger)
            with contextlib.suppress(OSError):
                while not reader.dead:
                    peer.sock.sendall(piece)
                    gevent.sleep(0)
            reader.kill()

        assert failure_of(talk, timeout_s=60.0) == name

    def test_endless_headers(self) -> None:
        pieces = frame(h2.HEADERS, 0, 1, bytes(1000)), frame(h2.CONTINUATION, 0, 1, bytes(1000)) * 100
        assert failure_of(talking(*pieces)) == "headers larger than 64 KiB"
        assert (
            failure_of(talking(pieces[0], frame(h2.CONTINUATION, 0, 1) * 200)) == "headers larger than 64 KiB"
        )

    def test_small_headers_that_unpack_to_much(self) -> None:
        encoder = Encoder()
        bomb = block([("x", "y" * 4000)], encoder) + block([("x", "y" * 4000)], encoder) * 100
        assert failure_of(talking(frame(h2.HEADERS, 4, 1, bomb))) == f"{WRONG}unreadable headers"

    def test_after_one_the_next_call_has_a_connection_of_its_own(self) -> None:
        with serving(talking(reset(2))) as server, calling(server.url) as caller:
            for _ in range(3):
                assert caller.failure() == "stream reset: INTERNAL_ERROR"
            assert server.connections == 3


class TestReconnect:
    """A kept connection that the server ends between two calls is opened once more."""

    def call_twice(self, end: Callable[[Peer], None]) -> int:
        def talk(peer: Peer) -> None:
            peer.greet()
            peer.send(answer(peer.call()))
            end(peer)

        with serving(talk) as server, calling(server.url) as caller:
            assert caller.call() == b"fine"
            gevent.sleep(0.02)
            assert caller.call() == b"fine"
            return server.connections

    def test_after_a_close(self) -> None:
        assert self.call_twice(lambda peer: None) == 2

    def test_after_a_goodbye(self) -> None:
        def end(peer: Peer) -> None:
            peer.send(goaway(0, 1))
            peer.linger()

        assert self.call_twice(end) == 2

    def test_after_a_goodbye_that_the_call_crosses(self) -> None:
        def end(peer: Peer) -> None:
            peer.call()
            peer.send(goaway(0, 1))

        assert self.call_twice(end) == 2

    def test_after_a_refusal_of_the_stream(self) -> None:
        def end(peer: Peer) -> None:
            peer.send(reset(7, peer.call()))
            peer.linger()

        assert self.call_twice(end) == 2

    def test_only_once(self) -> None:
        first = True

        def talk(peer: Peer) -> None:
            nonlocal first
            peer.greet()
            stream = peer.call()
            if first:
                first = False
                peer.send(answer(stream))

        with serving(talk) as server, calling(server.url) as caller:
            caller.call()
            assert caller.failure() == "connection closed before an answer"
            assert server.connections == 2

    def test_not_when_the_answer_had_begun(self) -> None:
        def talk(peer: Peer) -> None:
            peer.greet()
            peer.send(answer(peer.call()))
            peer.send(headers(peer.call()))

        with serving(talk) as server, calling(server.url) as caller:
            caller.call()
            assert caller.failure() == "connection closed in the middle of an answer"
            assert server.connections == 1

    def test_a_call_that_the_goodbye_lets_through_is_answered_and_is_the_last(self) -> None:
        def talk(peer: Peer) -> None:
            peer.greet()
            stream = peer.call()
            peer.send(goaway(0, stream), answer(stream))
            peer.linger()

        with serving(talk) as server, calling(server.url) as caller:
            assert [caller.call(), caller.call()] == [b"fine"] * 2
            assert server.connections == 2

    def test_when_the_streams_numbers_are_used_up(self) -> None:
        def talk(peer: Peer) -> None:
            peer.greet()
            while True:
                peer.send(answer(peer.call()))

        with serving(talk) as server, calling(server.url) as caller:
            caller.call()
            caller.client._stream = 2**31 - 3
            assert [caller.call(), caller.call()] == [b"fine"] * 2
            assert server.connections == 2


FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 1, 1, 2, 3, 2**31 - 1]),
    st.binary(max_size=40) | st.sampled_from([block(HEAD), block(FINE), b"\0\0\0\0\1x", bytes(8)]),
)


class TestChance:
    """Whatever a server sends, a call ends soon, as an answer or a named failure."""

    def ends(self, sent: bytes, settings: bytes = SETTINGS) -> None:
        def talk(peer: Peer) -> None:
            peer.greet(settings)
            peer.call()
            peer.send(sent)

        with serving(talk) as server, calling(server.url, timeout_s=5.0) as caller:
            try:
                caller.client.request(Call.encode(caller.target, "/test/Echo", b"{}"))
            except RequestFailed as failed:
                name = str(failed)
            else:
                name = "an answer"
            assert name
            assert "timeout" not in name

    @given(st.binary(max_size=300))
    def test_bytes(self, sent: bytes) -> None:
        self.ends(sent)

    @given(st.binary(max_size=100))
    def test_bytes_from_the_beginning(self, sent: bytes) -> None:
        self.ends(sent, settings=b"")

    @given(st.lists(FRAMES, max_size=8))
    def test_frames(self, frames: list[bytes]) -> None:
        self.ends(b"".join(frames))

    @given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), max_size=4))
    def test_an_answer_with_wrong_bytes(self, changes: list[tuple[int, int]]) -> None:
        sent = bytearray(answer(1))
        for at, byte in changes:
            sent[at % len(sent)] = byte
        self.ends(bytes(sent))

    @given(st.binary(max_size=80))
    def test_headers(self, fields: bytes) -> None:
        self.ends(frame(h2.HEADERS, h2.END_HEADERS, 1, fields) + data(1, b"x") + trailers(1))


USER = """
from locustfiles.engine import GrpcProtocol, ModelUser

class Echo(GrpcProtocol):
    path = "/test/Echo"
    @classmethod
    def encode(cls, image):
        return image.jpeg
    @classmethod
    def decode(cls, body):
        return [(i, 0.2) for i in range(5)] if body == b"jpeg" * 3000 else []

class Failing(Echo):
    path = "/test/Fail"
    @classmethod
    def encode(cls, image):
        return b"14"

class EchoUser(ModelUser):
    protocols = {"grpc": Echo, "failing": Failing}
    @classmethod
    def facts(cls):
        return {"port": 1, "predict_path": "/", "protocol": "http", "protocols": {"grpc": {"port": 2}}}
    @classmethod
    def encode(cls, image):
        return b""
    @classmethod
    def decode(cls, body):
        return []
"""


class TestUser:
    @pytest.fixture
    def locust(self, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
        (tmp_path / "x.jpg").write_bytes(b"jpeg" * 3000)
        top5 = [{"class_id": i, "confidence": 0.2} for i in range(5)]
        image = {"file": "x.jpg", "payload": "small", "top5": top5}
        (tmp_path / "images.json").write_text(json.dumps([image]))
        (tmp_path / "echo_user.py").write_text(USER)

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "locust", "-f", "echo_user.py", "--headless", *arguments],
                env={"PYTHONPATH": str(ROOT), "MODELSWARM_MODEL_DIR": str(tmp_path)},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        return run

    def summary(self, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / "record" / "summary.json").read_text())
        return found

    def test_s_calls_are_paced_recorded_and_checked_like_requests(
        self, real: int, locust: Any, tmp_path: Path
    ) -> None:
        host = ("--host", f"grpc://127.0.0.1:{real}")
        done = locust(*host, "--protocol", "grpc", "--rate", "100", "--run-time", "2s", "--record", "record")
        assert done.returncode == 0, done.stderr
        summary = self.summary(tmp_path)
        assert summary["counts"] | {"planned": 200} == summary["counts"]
        assert summary["counts"]["completed"] == 200
        assert summary["failures"] == {}
        assert summary["shape"]["protocol"] == "grpc"
        assert "gRPC" in (tmp_path / "record" / "stats.csv").read_text()

    def test_s_failures_are_counted_by_their_status(self, real: int, locust: Any, tmp_path: Path) -> None:
        host = ("--host", f"grpc://127.0.0.1:{real}")
        done = locust(
            *host, "--protocol", "failing", "--rate", "50", "--run-time", "1s", "--record", "record"
        )
        assert done.returncode == 1
        assert self.summary(tmp_path)["failures"] == {"UNAVAILABLE": 50}

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--protocol", "grcp"], "EchoUser does not speak 'grcp': choose one of http, grpc, failing"),
            (["--protocol", "grpc", "--host", "http://127.0.0.1:1"], "write for example grpc://127.0.0.1:2"),
            (["--host", "grpc://127.0.0.1:1"], "write for example http://127.0.0.1:1"),
        ],
    )
    def test_s_protocol_must_be_one_that_it_speaks_and_fit_the_host(
        self, locust: Any, arguments: list[str], sentence: str
    ) -> None:
        done = locust("--run-time", "1s", *arguments)
        assert (done.returncode, sentence in " ".join(done.stderr.split())) == (2, True), done.stderr
