"""Transformer and predictor as one server, each a process of its own, that start and end together.

In a cluster each is a pod of an InferenceService (inferenceservice/).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

LOOPBACK = "127.0.0.1"
PERIOD_S = 0.1


def commands(options: argparse.Namespace) -> list[list[str]]:
    """Return the command lines of predictor and transformer.

    KServe's gRPC server is one process whatever `--workers` says: with several, the transformer asks over
    REST, which all of them serve.
    """
    grpc = options.workers == 1
    asked = options.predictor_grpc_port if grpc else options.predictor_port
    predictor = {
        "host": LOOPBACK,
        "http_port": options.predictor_port,
        "grpc_port": options.predictor_grpc_port,
    }
    transformer = {
        "host": options.host,
        "http_port": options.port,
        "grpc_port": options.grpc_port,
        "predictor_host": f"{LOOPBACK}:{asked}",
        "predictor_protocol": "grpc-v2" if grpc else "v2",
    }
    return [
        _command("services.kserve.predictor", predictor, options.workers),
        [
            *_command("services.kserve.transformer", transformer, options.workers),
            "--enable_predictor_health_check",
        ],
    ]


def _command(module: str, options: Mapping[str, object], workers: int) -> list[str]:
    written = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", module, "--end-with-parent", f"--workers={workers}", *written]


def main() -> int:
    """Run both until SIGTERM or until one ends; returns the exit status of the first that ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--grpc-port", type=int, default=8081)
    parser.add_argument("--predictor-port", type=int, default=8090)
    parser.add_argument("--predictor-grpc-port", type=int, default=8091)
    parser.add_argument("--workers", type=int, default=1)
    parts = [
        # In sessions of their own: KServe takes 5 s longer to end when a signal reaches it twice.
        subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        for command in commands(parser.parse_args())
    ]
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopping.append(number))
    while not stopping and all(part.poll() is None for part in parts):
        time.sleep(PERIOD_S)
    statuses = [part.returncode for part in parts if part.poll() is not None]
    for part in parts:
        part.terminate()
    for part in parts:
        part.wait()
        with suppress(ProcessLookupError):  # a worker that outlived it
            os.killpg(part.pid, signal.SIGKILL)
    return abs(statuses[0]) if statuses and not stopping else 0


if __name__ == "__main__":
    sys.exit(main())
