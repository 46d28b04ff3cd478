"""Real servers, each started as its service.toml says, on a free port, and ended with the block."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from scripts.family import Family
from tests.services.backends import Backend
from tests.services.environments import facts_of


@dataclass
class Response:
    status: int
    body: Any

    @property
    def top5(self) -> list[int]:
        return [entry["class_id"] for entry in self.body["predictions"]]


def wrapped(image: bytes) -> bytes:
    return json.dumps({"image_base64": base64.b64encode(image).decode()}).encode()


@dataclass
class Server:
    """A running server and every process that came of it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    facts: dict[str, Any]
    family: Family

    def post(self, body: bytes, content_type: str = "application/json", path: str = "/predict") -> Response:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": content_type}, method="POST"
        )
        return self._ask(request)

    def get(self, path: str, timeout_s: float = 30) -> Response:
        return self._ask(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}"), timeout_s)

    def _ask(self, request: urllib.request.Request, timeout_s: float = 30) -> Response:
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                return Response(response.status, _parsed(response.read()))
        except urllib.error.HTTPError as error:
            return Response(error.code, _parsed(error.read()))

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended by itself:\n{self.log.read_text()[-3000:]}"
        try:
            return self.get(self.facts["ready_path"], timeout_s=2).status == 200
        except OSError:
            return False


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


@contextmanager
def started(name: str, model_dir: Path, folder: Path) -> Iterator[Server]:
    """Start a server as the command does, without waiting; nothing of it is left afterwards."""
    backend = Backend(name, folder, {"MODELSWARM_MODEL_DIR": str(model_dir)})
    if reason := backend.service.missing():
        pytest.skip(reason)
    local = backend.server
    local.start()
    assert local._process is not None
    try:
        yield Server(name, local.port, local._process, backend.log, facts_of(name), local.family)
    finally:
        local.family.kill()
        local._process.wait()
        shutil.rmtree(backend.scratch, ignore_errors=True)


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


def alive(processes: list[psutil.Process]) -> list[str]:
    """What of these processes still runs, as text."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()) or process.name())
        except psutil.NoSuchProcess:
            continue
    return found
