"""Waiting for what real processes do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def until(condition: Callable[[], object], what: str, patience_s: float = 30) -> None:
    """Wait for a condition, checking it often; fail with a sentence when it never comes true."""
    deadline, pause = time.monotonic() + patience_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        pause.wait(0.05)
