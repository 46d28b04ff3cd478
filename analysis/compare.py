"""Two runs side by side, or two sets of them: what got slower or faster, what is the same, what is not shown.

Compared is what both sides measured validly under the same load, cell by cell. Percentiles are those of the
merged histograms; the decision on each is that of :mod:`analysis.effects`, on an error rate that of
:mod:`analysis.error_rates`, with p values that hold together over all metrics of all cells: of twenty
comparisons of a server with itself one calls a difference, however many cells they have.

``equivalent`` means shown to differ by less than the margin, ``not shown`` that neither a difference nor its
absence was. A *regression* is a percentile shown to be slower and by more than the margin, an error rate
that rose by more than a percentage point, or a server that kept up before and no longer does, as
:mod:`analysis.pairs` tells. Where that is not shown, a cell with saturated trials is not compared, and more
of them on the new side leave it not ``complete``.

What differs besides the server is stated: machine, cores, model, versions, plan, suspect trials. A new side
that lacks a cell, or of which a trial failed, is not ``complete``, and without a regression nobody knows
whether there is one: a server that crashes is no answer to whether it got slower. Where the load or the
payload differ the cell is not compared at all, and its percentiles are not where more than 1 % of a side's
arrivals got no right answer: errors answer fast. Several runs of a side count as one with all their trials;
where they lie further apart than their trials do, that is stated too, since the intervals are then too
narrow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from analysis.effects import ALPHA, Decision, Effect, decide, effect, holm
from analysis.error_rates import Rise, rise
from analysis.histograms import needed_for
from analysis.identity import differs
from analysis.metrics import QUANTILES, Cell
from analysis.pairs import SIDES, CellPair
from analysis.ranking import MAX_ERROR_RATE
from analysis.runfolder import read_run
from analysis.sides import Side, on_both_sides
from analysis.words import counted, ms, percent

METRICS = ("p50", "p95", "p99")
MARGIN = 0.05
"""How much slower a percentile may get: machines drift by this much from one day to the next."""
ERROR_RATE_MAY_RISE = 0.01

Verdict = Literal[
    "slower", "faster", "equivalent", "not shown", "worse", "within tolerance", "not comparable"
]


_Decided = tuple[Decision, float | None, float | None]
"""A decision with its p values, as :func:`analysis.effects.decide` has them."""


class ComparisonRow(BaseModel):
    """One metric of one cell on both sides; latencies in ms, ``ratio`` = new / base with a 95 % interval.

    An error rate has a ``difference`` = new - base instead, a fraction, with a 95 % interval, and its ``p``
    is that of no rise. It is ``worse`` where it was shown to rise by more than is tolerated; a smaller rise
    that was shown is ``within tolerance``.

    ``p`` and ``p_equivalent`` are corrected over the metrics of all cells (Holm): of no difference, and of
    one larger than the margin. ``superiority`` is the probability that a trial of the new side is slower than
    one of the base; ``power`` that this design would have shown a difference of the margin; ``more_trials``
    how many more of each would give an answer in four of five cases, None where there is one or none is in
    sight. Both reckon with an equal share of the 5 % for each metric, which is the least that Holm's
    correction leaves, and with trials that lie as far apart as these. In sequential mode there is neither.
    """

    model_config = ConfigDict(frozen=True)

    backend: str
    scenario: str
    metric: str
    base: float | None
    new: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    p_equivalent: float | None = None
    cohen_d: float | None = None
    superiority: float | None = None
    hodges_lehmann: float | None = None
    hodges_lehmann_low: float | None = None
    hodges_lehmann_high: float | None = None
    power: float | None = None
    more_trials: int | None = None
    verdict: Verdict
    regression: bool = False
    note: str = ""

    @property
    def sentence(self) -> str:
        """What changed, by how much and how sure that is."""
        show = percent if self.metric == "error_rate" else ms
        values = f"from {show(self.base)} to {show(self.new)}"
        text = f"{self.backend} in {self.scenario}: {self.metric} went {values}"
        if self.ratio is not None and self.low is not None:
            high = f" to {self.high:.2f}" if self.high is not None else " or more"
            text += f", {self.ratio:.2f} times as slow (95 % interval {self.low:.2f}{high})"
        if self.difference_low is not None and self.difference_high is not None:
            least, most = 100 * self.difference_low, 100 * self.difference_high
            text += f", a rise by {least:.2f} to {most:.2f} points (95 % interval)"
        return f"{text}; {self.note}." if self.note and self.ratio is None else f"{text}."


class Comparison(BaseModel):
    """What came out. ``differs`` has a sentence per thing that was not the same on both sides.

    ``complete`` is whether the new side has every cell of the base, each with a valid trial, none of its
    trials failed, its run.json tells how many there should be, and none leaves open whether it still keeps
    up; what it lacks is among the ``problems``.
    ``settled`` is whether every percentile has an answer; in ``sequential`` mode one may stop then.
    """

    model_config = ConfigDict(frozen=True)

    base: list[Path]
    new: list[Path]
    margin: float
    sequential: bool
    differs: list[str]
    rows: list[ComparisonRow]
    problems: list[str]
    complete: bool

    @property
    def regressions(self) -> list[str]:
        """A sentence per regression; empty where none was shown."""
        return [row.sentence for row in self.rows if row.regression]

    @property
    def compared(self) -> bool:
        """Whether a percentile could be compared, or something got worse; equal error rates say little."""
        return any(
            row.verdict == "worse" or (row.metric in METRICS and row.verdict != "not comparable")
            for row in self.rows
        )

    @property
    def settled(self) -> bool:
        """Whether more trials would change nothing: every percentile has an answer."""
        asked = [row for row in self.rows if row.metric in METRICS and row.verdict != "not comparable"]
        return bool(asked) and all(row.verdict != "not shown" for row in asked)

    @property
    def outcome(self) -> str:
        """The exit status in words."""
        if self.regressions:
            return "regression"
        return "no regression" if self.compared and self.complete else "not measured"

    @property
    def answer(self) -> list[str]:
        """What the reader wanted to know: each regression, or why there is none."""
        if self.regressions:
            return self.regressions
        if not self.compared:
            return ["Nothing could be compared: no percentile is known well enough on both sides."]
        if not self.complete:
            return ["No regression was shown, but the new side is not complete: measure again what it lacks."]
        return ["No regression was shown."]

    def to_json(self) -> str:
        """The comparison as JSON, with its regressions spelled out."""
        content: dict[str, Any] = {"schema": 2, **self.model_dump(mode="json"), "settled": self.settled}
        return json.dumps(content | {"regressions": self.regressions}, indent=1, allow_nan=False)


def compare(
    base: Sequence[Path], new: Sequence[Path], margin: float = MARGIN, sequential: bool = False
) -> Comparison:
    """Compare two runs, or two sets of them.

    ``margin`` is the share that does not matter. With ``sequential`` all intervals and p values may be looked
    at after every trial, see :mod:`analysis.sequential`.

    Raises
    ------
    analysis.runfolder.NotARunFolder
        A ``ValueError`` with a sentence for the user, if one is not a run folder.
    """
    runs = [read_run(path) for path in base], [read_run(path) for path in new]
    sides = [Side(name, side) for name, side in zip(SIDES, runs, strict=True)]
    before_side, after_side = sides
    lacking = [
        f"new: {backend} in {scenario} is missing; the base has it."
        for scenario, backend in before_side.cells
        if (scenario, backend) not in after_side.cells
    ]
    keys = dict.fromkeys(key for side in sides for key in side.cells)
    pairs = [
        CellPair(*key, before_side.cells.get(key), after_side.cells.get(key), len(keys), sequential)
        for key in keys
    ]
    in_doubt = [
        f"new: {one.backend} in {one.scenario} fell behind in more trials than the base, by too few to show "
        "that it no longer keeps up: measure it again, with more trials."
        for one in pairs
        if one.in_doubt
    ]
    return Comparison(
        base=list(base),
        new=list(new),
        margin=margin,
        sequential=sequential,
        differs=[
            *differs(*runs),
            *on_both_sides(base, new),
            *(sentence for side in sides for sentence in [*side.far_apart(), *side.suspect()]),
        ],
        rows=compare_pairs(pairs, margin, sequential),
        problems=[
            *lacking,
            *in_doubt,
            *(f"{side.name}: {told}" for side in sides for told in [*side.not_valid, *side.run.problems]),
        ],
        complete=not lacking and not in_doubt and after_side.complete,
    )


@dataclass(frozen=True)
class _Asked:
    """What is compared of a pair: the percentiles that both sides tell, and the error rate."""

    before: Cell
    after: Cell
    percentiles: list[str]
    errors: Rise | None
    pair: CellPair

    @classmethod
    def of(cls, before: Cell, after: Cell, pair: CellPair, sequential: bool) -> _Asked:
        """All that can be asked; of a server that fell behind no percentile is one."""
        told = [] if after.row.saturated else [n for n in METRICS if not _unknown(before, after, n)]
        return cls(before, after, told, rise(before, after, sequential), pair)

    @property
    def tests(self) -> int:
        """How many tests share the 5 %; one that cannot reject has no share."""
        return len(self.percentiles) + bool(self.errors and self.errors.tells)

    def effects(self, margin: float, sequential: bool, tests: int) -> list[Effect]:
        """The effect on each percentile, for a decision that is corrected over so many tests."""
        before, after = self.before.estimates, self.after.estimates
        return [effect(before[name], after[name], margin, sequential, tests) for name in self.percentiles]


def compare_pairs(pairs: Sequence[CellPair], margin: float, sequential: bool) -> list[ComparisonRow]:
    """The rows of all pairs of cells, with p values that hold together over all of them."""
    asked = {
        n: _Asked.of(one.before, one.after, one, sequential)
        for n, one in enumerate(pairs)
        if one.before and one.after and not one.reason
    }
    tests = sum(one.tests for one in asked.values())
    effects = [one.effects(margin, sequential, tests) for one in asked.values()]
    rises = [one.errors.p if one.errors and one.errors.tells else None for one in asked.values()]
    flat = [one for some in effects for one in some]
    decisions = iter(decide(flat, rises))
    corrected = holm([*rises, *(one.p for one in flat)])
    rows = {}
    for (n, one), some, p in zip(asked.items(), effects, corrected, strict=False):
        decided = {name: (which, next(decisions)) for name, which in zip(one.percentiles, some, strict=True)}
        rows[n] = [*_latencies(one, decided, margin), _errors(one, p)]
    return [row for n, one in enumerate(pairs) for row in rows.get(n) or [_without(one)]]


def _without(pair: CellPair) -> ComparisonRow:
    """A cell that is not compared at all."""
    base, new = (cell.row.latency_ms.get("p95") if cell else None for cell in (pair.before, pair.after))
    return ComparisonRow(
        backend=pair.backend,
        scenario=pair.scenario,
        metric="p95",
        base=base,
        new=new,
        verdict="not comparable",
        note=pair.reason,
    )


def _latencies(
    asked: _Asked, decided: dict[str, tuple[Effect, _Decided]], margin: float
) -> list[ComparisonRow]:
    before, after = asked.before, asked.after
    if after.row.saturated:
        return [_saturated(before, after, asked.pair)]
    trials = min(before.row.trials, after.row.trials)
    return [
        _latency(before, after, name, *decided[name], margin, trials)
        if name in decided
        else _untold(before, after, name)
        for name in METRICS
    ]


def _untold(before: Cell, after: Cell, name: str) -> ComparisonRow:
    """A percentile that one of both, or both, cannot tell; the binned values of other tools are shown."""
    old, now = (
        None if name in cell.row.not_carried else cell.row.latency_ms.get(name) for cell in (before, after)
    )
    return ComparisonRow(
        backend=after.row.backend,
        scenario=after.row.scenario,
        metric=name,
        base=old,
        new=now,
        verdict="not comparable",
        note=f"{name}: {'; '.join(_unknown(before, after, name))}",
    )


def _unknown(before: Cell, after: Cell, name: str) -> list[str]:
    """Why a percentile cannot be compared; empty where it can."""
    told = (_why_unknown(side, cell, name) for side, cell in zip(SIDES, (before, after), strict=True))
    return [why for why in told if why]


def _why_unknown(side: str, cell: Cell, name: str) -> str:
    if cell.row.binned:
        return f"of the {side} run only percentiles of Locust's buckets are known"
    if (cell.row.error_rate or 0.0) > MAX_ERROR_RATE:
        return f"{percent(cell.row.error_rate)} of the {side} run's arrivals got no right answer"
    if name in cell.estimates:
        return ""
    requests = counted(cell.row.requests, "request")
    return f"it needs {needed_for(QUANTILES[name]):,} requests, the {side} run has {requests}"


def _latency(
    before: Cell,
    after: Cell,
    name: str,
    one: Effect,
    decision: _Decided,
    margin: float,
    trials: int,
) -> ComparisonRow:
    verdict, p, p_equivalent = decision
    more = max(1, one.settle - trials) if one.settle and verdict == "not shown" else None
    return ComparisonRow(
        backend=after.row.backend,
        scenario=after.row.scenario,
        metric=name,
        base=before.row.latency_ms[name],
        new=after.row.latency_ms[name],
        ratio=one.ratio,
        low=one.low,
        high=one.high,
        p=p,
        p_equivalent=p_equivalent,
        cohen_d=one.cohen_d,
        superiority=one.superiority,
        hodges_lehmann=one.hodges_lehmann,
        hodges_lehmann_low=one.hodges_lehmann_low,
        hodges_lehmann_high=one.hodges_lehmann_high,
        power=one.power,
        more_trials=more,
        verdict=verdict,
        regression=verdict == "slower" and one.ratio > 1 + margin,
        note=f"rests on {one.rests_on}",
    )


def _saturated(before: Cell, after: Cell, pair: CellPair) -> ComparisonRow:
    return ComparisonRow(
        backend=after.row.backend,
        scenario=after.row.scenario,
        metric="p95",
        base=before.row.latency_ms.get("p95"),
        new=after.row.latency_ms.get("p95"),
        verdict="worse" if pair.falls_behind else "not comparable",
        regression=pair.falls_behind,
        note=pair.saturation,
    )


def _errors(asked: _Asked, p: float | None) -> ComparisonRow:
    """The error rate must rise by a whole percentage point to be a regression; ``p`` is corrected."""
    old, now, found = asked.before.row, asked.after.row, asked.errors
    row = ComparisonRow(
        backend=now.backend,
        scenario=now.scenario,
        metric="error_rate",
        base=old.error_rate,
        new=now.error_rate,
        verdict="not shown",
    )
    if found is None:
        return row
    shown, tolerated = p is not None and p <= ALPHA, found.difference <= ERROR_RATE_MAY_RISE
    risen: Verdict = "within tolerance" if tolerated else "worse"
    note = ""
    if shown and tolerated:
        note = (
            f"error_rate: a rise of less than the {percent(ERROR_RATE_MAY_RISE)} that is tolerated was shown"
        )
    elif found.high is not None and found.high < 0:
        note = "error_rate: it fell; what is tested is whether it rose"
    return row.model_copy(
        update={
            "difference": found.difference,
            "difference_low": found.low,
            "difference_high": found.high,
            "p": p if found.tells else found.p,
            "verdict": risen if shown else "not shown",
            "regression": shown and not tolerated,
            "note": note,
        }
    )
