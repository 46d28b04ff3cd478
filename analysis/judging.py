"""Objectives judged against what was measured.

A percentile that a sample does not carry is not shown, neither to hold nor to be missed. A share is judged by
what was counted; where fewer than 10 lost arrivals would reach the threshold, the judgement tells the bound
of Clopper and Pearson [1]_ with it: 200 arrivals without an error hold ``error_rate < 1%``, though they show
no more than 1.49 %. Errors come in bursts, so that less is known of shares than that bound says.

References
----------
.. [1] C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of
   the binomial", Biometrika 26 (1934).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field

from analysis.histograms import MIN_BEYOND, Histogram, carries, needed_for
from analysis.metrics import Cell, Measures, Row, answered_in_plan
from analysis.objectives import Objective, about_nothing, quantile_of
from analysis.ranking import MAX_ERROR_RATE
from analysis.runfolder import Trial
from analysis.uncertainty import Spread, estimates, interval_ms, pool
from analysis.words import NONE, brief, counted, ms, percent

if TYPE_CHECKING:
    from analysis.baseline import Baseline

CONFIDENCE = 0.95
NOT_SHOWN: Literal["not shown"] = "not shown"
FEW = "few requests"
ACROSS = "its interval reaches across the limit"


Judgement = Literal["held", "missed", "not shown"]


class ObjectiveResult(BaseModel):
    """An objective judged in one cell. ``value``, ``threshold`` and ``baseline`` are ms, fractions or 1/s.

    ``low`` and ``high`` are its 95 % interval, where there is one; ``shown`` and ``interval`` are both as
    text. ``note`` says why an objective could not be shown to hold.
    """

    model_config = ConfigDict(frozen=True)

    expression: str
    backend: str
    scenario: str
    value: float | None
    low: float | None = None
    high: float | None = None
    passed: bool
    threshold: float | None = None
    baseline: float | None = None
    shown: str = NONE
    interval: str = ""
    note: str = ""

    @property
    def told(self) -> str:
        """The value with its interval, where there is one."""
        return f"{self.shown} ({self.interval})" if self.interval else self.shown

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def judgement(self) -> Judgement:
        """``held``, ``missed``, or ``not shown`` for want of evidence."""
        if self.passed:
            return "held"
        told = self.note.startswith(FEW) or (self.value is not None and not self.note.startswith(NOT_SHOWN))
        return "missed" if told else NOT_SHOWN


def evaluate(
    objectives: Sequence[Objective], cells: Sequence[Cell], baseline: Baseline | None = None
) -> list[ObjectiveResult]:
    """Judge each objective in each cell that it covers; one that covers none has not been shown to hold."""
    results = []
    for objective in objectives:
        covered = [cell for cell in cells if objective.covers(cell.row.backend, cell.row.scenario)]
        if not covered:
            note = about_nothing(objective, [(cell.row.backend, cell.row.scenario) for cell in cells])
            told = objective.expression
            results.append(
                ObjectiveResult(expression=told, backend="", scenario="", value=None, passed=False, note=note)
            )
        results.extend(_judge(objective, cell, baseline) for cell in covered)
    return results


def _judge(objective: Objective, cell: Cell, baseline: Baseline | None) -> ObjectiveResult:
    row = cell.row
    value, threshold, before, note = value_of(objective.metric, cell), objective.threshold, None, ""
    if row.verdict == "invalid":
        value, why = None, row.reasons[0] if row.reasons else "nothing was measured"
        note = f"no valid measurement: {why}"
    elif value is None:
        if bounded := _bounded(objective, cell):
            return bounded
        note = f"not shown: {_lacking(objective, row)}"
    elif objective.relative:
        before, note = _before(objective, cell, baseline)
        threshold = math.nan if before is None else objective.threshold * before
    holds = value is not None and not math.isnan(threshold) and objective.holds(value, threshold)
    told = ""
    if holds and value is not None:
        holds, told = _borne_out(objective, cell, threshold)
        note = note or told
    low, high = (_interval(objective, cell, value) if value is not None else None) or (None, None)
    bounds = "≥ " if value is not None and objective.kind == "latency" and row.lower_bound else ""
    if before is not None and not note:
        note = _beside(objective, value, before)
    if low is not None and high is not None and low < threshold < high and not told:
        note = "; ".join(filter(None, [note, ACROSS]))
    return ObjectiveResult(
        expression=objective.expression,
        backend=row.backend,
        scenario=row.scenario,
        value=value,
        low=low,
        high=high,
        passed=holds,
        threshold=None if math.isnan(threshold) else threshold,
        baseline=before,
        shown=f"{bounds}{objective.show(value)}",
        interval=_ends(objective, value, low, high),
        note=note,
    )


def _ends(objective: Objective, value: float | None, low: float | None, high: float | None) -> str:
    """The interval as text, where it is wider than the digits shown."""
    ends = [objective.show(one) for one in (low, high)]
    return "" if low is None or {*ends} == {objective.show(value)} else " to ".join(ends)


def _interval(objective: Objective, cell: Cell, value: float) -> tuple[float, float] | None:
    """The 95 % interval of what was measured; None where there is none.

    A maximum has none: what the largest of more requests would be, no sample tells.
    """
    row = cell.row
    if objective.kind == "share":
        return _share_interval(_lost(objective, cell), row.planned) if row.planned else None
    if objective.kind == "latency" and row.lower_bound:
        return None
    if objective.quantile:
        return row.interval_ms.get(objective.metric) or _own_interval(objective.quantile, cell)
    told = [_of_trial(objective.metric, trial) for trial in cell.trials]
    values = np.array([one for one in told if one is not None])
    if len(values) < 2 or len(values) < len(told):
        return None
    spread = Spread.even(float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1)
    reach, _ = spread.half(CONFIDENCE)
    return value - reach, value + reach


def _share_interval(lost: int, planned: int) -> tuple[float, float]:
    if not lost:
        return 0.0, _at_most(lost, planned)
    from statsmodels.stats.proportion import proportion_confint  # imported late: the command must start fast

    low, high = proportion_confint(lost, planned, 1 - CONFIDENCE, method="beta")
    return float(low), float(high)


def _own_interval(q: float, cell: Cell) -> tuple[float, float] | None:
    """The interval of a percentile that is in no table, from this backend's trials alone."""
    parts = [one for one in cell.intervals if len(one.row)]
    if not parts:
        return None
    (one,) = estimates(parts, [q])
    return interval_ms(one, pool([one]))


def _of_trial(metric: str, trial: Trial) -> float | None:
    """A trial's own mean in ms or throughput in 1/s; nothing else is a mean over trials."""
    if metric == "mean":
        return trial.log.tag("latency").merged().mean_ms()
    if metric == "throughput" and trial.summary:
        return answered_in_plan(trial) / trial.summary.duration_s
    return None


def _lost(objective: Objective, cell: Cell) -> int:
    """Arrivals that a share counts."""
    return round((value_of(objective.metric, cell) or 0.0) * (cell.row.planned or 0))


def _at_most(lost: int, planned: int) -> float:
    """The share that so many lost arrivals show it is at most: Clopper and Pearson's one-sided bound."""
    from scipy.special import betaincinv  # imported late: the command must start fast

    return float(betaincinv(lost + 1, planned - lost, CONFIDENCE)) if lost < planned else 1.0


def _lacking(objective: Objective, row: Row) -> str:
    """Why a cell that may be believed has no value of this metric."""
    q = objective.quantile
    if q and row.requests and not carries(row.requests, q):
        requests = counted(row.requests, "request")
        return f"{objective.metric} needs {needed_for(q):,} requests, there are {requests}"
    if row.binned and row.requests and objective.kind == "latency":
        return f"the imported file holds no {objective.metric}"
    return "nothing was measured"


def _beside(objective: Objective, value: float | None, before: float) -> str:
    """The value beside the baseline's."""
    if not before and objective.op == "<":
        return f"the baseline's is {objective.show(before)}, and nothing is below that: write <="
    times = f"{brief(value / before)} times " if value is not None and before else ""
    return f"{times}the baseline's {objective.show(before)}"


def _before(objective: Objective, cell: Cell, baseline: Baseline | None) -> tuple[float | None, str]:
    """The baseline's value of the objective's metric in this cell, or why there is none."""
    if baseline is None:
        return None, f"{NOT_SHOWN}: there is no baseline; name its run with --baseline DIR"
    value, why = baseline.value(objective.metric, cell)
    return value, f"{NOT_SHOWN}: {why}" if value is None else ""


def _borne_out(objective: Objective, cell: Cell, threshold: float) -> tuple[bool, str]:
    """Whether what was measured can show that a value under the threshold is under it."""
    row = cell.row
    below = objective.is_ceiling
    if objective.kind == "latency" and below and (why := unanswered(objective, row, cell.latency, threshold)):
        return False, f"{NOT_SHOWN}: {why}"
    # a baseline's share is itself not exact: it says no more than which of the two is larger
    if objective.kind == "share" and below and row.planned and not objective.relative:
        return True, _few(objective, cell, row.planned, threshold)
    return True, ""


def _bounded(objective: Objective, cell: Cell) -> ObjectiveResult | None:
    """What few requests show of a percentile that they do not carry; None where they do not bound it so far.

    60 requests under 200 ms show that p95 < 200 ms, though not what it is; had they taken longer, they would
    show that it is not.
    """
    q, limit, below = objective.quantile, objective.threshold, objective.is_ceiling
    if q is None or cell.row.binned or objective.relative:
        return None
    if unanswered(objective, cell.row, cell.latency, limit):
        return None
    low, high = cell.latency.bounds_ms(q, CONFIDENCE)
    for bound, is_upper in ((low, False), (high, True)):
        if bound is None or objective.holds(bound, limit) != (below == is_upper):
            continue
        return ObjectiveResult(
            expression=objective.expression,
            backend=cell.row.backend,
            scenario=cell.row.scenario,
            value=None,
            low=None if is_upper else bound,
            high=bound if is_upper else None,
            passed=below == is_upper,
            threshold=limit,
            shown=f"{'≤' if is_upper else '≥'} {ms(bound)}",
            note=f"{FEW}: the bound holds with {CONFIDENCE:.0%} confidence",
        )
    return None


def unanswered(objective: Objective, measured: Measures, latency: Histogram, threshold: float) -> str:
    """Why a latency below the threshold does not show that users saw one; empty where it does.

    Errors answer fast, and a dropped arrival has no latency: a percentile is one of right answers only as
    long as those that got none fit beyond it. Mean and maximum have room for as many as are ranked.
    """
    q = objective.quantile
    if measured.saturated:
        return "the server was saturated, so the value is a lower bound"
    room = MAX_ERROR_RATE + 1e-12 if q is None else 1 - q - 1e-9
    if (measured.error_rate or 0.0) >= room:
        return f"{percent(measured.error_rate)} of its arrivals got no right answer"
    if not measured.dropped:
        return ""
    dropped = counted(measured.dropped, "dropped arrival")
    if q is None:
        return f"{dropped} had no latency, so the value is a lower bound"
    ranked = latency.rank_ms(math.ceil(q * (measured.requests + measured.dropped) - 1e-9))
    held = objective.holds(ranked, threshold)
    return "" if held else f"with its {dropped} it is at least {ms(ranked)}"


def _few(objective: Objective, cell: Cell, planned: int, threshold: float) -> str:
    """What arrivals show of a share, where they are few for the threshold; empty where they are not."""
    if planned * threshold + 1e-9 >= MIN_BEYOND:
        return ""
    lost = _lost(objective, cell)
    what = f"{lost or 'none'} of {counted(planned, 'arrival')}"
    return f"{what}, so at most {percent(_at_most(lost, planned))} with {CONFIDENCE:.0%} confidence"


def value_of(metric: str, cell: Cell) -> float | None:
    """A metric of a cell in ms, as a fraction or in 1/s; None where it was not measured well enough."""
    row = cell.row
    named = {
        "mean": row.latency_ms.get("mean"),
        "max": row.latency_ms.get("max"),
        "error_rate": row.error_rate,
        "drop_rate": row.drop_rate,
        "throughput": row.achieved_per_s,
    }
    q = quantile_of(metric)
    if q is None:
        return named[metric]
    if not carries(row.requests, q):
        return None
    return row.latency_ms.get(metric) if row.binned else cell.latency.quantile_ms(q)
