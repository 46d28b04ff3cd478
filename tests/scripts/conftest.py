"""A project in a temporary folder, with one framework that nobody else knows of."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from scripts.family import MARK

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COMMAND = Path(sys.executable).with_name("modelswarm")


@dataclass
class EchoProject:
    """A project whose backends are copies of the echo server, each with a fault of its own."""

    root: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def add(self, name: str, fault: str = "", **local: object) -> None:
        """Add a framework: a folder under services/ and a file under locustfiles/, nothing else."""
        folder = self.root / "services" / name
        shutil.copytree(HERE / "echo_x", folder, ignore=shutil.ignore_patterns("*_user.py"))
        facts = (folder / "service.toml").read_text()
        facts += f'env = {{ ECHO_FAULT = "{fault}" }}\n' if fault else ""
        for key, value in local.items():
            facts = "\n".join(line for line in facts.splitlines() if not line.startswith(f"{key} ="))
            facts += f"\n{key} = {value}\n"
        (folder / "service.toml").write_text(facts)
        user = (HERE / "echo_x" / "echo_x_user.py").read_text().replace("echo_x", name)
        (self.root / "locustfiles" / f"{name}_user.py").write_text(user)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start the command on this project."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MODELSWARM")} | variables
        process = subprocess.Popen(
            [str(COMMAND), "--root", str(self.root), *arguments],
            cwd=self.root,
            env=environ,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        process = self.start(*arguments, **variables)
        output, errors = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def plan(self, text: str) -> str:
        """Write a plan and return its path."""
        path = self.root / "plan.toml"
        path.write_text(text)
        return str(path)

    def run_folder(self) -> Path:
        """Return the newest run."""
        return max((self.root / "results").iterdir())

    def run_json(self) -> dict:
        """Return what the newest run tells of itself."""
        return json.loads((self.run_folder() / "run.json").read_text())

    def end(self) -> None:
        """End what a failed test left running; the guard of each command ends the rest."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def left_behind(self) -> list[str]:
        """Return the processes of this project's runs that are still there."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) and str(self.root) in process.environ().get("PYTHONPATH", ""):
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
            except (psutil.Error, OSError):
                continue
        return found


SHORT_PLAN = """
warmup = "1s"
warmup_requests = 2

[[scenario]]
name = "steady"
rate = 20
run_time = "3s"
"""


def make_project(folder: Path) -> EchoProject:
    """A project with the engine, a made-up export, and the backend `echo_x`."""
    shutil.copytree(
        ROOT / "locustfiles" / "engine",
        folder / "locustfiles" / "engine",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(ROOT / "locustfiles" / "__init__.py", folder / "locustfiles")
    (folder / "services").mkdir()
    write_export(folder / "artifacts" / "model")
    project = EchoProject(folder)
    project.add("echo_x")
    return project


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[EchoProject]:
    """A project of its own for a test."""
    project = make_project(tmp_path)
    yield project
    project.end()


def write_export(folder: Path) -> None:
    """Write an export that holds no model: images of a few bytes and their made-up answers."""
    (folder / "images").mkdir(parents=True)
    images = []
    for number, payload in enumerate(["small", "medium", "large"]):
        data = bytes([number]) * 1000 * (number + 1)
        (folder / "images" / f"{payload}.jpg").write_bytes(data)
        top5 = [
            {"class_id": 10 * number + k, "class_name": f"class {k}", "confidence": round(0.5 - k / 10, 3)}
            for k in range(5)
        ]
        images.append(
            {
                "file": f"images/{payload}.jpg",
                "payload": payload,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "top5": top5,
            }
        )
    manifest = {
        "schema": 1,
        "architecture": "none",
        "digest": "sha256:" + "0" * 64,
        "weights": {"source": "synthetic", "description": "There is no model: answers are looked up."},
    }
    (folder / "images.json").write_text(json.dumps(images))
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def until() -> Callable[[Callable[[], object], str], None]:
    """Wait for a condition, checking it often; fail with a sentence after half a minute."""
    import threading
    import time

    def wait(condition: Callable[[], object], what: str) -> None:
        deadline, pause = time.monotonic() + 30, threading.Event()
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain until {what}"
            pause.wait(0.05)

    return wait
