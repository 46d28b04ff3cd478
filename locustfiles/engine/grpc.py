"""A lean gRPC client for unary calls: HTTP/2 over one connection a user, one call at a time.

A general HTTP/2 stack costs more than the call.  What makes this one small: the request's frames are encoded
once, up to the stream's number; the server is told to compress headers without a table of earlier ones, so
that equal blocks of headers mean the same and are looked up; and streams of one connection never overlap.
Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), and gRPC over HTTP/2 (doc/PROTOCOL-HTTP2.md of gRPC).
"""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

from hpack import Decoder, Encoder, HPACKError, InvalidTableIndexError, NeverIndexedHeaderTuple

from locustfiles.engine.client import (
    MAX_ANSWER_BYTES,
    MAX_HEAD_BYTES,
    Client,
    HungUp,
    RequestFailed,
    Target,
)
from locustfiles.engine.wire import Wire

CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
    *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""gRPC's status codes by number."""
_ERRORS = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT"),
    *("STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR"),
    *("CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW, _MAX_FRAME = 1, 2, 4, 5
_NO_ERROR, _REFUSED_STREAM = 0, 7
MAX_FRAME_BYTES = 16384
"""The largest frame that we take, and that every server takes."""
_FIRST_WINDOW = 65535
_MAX_WINDOW = _LAST_STREAM = 2**31 - 1
_OUR_WINDOW = 2**30
_MAX_RECEIVED = MAX_ANSWER_BYTES + MAX_HEAD_BYTES
_MAX_IDLE_FRAMES = 10_000
_TABLE_UPDATE = 0x20
_MEMO = 1000
_PREFIX = struct.Struct(">HBBBI")  # length (high, low), kind, flags, stream
_WORD = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_buffer = bytearray(64 * 1024)  # copied from before any other greenlet runs, so one is enough
_view = memoryview(_buffer)


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """One HTTP/2 frame; the payload is shorter than 2^24 bytes."""
    length = len(payload)
    return _PREFIX.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(
        SETTINGS,
        0,
        0,
        _SETTING.pack(_TABLE_SIZE, 0)
        + _SETTING.pack(_ENABLE_PUSH, 0)
        + _SETTING.pack(_INITIAL_WINDOW, 2 * MAX_ANSWER_BYTES),  # a stream's window never needs an update
    )
    + frame(WINDOW_UPDATE, 0, 0, _WORD.pack(_OUR_WINDOW - _FIRST_WINDOW))
)


@dataclass(frozen=True)
class Call:
    """A unary call ready to be sent: `head` is its HEADERS payload, `message` the prefixed message.

    `parts` are all its frames, cut where the stream's number goes.
    """

    head: bytes
    message: bytes
    parts: tuple[bytes, ...]

    @classmethod
    def encode(cls, target: Target, path: str, message: bytes) -> Call:
        """The call of the method `path` (such as /package.Service/Method) with a serialized message."""
        fields = (
            (":method", "POST"),
            (":scheme", "http" if target.context is None else "https"),
            (":path", target.base_path + path),
            (":authority", target.authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "modelswarm"),
        )
        head = bytes(Encoder().encode((NeverIndexedHeaderTuple(*field) for field in fields), huffman=False))
        prefixed = b"\0" + _WORD.pack(len(message)) + message
        view = memoryview(prefixed)
        pieces = [view[at : at + MAX_FRAME_BYTES] for at in range(0, len(prefixed), MAX_FRAME_BYTES)]
        frames = [frame(HEADERS, END_HEADERS, 0, head), *(frame(DATA, 0, 0, piece) for piece in pieces[:-1])]
        frames.append(frame(DATA, END_STREAM, 0, pieces[-1]))
        heads, tails = [each[:5] for each in frames], [each[9:] for each in frames]
        parts = (heads[0], *(tail + head for tail, head in zip(tails, heads[1:], strict=False)), tails[-1])
        return cls(head, prefixed, parts)


class _Head(NamedTuple):
    """What matters of a header block: the response's, or the trailers'."""

    status: bytes
    content_type: bytes
    grpc_status: bytes
    grpc_message: bytes

    @classmethod
    def of(cls, fields: Sequence[tuple[bytes, bytes]]) -> _Head:
        values = dict(fields)
        names = (b":status", b"content-type", b"grpc-status", b"grpc-message")
        return cls(*(values.get(name, b"") for name in names))


_Memo = dict[bytes, tuple[_Head, bool] | None]


def _look_up(memo: _Memo, block: bytes) -> tuple[_Head, bool] | None:
    """What a block means and whether it fills the table; None when it refers to earlier ones."""
    if block not in memo:
        if len(memo) >= _MEMO:  # such as a date in every answer
            memo.clear()
        decoder = Decoder(MAX_HEAD_BYTES)
        try:
            head = _Head.of(decoder.decode(block, raw=True))  # type: ignore[arg-type]
            memo[block] = head, bool(decoder.header_table.dynamic_entries)
        except InvalidTableIndexError:
            memo[block] = None
    return memo[block]


def _wrong(what: str) -> RequestFailed:
    return RequestFailed(f"not a gRPC answer: {what}")


class GrpcClient(Client[Call]):
    """gRPC over one HTTP/2 connection.

    `request` returns gRPC's status code; `explanation` is the text that the server sent with it.
    """

    ok = range(1)
    _memo: _Memo = {}  # noqa: RUF012  # shared on purpose: all users get the same few blocks

    @property
    def body(self) -> bytes:
        """The last answer's serialized message; empty when its status is not OK."""
        return self._message

    def describe(self, status: int) -> str:
        """As `Client.describe`: `UNAVAILABLE`, `INVALID_ARGUMENT`, …"""
        return CODES[status] if status < len(CODES) else f"grpc-status {status}"

    # A connection.

    def _open(self, timeout_s: float) -> None:
        self._decoder = Decoder(MAX_HEAD_BYTES)
        self._skipped: deque[bytes] = deque(maxlen=128)
        self._rest = b""
        self._stream = -1
        self._window = self._initial_window = _FIRST_WINDOW
        self._max_frame = MAX_FRAME_BYTES
        self._consumed = 0
        self._greeted = self._leaving = False
        self._replies: list[bytes] = []
        self._wire = self._target.connect(timeout_s)
        self._wire.send(_PREFACE)

    def _may_reuse(self, wire: Wire) -> bool:
        return self._stream < _LAST_STREAM - 1  # what came unasked is read with the answer

    def _exchange(self, call: Call) -> int:
        wire = self._wire
        assert wire is not None
        self._begin()
        try:
            if len(call.message) <= min(self._window, self._stream_window):
                wire.send(_WORD.pack(self._stream).join(call.parts))
                self._window -= len(call.message)
            else:
                self._send_in_pieces(wire, call)
            while not self._ended:
                self._receive(wire)
        except (ConnectionResetError, BrokenPipeError) as error:
            if self._touched or self._expired:
                raise
            raise HungUp from error
        if self._leaving:
            self.close()
        return self._judge()

    def _begin(self) -> None:
        self._stream += 2
        self._stream_window = self._initial_window
        self._head: _Head | None = None
        self._trailers: _Head | None = None
        self._block: list[bytes] = []
        self._block_ends = self._ended = self._touched = False
        self._pieces: list[bytes] = []
        self._received = self._idle_frames = 0
        self._message, self.explanation = b"", ""

    def _send_in_pieces(self, wire: Wire, call: Call) -> None:
        """As much at a time as the server's windows have room for; what it says meanwhile is heard."""
        wire.send(frame(HEADERS, END_HEADERS, self._stream, call.head))
        left = memoryview(call.message)
        while left:
            room = min(self._window, self._stream_window, len(left))
            if room <= 0:
                self._receive(wire)
                if self._ended:  # answered before it had read it all, and will read no more
                    self._leaving = True
                    return
                continue
            frames = []
            for at in range(0, room, self._max_frame):
                piece = left[at : min(room, at + self._max_frame)]
                last = at + len(piece) == len(left)
                frames.append(frame(DATA, END_STREAM if last else 0, self._stream, piece))
            wire.send(b"".join(frames))
            self._window -= room
            self._stream_window -= room
            left = left[room:]

    # What comes back.

    def _receive(self, wire: Wire) -> None:
        n = wire.receive(_buffer)
        if not n:
            if self._touched or self._expired:
                raise ConnectionAbortedError
            raise HungUp
        self._received += n
        if self._received > _MAX_RECEIVED:
            raise RequestFailed(f"answer larger than {MAX_ANSWER_BYTES >> 20} MiB")
        data = self._rest + _view[:n] if self._rest else bytes(_view[:n])
        at, end = 0, len(data)
        while end - at >= _PREFIX.size:
            high, low, kind, flags, stream = _PREFIX.unpack_from(data, at)
            length = high << 8 | low
            if not self._greeted:
                if kind != SETTINGS or flags & ACK or length > MAX_FRAME_BYTES:
                    raise _wrong("no HTTP/2")
                self._greeted = True
            if length > MAX_FRAME_BYTES:
                raise _wrong("a frame larger than allowed")
            start = at + _PREFIX.size
            if end - start < length:
                break
            at = start + length
            self._on_frame(kind, flags, stream & _LAST_STREAM, data[start:at])
        self._rest = data[at:]
        self._reply(wire)

    def _reply(self, wire: Wire) -> None:
        if self._consumed > _OUR_WINDOW // 2:
            self._replies.append(frame(WINDOW_UPDATE, 0, 0, _WORD.pack(self._consumed)))
            self._consumed = 0
        if self._replies:
            replies, self._replies = b"".join(self._replies), []
            # The connection is over: then the next to read or send knows.
            with contextlib.suppress(OSError):
                wire.send(replies)

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block and (kind != CONTINUATION or stream != self._stream):
            raise _wrong("a header block that is interrupted")
        if kind == DATA:
            self._consumed += len(payload)
        if kind in (DATA, HEADERS, CONTINUATION):
            if stream > self._stream or not stream & 1:
                raise _wrong("a stream that nobody opened")
            if stream < self._stream or self._ended:
                raise _wrong("frames after the end of a stream")
            self._touched = True
            if kind == DATA:
                self._on_data(flags, payload)
            else:
                self._on_headers(kind, flags, payload)
        elif handler := _HANDLERS.get(kind):
            handler(self, flags, stream, payload)
        if kind != HEADERS and (kind != DATA or not payload):
            self._idle_frames += 1
            if self._idle_frames > _MAX_IDLE_FRAMES:  # cheap to send, and each takes our time
                raise _wrong("frames without end")

    def _on_data(self, flags: int, payload: bytes) -> None:
        if self._head is None:
            raise _wrong("a message before the headers")
        self._pieces.append(_unpadded(payload) if flags & PADDED else payload)
        self._ended = bool(flags & END_STREAM)

    def _on_headers(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == HEADERS:
            payload = _unpadded(payload) if flags & PADDED else payload
            payload = payload[5:] if flags & WITH_PRIORITY else payload
            self._block_ends = bool(flags & END_STREAM)
        elif not self._block:
            raise _wrong("a header block without a beginning")
        if flags & END_HEADERS:
            block, self._block = b"".join((*self._block, payload)), []
            self._on_block(self._decode(block))
        else:
            self._block.append(payload or b"")
            if sum(map(len, self._block)) > MAX_HEAD_BYTES or len(self._block) > 100:
                raise RequestFailed(f"headers larger than {MAX_HEAD_BYTES >> 10} KiB")

    def _decode(self, block: bytes) -> _Head:
        """A block's fields: looked up where it means the same whatever came before.

        Such a block may still fill the connection's table, for a later one that refers to it.  It is kept
        until there is one: an entry takes 32 bytes or more of 4096, so older ones than 128 are forgotten.
        """
        try:
            known = None if block[:1] and block[0] & 0xE0 == _TABLE_UPDATE else _look_up(self._memo, block)
            if known is not None:
                if known[1]:
                    self._skipped.append(block)
                return known[0]
            while self._skipped:
                self._decoder.decode(self._skipped.popleft(), raw=True)
            return _Head.of(self._decoder.decode(block, raw=True))  # type: ignore[arg-type]
        except HPACKError as error:
            raise _wrong("unreadable headers") from error

    def _on_block(self, head: _Head) -> None:
        if self._head is None:
            if not head.status.isdigit():
                raise _wrong("no status")
            if head.status[:1] == b"1":  # an interim answer
                return
            self._head = head
        elif not self._block_ends:
            raise _wrong("trailers before the end")
        if self._block_ends:
            self._trailers, self._ended = head, True

    def _on_settings(self, flags: int, _: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % _SETTING.size:
            raise _wrong("broken settings")
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW:
                if value > _MAX_WINDOW:
                    raise _wrong("a window beyond 2^31")
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif name == _MAX_FRAME:
                if not MAX_FRAME_BYTES <= value < 2**24:
                    raise _wrong("a frame size out of range")
                self._max_frame = value
        self._replies.append(frame(SETTINGS, ACK, 0))

    def _on_ping(self, flags: int, _: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise _wrong("a broken ping")
        if not flags & ACK:
            self._replies.append(frame(PING, ACK, 0, payload))

    def _on_goaway(self, _: int, __: int, payload: bytes) -> None:
        if len(payload) < 8:
            raise _wrong("a broken goodbye")
        last, code = struct.unpack_from(">II", payload)
        self._leaving = True
        if self._ended or last & _LAST_STREAM >= self._stream:
            return  # this call will be answered yet
        if code != _NO_ERROR:
            raise RequestFailed(f"connection ended by the server: {_error_name(code)}")
        raise HungUp

    def _on_window_update(self, _: int, stream: int, payload: bytes) -> None:
        more = _WORD.unpack(payload)[0] & _MAX_WINDOW if len(payload) == 4 else 0
        if not more:
            raise _wrong("a broken window update")
        if stream == 0:
            self._window += more
        elif stream == self._stream:
            self._stream_window += more
        if max(self._window, self._stream_window) > _MAX_WINDOW:
            raise _wrong("a window beyond 2^31")

    def _on_reset(self, _: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _wrong("a broken reset")
        if stream != self._stream or self._ended:
            return
        (code,) = _WORD.unpack(payload)
        if code == _REFUSED_STREAM:  # the server's word that it did nothing
            raise HungUp
        raise RequestFailed(f"stream reset: {_error_name(code)}")

    def _on_push(self, _: int, __: int, ___: bytes) -> None:
        raise _wrong("a push")

    def _judge(self) -> int:
        """The status of an answer that has ended."""
        head, trailers = self._head, self._trailers
        assert head is not None
        if trailers is None or not trailers.grpc_status:
            if head.status != b"200":
                raise RequestFailed(f"HTTP {head.status.decode()[:3]}")
            raise _wrong("no grpc-status")
        text = trailers.grpc_status
        if not (text.isdigit() and len(text) < 5):
            raise _wrong("an unreadable grpc-status")
        if status := int(text):
            self.explanation = unquote(trailers.grpc_message.decode("latin-1"))
            return status
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if len(body) < 5 or _WORD.unpack_from(body, 1)[0] != len(body) - 5:
            raise _wrong("not one whole message")
        if body[0]:
            raise _wrong("a compressed message")
        self._message = body[5:]
        return 0


_HANDLERS = {
    SETTINGS: GrpcClient._on_settings,
    PING: GrpcClient._on_ping,
    GOAWAY: GrpcClient._on_goaway,
    WINDOW_UPDATE: GrpcClient._on_window_update,
    RST_STREAM: GrpcClient._on_reset,
    PUSH_PROMISE: GrpcClient._on_push,
}
"""What a frame that belongs to no answer does."""


def _error_name(code: int) -> str:
    return _ERRORS[code] if code < len(_ERRORS) else f"error {code}"


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise _wrong("broken padding")
    return payload[1 : len(payload) - payload[0]]
