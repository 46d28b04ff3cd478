"""`seldon-core-microservice` on an address of our choice: it listens on all interfaces, without an option.

It serves over REST, and its metrics on a port of their own.
"""

from __future__ import annotations

import argparse
import os
import sys

from seldon_core import microservice
from seldon_core.gunicorn_utils import StandaloneApplication

from services.supervise import end_with_parent

# Its default of one thread serves nobody while a caller has connected and not sent anything: in a cluster
# only Seldon's executor connects.
THREADS = 64
GRACE_S = 4  # for requests under way when the server is told to end


def bind(host: str) -> None:
    """Let both of its HTTP servers, for requests and for metrics, listen on `host`."""
    original = StandaloneApplication.load_config

    def load_config(self: StandaloneApplication) -> None:
        self.options |= {
            "bind": self.options["bind"].replace("0.0.0.0", host),
            "graceful_timeout": GRACE_S,
            # All requests are answered by then; taking torch down in order would take seconds.
            "worker_exit": lambda server, worker: os._exit(0),
            "on_exit": lambda server: os._exit(0),
        }
        original(self)

    StandaloneApplication.load_config = load_config


def main() -> None:
    """Run it until SIGTERM, or until whoever started it is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    options, own = parser.parse_known_args()
    end_with_parent()
    bind(options.host)
    sys.argv[1:] = [*own, f"--threads={THREADS}", "--grpc-workers=0", "--log-level=WARNING"]
    microservice.main()


if __name__ == "__main__":
    main()
