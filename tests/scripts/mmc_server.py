"""Sixteen servers with exponential service times behind one queue, as a process: M/M/16, which theory knows.

The instant at which each of them is free again is kept ahead, so that a late wake-up of the event loop delays
an answer, but not those behind it. `MMC_TIMES=1.1` makes every service take 10 % longer,
`MMC_STEADY=1` about as long as the others.
"""

import asyncio
import base64
import hashlib
import heapq
import json
import os
import random
import sys
from pathlib import Path

SERVERS, MEAN_S = 16, 0.1 * float(os.environ.get("MMC_TIMES", "1"))
STEADY = "MMC_STEADY" in os.environ
MODEL = Path(os.environ["MODELSWARM_MODEL_DIR"])
STORED = {image["sha256"]: image["top5"] for image in json.loads((MODEL / "images.json").read_text())}


async def serve(reader, writer, free, rng):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
            body = await reader.readexactly(length)
            table = {"status": "ready"}
            if head.startswith("post"):
                now = asyncio.get_running_loop().time()
                times = rng.lognormvariate(0, 0.1) if STEADY else rng.expovariate(1)
                done = max(now, heapq.heappop(free)) + MEAN_S * times
                heapq.heappush(free, done)
                await asyncio.sleep(done - now)
                jpeg = base64.b64decode(json.loads(body)["image_base64"])
                table = {"predictions": STORED[hashlib.sha256(jpeg).hexdigest()]}
            answer = json.dumps(table).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(host, port):
    free, rng = [0.0] * SERVERS, random.Random()
    server = await asyncio.start_server(lambda r, w: serve(r, w, free, rng), host, port, limit=1 << 22)
    await server.serve_forever()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
