"""Two runs side by side, or two sets of them: what got slower or faster, what is the same, what is not shown.

Compared is what both sides measured validly under the same load, cell by cell. Percentiles are those of the
merged histograms; the decision on each is that of :mod:`analysis.effects`, with p values that hold together
over the metrics of a cell. ``equivalent`` means shown to differ by less than the margin, ``not shown`` that
neither a difference nor its absence was. A *regression* is a percentile shown to be slower and by more than
the margin, an error rate that rose by more than a percentage point, or a server that kept up before and no
longer does.

What differs besides the server is stated: machine, model, versions, plan, suspect trials. A new side that
lacks a cell, or of which a trial failed, is not ``complete``, and without a regression nobody knows whether
there is one: a server that crashes is no answer to whether it got slower. Where the load or the payload
differ the cell is not compared at all, and its percentiles are not where more than 1 % of a side's arrivals
got no right answer: errors answer fast. Several runs of a side count as one with all their trials; where they
lie further apart than their trials do, that is stated too, since the intervals are then too narrow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from analysis.effects import ALPHA, Decision, Effect, decide, effect
from analysis.histograms import Floats, needed_for
from analysis.loads import unlike
from analysis.metrics import QUANTILES, Cell, cells
from analysis.ranking import MAX_ERROR_RATE
from analysis.runfolder import Backend, PlanFacts, Run, RunFacts, Trial, read_run
from analysis.validity import trial_verdict
from analysis.words import counted, ms, percent

METRICS = ("p50", "p95", "p99")
MARGIN = 0.05
"""How much slower a percentile may get: machines drift by this much from one day to the next."""
ERROR_RATE_MAY_RISE = 0.01
SIDES = ("base", "new")

Verdict = Literal[
    "slower", "faster", "equivalent", "not shown", "worse", "within tolerance", "not comparable"
]


class ComparisonRow(BaseModel):
    """One metric of one cell on both sides; latencies in ms, ``ratio`` = new / base with a 95 % interval.

    An error rate has a ``difference`` = new - base instead, a fraction, with a 95 % interval, and its ``p``
    is that of no rise. It is ``worse`` where it was shown to rise by more than is tolerated; a smaller rise
    that was shown is ``within tolerance``.

    ``p`` and ``p_equivalent`` are corrected over the metrics of the cell (Holm): of no difference, and of one
    larger than the margin. ``superiority`` is the probability that a trial of the new side is slower than one
    of the base; ``power`` that this design would have shown a difference of the margin; ``more_trials`` how
    many more of each would give an answer in four of five cases, None where there is one or none is in sight.
    Both reckon with an equal share of the 5 % for each metric, which is the least that Holm's correction
    leaves, and with trials that lie as far apart as these. In sequential mode there is neither.
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


class Comparison(BaseModel):
    """What came out. ``differs`` has a sentence per thing that was not the same on both sides.

    ``complete`` is whether the new side has every cell of the base, each with a valid trial, and none of its
    trials failed; what it lacks is among the ``problems``. ``settled`` is whether every percentile has an
    answer; in ``sequential`` mode one may stop then.
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
        return [_sentence(row) for row in self.rows if row.regression]

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
    sides = [_Side(name, side) for name, side in zip(SIDES, runs, strict=True)]
    before_side, after_side = sides
    lacking = [
        f"new: {backend} in {scenario} is missing; the base has it."
        for scenario, backend in before_side.cells
        if (scenario, backend) not in after_side.cells
    ]
    rows: list[ComparisonRow] = []
    for key in dict.fromkeys(key for side in sides for key in side.cells):
        before, after = (side.cells.get(key) for side in sides)
        rows.extend(_compare_cells(key, before, after, margin, sequential))
    return Comparison(
        base=list(base),
        new=list(new),
        margin=margin,
        sequential=sequential,
        differs=[
            *_differs(*runs),
            *(f"{path} is on both sides: it is compared with itself." for path in base if path in new),
            *(sentence for side in sides for sentence in [*side.far_apart(), *side.suspect()]),
        ],
        rows=rows,
        problems=[
            *lacking,
            *(f"{side.name}: {told}" for side in sides for told in [*side.not_valid, *side.run.problems]),
        ],
        complete=not lacking and after_side.complete,
    )


class _Side:
    """All runs of a side as one."""

    def __init__(self, name: str, runs: Sequence[Run]) -> None:
        self.name = name
        self._runs = runs
        trials = [trial for run in runs for trial in run.trials]
        problems = [problem for run in runs for problem in run.problems]
        self.run = replace(runs[0], trials=trials, problems=problems)
        self.cells = {(cell.row.scenario, cell.row.backend): cell for cell in cells(self.run)}
        self.not_valid = _not_valid(trials)
        self.complete = all(trial.entry.status == "ok" for trial in trials) and all(
            cell.row.verdict != "invalid" for cell in self.cells.values()
        )

    def suspect(self) -> list[str]:
        """A sentence for each cell that rests on suspect trials."""
        return [
            f"{backend} in {scenario} is suspect in the {self.name} run: {'; '.join(cell.row.reasons)}."
            for (scenario, backend), cell in self.cells.items()
            if cell.row.verdict == "suspect"
        ]

    def far_apart(self) -> list[str]:
        """A sentence for each cell whose runs differ by more than their trials do."""
        from scipy.stats import f_oneway  # imported late: the command must start fast

        if len(self._runs) < 2:
            return []
        found = []
        for (scenario, backend), cell in self.cells.items():
            groups = [group for run in self._runs if len(group := _logs(cell.trials, run)) > 1]
            spread = sum(float(group.var()) for group in groups)
            if len(groups) > 1 and spread and (p := float(f_oneway(*groups).pvalue)) < ALPHA:
                found.append(
                    f"{backend} in {scenario}: the {self.name} runs lie further apart than their trials "
                    f"(p = {p:.2g}), so the intervals below are too narrow."
                )
        return found


def _not_valid(trials: Sequence[Trial]) -> list[str]:
    """A sentence for each trial that could not be used."""
    judged = [(trial.name, *trial_verdict(trial)) for trial in trials]
    return [
        f"{name} is not valid, and is left out: {'; '.join(reasons)}."
        for name, verdict, reasons in judged
        if verdict == "invalid"
    ]


def _logs(trials: Sequence[Trial], run: Run) -> Floats:
    """Logarithms of the medians of those trials that are of the run."""
    mine = {id(trial) for trial in run.trials}
    medians = [trial.log.tag("latency").merged().quantile_ms(0.5) for trial in trials if id(trial) in mine]
    return np.log([median for median in medians if median])


def _compare_cells(
    key: tuple[str, str], before: Cell | None, after: Cell | None, margin: float, sequential: bool
) -> list[ComparisonRow]:
    scenario, backend = key
    reason = _not_comparable(before, after)
    if reason or before is None or after is None:
        return [
            ComparisonRow(
                backend=backend,
                scenario=scenario,
                metric="p95",
                base=before.row.latency_ms.get("p95") if before else None,
                new=after.row.latency_ms.get("p95") if after else None,
                verdict="not comparable",
                note=reason,
            )
        ]
    if after.row.saturated:
        return [_saturated(before, after), _errors(before, after)]
    return [*_latencies(before, after, margin, sequential), _errors(before, after)]


def _not_comparable(before: Cell | None, after: Cell | None) -> str:
    for name, cell in (("base", before), ("new", after)):
        if cell is None:
            return f"the {name} run does not have it"
        if cell.row.verdict == "invalid":
            return f"not valid in the {name} run: {'; '.join(cell.row.reasons) or 'nothing was measured'}"
    assert before is not None
    assert after is not None
    if before.row.stand_in != after.row.stand_in:
        return (
            f"the {'base' if before.row.stand_in else 'new'} side is a stand-in, the other the server itself"
        )
    if apart := unlike([*before.trials, *after.trials]):
        return f"the load was not the same ({apart})"
    return "saturated in the base run: its percentiles are lower bounds" if before.row.saturated else ""


def _latencies(before: Cell, after: Cell, margin: float, sequential: bool) -> list[ComparisonRow]:
    names = [name for name in METRICS if not _unknown(before, after, name)]
    effects = [effect(before.estimates[n], after.estimates[n], margin, sequential, len(names)) for n in names]
    trials = min(before.row.trials, after.row.trials)
    rows = {
        name: _latency(before, after, name, one, decision, margin, trials)
        for name, one, decision in zip(names, effects, decide(effects), strict=True)
    }
    return [rows.get(name) or _untold(before, after, name) for name in METRICS]


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
    decision: tuple[Decision, float | None, float | None],
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


def _saturated(before: Cell, after: Cell) -> ComparisonRow:
    return ComparisonRow(
        backend=after.row.backend,
        scenario=after.row.scenario,
        metric="p95",
        base=before.row.latency_ms.get("p95"),
        new=after.row.latency_ms.get("p95"),
        verdict="worse",
        regression=True,
        note="the server no longer keeps up with this load; the new value is a lower bound",
    )


def _errors(before: Cell, after: Cell) -> ComparisonRow:
    """Errors come in bursts, so beside Fisher's exact test the rate must rise by a whole percentage point."""
    old, now = before.row, after.row
    row = ComparisonRow(
        backend=now.backend,
        scenario=now.scenario,
        metric="error_rate",
        base=old.error_rate,
        new=now.error_rate,
        verdict="not shown",
    )
    if not (old.planned and now.planned) or old.error_rate is None or now.error_rate is None:
        return row
    rise = now.error_rate - old.error_rate
    low, high, p = _rise(round(old.error_rate * old.planned), old.planned,
                         round(now.error_rate * now.planned), now.planned)  # fmt: skip
    tolerated = rise <= ERROR_RATE_MAY_RISE
    shown: Verdict = "within tolerance" if tolerated else "worse"
    note = f"error_rate: a rise was shown, of less than the {percent(ERROR_RATE_MAY_RISE)} that is tolerated"
    return row.model_copy(
        update={
            "difference": rise,
            "difference_low": low,
            "difference_high": high,
            "p": p,
            "verdict": shown if p < ALPHA else "not shown",
            "regression": p < ALPHA and not tolerated,
            "note": note if p < ALPHA and tolerated else "",
        }
    )


def _rise(lost_before: int, before: int, lost_after: int, after: int) -> tuple[float, float, float]:
    """Newcombe's 95 % interval of the difference of two shares, and the p value of "it did not rise" [1]_.

    References
    ----------
    .. [1] R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statist.
       Med. 17 (1998), method 10; and Fisher's exact test, one-sided.
    """
    from scipy.stats import fisher_exact  # imported late: the command must start fast
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(
        lost_after, after, lost_before, before, method="newcomb", compare="diff", alpha=ALPHA
    )
    table = [[lost_after, after - lost_after], [lost_before, before - lost_before]]
    return float(low), float(high), float(fisher_exact(table, alternative="greater").pvalue)


def _sentence(row: ComparisonRow) -> str:
    show = percent if row.metric == "error_rate" else ms
    text = f"{row.backend} in {row.scenario}: {row.metric} went from {show(row.base)} to {show(row.new)}"
    if row.ratio is not None and row.low is not None:
        high = f" to {row.high:.2f}" if row.high is not None else " or more"
        text += f", {row.ratio:.2f} times as slow (95 % interval {row.low:.2f}{high})"
    if row.difference_low is not None and row.difference_high is not None:
        least, most = 100 * row.difference_low, 100 * row.difference_high
        text += f", a rise by {least:.2f} to {most:.2f} points (95 % interval)"
    return f"{text}; {row.note}." if row.note and row.ratio is None else f"{text}."


def _differs(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    """What was not the same in all runs, for the reader to weigh."""
    old, now = _identities(base), _identities(new)
    found = []
    for name in old:
        before, after = ("; ".join(side[name]) or "not known" for side in (old, now))
        if before != after or len(old[name]) > 1 or len(now[name]) > 1:
            found.append(f"{name}: {before}, now {after}.")
    return found


def _identities(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What identifies a side, each thing once."""
    each = [_identity(run.facts) for run in runs]
    return {name: sorted({one[name] for one in each} - {""}) for name in each[0]}


def _warm_up(plan: PlanFacts) -> str:
    """What a plan of the same name may have had edited, although it shapes what was measured."""
    first = f"{counted(plan.warmup_requests, 'request')} first" if plan.warmup_requests else ""
    return ", ".join(filter(None, [plan.warmup, first]))


def _server(backend: Backend) -> str:
    return f"{backend.version} (stand-in)" if backend.stand_in else backend.version


def _identity(facts: RunFacts) -> dict[str, str]:
    machine, held = facts.machine, facts.fairness
    return {
        "Machine": f"{machine.cpu}, {machine.cores} cores".strip(", "),
        "System": f"{machine.os} {machine.kernel}".strip(),
        "Target": facts.target,
        "Model": facts.model.digest,
        "Plan": facts.plan_name,
        "Warm-up": _warm_up(facts.plan),
        "Intra-op threads": str(held.threads or ""),
        "Server workers": str(held.workers or ""),
        "Backends": ", ".join(f"{name} {_server(one)}" for name, one in sorted(facts.backends.items())),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items())),
    }
