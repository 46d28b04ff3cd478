"""Transformer and predictor as one server, each a process of its own, that start and end together.

In a cluster each is a pod of an InferenceService (inferenceservice/).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from services.model.contract import Settings
from services.supervise import run

LOOPBACK = "127.0.0.1"


def commands(options: argparse.Namespace) -> list[list[str]]:
    """Return the command lines of predictor and transformer.

    KServe's gRPC server is one process however many workers there are: with several, the transformer asks
    over REST, which all of them serve.
    """
    grpc = Settings.from_env().workers == 1
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
        _command("services.kserve.predictor", predictor),
        [*_command("services.kserve.transformer", transformer), "--enable_predictor_health_check"],
    ]


def _command(module: str, options: Mapping[str, object]) -> list[str]:
    written = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", module, "--end-with-parent", *written]


def main() -> int:
    """Run both until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--grpc-port", type=int, default=8081)
    parser.add_argument("--predictor-port", type=int, default=8090)
    parser.add_argument("--predictor-grpc-port", type=int, default=8091)
    return run(commands(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
