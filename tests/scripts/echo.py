"""Projects in temporary folders, with frameworks that nobody else knows of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from scripts.family import MARK
from tests.projects import ROOT, TemporaryProject, write_export

HERE = Path(__file__).parent
SHORT_PLAN = """
warmup = "1s"
warmup_requests = 2

[[scenario]]
name = "steady"
rate = 20
run_time = "3s"
"""


class EchoProject(TemporaryProject):
    """A project whose backends are copies of the echo server, each with a fault of its own."""

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


@contextmanager
def echo_project(folder: Path) -> Iterator[EchoProject]:
    """A project with the engine, a made-up export and the backend `echo_x`; ends what it was left running."""
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
    try:
        yield project
    finally:
        project.end()
