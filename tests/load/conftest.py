"""A steady server and real Locust processes, each on free ports and ended with the test."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TOP5 = [{"class_id": i, "class_name": "none", "confidence": 0.2} for i in range(5)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


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


@dataclass
class Locusts:
    """Starts Locust processes of one test, and reads what they left."""

    folder: Path
    model_dir: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def record(self) -> Path:
        return self.folder / "record"

    def start(self, *arguments: str, locustfile: Path = HERE / "steady_user.py") -> subprocess.Popen[bytes]:
        with (self.folder / f"locust-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "locust", "-f", str(locustfile), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "MODELSWARM_MODEL_DIR": str(self.model_dir)},
            )
        self.processes.append(process)
        return process

    def run(self, server: Server, *arguments: str, expect: int = 0, **options: Any) -> dict[str, Any]:
        """A headless run to its end; returns its summary."""
        process = self.start(
            *("--headless", "--only-summary", "--host", server.url, "--record", str(self.record)),
            *arguments,
            **options,
        )
        assert process.wait(180) == expect, self.log()
        return self.summary()

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.record / "summary.json").read_text())
        counts = summary["counts"]
        assert counts["planned"] == counts["completed"] + counts["failed"] + counts["dropped"]
        return summary

    def log(self) -> str:
        return "\n".join(
            path.read_text(errors="replace") for path in sorted(self.folder.glob("locust-*.log"))
        )

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def locusts(tmp_path: Path, model_dir: Path) -> Iterator[Locusts]:
    started = Locusts(tmp_path, model_dir)
    yield started
    started.end()
