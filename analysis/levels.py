"""What each backend did at each arrival rate: the points of throughput against latency and of saturation.

A level is a span of load at one rate: the whole of a constant, Poisson or closed cell, and each level of a
step shape. Seconds of step levels count from the second after each change of rate, so that none belongs to
two levels. Shapes whose rate is not constant (spike, ramp, replay) have none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from analysis.histograms import Histogram, Intervals, all_values, carries
from analysis.metrics import Cell
from analysis.ranking import MAX_ERROR_RATE
from analysis.runfolder import Load, Summary, Trial
from analysis.tables import Table
from analysis.usage import start_epoch_s
from analysis.words import listed

STEADY = ("constant", "poisson", "closed")
MOST_LEVELS = 1000


class Level(BaseModel):
    """One backend at one rate. ``offered_per_s`` is None for closed load, whose rate is the server's own.

    ``carried`` says that ten requests or more lie beyond p95; ``lower_bound`` that some arrivals were
    dropped, or more than 1 % of the requests failed: errors answer fast.
    """

    model_config = ConfigDict(frozen=True)

    backend: str
    title: str
    scenario: str
    load: Load
    kind: str
    offered_per_s: float | None
    answered_per_s: float
    users: int | None
    requests: int
    p50_ms: float
    p95_ms: float
    carried: bool
    lower_bound: bool


class _Span(NamedTuple):
    rate_per_s: float
    begin_s: float
    end_s: float


def levels(cells: Sequence[Cell]) -> list[Level]:
    """The levels of all cells in which anything valid was measured."""
    return [level for cell in cells if cell.row.trials for level in _of_cell(cell)]


def _of_cell(cell: Cell) -> list[Level]:
    summaries = [trial.summary for trial in cell.trials if trial.summary]
    if not summaries or not cell.latency.total:
        return []
    summary = summaries[0]
    if summary.shape.name == "step":
        return [_at(cell, summary, span) for span in _spans(summary) if _inside(cell, span).total]
    if summary.shape.name not in STEADY or not cell.row.duration_s:
        return []
    return [_whole(cell, summary)]


def _whole(cell: Cell, summary: Summary) -> Level:
    row = cell.row
    offered = row.planned_per_s if row.load == "open" else None
    answered = row.achieved_per_s or 0.0
    lower_bound = row.lower_bound or (row.error_rate or 0.0) > MAX_ERROR_RATE
    return _level(cell, summary, offered, answered, cell.latency, lower_bound)


def _at(cell: Cell, summary: Summary, span: _Span) -> Level:
    inside = _inside(cell, span)
    rows = [_rows(trial, span) for trial in cell.trials]
    failing = _failing(rows)
    per_s = inside.total * (1 - (failing or 0.0)) / ((span.end_s - span.begin_s) * len(cell.trials))
    dropped = any(one is not None and one["dropped"].any() for one in rows)
    # where nothing tells of the level, its p95 is not to be trusted more than the whole cell's
    lost = (cell.row.error_rate or 0.0) if failing is None else failing
    return _level(cell, summary, span.rate_per_s, per_s, inside, dropped or lost > MAX_ERROR_RATE)


def _rows(trial: Trial, span: _Span) -> Table | None:
    """What generator.csv tells of a span; it has a row of each worker at the end of each second."""
    start = start_epoch_s(trial)
    if trial.generator is None or start is None:
        return None
    at_s = trial.generator["time"] - start - 0.5
    return trial.generator.where((at_s >= span.begin_s) & (at_s < span.end_s))


def _failing(rows: Sequence[Table | None]) -> float | None:
    """The share of a span's requests that failed; None where a trial does not tell it."""
    told = [one for one in rows if one is not None and {"completed", "failed"} <= one.numbers.keys()]
    completed, failed = (sum(float(one[name].sum()) for one in told) for name in ("completed", "failed"))
    if len(told) < len(rows) or not completed + failed:
        return None
    return failed / (completed + failed)


def _spans(summary: Summary) -> list[_Span]:
    """The levels of a step shape in whole seconds of the plan."""
    given = getattr(summary.shape, "levels", None)
    found: list[_Span] = []
    at_s = 0.0
    for pair in given[:MOST_LEVELS] if isinstance(given, list) else []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(_is_number(one) for one in pair)):
            return []
        end_s = min(at_s + pair[1], summary.duration_s)
        span = _Span(float(pair[0]), math.ceil(at_s), math.floor(end_s))
        if span.end_s > span.begin_s:
            found.append(span)
        at_s += pair[1]
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _inside(cell: Cell, span: _Span) -> Histogram:
    """What was recorded in the seconds of a span, over all trials."""
    return all_values([_cut(one, span) for one in cell.intervals])


def _cut(one: Intervals, span: _Span) -> Intervals:
    inside = (one.start_s >= span.begin_s) & (one.start_s < span.end_s)
    kept = inside[one.row]
    number = np.cumsum(inside) - 1
    return Intervals(
        one.start_s[inside],
        one.largest_ms[inside],
        number[one.row[kept]],
        one.bucket[kept],
        one.count[kept],
    )


def _level(
    cell: Cell,
    summary: Summary,
    offered: float | None,
    answered: float,
    latency: Histogram,
    lower_bound: bool,
) -> Level:
    row = cell.row
    return Level(
        backend=row.backend,
        title=row.title,
        scenario=row.scenario,
        load=row.load,
        kind=row.kind,
        offered_per_s=offered,
        answered_per_s=answered,
        users=summary.users if row.load == "closed" else None,
        requests=latency.total,
        p50_ms=latency.quantile_ms(0.5) or 0.0,
        p95_ms=latency.quantile_ms(0.95) or 0.0,
        carried=carries(latency.total, 0.95),
        lower_bound=lower_bound,
    )


class Family(NamedTuple):
    """Levels that may stand in one plot: the same kind of load and of payload."""

    heading: str
    open_load: bool
    levels: list[Level]


def families(found: Sequence[Level]) -> list[Family]:
    """The levels by load and kind of payload, where some backend was measured at two rates or more."""
    groups: dict[tuple[Load, str], list[Level]] = {}
    for level in found:
        groups.setdefault((level.load, level.kind), []).append(level)
    told = []
    for (load, kind), mine in groups.items():
        rates: dict[str, set[float]] = {}
        for level in mine:
            rates.setdefault(level.backend, set()).add(level.offered_per_s or level.users or 0)
        if any(len(one) > 1 for one in rates.values()):
            scenarios = listed(list(dict.fromkeys(level.scenario for level in mine)))
            payload = "" if kind == "image" else f", {kind}"
            told.append(Family(f"{load} load{payload}: {scenarios}", load == "open", mine))
    return told
