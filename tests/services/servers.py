"""Real servers, each started as its service.toml says, on a free port, and ended with the block."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from scripts.server import free_port
from tests.projects import ROOT
from tests.services.environments import SERVICES, facts_of, interpreter_of


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
    seen: set[psutil.Process] = field(default_factory=set)

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

    def family(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self.process.pid)
            family = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        self.seen.update(family)
        return family

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
def started(name: str, model_dir: Path, scratch: Path) -> Iterator[Server]:
    """Start a server as its service.toml says, without waiting; nothing of it is left afterwards."""
    python = interpreter_of(name)
    facts, port = facts_of(name), free_port()
    places = {
        "venv": python.parent.parent,
        "python": python,
        "host": "127.0.0.1",
        "port": port,
        "root": ROOT,
        "model_dir": model_dir,
        "threads": 1,
        "workers": 1,
        "dir": SERVICES / name,
    }
    filled = {key: value.format(**places) for key, value in facts["local"].get("env", {}).items()}
    given = {
        "PYTHONPATH": ROOT,
        "MODELSWARM_MODEL_DIR": model_dir,
        "MODELSWARM_THREADS": 1,
        "MODELSWARM_WORKERS": 1,
        "OMP_NUM_THREADS": 1,
    }
    log = scratch / "server.log"
    # With a short name, as the launcher's, for the sake of sockets inside it.
    cwd = Path(tempfile.mkdtemp(prefix="msw-"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.format(**places) for part in facts["local"]["command"]],
            cwd=cwd,
            env=os.environ | {key: str(value) for key, value in given.items()} | filled,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(name, port, process, log, facts)
    try:
        yield server
    finally:
        server.family()
        for member in server.seen:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        shutil.rmtree(cwd, ignore_errors=True)


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
