"""The numbers of a run: per trial, and per backend and scenario (a *cell*), merged over its trials.

Percentiles are those of the merged HDR histograms, so they are percentiles of all requests of the cell,
not means of percentiles. Latency counts every arrival that was sent, however it ended; a dropped arrival has
none, so the percentiles of a cell with drops, or of a saturated one, are lower bounds. ``achieved_per_s`` is
the rate of right answers; of a saturated server only those within the plan's seconds. ``error_rate`` is the
share of planned arrivals that got no right answer, dropped ones included; ``drop_rate`` is the share that was
never sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from pydantic import BaseModel, ConfigDict

from analysis.histograms import Histogram, Intervals, all_values, carries
from analysis.loads import unlike
from analysis.runfolder import Load, Run, Status, Trial, Verdict, binned
from analysis.stability import warm_up_s
from analysis.uncertainty import Estimate, estimates, interval_ms, pool
from analysis.usage import last_answer_s, share_in_plan, usage
from analysis.validity import trial_verdict
from analysis.words import counted

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


class Measures(BaseModel):
    """What was measured in a trial or cell. None means that nothing in the run folder tells it.

    ``not_carried`` names the percentiles beyond which fewer than 10 requests lie; ``binned`` says that
    latencies are what stock Locust wrote, its mean and its percentiles, of whose buckets nothing else can be
    computed. ``lower_bound`` marks latency percentiles that lack arrivals without a latency: those of a
    ``saturated`` server, and of any from which arrivals were dropped. CPU and memory are the server's, over
    the trial's own seconds.
    """

    model_config = ConfigDict(frozen=True)

    duration_s: float | None = None
    planned: int | None = None
    sent: int | None = None
    completed: int | None = None
    failed: int | None = None
    dropped: int | None = None
    planned_per_s: float | None = None
    achieved_per_s: float | None = None
    error_rate: float | None = None
    drop_rate: float | None = None
    requests: int = 0
    latency_ms: dict[str, float | None] = {}
    service_ms: dict[str, float | None] = {}
    lag_ms: dict[str, float | None] = {}
    not_carried: list[str] = []
    binned: bool = False
    saturated: bool = False
    lower_bound: bool = False
    cpu_cores_mean: float | None = None
    cpu_cores_peak: float | None = None
    memory_bytes_mean: float | None = None
    memory_bytes_peak: float | None = None
    predictions_per_cpu_s: float | None = None
    generator_cores_peak: float | None = None


class TrialRow(Measures):
    """One trial in the report.

    ``warmup_cut_s`` is what MSER-5 would cut off its beginning; None where it is too short to tell, or its
    load has no level to keep.
    """

    backend: str
    scenario: str
    trial: int
    order: int | None
    status: Status
    verdict: Verdict
    reasons: list[str]
    started: datetime | None
    failures: dict[str, int]
    warmup_cut_s: int | None = None


class Row(Measures):
    """One backend in one scenario. ``trials`` were merged, of ``trials_planned``.

    ``interval_ms`` has a 95 % interval of some latency percentiles, ``spread_ms`` the lowest and highest of
    the trials' own values.
    """

    backend: str
    title: str
    scenario: str
    load: Load
    note: str = ""
    kind: str = "image"
    stand_in: bool
    trials: int
    trials_planned: int
    verdict: Verdict
    reasons: list[str]
    interval_ms: dict[str, tuple[float, float]] = {}
    spread_ms: dict[str, tuple[float, float]] = {}


@dataclass(frozen=True)
class Cell:
    """A backend in a scenario: its row, and what plots and comparisons need beyond it."""

    row: Row
    trials: list[Trial]
    """The trials that the row merges; if it is invalid, those that have any values, to be shown greyed."""
    latency: Histogram
    estimates: dict[str, Estimate]
    """Of each percentile that can be compared; none where nothing was valid, or the server saturated."""

    @property
    def intervals(self) -> list[Intervals]:
        """Latency intervals of each merged trial."""
        return [trial.log.tag("latency") for trial in self.trials]


def summary_ms(histogram: Histogram) -> dict[str, float | None]:
    """Mean, percentiles and maximum of a histogram in ms."""
    percentiles = {name: histogram.quantile_ms(q) for name, q in QUANTILES.items()}
    return {"mean": histogram.mean_ms(), **percentiles, "max": histogram.max_ms()}


def merged(trials: Sequence[Trial], tag: str) -> Histogram:
    """All of the trials' values under a tag."""
    return all_values([trial.log.tag(tag) for trial in trials])


def measure(trials: Sequence[Trial]) -> Measures:
    """The measures of trials taken together."""
    latency = merged(trials, "latency")
    known = [trial.summary for trial in trials if trial.summary]
    numbers: dict[str, float | int | None] = {}
    if known and len(known) == len(trials):
        for name in ("planned", "sent", "completed", "failed", "dropped"):
            numbers[name] = sum(getattr(summary.counts, name) for summary in known)
        duration_s = numbers["duration_s"] = sum(summary.duration_s for summary in known)
        planned = numbers["planned"] or 0
        lost = (numbers["failed"] or 0) + (numbers["dropped"] or 0)
        numbers["planned_per_s"] = planned / duration_s
        numbers["achieved_per_s"] = sum(answered_in_plan(trial) for trial in trials) / duration_s
        numbers["error_rate"] = lost / planned if planned else None
        numbers["drop_rate"] = (numbers["dropped"] or 0) / planned if planned else None
    return Measures.model_validate(
        {
            **numbers,
            **_resources(trials, numbers.get("completed")),
            **(_binned(trials[0]) if len(trials) == 1 and binned(trials[0]) else _exact(latency)),
            "service_ms": summary_ms(merged(trials, "service")),
            "lag_ms": summary_ms(merged(trials, "lag")),
            "saturated": any(summary.saturated for summary in known),
            "lower_bound": any(summary.saturated or summary.counts.dropped for summary in known),
        }
    )


def answered_in_plan(trial: Trial) -> float:
    """Right answers of a trial that count for its rate; which of its answers were right no second tells."""
    return trial.summary.counts.completed * share_in_plan(trial) if trial.summary else 0.0


def _exact(latency: Histogram) -> dict[str, object]:
    """Latencies from histograms."""
    lacking = [name for name, q in QUANTILES.items() if not carries(latency.total, q)]
    return {"requests": latency.total, "latency_ms": summary_ms(latency), "not_carried": lacking}


def _binned(trial: Trial) -> dict[str, object]:
    """Latencies as stock Locust wrote them."""
    total = trial.locust.total
    if total is None:
        return {}
    lacking = [name for name, q in QUANTILES.items() if not carries(total.requests, q)]
    told = {"requests": total.requests, "latency_ms": total.latency_ms}
    return {**told, "not_carried": lacking, "binned": True}


def _resources(trials: Sequence[Trial], completed: float | None) -> dict[str, float | None]:
    """CPU and memory over the trials' planned seconds.

    Predictions are set against the CPU-seconds up to the last answer: a server that fell behind works on
    after the plan's end.
    """
    generators = [float(trial.generator["cpu_cores"].max()) for trial in trials if trial.generator]
    numbers: dict[str, float | None] = {"generator_cores_peak": max(generators, default=None)}
    used = [one for trial in trials if (one := usage(trial)) is not None]
    if not used or len(used) < len(trials):
        return numbers
    cpu = np.concatenate([one.cpu_cores for one in used])
    memory = np.concatenate([one.memory_bytes for one in used])
    cpu_s = sum(_cpu_seconds(trial) for trial in trials)
    return numbers | {
        "cpu_cores_mean": float(cpu.mean()),
        "cpu_cores_peak": float(cpu.max()),
        "memory_bytes_mean": float(memory.mean()),
        "memory_bytes_peak": float(memory.max()),
        "predictions_per_cpu_s": completed / cpu_s if completed and cpu_s else None,
    }


def _cpu_seconds(trial: Trial) -> float:
    """CPU-seconds of the server from plan time 0 to the later of plan's end and last answer."""
    until_s = max(trial.summary.duration_s if trial.summary else 0.0, last_answer_s(trial))
    used = usage(trial, until_s)
    return float(used.cpu_cores.mean()) * until_s if used else 0.0


def trial_row(trial: Trial) -> TrialRow:
    """One trial's numbers and verdict."""
    entry, summary = trial.entry, trial.summary
    verdict, reasons = trial_verdict(trial)
    return TrialRow(
        **measure([trial]).model_dump(),
        backend=entry.backend,
        scenario=entry.scenario,
        trial=entry.trial,
        order=entry.order,
        status=entry.status,
        verdict=verdict,
        reasons=reasons,
        started=(summary.started if summary else None) or entry.started,
        failures=summary.failures if summary else {},
        warmup_cut_s=warm_up_s(trial),
    )


def cells(run: Run) -> list[Cell]:
    """A cell per backend and scenario, in the order in which the run names them."""
    keys = dict.fromkeys((trial.entry.scenario, trial.entry.backend) for trial in run.trials)
    found = []
    for scenario in dict.fromkeys(scenario for scenario, _ in keys):
        backends = sorted(backend for where, backend in keys if where == scenario)
        found.extend(_with_intervals([_cell(run, scenario, backend) for backend in backends]))
    return found


def _with_intervals(family: Sequence[Cell]) -> list[Cell]:
    """The cells of a scenario with intervals that share one estimate of how far trials lie apart.

    A lower bound has no interval: nothing tells how far above it the value lies.
    """
    pools = {
        name: pool([cell.estimates[name] for cell in family if name in cell.estimates]) for name in QUANTILES
    }
    return [
        replace(
            cell,
            row=cell.row.model_copy(
                update={
                    "interval_ms": {
                        name: interval
                        for name, one in cell.estimates.items()
                        if not cell.row.lower_bound and (interval := interval_ms(one, pools[name]))
                    }
                }
            ),
        )
        for cell in family
    ]


def _cell(run: Run, scenario: str, backend: str) -> Cell:
    mine = [t for t in run.trials if (t.entry.scenario, t.entry.backend) == (scenario, backend)]
    verdicts = [trial_verdict(trial) for trial in mine]
    usable = [trial for trial, (verdict, _) in zip(mine, verdicts, strict=True) if verdict != "invalid"]
    apart = unlike(usable)
    shown = usable or [trial for trial in mine if len(trial.log.tag("latency").row)]
    latency = merged(shown, "latency")
    reasons = _reasons(mine, verdicts)
    if apart:
        usable, reasons = [], [f"its trials had different loads ({apart})", *reasons]
    facts = run.facts.backends.get(backend)
    loads = {trial.summary.load for trial in shown if trial.summary}
    measures = measure(shown)
    # A lower bound has no interval, and what could not be used has no business in its neighbours' pool.
    estimated = _estimates(usable, latency.total) if not measures.saturated else {}
    row = Row(
        **measures.model_dump(),
        backend=backend,
        title=(facts.title if facts else "") or _user(mine) or backend,
        scenario=scenario,
        load=loads.pop() if len(loads) == 1 else "open",
        note=facts.note if facts else "",
        kind=facts.kind if facts else "image",
        stand_in=bool(facts and facts.stand_in),
        trials=len(usable),
        trials_planned=len(mine),
        verdict=_worst([v for v, _ in verdicts if v != "invalid"]) if usable else "invalid",
        reasons=[
            *([f"its trials had different loads ({apart})"] if apart else []),
            *_reasons(mine, verdicts),
        ],
        spread_ms={
            name: (float(one.trials_ms.min()), float(one.trials_ms.max())) for name, one in estimated.items()
        },
    )
    return Cell(row, shown, latency, estimated)


def _estimates(trials: Sequence[Trial], total: int) -> dict[str, Estimate]:
    """An estimate of each percentile that the cell carries."""
    names = [name for name in QUANTILES if carries(total, QUANTILES[name])]
    parts = [intervals for trial in trials if len((intervals := trial.log.tag("latency")).row)]
    if not (names and parts):
        return {}
    return dict(zip(names, estimates(parts, [QUANTILES[name] for name in names]), strict=True))


def _user(trials: Sequence[Trial]) -> str:
    """The Locust user class: all that tells what was measured where run.json does not."""
    return next((trial.summary.backend_user for trial in trials if trial.summary), "")


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    return "suspect" if "suspect" in verdicts else "valid"


def _reasons(trials: Sequence[Trial], verdicts: Sequence[tuple[Verdict, list[str]]]) -> list[str]:
    """Each distinct reason once, with the trials it holds for if not for all."""
    held: dict[str, list[int]] = {}
    for trial, (_, reasons) in zip(trials, verdicts, strict=True):
        for reason in reasons:
            held.setdefault(reason, []).append(trial.entry.trial)
    if len(trials) == 1:
        return list(held)
    return [
        reason if len(where) == len(trials) else f"{reason} ({counted(len(where), 'trial')} of {len(trials)})"
        for reason, where in held.items()
    ]
