"""A test server that sends each request to one of two variants by chance and names it in a header.

    python split_server.py [--green 0.5] [--blue-delay 0.01] [--green-delay 0.012]

Prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random

ANSWER = {"predictions": [{"class_id": i, "class_name": "none", "confidence": 0.2} for i in range(5)]}


async def serve(
    options: argparse.Namespace, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one connection's requests."""
    rng = random.Random()
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
            name = "green" if rng.random() < options.green else "blue"
            await asyncio.sleep(getattr(options, f"{name}_delay") * rng.lognormvariate(0, 0.2))
            body = json.dumps(ANSWER | {"model": {"version": name}}).encode()
            answer = f"HTTP/1.1 200 OK\r\nX-Variant: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(answer.encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(options: argparse.Namespace) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(lambda r, w: serve(options, r, w), "127.0.0.1", 0, limit=1 << 22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--green", type=float, default=0.5)
    parser.add_argument("--blue-delay", type=float, default=0.01)
    parser.add_argument("--green-delay", type=float, default=0.012)
    asyncio.run(main(parser.parse_args()))
