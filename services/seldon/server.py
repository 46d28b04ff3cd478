"""Start a Seldon microservice as one server, with MODELSWARM_WORKERS worker processes.

`python -m services.seldon.server --host 127.0.0.1 services.seldon.components.MobileNet …`: what follows are
the options of `seldon-core-microservice`.
"""

from __future__ import annotations

import sys

from services.model.contract import Settings
from services.supervise import run


def main() -> int:
    """Run the microservice until SIGTERM."""
    workers = Settings.from_env().workers  # before anything starts: without an export, nothing does
    command = [sys.executable, "-m", "services.seldon.microservice", *sys.argv[1:]]
    return run([[*command, f"--workers={workers}"]])


if __name__ == "__main__":
    sys.exit(main())
