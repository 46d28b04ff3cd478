"""Whether a share of lost arrivals rose from one side to the other.

Errors come in bursts: a worker that dies takes many requests with it, in one trial and not in the next. A
rise is shown only where it is one of requests and of trials alike: the p value is the larger of Fisher's
exact test on all requests and Welch's test on the trials' rates, and the interval the wider of Newcombe's
[1]_ and Welch's. Where a side was not repeated, only the requests tell.

Looked at after every trial, neither test is right. There the always-valid test of
:mod:`analysis.sequential` is made on the trials' rates, whose spread is taken to be no less than that of
independent requests: trials that all lost the same are no proof that they always will.

References
----------
.. [1] R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statist.
   Med. 17 (1998), method 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.histograms import Floats
from analysis.metrics import Cell
from analysis.runfolder import Counts
from analysis.sequential import FEWEST, Look
from analysis.uncertainty import LEVEL, Contrast, welch


@dataclass(frozen=True)
class Rise:
    """``difference`` = new - base, a fraction, with its 95 % interval; ``p`` is that of no rise.

    ``tells`` is whether anything was lost on either side: where nothing was, no test could show a rise.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    tells: bool


def rise(before: Cell, after: Cell, sequential: bool = False) -> Rise | None:
    """The rise of the error rate from one cell to the other; None where one of them has none."""
    sides = [[trial.summary.counts for trial in cell.trials if trial.summary] for cell in (before, after)]
    if not all(sum(one.planned for one in side) for side in sides):
        return None
    old, now = sides
    (lost_before, planned_before), (lost_after, planned_after) = _pooled(old), _pooled(now)
    difference = lost_after / planned_after - lost_before / planned_before
    low, high, p = _looked(old, now) if sequential else _once(old, now, difference)
    return Rise(difference, low, high, p, bool(lost_before or lost_after))


def _pooled(side: Sequence[Counts]) -> tuple[int, int]:
    """Lost and planned arrivals of all trials."""
    return sum(one.failed + one.dropped for one in side), sum(one.planned for one in side)


def _rates(side: Sequence[Counts]) -> Floats:
    """Each trial's own rate."""
    return np.array([(one.failed + one.dropped) / one.planned for one in side if one.planned])


def _once(
    old: Sequence[Counts], now: Sequence[Counts], difference: float
) -> tuple[float | None, float | None, float | None]:
    """Interval and p value of a fixed number of trials."""
    from scipy.stats import fisher_exact  # imported late: the command must start fast
    from statsmodels.stats.proportion import confint_proportions_2indep

    (lost_before, before), (lost_after, after) = _pooled(old), _pooled(now)
    low, high = confint_proportions_2indep(
        lost_after, after, lost_before, before, method="newcomb", compare="diff", alpha=1 - LEVEL
    )
    table = [[lost_after, after - lost_after], [lost_before, before - lost_before]]
    p = float(fisher_exact(table, alternative="greater").pvalue)
    rates = _rates(old), _rates(now)
    spread = welch(*rates) if min(map(len, rates)) > 1 else None
    between = Contrast(difference, spread)
    if spread is None or (reach := between.interval()) is None:
        return float(low), float(high), p
    p = max(p, between.p_one_sided(0.0) if difference > 0 else 1.0)
    return min(float(low), reach[0]), max(float(high), reach[1]), p


def _looked(old: Sequence[Counts], now: Sequence[Counts]) -> tuple[float | None, float | None, float | None]:
    """Interval and p value that may be looked at after every trial."""
    rates = _rates(old), _rates(now)
    if min(map(len, rates)) < FEWEST:
        return None, None, None
    lost, planned = (sum(pair) for pair in zip(_pooled(old), _pooled(now), strict=True))
    share, trials = lost / planned, len(old) + len(now)
    look = Look.of_means(*rates, least_variance=share * (1 - share) * trials / planned)
    if look is None:
        return None, None, None
    low, high = look.interval() or (None, None)
    return low, high, look.p_differs() if look.difference > 0 else 1.0
