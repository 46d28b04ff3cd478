"""One trial: a server is started, checked, warmed, loaded, sampled, and stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from scripts.errors import CannotRun, afterwards
from scripts.plan import Plan, Step
from scripts.project import Project, Service
from scripts.server import child_environment
from scripts.stop import Interrupted, Stop
from scripts.target import MEASURED, Load, NeverReady, Server, Target, Tell, Unfetched

Status = Literal["ok", "failed", "interrupted", "pending", "running"]


@dataclass
class TrialRecord:
    """A trial as `run.json` tells it."""

    backend: str
    scenario: str
    trial: int
    order: int
    path: str
    seed: int
    started: str | None = None
    ended: str | None = None
    status: Status = "pending"
    error: str | None = None
    locust_exit: int | None = None
    ready_after_s: float | None = None
    parity: dict[str, int] | None = None
    others_cores: float | None = None
    """How much of the server's cores other processes used during the load."""
    unfetched: bool = False
    """Whether all that it lacks is its record, which the cluster still has."""
    killed: list[str] = field(default_factory=list)
    """Processes of the server that did not end on SIGTERM in time."""

    @classmethod
    def of(cls, step: Step) -> TrialRecord:
        """Return the record of a trial that has not begun."""
        return cls(step.backend, step.scenario.name, step.trial, step.order, step.path, step.seed)


@dataclass(frozen=True)
class Bench:
    """What all trials of a run share."""

    project: Project
    plan: Plan
    target: Target
    folder: Path
    stop: Stop


def utc_now() -> str:
    """Return the time now as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_trial(bench: Bench, step: Step, service: Service, record: TrialRecord, tell: Tell) -> None:
    """Make one trial and fill its record; `tell` hears which phase it is in.

    A trial whose load is under way already, from a command that is gone, is brought to its end.

    Raises:
        Interrupted: the user asked to stop; the record says so.
        NeverReady: the server never predicted; the record says so.

    """
    folder = bench.folder / step.path
    folder.mkdir(parents=True, exist_ok=True)
    server = bench.target.server(service, step, folder)
    load = bench.target.load(service, step, folder)
    trial = _Trial(bench, step, service, server, load, record, tell)

    def end() -> None:
        tell("stopping")
        record.killed = server.stop()

    try:
        with afterwards(end):
            trial.measure()
    except Interrupted:
        record.status, record.error = "interrupted", "stopped by the user"
        raise
    except CannotRun as error:
        record.status, record.error = "failed", str(error)
        record.unfetched = isinstance(error, Unfetched)
        if isinstance(error, NeverReady):
            raise
    finally:
        record.ended = utc_now()


@dataclass(frozen=True)
class _Trial:
    """One trial between its server's start and stop."""

    bench: Bench
    step: Step
    service: Service
    server: Server
    load: Load
    record: TrialRecord
    tell: Tell

    def measure(self) -> None:
        """Start the server, check it, and load it, or go on where another command left off."""
        under_way, started_s = self.load.under_way(), time.monotonic()
        if not under_way:
            self.tell("starting")
            self.server.start(self.tell)
        with self.server.sampled():
            if not under_way:
                self._await_answers(started_s)
            began_s = time.time()
            self._run_load()
        if not (self.bench.folder / self.step.path / "summary.json").exists():
            raise CannotRun(f"Locust recorded no load: {self.load.complaint()}")
        self.record.status, self.record.others_cores = "ok", self.server.others_cores(began_s)

    def _await_answers(self, started_s: float) -> None:
        """Wait until the server predicts, compare all its answers, and send the warm-up requests."""
        bench, server, record = self.bench, self.server, self.record
        began_s, patience_s = time.monotonic(), bench.target.ready_timeout_s(self.service)
        with _Probe(bench, self.service, server) as probe:
            while "ready" not in probe.heard:
                if ended := server.ended():
                    raise NeverReady(f"server {ended} before it was ready; {server.last_words()}")
                probe.complain()
                if time.monotonic() - began_s > patience_s:
                    reason = probe.heard.get("waiting", "nothing listens")
                    raise NeverReady(f"not ready within {patience_s:g} s ({reason}); {server.last_words()}")
                bench.stop.sleep(bench.target.poll_s)
            record.ready_after_s = round(time.monotonic() - started_s, 1)
            self.tell("checking its answers")
            while "warm" not in probe.heard:
                if ended := server.ended():
                    raise CannotRun(f"server {ended} while its answers were checked")
                probe.complain()
                bench.stop.sleep(bench.target.poll_s)
        wrong = probe.heard["wrong"]
        record.parity = {"checked": probe.heard["checked"], "wrong": len(wrong)}
        if wrong:
            raise CannotRun(
                f"{len(wrong)} of {probe.heard['checked']} test images are answered wrong: {wrong[0]}"
            )

    def _run_load(self) -> None:
        """Run Locust to its end, unless the server ends before."""
        bench, step, server, load = self.bench, self.step, self.server, self.load
        self.tell("under load")
        patience_s = step.scenario.length_s() + bench.plan.warmup_s + bench.target.load_grace_s
        began_s = time.monotonic()
        with afterwards(load.stop):
            if not load.under_way():
                spoken = ["--protocol", name] if (name := self.service.user_protocol) else []
                options = [*step.scenario.arguments(step.seed, bench.plan.warmup), *spoken]
                load.start(server.load_host, options, server.caller_variables)
            while load.exit_status() is None:
                if ended := server.ended():
                    after_s = time.monotonic() - began_s
                    raise CannotRun(f"server {ended} {after_s:.0f} s after the load was started")
                if time.monotonic() - began_s > patience_s:
                    raise CannotRun(f"Locust did not end within {patience_s:.0f} s: {load.complaint()}")
                bench.stop.sleep(bench.target.poll_s)
            self.record.locust_exit = load.exit_status()
            if ended := server.ended():
                raise CannotRun(f"server {ended} towards the end of the load")
            if self.record.locust_exit not in MEASURED:
                raise CannotRun(f"Locust ended with status {self.record.locust_exit}: {load.complaint()}")


class _Probe:
    """The process of `scripts.probe`; `heard` holds everything it has said."""

    def __init__(self, bench: Bench, service: Service, server: Server) -> None:
        self.heard: dict[str, Any] = {}
        arguments = [
            str(service.user_file),
            server.host,
            service.user_protocol,
            server.ready_url,
            str(bench.plan.warmup_requests),
        ]
        project = bench.project
        changes = {"PYTHONPATH": str(project.root), "MODELSWARM_MODEL_DIR": str(project.model_dir)}
        changes |= server.caller_variables
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed when the probe ends
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.probe", *arguments],
            cwd=project.root,
            env=child_environment(bench.target.mark, changes, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> _Probe:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        self._errors.close()

    def complain(self) -> None:
        """Raise CannotRun when the probe could not do its work."""
        if "error" in self.heard:
            raise NeverReady(self.heard["error"])
        if self._process.poll() not in (None, 0) and not self._listener.is_alive():
            self._errors.seek(0)
            raise NeverReady(f"its answers cannot be checked: {self._errors.read()[-500:].strip()}")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self.heard.update(json.loads(line))
