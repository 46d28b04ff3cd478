"""A run: the trials of a plan, one after the other, and `run.json` that tells about them as they go."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from scripts.errors import CannotRun, UserError
from scripts.looks import enough, first_facts
from scripts.machine import describe_machine, versions
from scripts.plan import Plan, Step, shipped_plans, steps
from scripts.progress import Progress
from scripts.project import Project, Service, split_key
from scripts.stop import Interrupted, Stop
from scripts.target import NeverReady, Target, Tell
from scripts.trial import Bench, TrialRecord, make_trial, utc_now

NEEDED_BYTES = 200_000_000
GIVE_UP_AFTER = 2
"""A backend that did not become ready so often in a row is not tried again in this run."""
CROWDED_CORES = 0.1
"""What other processes may use of the server's cores before the report names it."""
START_GUESS_S = 12.0
AROUND_LOAD_S = 8.0
"""Locust's start, the last answers, and the server's stop."""


@dataclass(frozen=True)
class Lineup:
    """What a run is about: these backends, by this plan."""

    project: Project
    plan: Plan
    services: Sequence[Service]
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By the name of a backend that cannot be measured, why: its trials have failed before they begin."""

    @property
    def measurable(self) -> list[Service]:
        """The backends that can be measured."""
        return [service for service in self.services if service.key not in self.reasons]


@dataclass
class RunRecord:
    """The state of a run, saved whole after every change."""

    folder: Path
    head: dict[str, Any]
    trials: list[TrialRecord] = field(default_factory=list)
    note: Callable[[str], None] = lambda text: None
    """Also hears every text that is written."""

    @classmethod
    def read(cls, folder: Path, text: str) -> RunRecord:
        """Return the record that a `run.json` holds."""
        head = json.loads(text)
        return cls(folder, head, [TrialRecord(**trial) for trial in head.pop("trials")])

    def save(self) -> None:
        """Write `run.json` so that a reader never sees half of it."""
        text = json.dumps(self.head | {"trials": [asdict(trial) for trial in self.trials]}, indent=1) + "\n"
        temporary = self.folder / ".run.json"
        temporary.write_text(text)
        os.replace(temporary, self.folder / "run.json")
        self.note(text)

    def telling(self, show: Tell) -> Tell:
        """Return what hears the phases of a trial: each is shown, and what is known by its begin is saved."""
        before = ""

        def tell(phase: str) -> None:
            nonlocal before
            show(phase)
            if phase != before:
                self.save()
            before = phase

        return tell


def planned(project: Project, plan: str, backends: Sequence[str]) -> list[str]:
    """Return the backends that a plan is about in this project; none means whatever is installed.

    A plan of one's own names them, a shipped one proposes: what is not in this project is not meant.

    Raises:
        UserError: a plan of one's own names one that is not there.

    """
    known = project.services()
    meant = [name for name in backends if plan not in shipped_plans() or split_key(name)[0] in known]
    return [service.key for service in project.select(meant)]


def choose_services(
    project: Project,
    names: Sequence[str],
    lacking: Callable[[Service], str | None] = Service.missing,
    proposed: Sequence[str] = (),
) -> tuple[list[Service], dict[str, str]]:
    """Return the backends of a run, and by name why some that were looked at cannot be measured.

    Named ones must be installed. The `proposed` ones, a plan's, are all in the run: the trials of one that is
    not installed fail with the reason, while the others go on. With neither, every installed one is taken.
    `lacking` says what a backend lacks where the run is made.

    Raises:
        UserError: a named one cannot be measured, or none of the others can.

    """
    found = project.select(names or proposed or project.services())
    reasons = {service.key: reason for service in found if (reason := lacking(service))}
    for key, reason in reasons.items():
        if names:
            raise UserError(f"{key} cannot be measured: {reason}")
    measurable = [service for service in found if service.key not in reasons]
    if not measurable:
        left_out = [f"{key} is left out: {reason}" for key, reason in reasons.items()]
        raise UserError("\n".join([_none_of(project, proposed, lacking), *left_out]))
    return (found if proposed else measurable), reasons


def _none_of(project: Project, proposed: Sequence[str], lacking: Callable[[Service], str | None]) -> str:
    """Say that no backend can be measured, and which other could be."""
    others = [name for name, service in project.services().items() if lacking(service) is None]
    if proposed and others:
        return (
            f"None of this plan's backends is installed; installed are: {', '.join(others)}. "
            f"Name one with --backends, or run `modelswarm setup {proposed[0].partition('+')[0]}`."
        )
    return "No backend is installed: run `make setup` or `modelswarm setup NAME`."


def read_model(project: Project) -> dict[str, Any]:
    """Return what `run.json` tells of the export.

    Raises:
        UserError: there is no export.

    """
    try:
        manifest = json.loads((project.model_dir / "manifest.json").read_text())
        weights = manifest["weights"]
        return {
            "digest": manifest["digest"],
            "architecture": manifest["architecture"],
            "weights": weights["source"],
            "description": weights["description"],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"There is no whole export in {project.model_dir}: run `modelswarm setup`."
        ) from error


def estimate_s(plan: Plan, step: Step, start_s: float = START_GUESS_S) -> float:
    """Return how long a trial will take, about, in seconds."""
    return start_s + plan.warmup_s + step.scenario.length_s() + AROUND_LOAD_S


def begin_run(lineup: Lineup, target: Target, out: Path) -> RunRecord:
    """Make the run's folder and the first `run.json`, in which every trial is still to be made.

    Only those of backends that cannot be measured have failed already.

    Raises:
        UserError: there is no export, or the plan asks for looks that cannot tell anything.
        CannotRun: runs cannot be written to `out`.

    """
    plan, services = lineup.plan, lineup.services
    model, started = read_model(lineup.project), utc_now()
    looks = first_facts(plan, services, target.name)
    folder = new_folder(out, started, plan.name)
    head = {
        "schema": 1,
        "plan": plan.model_dump(mode="json"),
        "plan_name": plan.name,
        "target": target.name,
        "command": shlex.join(["modelswarm", *sys.argv[1:]]),
        "started": started,
        "ended": None,
        "status": "running",
        "versions": versions(),
        "machine": describe_machine(),
        "model": model,
        "seed": plan.seed,
        "objectives": list(plan.objectives),
        "sequential": looks,
        **target.facts,
        "backends": {service.key: service.describe(target.name) for service in services},
    }
    head["fairness"]["not_held"] += [why for service in lineup.measurable for why in service.not_held]
    order = steps(plan, [service.key for service in services])
    record = RunRecord(folder, head, [TrialRecord.of(step) for step in order], target.note)
    for trial in record.trials:
        if reason := lineup.reasons.get(trial.backend):
            trial.status, trial.error, trial.ended = "failed", reason, started
    record.save()
    return record


def make_run(lineup: Lineup, target: Target, record: RunRecord, stop: Stop, progress: Progress) -> None:
    """Make every trial that the record says is still to be made; it tells afterwards how the run ended.

    Raises:
        CannotRun: the target cannot be had for the run.

    """
    plan = lineup.plan
    order = steps(plan, [service.key for service in lineup.services])
    bench = Bench(lineup.project, plan, target, record.folder, stop)
    try:
        with target.opened(record.folder), progress.showing(plan, order, record):
            record.save()
            _make_trials(bench, order, lineup.services, record, progress)
            record.head["status"] = "complete"
    except Interrupted:
        record.head["status"] = "interrupted"
    except BaseException:
        if record.head["status"] != "complete":  # else only clearing up failed
            record.head["status"] = "interrupted" if stop.asked else "failed"
        raise
    finally:
        _settle(record)
        record.head["ended"] = utc_now()
        record.save()


def _settle(record: RunRecord) -> None:
    """Say of each trial that was measured whether its record is here by now, or still to be fetched."""
    for trial in record.trials:
        here = (record.folder / trial.path / "summary.json").exists()
        if trial.unfetched and here:
            trial.status, trial.error, trial.unfetched = "ok", None, False
        elif trial.status == "ok" and not here:
            trial.status, trial.error, trial.unfetched = "failed", "its record could not be fetched", True


def _make_trials(
    bench: Bench, order: Sequence[Step], services: Sequence[Service], record: RunRecord, progress: Progress
) -> None:
    by_key = {service.key: service for service in services}
    untried = [trial for trial in record.trials if trial.status == "failed" and trial.started is None]
    never_ready = {trial.backend: GIVE_UP_AFTER for trial in untried}
    pairs = list(zip(order, record.trials, strict=True))
    for number, block in groupby(pairs, key=lambda each: each[0].trial):
        for step, trial in block:
            if trial.ended is None:  # it is set where the command that this one takes over from made it
                _make_one(bench, step, by_key[step.backend], trial, record, progress, never_ready)
        given_up = [name for name, times in never_ready.items() if times >= GIVE_UP_AFTER]
        if enough(record, number, given_up, progress.say):
            return


def _make_one(
    bench: Bench,
    step: Step,
    service: Service,
    trial: TrialRecord,
    record: RunRecord,
    progress: Progress,
    never_ready: dict[str, int],
) -> None:
    """Make a trial, unless its backend was given up; `never_ready` counts how often in a row it was not."""
    if never_ready.get(step.backend, 0) >= GIVE_UP_AFTER:
        trial.status = "failed"
        trial.error = f"not tried: {step.backend} did not become ready {GIVE_UP_AFTER} times in a row"
        record.save()
        return
    with progress.trial(step, trial) as show:
        try:
            bench.stop.sleep(0)
            trial.started, trial.status = trial.started or utc_now(), "running"
            record.save()
            make_trial(bench, step, service, trial, record.telling(show))
            never_ready[step.backend] = 0
        except NeverReady:
            never_ready[step.backend] = never_ready.get(step.backend, 0) + 1
        finally:
            record.head["fairness"]["not_held"] += _crowding(trial)
            record.save()


def _crowding(trial: TrialRecord) -> list[str]:
    if trial.others_cores is None or trial.others_cores <= CROWDED_CORES:
        return []
    return [f"Other processes used {trial.others_cores:.2f} of the server's cores during {trial.path}."]


def new_folder(out: Path, started: str, title: str) -> Path:
    """Make a folder for what began at `started`, an ISO time in UTC, and return it.

    Raises:
        CannotRun: it cannot be written, or the disk is full.

    """
    name = f"{started.replace('-', '').replace(':', '')}-{title}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
        if free < NEEDED_BYTES:
            raise CannotRun(
                f"Only {free / 1e6:.0f} MB are free in {out}; a run needs {NEEDED_BYTES / 1e6:.0f}. "
                "Free some (`modelswarm clean --results` removes old runs) or name another folder with --out."
            )
        for suffix in ["", *(f"-{number}" for number in range(2, 100))]:
            folder = out / (name + suffix)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise CannotRun(
            f"Runs cannot be written to {out}: {error.strerror}. Name another folder with --out."
        ) from error
    raise CannotRun(f"{out / name} is there a hundred times already. Name another folder with --out.")
