"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import locust  # noqa: F401  # before anything that imports ssl: gevent patches it, and only a fresh one
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's own root."""
    return ROOT
