"""What the engine's tests share."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The same examples every time, so that a red run can be repeated; and no deadline, for busy machines.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens: bound, so that no other process gets it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
