"""The run that another is held against: what it measured, cell by cell, kept in the other's folder.

``baseline.json`` has all that objectives such as ``p99 < 1.2 * baseline`` need, so that a report can be
written again when the earlier run's folder is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from analysis.histograms import carries, needed_for
from analysis.identity import identity
from analysis.judging import value_of
from analysis.loads import imported_per_s, load_of, same_rate
from analysis.metrics import QUANTILES, Cell, cells
from analysis.objectives import Objective, quantile_of
from analysis.ranking import MAX_ERROR_RATE
from analysis.records import Count, Moment, Part, encodable, newer, what_is_wrong
from analysis.runfolder import RunFacts, read_json, read_run
from analysis.words import counted, percent

FILE = "baseline.json"
SCHEMA = 1
METRICS = ("mean", "max", "error_rate", "drop_rate", "throughput", *QUANTILES)


class BaselineCell(Part):
    """One backend in one scenario of the earlier run; ``why_not`` says why it cannot be held against."""

    backend: str
    scenario: str
    load: tuple[str, ...] = ()
    imported_per_s: float | None = None
    stand_in: bool = False
    requests: Count = 0
    why_not: str = ""
    values: dict[str, float] = Field(default_factory=dict)

    def value(self, metric: str) -> tuple[float | None, str]:
        """A metric that it can be held against, or None and why there is none."""
        q, failed = quantile_of(metric), self.values.get("error_rate", 0.0)
        if (q or metric in ("mean", "max")) and failed > MAX_ERROR_RATE:
            return None, f"{percent(failed)} of the baseline's arrivals got no right answer"
        if metric in self.values:
            return self.values[metric], ""
        if q and self.requests and not carries(self.requests, q):
            requests = counted(self.requests, "request")
            return None, f"{metric} needs {needed_for(q):,} requests, the baseline has {requests}"
        return None, f"the baseline holds no {metric}; name its run again with --baseline"


class Baseline(Part):
    """What the earlier run measured, and where."""

    schema_version: Count = Field(default=SCHEMA, alias="schema")
    source: str = ""
    plan_name: str = ""
    started: Moment | None = None
    identity: dict[str, str] = Field(default_factory=dict)
    cells: list[BaselineCell] = Field(default_factory=list)

    def value(self, metric: str, cell: Cell) -> tuple[float | None, str]:
        """The metric in the same cell of the earlier run, or None and why it cannot be held against."""
        row = cell.row
        mine = [one for one in self.cells if (one.backend, one.scenario) == (row.backend, row.scenario)]
        if not mine:
            return None, f"the baseline has no {row.backend}/{row.scenario}"
        if mine[0].why_not:
            return None, f"in the baseline it was {mine[0].why_not}"
        if mine[0].load != load_of(cell.trials) or not _same_rate(mine[0].imported_per_s, cell):
            return None, "the baseline's load was not the same"
        if mine[0].stand_in != row.stand_in:
            which = "the baseline's" if mine[0].stand_in else "this run's"
            return None, f"{which} is a stand-in, the other the server itself"
        return mine[0].value(metric)

    def differs(self, facts: RunFacts) -> list[str]:
        """A sentence for each thing besides the servers that was not the same in both runs."""
        now = identity(facts)
        return [
            f"{name} of the baseline: {before or 'not known'}, now {now.get(name) or 'not known'}."
            for name, before in self.identity.items()
            if name != "Backends" and before != now.get(name, "")
        ]


def _same_rate(before_per_s: float | None, cell: Cell) -> bool:
    """Whether an imported cell had the baseline's rate; of others the load itself tells."""
    now_per_s = _imported_per_s(cell)
    return before_per_s is None or now_per_s is None or same_rate(before_per_s, now_per_s)


def _imported_per_s(cell: Cell) -> float | None:
    return next((rate for trial in cell.trials if (rate := imported_per_s(trial))), None)


def baseline_of(run_dir: Path, objectives: Sequence[Objective] = ()) -> Baseline:
    """What a run measured, for holding others against it.

    Raises
    ------
    analysis.runfolder.NotARunFolder
        A ``ValueError`` with a sentence for the user, if there is no run at ``run_dir``.
    """
    run = read_run(run_dir)
    metrics = dict.fromkeys([*METRICS, *(one.metric for one in objectives)])
    return Baseline(
        source=encodable(run_dir.name or str(run_dir)),
        plan_name=run.facts.plan_name,
        started=run.facts.started,
        identity=identity(run.facts),
        cells=[_kept(cell, list(metrics)) for cell in cells(run)],
    )


def _kept(cell: Cell, metrics: Sequence[str]) -> BaselineCell:
    row = cell.row
    why_not = "not valid" if row.verdict == "invalid" else "saturated" if row.saturated else ""
    values = {name: value for name in metrics if (value := value_of(name, cell)) is not None}
    return BaselineCell(
        backend=row.backend,
        scenario=row.scenario,
        load=load_of(cell.trials),
        imported_per_s=_imported_per_s(cell),
        stand_in=row.stand_in,
        requests=row.requests,
        why_not=why_not,
        values=values,
    )


def read_baseline(run_dir: Path, problems: list[str]) -> Baseline | None:
    """The baseline kept in a run's folder, None if there is none or none that can be read."""
    path = run_dir / FILE
    raw = read_json(path, FILE, problems) if path.exists() else None
    if raw is None:
        return None
    try:
        kept = Baseline.model_validate(raw)
    except ValidationError as error:
        problems.append(f"{FILE}: {what_is_wrong(error)}; there is no baseline.")
        return None
    problems += newer(FILE, kept.schema_version, SCHEMA)
    return kept


def told(baseline: Baseline) -> str:
    """Which run the baseline is, in a few words."""
    when = f"of {baseline.started:%Y-%m-%d %H:%M} UTC" if baseline.started else ""
    return " ".join(filter(None, [baseline.source, when])) or "an unnamed run"
