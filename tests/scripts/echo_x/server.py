"""A model server for tests: it knows the stored answer of every test image and waits a millisecond.

`ECHO_FAULT` makes it misbehave: `never_ready`, `dies_at_once`, `wrong_answers`, `stubborn` (ignores SIGTERM
and has a child in a session of its own), `dies_after:N` (SIGKILLs itself at the N-th prediction).
"""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = Path(os.environ["MODELSWARM_MODEL_DIR"])
FAULT, _, FAULT_NUMBER = os.environ.get("ECHO_FAULT", "").partition(":")
STORED = {image["sha256"]: image["top5"] for image in json.loads((MODEL / "images.json").read_text())}
predictions = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the head and the body are two writes

    def do_GET(self):
        self.answer(503 if FAULT == "never_ready" else 200, {"status": FAULT or "ready"})

    def do_POST(self):
        global predictions
        predictions += 1
        if FAULT == "dies_after" and predictions >= int(FAULT_NUMBER):
            os.kill(os.getpid(), signal.SIGKILL)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        jpeg = body if self.path == "/other" else base64.b64decode(json.loads(body)["image_base64"])
        top5 = STORED[hashlib.sha256(jpeg).hexdigest()]
        time.sleep(0.001)
        if FAULT == "wrong_answers":
            top5 = top5[::-1]
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


class Other(Handler):
    """On a port of its own: the bytes of the image, without JSON around them."""

    def do_GET(self):
        self.answer(404, {})


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """Log faults, but not a client that was ended in the middle of its request."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    if FAULT == "dies_at_once":
        sys.exit("the model file is damaged")
    if FAULT == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    host, port, other = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=Server((host, other), Other).serve_forever, daemon=True).start()
    Server((host, port), Handler).serve_forever()
