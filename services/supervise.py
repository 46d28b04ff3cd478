"""Several processes as one server: they start together, end together, and leave nothing behind.

Each has a session of its own: a signal for the group that was started must reach them once, and in the order
that they expect. Needs nothing but the standard library.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

PERIOD_S = 0.1


def run(commands: Sequence[Sequence[str]]) -> int:
    """Run commands until SIGTERM, or until one of them ends; returns the exit status for this process.

    Each must call `end_with_parent`, so that it ends also when this process is killed.
    """
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopping.append(number))
    parts = [subprocess.Popen(each, stdin=subprocess.PIPE, start_new_session=True) for each in commands]
    while not stopping and all(part.poll() is None for part in parts):
        time.sleep(PERIOD_S)
    statuses = [part.returncode for part in parts if part.returncode is not None]
    for part in parts:
        part.terminate()
    for part in parts:
        part.wait()
        with suppress(ProcessLookupError):  # what outlived it
            os.killpg(part.pid, signal.SIGKILL)
    return abs(statuses[0]) or 1 if statuses and not stopping else 0


def end_with_parent() -> None:
    """End this session when standard input is closed: whoever started us is gone, however it went."""
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.killpg(0, signal.SIGKILL)
