"""What tests of the command share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scripts.echo import EchoProject, echo_project


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[EchoProject]:
    """A project of its own for a test."""
    with echo_project(tmp_path) as project:
        yield project


@pytest.fixture
def until() -> Callable[[Callable[[], object], str], None]:
    """Wait for a condition, checking it often; fail with a sentence after half a minute."""

    def wait(condition: Callable[[], object], what: str) -> None:
        deadline, pause = time.monotonic() + 30, threading.Event()
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain until {what}"
            pause.wait(0.05)

    return wait
