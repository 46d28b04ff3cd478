"""Locust as a master and its workers, for one trial."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.family import Family
from scripts.project import Project
from scripts.server import HOST, child_environment, free_port

QUIT_TIMEOUT_S = 20.0


def complaint_in(log: str) -> str:
    """Return the last line of a log of Locust's that a person can use."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return ([*lines, *errors] or ["it said nothing"])[-1][-500:]


class LocalLoad:
    """The Locust processes of one trial; they write its folder."""

    def __init__(self, project: Project, workers: int, user_file: Path, folder: Path, mark: str) -> None:
        """Prepare Locust for one backend's user file; `folder` gets the record and `locust.log`."""
        self._project, self._workers, self._user_file, self._folder = project, workers, user_file, folder
        self.family = Family(mark)
        self._variables: dict[str, str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def under_way(self) -> bool:
        """No: local processes end with the command that started them."""
        return False

    def start(self, host: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        """Start the master and its workers on the cores of the caller; all get `variables`."""
        self._variables = dict(variables or {})
        port = str(free_port())
        master = ["--headless", "--only-summary", "--host", host, "--record", str(self._folder), *arguments]
        master += ["--master", "--master-bind-host", HOST, "--master-bind-port", port]
        master += ["--expect-workers", str(self._workers), "--expect-workers-max-wait", "60"]
        self._start(master)
        for _ in range(self._workers):
            self._start(["--worker", "--master-host", HOST, "--master-port", port])

    def exit_status(self) -> int | None:
        """Return the master's exit status, None while it runs."""
        return self._processes[0].poll()

    def stop(self) -> None:
        """End Locust, giving it time to write what it has; nothing of it is left afterwards."""
        if not self._processes:
            return
        master, *workers = self._processes
        if master.poll() is None:
            master.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + QUIT_TIMEOUT_S
        for process in [master, *workers]:  # a worker ends when its master has told it
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.family.kill()

    def complaint(self) -> str:
        """Return the last line of its log that a person can use."""
        text = (self._folder / "locust.log").read_text(errors="replace")
        return complaint_in(text)

    def _start(self, arguments: Sequence[str]) -> None:
        root = self._project.root
        changes = {"PYTHONPATH": str(root), "MODELSWARM_MODEL_DIR": str(self._project.model_dir)}
        changes |= self._variables
        with (self._folder / "locust.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "locust", "-f", str(self._user_file), *arguments],
                    cwd=root,
                    env=child_environment(self.family.mark, changes, os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
