"""A model server for tests in kind: it knows the stored answer of every test image, and takes a millisecond.

`ECHO_FAULT` makes it misbehave: `never_ready`, or `greedy` (takes ever more memory with each prediction).
"""

import asyncio
import base64
import hashlib
import json
import os
import sys
from pathlib import Path

MODEL = Path(os.environ["MODELSWARM_MODEL_DIR"])
FAULT = os.environ.get("ECHO_FAULT", "")
STORED = {image["sha256"]: image["top5"] for image in json.loads((MODEL / "images.json").read_text())}
taken = []
known = {}


def respond(status, table):
    body = json.dumps(table).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


HEALTH = respond("503 Not Ready" if FAULT == "never_ready" else "200 OK", {"status": FAULT or "ready"})


def predict(body):
    """Equal requests have equal answers, so that a burst after a stop is answered at once."""
    if body not in known:
        jpeg = base64.b64decode(json.loads(body)["image_base64"])
        top5 = STORED[hashlib.sha256(jpeg).hexdigest()]
        top = {"top_prediction": top5[0]["class_name"], "confidence": top5[0]["confidence"]}
        known[body] = respond("200 OK", {"predictions": top5, **top})
    if FAULT == "greedy":
        taken.append(os.urandom(4_000_000))
    return known[body]


class Connection(asyncio.Protocol):
    """Reads requests with a Content-Length and answers each a millisecond later."""

    def connection_made(self, transport):
        self.transport, self.received = transport, b""

    def data_received(self, data):
        self.received += data
        while True:
            head, separator, rest = self.received.partition(b"\r\n\r\n")
            _, _, length = head.lower().partition(b"content-length:")
            needed = int(length.split(b"\r\n")[0]) if length else 0
            if not separator or len(rest) < needed:
                return
            body, self.received = rest[:needed], rest[needed:]
            if head.startswith(b"GET"):
                self.transport.write(HEALTH)
            else:
                asyncio.get_running_loop().call_later(0.001, self.answer, body)

    def answer(self, body):
        if not self.transport.is_closing():
            self.transport.write(predict(body))


async def serve(host, port):
    server = await asyncio.get_running_loop().create_server(Connection, host, port, backlog=1024)
    print("the echo server listens", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
