"""A project for a test of the command, and a machine for one of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.docker_machine import Machine
from tests.scripts.echo import EchoProject, echo_project


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[EchoProject]:
    """A project of its own for a test."""
    with echo_project(tmp_path) as project:
        yield project


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A project with images, and programs that play Docker's part."""
    return Machine(tmp_path, monkeypatch)
