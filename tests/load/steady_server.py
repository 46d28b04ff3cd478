"""A test server that answers every request after a fixed delay: not a model server, and it says so.

    python steady_server.py [--delay 0.001] [--port 0]

Prints its port.  `--delay 0` answers at once.  `--then 0.05 --after 10` answers in 50 ms from the tenth
second after the first request on; `--stall-for 0.5 --stall-every 5` stands still for half a second in every
five.

One loop over select(2), because what the tests expect of it is exact: asyncio and epoll round a delay up to
the next millisecond, and asyncio would take tens of milliseconds for the requests that a stall left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import select
import socket
import time
from collections import deque

ANSWER = {"predictions": [{"class_id": i, "class_name": "none", "confidence": 0.2} for i in range(5)]}
BODY = json.dumps(ANSWER).encode()
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: modelswarm-test-server\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY


class Server:
    """Answers in the order in which answers fall due; times are seconds of the monotonic clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._listener = socket.create_server(("127.0.0.1", options.port), backlog=4096)
        self._listener.setblocking(False)
        self._received: dict[socket.socket, bytes] = {}
        self._answers: deque[tuple[float, socket.socket]] = deque()
        self._first = self._stall_at = math.inf

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            now = time.monotonic()
            due = min(self._stall_at, self._answers[0][0] if self._answers else math.inf)
            wait_s = None if due == math.inf else max(0.0, due - now)
            for ready in select.select([self._listener, *self._received], (), (), wait_s)[0]:
                if ready is self._listener:
                    self._accept()
                else:
                    self._read(ready)
            now = time.monotonic()
            while self._answers and self._answers[0][0] <= now:
                self._write(self._answers.popleft()[1])
            if self._stall_at <= now:
                self._stall_at += self._options.stall_every
                time.sleep(self._options.stall_for)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._received[self._listener.accept()[0]] = b""

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            del self._received[connection]
            connection.close()
            return
        self._received[connection] += data
        while self._take_request(connection):
            if delay_s := self._delay_s(time.monotonic()):
                self._answers.append((time.monotonic() + delay_s, connection))
            else:
                self._write(connection)

    def _take_request(self, connection: socket.socket) -> bool:
        head, separator, rest = self._received[connection].partition(b"\r\n\r\n")
        if not separator:
            return False
        _, _, length = head.lower().partition(b"content-length:")
        needed = int(length.split(b"\r\n")[0] or 0) if length else 0
        if len(rest) < needed:
            return False
        self._received[connection] = rest[needed:]
        return True

    def _delay_s(self, now: float) -> float:
        options = self._options
        if self._first == math.inf:
            self._first = now
            if options.stall_for:
                self._stall_at = now + options.stall_every / 2
        return float(options.delay if now - self._first < options.after else options.then)

    def _write(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # who asked has gone
            connection.sendall(RESPONSE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.001)
    parser.add_argument("--then", type=float, default=0.001)
    parser.add_argument("--after", type=float, default=math.inf)
    parser.add_argument("--stall-for", type=float, default=0.0)
    parser.add_argument("--stall-every", type=float, default=5.0)
    server = Server(parser.parse_args())
    print(server.port, flush=True)
    server.serve()
