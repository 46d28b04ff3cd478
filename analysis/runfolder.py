"""Reading a run folder: ``run.json`` and, per trial, ``summary.json``, the HDR log and all CSV files.

Whatever is missing or damaged becomes a sentence in ``Run.problems``; nothing is guessed in its place, and no
file in a run folder makes reading it fail. Three kinds of folder are read: a run with its ``run.json``, one
whose ``run.json`` is lost (trials are then found on disk), and the folder of a single ``locust --record``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analysis.hlog import LONGEST_S, HistogramLog, read_hlog
from analysis.locust_csv import LocustFiles, read_locust
from analysis.records import Count, Moment, Part, encodable, newer, what_is_wrong
from analysis.tables import Columns, Table, read_table
from analysis.words import brief, listed

SCHEMA = 1
"""The version of ``run.json`` and ``summary.json`` that this module reads."""

RECORDED = "."
"""Path of the one trial where the run folder is that of a single `locust --record`."""

SERVER, GENERATOR = "server", "generator"
"""Components that a pod can be part of."""

POD_COLUMNS = Columns(
    ("time", "cpu_cores", "memory_bytes", "restarts"),
    ("pod", "container"),
    optional={"ready": "1", "phase": "", "component": SERVER},
)
ENERGY_COLUMNS = Columns(("time", "joules"), ("zone",))
EVENT_COLUMNS = Columns(("time",), ("pod", "reason", "message", "type"))
GENERATOR_COLUMNS = Columns(
    ("time", "planned", "dropped", "in_flight", "cpu_cores"), ("worker",), more=("completed", "failed")
)

Load = Literal["open", "closed", "imported"]
"""Imported load has no planned times: what stands as its latency runs from the moment of sending."""
Verdict = Literal["valid", "suspect", "invalid"]
Status = Literal["ok", "failed", "interrupted", "pending", "running"]


class Machine(Part):
    """Where a run was made."""

    cpu: str = ""
    cores: Count | None = None
    memory_bytes: Count | None = None
    os: str = ""
    kernel: str = ""


class Model(Part):
    """What was served."""

    digest: str = ""
    architecture: str = ""
    weights: str = ""
    description: str = ""


class Fairness(Part):
    """What was held equal between backends; ``not_held`` has a sentence for each thing that was not."""

    server_cores: list[Count] | None = None
    generator_cores: list[Count] | None = None
    threads: Count | None = None
    workers: Count | None = None
    not_held: list[str] = Field(default_factory=list)


class Backend(Part):
    """A server under test. A ``stand_in`` plays another's part and is never ranked.

    ``backend`` and ``options`` say which variant of which framework it is; ``kind`` what its requests hold,
    ``note`` what a reader should know before choosing it.
    """

    title: str = ""
    version: str = ""
    protocol: str = "predict"
    stand_in: bool = False
    differs: list[str] = Field(default_factory=list)
    note: str = ""
    kind: str = "image"
    backend: str = ""
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Parity(Part):
    """Answers compared with the stored ones before a trial."""

    checked: Count = 0
    wrong: Count = 0


class TrialEntry(Part):
    """What ``run.json`` says of one trial."""

    backend: str
    scenario: str
    trial: Count = 1
    path: str
    order: Count | None = None
    status: Status = "ok"
    error: str | None = None
    started: Moment | None = None
    ended: Moment | None = None
    parity: Parity | None = None


class PlanFacts(Part):
    """What is read of the plan. Prices are those of an hour of one vCPU, and of one GiB of memory."""

    description: str = ""
    warmup: str = ""
    warmup_requests: Count = 0
    baseline: str = ""
    price_cpu: Annotated[float, Field(ge=0)] | None = None
    price_memory: Annotated[float, Field(ge=0)] | None = None


class Imported(Part):
    """Which other load tool made the run; ``cannot_tell`` has a sentence per thing that it lacks."""

    tool: str = ""
    file: str = ""
    cannot_tell: list[str] = Field(default_factory=list)


class LookFacts(Part):
    """A look at a sequential run: how many of its ``pairs`` were ``settled`` after so many trials of each."""

    after_trials: Count
    settled: Count
    pairs: Count
    told: str = ""


class Sequential(Part):
    """That a run looks at itself after every block of trials (one of everything), and stops when it may.

    ``comparisons`` is the number of pairs that share the 5 %, ``margin`` the share that does not matter,
    ``ceiling`` the most trials of each. ``ended`` is empty of a run that did not come to its end.
    """

    method: str = ""
    margin: Annotated[float, Field(gt=0, lt=1)]
    comparisons: Annotated[int, Field(ge=1, le=2**53)]
    ceiling: Count
    first_look: Count
    looks: list[LookFacts] = Field(default_factory=list)
    ended: Literal["settled", "ceiling", "nothing to compare", ""] = ""


class RunFacts(Part):
    """The head of ``run.json``, without its trials."""

    schema_version: Count = Field(default=SCHEMA, alias="schema")
    plan_name: str = ""
    plan: PlanFacts = Field(default_factory=PlanFacts)
    imported: Imported | None = None
    target: str = ""
    command: str = ""
    status: str = "complete"
    started: Moment | None = None
    ended: Moment | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    objectives: list[str] = Field(default_factory=list)
    sequential: Sequential | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    machine: Machine = Field(default_factory=Machine)
    model: Model = Field(default_factory=Model)
    fairness: Fairness = Field(default_factory=Fairness)
    backends: dict[str, Backend] = Field(default_factory=dict)


class Counts(Part):
    """Arrivals of a trial: planned = completed + failed + dropped, sent = completed + failed."""

    planned: Count
    sent: Count
    completed: Count
    failed: Count
    dropped: Count


class Shape(Part):
    """The engine's options, of which only the name is needed here; all are kept for comparing two runs."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str = ""


class Summary(Part):
    """``summary.json`` of a trial. Its percentiles are not read: they are computed from the HDR log.

    ``cut_off`` are those of the failed that had not ended when the trial did: they are not in the log.
    """

    schema_version: Count = Field(default=SCHEMA, alias="schema")
    backend_user: str = ""
    counts: Counts
    verdict: Verdict = "invalid"
    reasons: list[str] = Field(default_factory=list)
    saturated: bool = False
    load: Load = Field(default="open", alias="model")
    shape: Shape = Field(default_factory=Shape)
    started: Moment | None = None
    users: Count | None = None
    duration_s: float = Field(ge=0.001, le=LONGEST_S)
    failures: dict[str, Count] = Field(default_factory=dict)
    lost_workers: list[dict[str, Any]] = Field(default_factory=list)
    cut_off: Count = 0
    clamped: Count = 0


@dataclass(frozen=True)
class Trial:
    """One trial and all that could be read of it. ``name`` is its path in the run, for sentences about it."""

    entry: TrialEntry
    name: str
    summary: Summary | None = None
    log: HistogramLog = field(default_factory=HistogramLog)
    pods: Table | None = None
    events: Table | None = None
    generator: Table | None = None
    energy: Table | None = None
    locust: LocustFiles = field(default_factory=LocustFiles)


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    ``lost_trials`` is whether trials that ``run.json`` lists could not be read there, ``lost_gate`` whether
    it does not tell what the run was asked to hold, or how it ended: either way it is not whole.
    """

    path: Path
    facts: RunFacts
    trials: list[Trial]
    problems: list[str]
    lost_trials: bool = False
    lost_gate: bool = False


def binned(trial: Trial) -> bool:
    """Whether all that is known of the latencies is what stock Locust wrote: percentiles of its buckets."""
    imported = trial.summary is not None and trial.summary.load == "imported"
    return imported and not trial.log.tags and trial.locust.total is not None


class NotARunFolder(ValueError):
    """The path holds nothing that could be reported on; the message says what was looked for."""


def read_run(path: Path) -> Run:
    """Read the run folder at ``path``.

    Raises
    ------
    NotARunFolder
        If there is neither a ``run.json`` nor any trial in it.
    """
    problems: list[str] = []
    lost_trials = lost_gate = False
    if not path.is_dir():
        raise NotARunFolder(
            f"{path} is not a folder: name a run folder, such as results/20261121T143100Z-quick."
        )
    raw = read_json(path / "run.json", "run.json", problems)
    if raw is None:
        why = problems[0].removesuffix(".")
        if why.endswith("is missing"):  # that is told below, where it is a problem
            problems.clear()
        entries = _found_on_disk(path)
        if not entries:
            raise NotARunFolder(
                f"{path} holds no run: {why}, and there is no BACKEND/SCENARIO/TRIAL/summary.json."
                f"{_of_locust(path)}"
            )
        recorded = entries[0].path == RECORDED
        facts = RunFacts(status="recorded" if recorded else "unknown")
        lost_gate = not recorded
        if not recorded:
            problems.append(
                "run.json is missing or damaged: plan, machine, model and objectives are not known, and the "
                f"trials below are the {len(entries)} found on disk."
            )
    else:
        facts, left_out = _facts(raw, problems)
        lost_gate = bool(left_out & {"objectives", "status"})
        entries, lost_trials = _entries(raw.get("trials"), path, problems)
    trials = [_read_trial(path, entry, problems) for entry in entries]
    return Run(path, facts, trials, problems, lost_trials, lost_gate)


def _of_locust(path: Path) -> str:
    """What to do with a folder that has stock Locust's files."""
    found = sorted(path.glob("*stats.csv"))
    if not found:
        return ""
    return f" Locust's own files are there: `modelswarm import {found[0]}` makes a run of them."


def read_json(path: Path, name: str, problems: list[str]) -> dict[str, Any] | None:
    """The object in a JSON file; None, with the reason in ``problems``, if it holds none."""
    try:
        value = encodable(json.loads(path.read_bytes()))
    except FileNotFoundError:
        problems.append(f"{name}: is missing.")
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror}).")
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        problems.append(f"{name}: is not whole JSON ({error}).")
    else:
        if isinstance(value, dict):
            return value
        problems.append(f"{name}: holds a {type(value).__name__} where an object was expected.")
    return None


M = TypeVar("M", bound=BaseModel)


def _facts(raw: dict[str, Any], problems: list[str]) -> tuple[RunFacts, set[str]]:
    """The head of run.json, and its parts that do not fit: they are left out and named, the others stay."""
    left_out: set[str] = set()
    head = {key: value for key, value in raw.items() if key != "trials"}
    while True:
        try:
            facts = RunFacts.model_validate(head)
            break
        except ValidationError as error:
            bad = {str(one["loc"][0]) for one in error.errors()}
            problems.append(f"run.json: {what_is_wrong(error)}; {listed(sorted(bad))} of it was left out.")
            head = {key: value for key, value in head.items() if key not in bad}
            left_out |= bad
    problems += newer("run.json", facts.schema_version, SCHEMA)
    return facts, left_out


def _entries(raw: Any, path: Path, problems: list[str]) -> tuple[list[TrialEntry], bool]:
    """The trials that run.json lists, and whether one of them had to be left out.

    Where it lists none they are those on disk, of which nobody knows whether they are all.
    """
    if not isinstance(raw, list) or not raw:
        found = _found_on_disk(path)
        what = "lists no trials" if isinstance(raw, list) else "has no list of trials"
        rest = f"those below are the {len(found)} found on disk" if found else "there is none on disk"
        problems.append(f"run.json: {what}; {rest}.")
        return found, True
    entries: dict[str, TrialEntry] = {}
    for number, one in enumerate(raw, 1):
        if entry := _validated(TrialEntry, one, f"run.json: trial {number}", problems):
            if entry.path in entries:
                problems.append(
                    f"run.json: trial {number} has the path of an earlier one, {entry.path!r}; left out."
                )
            entries.setdefault(entry.path, entry)
    return list(entries.values()), len(entries) < len(raw)


def _validated(model: type[M], raw: Any, name: str, problems: list[str]) -> M | None:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems.append(f"{name}: {what_is_wrong(error)}; it was left out.")
        return None


def _found_on_disk(path: Path) -> list[TrialEntry]:
    # Unlike pathlib's, False also of a folder that may not be looked into.
    if any(os.path.exists(path / name) for name in ("summary.json", "latency.hlog")):
        return [TrialEntry(backend=encodable(path.resolve().name), scenario="recorded", path=RECORDED)]
    files = [*path.glob("*/*/*/summary.json"), *path.glob("*/*/*/latency.hlog")]
    folders = sorted({file.parent for file in files})
    entries = []
    for folder in folders:
        parts = folder.relative_to(path).parts
        backend, scenario, trial = encodable(parts)
        number = int(trial) if trial.isdecimal() else 1
        entries.append(TrialEntry(backend=backend, scenario=scenario, trial=number, path="/".join(parts)))
    return entries


def _read_trial(run: Path, entry: TrialEntry, problems: list[str]) -> Trial:
    name = f"{entry.backend}/{entry.scenario}/{entry.trial}"
    if entry.status == "pending":
        return Trial(entry, name)
    try:
        folder = (run / entry.path).resolve()
        inside, there = folder.is_relative_to(run.resolve()), folder.is_dir()
    except (OSError, ValueError):  # a name too long, a NUL in it, links in a circle
        inside, there = True, False
    if not (inside and there):
        what = "there is no folder" if inside else "not read, as it leads out of the run folder:"
        problems.append(f"{name}: {what} {entry.path!r}.")
        return Trial(entry, name)
    raw = read_json(folder / "summary.json", f"{name}/summary.json", problems)
    imported = raw is not None and raw.get("model") == "imported"
    log = _log(folder / "latency.hlog", f"{name}/latency.hlog", imported, problems)
    summary = _summary(raw, log, f"{name}/summary.json", problems) if raw is not None else None

    def table(file: str, columns: Columns, always: bool) -> Table | None:
        if not always and not (folder / file).exists():
            return None
        return read_table(folder / file, f"{name}/{file}", columns, problems)

    # A single `locust --record` started no server, so there is none whose use it could have sampled; only
    # clusters have events; and other tools write none of our files.
    return Trial(
        entry,
        name,
        summary,
        log=log,
        pods=table("pods.csv", POD_COLUMNS, entry.path != RECORDED and not imported),
        events=table("events.csv", EVENT_COLUMNS, False),
        generator=table("generator.csv", GENERATOR_COLUMNS, not imported),
        energy=table("energy.csv", ENERGY_COLUMNS, False),
        locust=read_locust(folder, name, problems, lacking=imported),
    )


def _summary(raw: dict[str, Any], log: HistogramLog, name: str, problems: list[str]) -> Summary | None:
    """What ``summary.json`` says; where it does not say how long the plan was, that is reckoned."""
    reckoned = None if "duration_s" in raw else _reckoned(raw, log)
    summary = _validated(Summary, raw | ({"duration_s": reckoned[0]} if reckoned else {}), name, problems)
    if summary is None:
        return None
    if reckoned:
        problems.append(f"{name}: has no duration_s; {brief(reckoned[0])} s were reckoned {reckoned[1]}.")
    problems += newer(name, summary.schema_version, SCHEMA)
    return summary


def _reckoned(raw: dict[str, Any], log: HistogramLog) -> tuple[float, str] | None:
    """How long a plan was in seconds, and from what that is known; None where nothing tells."""
    try:
        by_rate_s = raw["counts"]["planned"] / raw["rate"]["planned"]
        if 0 < by_rate_s <= LONGEST_S:
            return by_rate_s, "from the arrivals and the rate that were planned"
    except (ArithmeticError, KeyError, TypeError):
        pass
    seconds = log.tag("latency").start_s
    return (float(seconds[-1]) + 1, "to the end of the log's last second") if len(seconds) else None


def _log(path: Path, name: str, imported: bool, problems: list[str]) -> HistogramLog:
    """The trial's log. Of an imported one some tools give none, and none has more than latencies."""
    if not imported:
        return read_hlog(path, name, problems)
    return read_hlog(path, name, problems, ("latency",)) if path.exists() else HistogramLog()
