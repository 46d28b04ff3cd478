"""A steady server and real Locust processes, ended with the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.load.processes import HERE, Locusts, Server

TOP5 = [{"class_id": i, "class_name": "none", "confidence": 0.2} for i in range(5)]


@pytest.fixture
def steady_server() -> Iterator[Any]:
    """A function that starts steady_server.py with the given arguments."""
    started: list[Server] = []

    def start(*arguments: str) -> Server:
        process = subprocess.Popen(
            [sys.executable, HERE / "steady_server.py", *arguments], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        started.append(Server(process, int(process.stdout.readline())))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three payloads of the usual sizes; the steady server looks at none of them."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "images").mkdir()
    rows = []
    for payload, size in (("small", 9_000), ("medium", 60_000), ("large", 400_000)):
        (folder / "images" / f"{payload}.jpg").write_bytes(os.urandom(size))
        rows.append({"file": f"images/{payload}.jpg", "payload": payload, "top5": TOP5})
    (folder / "images.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def locusts(tmp_path: Path, model_dir: Path) -> Iterator[Locusts]:
    started = Locusts(tmp_path, model_dir)
    yield started
    started.end()
