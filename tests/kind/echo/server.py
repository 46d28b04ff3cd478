"""A model server for tests in kind: it knows the stored answer of every test image and waits a millisecond.

`ECHO_FAULT` makes it misbehave: `never_ready`, or `greedy` (takes ever more memory once it is asked).
"""

import base64
import hashlib
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = Path(os.environ["MODELSWARM_MODEL_DIR"])
FAULT = os.environ.get("ECHO_FAULT", "")
STORED = {image["sha256"]: image["top5"] for image in json.loads((MODEL / "images.json").read_text())}
taken = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the head and the body are two writes

    def do_GET(self):
        self.answer(503 if FAULT == "never_ready" else 200, {"status": FAULT or "ready"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        jpeg = base64.b64decode(body["image_base64"])
        top5 = STORED[hashlib.sha256(jpeg).hexdigest()]
        time.sleep(0.001)
        if FAULT == "greedy":
            taken.append(bytearray(os.urandom(4_000_000)))
        self.answer(200, {"predictions": top5, **{k: top5[0][k] for k in ("class_name", "confidence")}})

    def answer(self, status, table):
        body = json.dumps(table).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    print("the echo server listens", flush=True)
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
