"""Which server is faster, scenario by scenario.

Only like is ranked with like: valid measurements of real servers (never stand-ins) under the same load
(never open with closed), that kept up and answered. Each pair's difference has an interval, simultaneous
over all pairs in all scenarios, since a recommendation looks at them all; a backend's rank is one more than
the number of backends *shown* to be faster, so ties stay ties. In a run that looked at itself before it
stopped the intervals are always-valid, over all its pairs.
Suspect trials are ranked, since their fault is known and small, and the recommendation says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from analysis.histograms import carries, needed_for
from analysis.loads import describe_load, unlike
from analysis.metrics import QUANTILES, Cell
from analysis.runfolder import Load, Sequential
from analysis.sequential import always_valid
from analysis.uncertainty import differences
from analysis.words import percent

if TYPE_CHECKING:
    from analysis.objectives import Objective

MAX_ERROR_RATE = 0.01
"""Above this a latency is not compared: errors answer fast."""

IMAGE = "image"
"""The kind of payload that the shared model takes."""


class Part(BaseModel):
    """A part of the report."""

    model_config = ConfigDict(frozen=True)


class Ranked(Part):
    """A backend's place in a scenario; equal ranks are ties."""

    backend: str
    title: str
    rank: int
    value_ms: float


class Pair(Part):
    """How many times as slow ``slower`` was as ``faster``, with its simultaneous 95 % interval.

    Of a sequential run also the p values, corrected over its pairs, of no difference and of one larger than
    the margin; ``equivalent_within`` is the margin if it was shown that they differ by less.
    """

    faster: str
    slower: str
    ratio: float
    low: float
    high: float | None
    shown: bool
    rests_on: str
    p: float | None = None
    p_equivalent: float | None = None
    equivalent_within: float | None = None


class Excluded(Part):
    """Why a backend is not ranked. ``own_fault``: the server could not do it, which speaks against it.

    ``for_good``: it is not meant to be ranked, so that more trials would not change it.
    """

    reason: str
    own_fault: bool = False
    for_good: bool = False


class Ranking(Part):
    """A scenario's ranking by one latency percentile, and why others are not in it (``excluded``)."""

    scenario: str
    load: str
    metric: str
    ranked: list[Ranked]
    excluded: dict[str, Excluded]
    pairs: list[Pair]

    @property
    def leaders(self) -> list[str]:
        """Backends that none is shown to be faster than."""
        return [one.backend for one in self.ranked if one.rank == 1]

    def value(self, backend: str) -> float:
        """The backend's percentile in ms."""
        return next(one.value_ms for one in self.ranked if one.backend == backend)

    def pair(self, faster: str, slower: str) -> Pair | None:
        """The difference between two backends."""
        return next((p for p in self.pairs if {p.faster, p.slower} == {faster, slower}), None)


def preferred_metric(objectives: Sequence[Objective]) -> str:
    """The percentile to rank by: that of the first objective on one, otherwise p95."""
    return next((o.metric for o in objectives if o.metric in QUANTILES), "p95")


def rank(cells: Sequence[Cell], metric: str, sequential: Sequential | None = None) -> list[Ranking]:
    """A ranking per scenario, by ``metric`` or the highest percentile below it that all samples carry."""
    scenarios = dict.fromkeys(cell.row.scenario for cell in cells)
    lineups = [_line_up([c for c in cells if c.row.scenario == s], metric) for s in scenarios]
    comparisons = sum(math.comb(len(one.candidates), 2) for one in lineups)
    return [
        _rank_scenario(scenario, lineup, comparisons, sequential)
        for scenario, lineup in zip(scenarios, lineups, strict=True)
    ]


@dataclass(frozen=True)
class _Lineup:
    """Who is ranked in a scenario, by which percentile, and who is not."""

    load: Load
    metric: str
    candidates: list[Cell]
    excluded: dict[str, Excluded]


def _rank_scenario(
    scenario: str, lineup: _Lineup, comparisons: int, sequential: Sequential | None
) -> Ranking:
    ranked, pairs = _order(lineup.candidates, lineup.metric, comparisons, sequential)
    return Ranking(
        scenario=scenario,
        load=lineup.load,
        metric=lineup.metric,
        ranked=ranked,
        excluded=lineup.excluded,
        pairs=pairs,
    )


def _line_up(cells: list[Cell], preferred: str) -> _Lineup:
    excluded = {cell.row.backend: reason for cell in cells if (reason := why_not(cell))}
    candidates = [cell for cell in cells if cell.row.backend not in excluded]
    if len({cell.row.kind for cell in candidates}) > 1:
        for cell in (cell for cell in candidates if cell.row.kind != IMAGE):
            why = f"its requests are {cell.row.kind}, another task"
            excluded[cell.row.backend] = Excluded(reason=why, for_good=True)
        candidates = [cell for cell in candidates if cell.row.kind == IMAGE]
    metric = _carried(candidates, preferred)
    for cell in candidates:
        if not carries(cell.row.requests, QUANTILES[metric]):
            needed = needed_for(QUANTILES[metric])
            why = f"{cell.row.requests:,} requests, {metric} needs {needed:,}"
            excluded[cell.row.backend] = Excluded(reason=why)
    candidates = [cell for cell in candidates if cell.row.backend not in excluded]
    if unlike([trial for cell in candidates for trial in cell.trials]):
        for cell in candidates:
            why = f"its load differs from the others' ({describe_load(cell.trials)})"
            excluded[cell.row.backend] = Excluded(reason=why)
        candidates = []
    return _Lineup(cells[0].row.load, metric, candidates, excluded)


def why_not(cell: Cell) -> Excluded | None:
    """Why a cell cannot be ranked, or None."""
    row = cell.row
    if row.stand_in:
        return Excluded(reason="a stand-in, never ranked", for_good=True)
    if row.verdict == "invalid":
        return Excluded(reason="; ".join(row.reasons) or "nothing was measured")
    if row.saturated:
        lost = f": {percent(row.drop_rate)} of arrivals dropped" if row.drop_rate else ""
        return Excluded(reason=f"saturated, it could not keep up{lost}", own_fault=True)
    if (row.error_rate or 0) > MAX_ERROR_RATE:
        return Excluded(reason=f"{percent(row.error_rate)} of its arrivals failed", own_fault=True)
    if row.binned:
        return Excluded(reason="only percentiles of Locust's buckets are known")
    return None if row.requests else Excluded(reason="no latencies in its log")


def _carried(cells: Sequence[Cell], preferred: str) -> str:
    """The highest percentile up to the preferred one that every cell carries."""
    names = [name for name in QUANTILES if QUANTILES[name] <= QUANTILES[preferred]]
    carried = [n for n in names if all(carries(cell.row.requests, QUANTILES[n]) for cell in cells)]
    return (carried or names[:1])[-1]


def _order(
    cells: Sequence[Cell], metric: str, comparisons: int, sequential: Sequential | None
) -> tuple[list[Ranked], list[Pair]]:
    measured = {cell.row.backend: cell.estimates[metric] for cell in cells}
    order = sorted(measured, key=lambda backend: measured[backend].merged_ms)
    family, margin = [measured[backend] for backend in order], sequential.margin if sequential else None
    found = (
        always_valid(family, sequential.margin, sequential.comparisons)
        if sequential
        else differences(family, comparisons)
    )
    pairs = []
    for (faster, slower), one in found.items():
        pairs.append(
            Pair(
                faster=order[faster],
                slower=order[slower],
                ratio=one.ratio,
                low=one.low,
                high=one.high if math.isfinite(one.high) else None,
                # the medians of trials may order two otherwise than all their requests do
                shown=one.shown and one.low >= 1,
                rests_on=one.rests_on,
                p=one.p,
                p_equivalent=one.p_equivalent,
                equivalent_within=margin if one.equivalent else None,
            )
        )
    titles = {cell.row.backend: cell.row.title for cell in cells}
    ranked = [
        Ranked(
            backend=backend,
            title=titles[backend],
            rank=1 + sum(pair.shown and pair.slower == backend for pair in pairs),
            value_ms=measured[backend].merged_ms,
        )
        for backend in order
    ]
    return ranked, pairs
