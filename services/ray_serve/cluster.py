"""A Ray cluster of one node for one Serve application, until SIGTERM or the end of standard input.

In production the cluster is there already, made by KubeRay or `ray start`, and `serve deploy` puts
applications on it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig

from services.model.runtime import Settings
from services.ray_serve.deployment import bound

# Ray refuses less. Requests do not go through the object store.
OBJECT_STORE_BYTES = 78_643_200


def main() -> None:
    """Start everything, wait for the end, and take everything down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--folder", required=True, help="for sockets and logs")
    options = parser.parse_args()
    settings = Settings.from_env()
    threading.Thread(target=_follow_parent, daemon=True).start()
    _on_stop(lambda *_: os._exit(0))  # nothing to end in order yet: Ray's processes die with their parent
    _start_ray(settings, options.folder)
    _on_stop(lambda *_: sys.exit(0))  # after Ray, which puts its own in place
    try:
        _start_serve(settings, options.host, options.port)
        signal.pause()
    finally:
        _on_stop(signal.SIG_IGN)
        serve.shutdown()
        ray.shutdown()


def _follow_parent() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)  # us, the raylet and its agents; workers go when the raylet has gone


def _on_stop(handler: Callable[..., Any] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _start_ray(settings: Settings, folder: str) -> None:
    ray.init(
        address="local",  # never join a cluster that happens to run here
        num_cpus=settings.workers * settings.threads,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        _temp_dir=folder,
    )


def _start_serve(settings: Settings, host: str, port: int) -> None:
    quiet = LoggingConfig(enable_access_log=False)
    http = HTTPOptions(host=host, port=port)
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=http, logging_config=quiet)
    serve.run(bound(settings), logging_config=quiet)


if __name__ == "__main__":
    main()
