"""Ray Serve as one server that ends on SIGTERM, although Ray is a dozen processes.

A signal for the process group must not reach Ray's own processes: without its raylet, a cluster cannot shut
down in order. So the cluster has a session of its own, and this process passes the signal on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress


def main() -> int:
    """Run the cluster until SIGTERM or SIGINT; returns its exit status."""
    # Sockets inside it have paths of 70 characters more, of 107 that are allowed.
    place = os.getcwd() if len(os.getcwd()) < 25 else None
    with tempfile.TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True) as folder:
        cluster = subprocess.Popen(
            [sys.executable, "-m", "services.ray_serve.cluster", *sys.argv[1:], "--folder", folder],
            stdin=subprocess.PIPE,  # closed by our death, however it comes, and the cluster ends
            start_new_session=True,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: cluster.terminate())
        status = cluster.wait()
        with suppress(ProcessLookupError):  # what outlived a cluster that did not end in order
            os.killpg(cluster.pid, signal.SIGKILL)
        return status


if __name__ == "__main__":
    sys.exit(main())
