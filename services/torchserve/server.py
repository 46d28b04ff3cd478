"""TorchServe with one model archive, and a door beside it that says when the model is ready.

TorchServe answers `/ping` before its worker has loaded the model. Its management API knows better, but asks
for a key that TorchServe makes up at each start; this process reads it and answers `/health` for everybody.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

import psutil

from services.model.contract import MAX_BATCH, MAX_BATCH_WAIT_S, MAX_BODY_BYTES, Settings

HERE = Path(__file__).resolve().parent
LOOPBACK = "127.0.0.1"
MODEL = "mobilenet"
KEYS = Path("key_file.json")
KEY_LASTS_MIN = 7 * 24 * 60


def main() -> int:
    """Pack the archive, run TorchServe until SIGTERM or SIGINT; returns its exit status."""
    options = _options()
    settings = Settings.from_env()
    store = Path("model-store")
    store.mkdir(exist_ok=True)
    _pack(settings, store)
    config = Path("config.properties")
    config.write_text(_config(options, settings))
    door = ThreadingHTTPServer((options.host, options.health_port), _door(options.management_port))
    threading.Thread(target=door.serve_forever, daemon=True).start()
    command = [str(Path(sys.executable).with_name("torchserve")), "--start", "--foreground", "--ncs"]
    command += [
        "--ts-config",
        str(config),
        "--model-store",
        str(store),
        "--log-config",
        str(HERE / "log4j2.xml"),
    ]
    if os.environ.get("MODELSWARM_AUTHORIZATION") == "false":
        command.append("--disable-token-auth")
    # Sockets between TorchServe's processes go where TEMP says.
    server = subprocess.Popen(command, env=os.environ | {"TEMP": os.environ.get("TMPDIR", "/tmp")})
    family = psutil.Process(server.pid)

    def stop(number: int, frame: FrameType | None) -> None:
        with suppress(psutil.NoSuchProcess):  # the same signal may have reached them too
            for process in [*family.children(recursive=True), family]:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    status = server.wait()
    return 0 if status == -signal.SIGTERM else status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    ports = {
        "port": 8080,
        "health": 8083,
        "management": 8081,
        "metrics": 8082,
        "grpc": 7070,
        "grpc-management": 7071,
    }
    for name, number in ports.items():
        flag = "--port" if name == "port" else f"--{name}-port"
        parser.add_argument(flag, type=int, default=number)
    return parser.parse_args()


def _pack(settings: Settings, store: Path) -> None:
    """Make `mobilenet.mar` of the shared TorchScript export, the labels and our handler."""
    tool = Path(sys.executable).with_name("torch-model-archiver")
    command = [str(tool), "--model-name", MODEL, "--version", "1.0", "--export-path", str(store), "--force"]
    command += ["--serialized-file", str(settings.model_dir / "model.torchscript.pt")]
    command += [
        "--extra-files",
        str(settings.model_dir / "labels.txt"),
        "--handler",
        str(HERE / "handler.py"),
    ]
    subprocess.run(command, check=True)


def _config(options: argparse.Namespace, settings: Settings) -> str:
    model = {
        "defaultVersion": True,
        "marName": f"{MODEL}.mar",
        "minWorkers": settings.workers,
        "maxWorkers": settings.workers,
        "batchSize": MAX_BATCH if settings.batching else 1,
        "maxBatchDelay": round(1000 * MAX_BATCH_WAIT_S),
        "responseTimeout": 60,
    }
    properties = {
        "inference_address": f"http://{options.host}:{options.port}",
        # What changes models is for this process alone.
        "management_address": f"http://{LOOPBACK}:{options.management_port}",
        "metrics_address": f"http://{options.host}:{options.metrics_port}",
        "grpc_inference_address": LOOPBACK,
        "grpc_inference_port": options.grpc_port,
        "grpc_management_address": LOOPBACK,
        "grpc_management_port": options.grpc_management_port,
        "load_models": f"{MODEL}.mar",
        "allowed_urls": "file://.*",
        "models": json.dumps({MODEL: {"1.0": model}}),
        "token_expiration_min": KEY_LASTS_MIN,
        "max_request_size": MAX_BODY_BYTES,
        "decode_input_request": "false",  # what is not JSON, though it says so, would be answered with 500
        "metrics_mode": "prometheus",
        "disable_system_metrics": "true",
        "vmargs": "-Xmx256m -XX:-UsePerfData",  # else a file in /tmp, wherever TMPDIR is, outlives kill -9
    }
    return "".join(f"{key}={value}\n" for key, value in properties.items())


def _door(management_port: int) -> type[BaseHTTPRequestHandler]:
    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the base class calls it so
            reason = _not_ready(management_port) if self.path == "/health" else "there is only /health"
            body = json.dumps({"error": reason} if reason else {"status": "ok"}).encode()
            self.send_response(404 if self.path != "/health" else 503 if reason else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Door


def _not_ready(management_port: int) -> str | None:
    """Return why no worker has the model yet, as the management API tells it, or None."""
    connection = HTTPConnection(LOOPBACK, management_port, timeout=5)
    try:
        key = json.loads(KEYS.read_text())["management"]["key"] if KEYS.exists() else ""
        connection.request("GET", f"/models/{MODEL}", headers={"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        told = json.loads(response.read())
        if response.status != 200:
            return f"the management API answers {response.status}"
        states = [worker["status"] for worker in told[0]["workers"]]
    except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
        return f"the management API cannot be asked: {error}"
    finally:
        connection.close()
    return None if "READY" in states else f"the workers are {states}"


if __name__ == "__main__":
    sys.exit(main())
