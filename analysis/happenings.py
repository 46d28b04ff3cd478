"""What happened under load besides requests: pods' events, restarts, lost readiness, workers lost, jumps.

From ``events.csv`` (Kubernetes' own events), ``pods.csv``, ``summary.json`` and the latencies themselves
(:mod:`analysis.stability`), each with its second of the plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime

import numpy as np
from pydantic import BaseModel, ConfigDict

from analysis.runfolder import Run, Trial
from analysis.stability import stability
from analysis.usage import start_epoch_s
from analysis.words import ms

NORMAL = "Normal"
"""Kubernetes' type of an event that is no warning."""
NOT_READY = ("0", "false")
LATENCY = "latency"


class Happening(BaseModel):
    """One thing that happened to ``what`` in a trial.

    ``at_s`` may lie before the load or after it, and is None for what holds of the whole trial. Of note is a
    warning under load: probes fail while a pod starts, and workers are not ready when they end.
    """

    model_config = ConfigDict(frozen=True)

    backend: str
    scenario: str
    trial: int
    at_s: float | None
    what: str
    reason: str
    message: str
    warning: bool
    of_note: bool


def happenings(run: Run) -> list[Happening]:
    """All of a run's, trial by trial in the order of their time."""
    return [one for trial in run.trials for one in of_trial(trial)]


def of_trial(trial: Trial) -> list[Happening]:
    """One trial's, none where its start is not known."""
    start = start_epoch_s(trial)
    if start is None:
        return []
    found = [*_events(trial, start), *_pods(trial, start), *_workers(trial, start), *_unsteady(trial)]
    return sorted(found, key=lambda one: math.inf if one.at_s is None else one.at_s)


def _unsteady(trial: Trial) -> Iterator[Happening]:
    """Where the latency was not yet, or no longer, at its level."""
    found = stability(trial)
    if found.steady and found.warmup_matters and found.warmup_s:
        told = "still warmed up until here: a longer warmup would leave it out"
        yield _one(trial, found.warmup_s, LATENCY, "WarmedUp", told, False)
    for change in found.changes:
        told = f"median from {ms(change.before_ms)} to {ms(change.after_ms)}"
        yield _one(trial, change.at_s, LATENCY, "Changed", told, True)
    for told in found.sentences:
        if " s into it" not in told and not told.startswith("still warmed up"):
            yield _one(trial, None, LATENCY, "NotSteady", told, True)


def _one(trial: Trial, at_s: float | None, what: str, reason: str, message: str, warning: bool) -> Happening:
    return Happening(
        backend=trial.entry.backend,
        scenario=trial.entry.scenario,
        trial=trial.entry.trial,
        at_s=None if at_s is None else round(at_s, 1),
        what=what,
        reason=reason,
        message=message,
        warning=warning,
        of_note=warning and _under_load(trial, at_s),
    )


def _under_load(trial: Trial, at_s: float | None) -> bool:
    return at_s is None or (at_s >= 0 and (trial.summary is None or at_s <= trial.summary.duration_s))


def _events(trial: Trial, start: float) -> Iterator[Happening]:
    table = trial.events
    if table is None:
        return
    texts = [table.texts[column] for column in ("pod", "reason", "message", "type")]
    for time, pod, reason, message, kind in zip(table["time"], *texts, strict=True):
        yield _one(trial, float(time) - start, str(pod), str(reason), str(message), kind != NORMAL)


def _pods(trial: Trial, start: float) -> Iterator[Happening]:
    """A restart or a lost readiness, at the first sample that shows it."""
    table = trial.pods
    if table is None:
        return
    keys = np.char.add(np.char.add(table.texts["pod"], "\0"), table.texts["container"])
    for key in dict.fromkeys(keys.tolist()):
        mine = table.where(keys == key)
        pod = str(mine.texts["pod"][0])
        for i in np.flatnonzero(np.diff(mine["restarts"]) > 0) + 1:
            times = f"{mine['restarts'][i]:.0f} in all"
            yield _one(trial, mine["time"][i] - start, pod, "Restarted", times, True)
        ready = ~np.isin(np.char.lower(mine.texts["ready"]), NOT_READY)
        for i in np.flatnonzero(ready[:-1] & ~ready[1:]) + 1:
            phase = str(mine.texts["phase"][i])
            yield _one(trial, mine["time"][i] - start, pod, "NotReady", phase, True)


def _workers(trial: Trial, start: float) -> Iterator[Happening]:
    for lost in trial.summary.lost_workers if trial.summary else ():
        try:
            at_s = datetime.fromisoformat(str(lost.get("time"))).timestamp() - start
        except (ValueError, OverflowError):
            continue
        yield _one(trial, at_s, str(lost.get("worker", "")), "WorkerLost", "its share was dealt again", True)
