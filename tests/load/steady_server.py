"""A test server that answers every request after a fixed delay: not a model server, and it says so.

    python steady_server.py [--delay 0.001] [--port 0]

Prints its port.  `--delay 0` answers at once.  `--then 0.05 --after 10` answers in 50 ms from the tenth
second after the first request on; `--stall-for 0.5 --stall-every 5` stands still for half a second in every
five.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

ANSWER = {"predictions": [{"class_id": i, "class_name": "none", "confidence": 0.2} for i in range(5)]}
BODY = json.dumps(ANSWER).encode()
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: modelswarm-test-server\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY


class Connection(asyncio.Protocol):
    """Reads requests with a Content-Length and answers them in order."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (request := self._next_request()) is not None:
            del request
            loop = asyncio.get_running_loop()
            if delay_s := self._delay_s(loop.time()):
                loop.call_later(delay_s, self._answer)
            else:
                self._answer()

    def _next_request(self) -> bytes | None:
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return None
        _, _, length = head.lower().partition(b"content-length:")
        needed = int(length.split(b"\r\n")[0] or 0) if length else 0
        if len(rest) < needed:
            return None
        self._received = rest[needed:]
        return rest[:needed]

    def _delay_s(self, now: float) -> float:
        options = self._options
        if options.first is None:
            options.first = now
            if options.stall_for:
                asyncio.get_running_loop().call_later(options.stall_every / 2, stall, options)
        return float(options.delay if now - options.first < options.after else options.then)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(RESPONSE)


def stall(options: argparse.Namespace) -> None:
    """Block the loop: nothing is read or answered meanwhile."""
    asyncio.get_running_loop().call_later(options.stall_every, stall, options)
    time.sleep(options.stall_for)


async def serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(options), "127.0.0.1", options.port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.001)
    parser.add_argument("--then", type=float, default=0.001)
    parser.add_argument("--after", type=float, default=float("inf"))
    parser.add_argument("--stall-for", type=float, default=0.0)
    parser.add_argument("--stall-every", type=float, default=5.0)
    asyncio.run(serve(argparse.Namespace(**vars(parser.parse_args()), first=None)))
