"""A project for a test of the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.echo import EchoProject, echo_project


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[EchoProject]:
    """A project of its own for a test."""
    with echo_project(tmp_path) as project:
        yield project
