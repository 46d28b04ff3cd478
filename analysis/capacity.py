"""The highest arrival rate at which a server holds its objectives, and how sure that is.

Each trial at a rate has a *score*: the logarithm of what was measured over what is allowed, the worst of all
objectives, so that below 0 all of them hold. A server's score grows with the rate, but its measurement is
noisy; so it is fitted by isotonic regression, each trial weighted by the error of those at rates near to its
own, or by the spread of trials at the same rate where that is larger [1]_. The capacity is where a line
through the trials around the fit's crossing is 0. Its interval has all rates at which a monotone score could
cross 0 without fitting much worse, by the likelihood ratio of monotone functions, whose law is known and has
no parameter [2]_. Its ends are rates that were measured, so it is never narrower than the gap between two of
them. The law is that of known errors; a short trial of a queue knows its own by three degrees of freedom, so
the limit is widened as Student's t is beside the normal law. Simulated (``tests/analysis/test_capacity.py``),
the intervals cover the truth in 96 to 99 % of searches of M/M/1 and M/M/2 with trials of 30 s, and the
capacity is within 5 % of it in nine of ten. They cover less where a queue remembers longer than a trial can
tell, as M/M/16 does at nine tenths of its load in 15 to 30 s.

A saturated server missed by far, whatever its latencies; and so did one that left so many arrivals without a
right answer that a latency below the limit is none that users saw (:func:`analysis.judging.unanswered`):
errors answer fast.

The search puts its trials where they tell most: a ladder of rates below the closed-loop ceiling, more of
them until the crossing lies between two, replicates there, then replicates on both sides of it until the
interval is within 5 % or ``MOST_TRIALS`` were made, and at last replicates at the lower end of the interval,
so that a rate that is named was measured several times and held.

References
----------
.. [1] R. E. Barlow, D. J. Bartholomew, J. M. Bremner and H. D. Brunk, Statistical Inference under Order
   Restrictions, 1972; ``scipy.optimize.isotonic_regression``.
.. [2] M. Banerjee and J. A. Wellner, "Likelihood ratio tests for monotone functions", Annals of Statistics 29
   (2001), table 1.
.. [3] L. Kleinrock, "Power and deterministic rules of thumb for probabilistic problems in computer
   communications", ICC 1979: the knee is where throughput per latency is largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from analysis.cost import Cost
from analysis.histograms import Floats, carries, needed_for
from analysis.judging import unanswered
from analysis.metrics import measure
from analysis.objectives import EXAMPLE, Objective
from analysis.ranking import MAX_ERROR_RATE
from analysis.runfolder import Summary, Trial
from analysis.scaling import SAME_RATE, Little, Usl, fit_usl, little
from analysis.uncertainty import estimates
from analysis.usage import share_in_plan
from analysis.validity import trial_verdict
from analysis.words import listed, per_s

LADDER = (0.3, 0.45, 0.6, 0.7, 0.8, 0.9)
"""Shares of the closed-loop ceiling that are tried first."""
TOLERANCE = 0.05
"""How close the rates around the crossing must lie, as a share."""
REPLICATES = 3
AT_ONCE = 2
"""Trials at each of two rates in a round that narrows the interval."""
MOST_TRIALS = 24
"""Beyond these no more are made to narrow the interval: each takes its time."""
WIDEST = 0.1
"""How far from the crossing, as a share, replicates narrow the interval at most."""
AROUND = 0.2
"""Trials no further from the crossing, as a share, tell the line that finds it."""
FEW_FREE = 3.0
"""Degrees of freedom by which a short trial knows its own error; one that does not has none."""
NEARBY = 0.1
"""Trials at rates that differ by less, as a share, have about the same error."""
HIGHEST_SCORE, LOWEST_SCORE = 1.0, -3.0
"""Beyond these a score says no more than that it is far off."""
UNKNOWN_ERROR = 0.1
"""Standard error of a score whose trial does not tell it."""
MONOTONE_95 = 2.286920
"""The 95 % point of the likelihood ratio's law [2]_."""


class Part(BaseModel):
    """A part of ``capacity.json``."""

    model_config = ConfigDict(frozen=True)


class Level(Part):
    """One trial at one rate. ``score`` is at most 0 where every objective held; ``error`` is its error,
    known by ``free`` degrees of freedom.

    ``achieved_per_s`` is the rate of right answers, ``ended_per_s`` that of all, and ``failing`` the share of
    arrivals that got no right one. ``reasons`` say why it is suspect: its verdict's, and that Little's law
    does not hold.
    """

    rate_per_s: float
    achieved_per_s: float
    ended_per_s: float | None = None
    failing: float = 0.0
    requests: int
    mean_ms: float
    values: dict[str, float]
    score: float
    error: float
    free: float = FEW_FREE
    saturated: bool
    suspect: bool = False
    reasons: list[str] = []
    little: Little | None = None

    @property
    def in_flight(self) -> float:
        """Requests in the system on average, by Little's law."""
        return (self.achieved_per_s if self.ended_per_s is None else self.ended_per_s) * self.mean_ms / 1000

    @property
    def calm(self) -> bool:
        """Whether the server kept up and answered, so that its latencies are those of its work."""
        return not self.saturated and self.failing <= MAX_ERROR_RATE


class Capacity(Part):
    """What a search found of one backend.

    ``per_s`` is the estimate with its 95 % interval, None where either no rate that was tried held or every
    one; ``held_per_s`` the highest rate that held by the fit, ``shown_per_s`` the highest that held in
    ``REPLICATES`` trials or more taken together; None where no rate did. ``cost`` is that of these trials.
    """

    backend: str
    title: str
    objectives: list[str]
    per_s: float | None
    low_per_s: float | None
    high_per_s: float | None
    held_per_s: float | None = None
    shown_per_s: float | None
    knee_per_s: float | None
    ceiling_per_s: float | None
    usl: Usl | None
    usl_refused: str
    levels: list[Level]
    notes: list[str]
    cost: Cost | None = None

    @property
    def at_least_per_s(self) -> float | None:
        """The highest rate that held where none was found that does not; None where the capacity is known."""
        return (self.shown_per_s or self.held_per_s) if self.per_s is None else None


def refuse(objectives: Sequence[Objective]) -> None:
    """Refuse what no rate can be searched for.

    Raises
    ------
    ValueError
        With a sentence that says what to write instead.
    """
    if not objectives:
        raise ValueError("a capacity is the rate that holds an objective: write --slo 'p95 < 200ms'.")
    for one in objectives:
        told = repr(one.expression)
        if one.op not in ("<", "<=") or one.kind == "rate":
            raise ValueError(f"{told} does not end as the rate grows: write {EXAMPLE!r}.")
        if one.relative:
            raise ValueError(f"{told}: a search has no baseline; write a value, such as {EXAMPLE!r}.")
        if one.scope:
            raise ValueError(
                f"{told}: a search asks the same of every backend; write it without {one.scope + ':'!r}, "
                "and name the backend with --backends."
            )
        if not _can_hold(one):
            raise ValueError(f"{told} holds at no rate: write a value above 0, such as {EXAMPLE!r}.")
        if not _can_miss(one):
            raise ValueError(f"{told} holds at every rate: write a lower value, such as {EXAMPLE!r}.")


def _can_hold(one: Objective) -> bool:
    """A share may be 0; a time is not."""
    return one.threshold > 0 or (one.kind == "share" and one.op == "<=")


def _can_miss(one: Objective) -> bool:
    """A share is at most 1."""
    most = 1.0 if one.kind == "share" else math.inf
    return one.threshold < most or (one.threshold == most and one.op == "<")


def requests_needed(objectives: Sequence[Objective]) -> int:
    """Requests that each trial must have for its percentiles to be told."""
    return max([needed_for(one.quantile) for one in objectives if one.quantile], default=0)


def level_of(trial: Trial, objectives: Sequence[Objective]) -> Level | None:
    """The level of a trial; None where it is not valid or its sample does not carry an objective."""
    summary, log = trial.summary, trial.log.tag("latency")
    verdict, reasons = trial_verdict(trial)
    if summary is None or verdict == "invalid" or not len(log.row):
        return None
    histogram, counts, measured = log.merged(), summary.counts, measure([trial])
    scores, errors, frees, values = [LOWEST_SCORE], [UNKNOWN_ERROR], [0.0], {}
    for one in objectives:
        if one.quantile is not None and not carries(histogram.total, one.quantile):
            return None
        lost = counts.dropped if one.metric == "drop_rate" else counts.dropped + counts.failed
        value = {"mean": histogram.mean_ms(), "max": histogram.max_ms()}.get(
            one.metric, lost / max(1, counts.planned)
        )
        error, free = UNKNOWN_ERROR, 0.0
        if one.quantile is not None:
            (estimate,) = estimates([log], [one.quantile])
            value, within = estimate.merged_ms, estimate.within
            if within:
                error, free = (within.below + within.above) / 2, within.free
        values[one.metric] = float(value or 0.0)
        scores.append(math.log(max(values[one.metric], 1e-9) / max(one.threshold, 1e-9)))
        errors.append(error)
        frees.append(free)
    worst = int(np.argmax(scores))
    score = min(max(scores[worst], LOWEST_SCORE), HIGHEST_SCORE)
    missed = summary.saturated or any(
        one.kind == "latency" and unanswered(one, measured, histogram, one.threshold) for one in objectives
    )
    return Level(
        rate_per_s=_planned_per_s(summary),
        achieved_per_s=measured.achieved_per_s or 0.0,
        ended_per_s=histogram.total * share_in_plan(trial) / summary.duration_s,
        failing=measured.error_rate or 0.0,
        requests=histogram.total,
        mean_ms=histogram.mean_ms() or 0.0,
        values=values,
        score=HIGHEST_SCORE if missed else score,
        error=errors[worst],
        free=frees[worst],
        saturated=summary.saturated,
        suspect=verdict == "suspect",
        reasons=reasons if verdict == "suspect" else [],
        little=little(trial),
    )


def _planned_per_s(summary: Summary) -> float:
    """The rate that was asked for: random arrivals come at another each time, which would part replicates."""
    rate = getattr(summary.shape, "rate", None)
    if summary.shape.name in ("constant", "poisson") and isinstance(rate, int | float) and rate > 0:
        return float(rate)
    return summary.counts.planned / summary.duration_s


def ladder(ceiling_per_s: float) -> list[float]:
    """The rates to begin with, below what callers in a loop got out of the server."""
    return [_rounded(share * ceiling_per_s) for share in LADDER]


def propose(levels: Sequence[Level]) -> list[float]:
    """The rates to try next; none when the search is over."""
    fitted = _fit(levels)
    held, missed = _bracket(*fitted)
    if held is None:
        return [_rounded(0.6 * min(one.rate_per_s for one in levels))]
    if missed is None:
        top = max(one.rate_per_s for one in levels)
        return [_rounded(top * 1.15), _rounded(top * 1.3)]
    if missed > held * (1 + TOLERANCE) * (1 + SAME_RATE):
        crossing = _crossing(*fitted) or held
        inner = (missed - held) / 5
        return [_rounded(min(max(crossing, held + inner), missed - inner))]
    crossing = crossing_per_s(levels) or held
    near = sum(abs(one.rate_per_s / crossing - 1) < TOLERANCE / 2 for one in levels)
    if near < REPLICATES and len(levels) < MOST_TRIALS:
        return [_rounded(crossing)] * (REPLICATES - near)
    found = interval(levels)
    if not _narrow(found) and len(levels) + 2 * AT_ONCE <= MOST_TRIALS:
        ends = {_tried(levels, crossing * (1 + far)) for far in _ends(found)}
        return sorted([*ends] * AT_ONCE)
    if shown(levels) is not None:
        return []
    low = found[0] if found else held
    return [low] * max(1, REPLICATES - _made(levels, low))


def _narrow(found: tuple[float, float] | None) -> bool:
    """Whether an interval is as narrow as is searched for."""
    return found is not None and found[1] <= found[0] * (1 + TOLERANCE) / (1 - TOLERANCE) * (1 + SAME_RATE)


def _ends(found: tuple[float, float] | None) -> tuple[float, float]:
    """How far from the crossing, as shares, the interval is narrowed: halfway to its ends."""
    far = math.log(found[1] / found[0]) / 4 if found else WIDEST
    far = min(max(far, TOLERANCE), WIDEST)
    return -far, far


def _tried(levels: Sequence[Level], rate: float) -> float:
    """The rate next to this one that was tried, so that its trials are replicates, or this one."""
    nearest = min((one.rate_per_s for one in levels), key=lambda other: abs(other - rate))
    return nearest if abs(nearest / rate - 1) < TOLERANCE / 4 else _rounded(rate)


def crossing_per_s(levels: Sequence[Level]) -> float | None:
    """Where a line through the scores next to the fit's crossing is 0; None where the fit does not cross.

    Between two rates the fit is no more than their noise; the line has that of all trials around them.
    It is believed within the interval only, and where it does not grow the fit's own crossing is told.
    """
    crossing, found = _crossing(*_fit(levels)), interval(levels)
    if crossing is None or found is None:
        return crossing
    apart, scores = (
        np.array(column)
        for column in zip(*((one.rate_per_s / crossing - 1, one.score) for one in levels), strict=True)
    )
    near = np.abs(apart) < AROUND
    if len(np.unique(apart[near])) < 3:
        return crossing
    slope, height = np.polyfit(apart[near], scores[near], 1, w=1 / _noise(levels).errors[near])
    return float(np.clip(crossing * (1 - height / slope), *found)) if slope > 0 else crossing


def interval(levels: Sequence[Level]) -> tuple[float, float] | None:
    """The 95 % interval of the crossing; None where it has no end on either side."""
    rates, scores, weights = _means(levels)
    free = _isotonic(scores, weights)
    limit = _limit(_noise(levels).free)
    ratios = []
    for gap in range(len(rates) + 1):  # the score crosses 0 between rate gap - 1 and rate gap
        bound = np.concatenate(
            [
                np.minimum(_isotonic(scores[:gap], weights[:gap]), 0),
                np.maximum(_isotonic(scores[gap:], weights[gap:]), 0),
            ]
        )
        ratios.append(float(weights @ ((scores - bound) ** 2 - (scores - free) ** 2)))
    possible = np.flatnonzero(np.array(ratios) <= limit)
    if possible[0] == 0 or possible[-1] == len(rates):
        return None
    return float(rates[possible[0] - 1]), float(rates[possible[-1]])


def shown(levels: Sequence[Level]) -> float | None:
    """The highest rate up to the capacity whose replicates held on average, and most of them.

    Of several rates around the capacity, replicates of one above it hold by chance.
    """
    rates, scores = _fit(levels)
    most = crossing_per_s(levels) or math.inf
    for rate in rates[(scores <= 0) & (rates <= most)][::-1]:
        mine = [one for one in levels if at_rate(one, rate)]
        held = [one for one in mine if one.score <= 0]
        if (
            len(mine) >= REPLICATES
            and np.mean([one.score for one in mine]) <= 0
            and len(held) > len(mine) / 2
        ):
            return float(rate)
    return None


def summarise(
    backend: str,
    title: str,
    objectives: Sequence[Objective],
    levels: Sequence[Level],
    ceiling_per_s: float | None,
    notes: Sequence[str] = (),
) -> Capacity:
    """What all levels of a search tell."""
    found = interval(levels) if levels else None
    calm = [one for one in levels if one.calm]
    usl, refused = fit_usl(
        [(one.in_flight, one.achieved_per_s) for one in calm], [one.rate_per_s for one in calm]
    )
    held, crossing, replicated = _bracket(*_fit(levels))[0], crossing_per_s(levels), shown(levels)
    unknown = _unknown(held, crossing, replicated, bounded=found is not None)
    told = [*notes, *unknown, *_wide(crossing, found), *_suspicions(levels)]
    return Capacity(
        backend=backend,
        title=title,
        objectives=[one.expression for one in objectives],
        per_s=crossing,
        low_per_s=found[0] if found else None,
        high_per_s=found[1] if found else None,
        held_per_s=held,
        shown_per_s=replicated,
        knee_per_s=knee_per_s(levels),
        ceiling_per_s=ceiling_per_s,
        usl=usl,
        usl_refused=refused,
        levels=sorted(levels, key=lambda one: one.rate_per_s),
        notes=told,
    )


def _unknown(
    held: float | None, crossing: float | None, replicated: float | None, *, bounded: bool
) -> list[str]:
    """Sentences on what a search has not found."""
    if held is None and replicated is None:
        return ["It held the objectives at no rate that was tried."]
    told = []
    if crossing is None:
        told.append(f"It held the objectives up to {per_s(replicated or held)}: no upper end was found.")
    elif not bounded:
        told.append(f"Its capacity of {per_s(crossing)} has no interval: the trials do not bound it.")
    if replicated is None:
        told.append("No rate is confirmed by replicates.")
    return told


def _wide(crossing: float | None, found: tuple[float, float] | None) -> list[str]:
    """A sentence on an interval that is wider than was searched for."""
    if crossing is None or found is None or _narrow(found):
        return []
    below, above = 1 - found[0] / crossing, found[1] / crossing - 1
    return [
        f"The interval of its capacity reaches {below:.0%} below it and {above:.0%} above: "
        "longer trials (--trial-time) narrow it."
    ]


def _suspicions(levels: Sequence[Level]) -> list[str]:
    """A sentence for each reason to suspect trials, with their rates."""
    rates: dict[str, list[str]] = {}
    for one in sorted(levels, key=lambda one: one.rate_per_s):
        for reason in one.reasons:
            rates.setdefault(reason, []).append(per_s(one.rate_per_s))
    return [f"Suspect at {listed(list(dict.fromkeys(at)))}: {reason}." for reason, at in rates.items()]


def knee_per_s(levels: Sequence[Level]) -> float | None:
    """The measured rate at which throughput per mean latency is largest [3]_; None at either end."""
    kept = sorted((one for one in levels if one.calm), key=lambda one: one.rate_per_s)
    if len(kept) < 3:
        return None
    rates, where = np.unique([one.rate_per_s for one in kept], return_inverse=True)
    weights = np.bincount(where).astype(np.float64)
    latencies = _isotonic(np.bincount(where, [one.mean_ms for one in kept]) / weights, weights)
    best = int(np.argmax(rates / latencies))
    return float(rates[best]) if 0 < best < len(rates) - 1 else None


def at_rate(level: Level, rate: float) -> bool:
    """Whether a trial was made at this rate."""
    return abs(level.rate_per_s / rate - 1) < SAME_RATE


def _made(levels: Sequence[Level], rate: float) -> int:
    return sum(at_rate(one, rate) for one in levels)


def _limit(free: float) -> float:
    """The 95 % point of the likelihood ratio where the errors are known by so many degrees of freedom.

    That of known errors, wider as Snedecor's F of one and these is wider than chi-squared.
    """
    from scipy.special import stdtrit  # imported late: the command must start fast

    return MONOTONE_95 * float(stdtrit(free, 0.975) / stdtrit(math.inf, 0.975)) ** 2


@dataclass(frozen=True)
class _Noise:
    """The error of each trial's score (n,), and the degrees of freedom of those at the crossing."""

    errors: Floats
    free: float


def _noise(levels: Sequence[Level]) -> _Noise:
    """What a score's error is: trials' own, or the spread of trials at the same rate where that is larger.

    A short trial hardly knows its own, and weighted by it alone one that looks calm by chance outweighs the
    others; so those at rates nearby are pooled. A spread that is larger may be of the server, which no trial
    knows of, so that its own degrees of freedom count alone (as in :mod:`analysis.uncertainty`).
    """
    rates = np.array([one.rate_per_s for one in levels])
    own, known = np.array([one.error for one in levels]), np.array([one.free for one in levels])
    near = np.abs(np.log(rates[:, None] / rates)) < NEARBY
    freedoms = near @ known
    pooled = np.where(freedoms > 0, np.sqrt(near @ (known * own**2) / np.maximum(freedoms, 1e-9)), own)
    spread, free = _spread(levels)
    middle = int(np.argmin([abs(one.score) for one in levels]))
    if not free or spread <= pooled[middle]:
        free += float(freedoms[middle])
    return _Noise(np.maximum(pooled, spread), free or FEW_FREE)


def _spread(levels: Sequence[Level]) -> tuple[float, float]:
    """How far the scores of trials at the same rate lie apart, and its degrees of freedom.

    A score that says no more than that it is far off tells nothing of the spread.
    """
    groups: dict[float, list[float]] = {}  # by rates as proposed: those a little apart are not the same
    for one in levels:
        if one.score < HIGHEST_SCORE:
            groups.setdefault(_rounded(one.rate_per_s), []).append(one.score)
    repeated = [group for group in groups.values() if len(group) > 1]
    free = sum(len(group) - 1 for group in repeated)
    squares = sum(float(np.var(group)) * len(group) for group in repeated)
    return math.sqrt(squares / free) if free else 0.0, free


def _fit(levels: Sequence[Level]) -> tuple[Floats, Floats]:
    """Rates, each once, and the fitted score at each."""
    rates, scores, weights = _means(levels)
    return rates, _isotonic(scores, weights)


def _means(levels: Sequence[Level]) -> tuple[Floats, Floats, Floats]:
    """Rates, each once, the mean score of the trials at each, and its weight."""
    rates, where = np.unique([one.rate_per_s for one in levels], return_inverse=True)
    weights = 1 / _noise(levels).errors ** 2
    weight = np.bincount(where, weights)
    means = np.bincount(where, np.multiply([one.score for one in levels], weights)) / weight
    return rates, np.asarray(means), np.asarray(weight, dtype=np.float64)


def _isotonic(values: Floats, weights: Floats) -> Floats:
    from scipy.optimize import isotonic_regression  # imported late: the command must start fast

    return np.asarray(isotonic_regression(values, weights=weights).x) if len(values) else values


def _bracket(rates: Floats, scores: Floats) -> tuple[float | None, float | None]:
    """The highest rate that holds by the fit, and the lowest that does not."""
    held, missed = rates[scores <= 0], rates[scores > 0]
    return (float(held[-1]) if len(held) else None), (float(missed[0]) if len(missed) else None)


def _crossing(rates: Floats, scores: Floats) -> float | None:
    held, missed = rates[scores <= 0], rates[scores > 0]
    if not (len(held) and len(missed)):
        return None
    low, high = scores[len(held) - 1], scores[len(held)]
    return float(held[-1] + (missed[0] - held[-1]) * -low / (high - low))


def _rounded(rate: float) -> float:
    """Three significant digits: no rate is known better."""
    return float(f"{rate:.3g}")
