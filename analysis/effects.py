"""How much two backends differ in one metric: size, interval, p values, power, and what would settle it.

The unit is the trial. The decision rests on :func:`analysis.uncertainty.contrast`; beside it stand the sizes
that a reader may ask for. Hodges-Lehmann's estimate and its interval, by inverting SciPy's exact Mann-Whitney
test [1]_, assume no normal law, but need four trials of each. Cohen's d is in units of the spread between
trials, so that it tells how well the two are told apart, not how much that matters.

References
----------
.. [1] M. Hollander, D. A. Wolfe and E. Chicken, Nonparametric Statistical Methods, 3rd ed., 2014, section 4.2
   and 4.3.
.. [2] S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6 (1979).
.. [3] J. Cohen, Statistical Power Analysis for the Behavioral Sciences, 2nd ed., 1988, chapter 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis.histograms import Floats
from analysis.sequential import Look
from analysis.uncertainty import Contrast, Estimate, contrast, differences, pool

ALPHA = 0.05
POWER = 0.8
"""The chance of an answer that "how many more trials" aims at."""
HODGES_LEHMANN_FROM = 4
MOST_TRIALS = 1000
"""More than these are not proposed."""
LARGEST_EFFECT = 8.0
"""Of larger ones every design tells, and the noncentral t law overflows."""

Decision = Literal["slower", "faster", "equivalent", "not shown"]


@dataclass(frozen=True)
class Effect:
    """How many times as large the second's quantile is. What is not known is None.

    ``p`` is that of "they are the same", ``p_equivalent`` that of "they differ by more than the margin";
    ``power`` is the chance that this design would have shown a difference as large as the margin, ``settle``
    the number of trials of each after which there is an answer in four of five experiments, if the difference
    is the one that was seen; both if trials lie as far apart as these do. They reckon with an equal share of
    the 5 % for each of ``metrics``; Holm's correction leaves at least that. A sequence has neither: it may be
    settled at any look.
    """

    ratio: float
    low: float | None
    high: float | None
    p: float | None
    p_equivalent: float | None
    cohen_d: float | None
    superiority: float | None
    hodges_lehmann: float | None
    hodges_lehmann_low: float | None
    hodges_lehmann_high: float | None
    power: float | None
    settle: int | None
    shown: bool
    rests_on: str


def effect(
    first: Estimate, second: Estimate, margin: float, sequential: bool = False, metrics: int = 1
) -> Effect:
    """Compare a quantile of two backends. ``margin`` is the share that does not matter, 0.05 for 5 %.

    ``metrics`` is over how many the decision will be corrected (:func:`decide`).
    """
    pooled = pool([first, second])
    found = differences([first, second], metrics)[0, 1]
    look = Look.of(first.trials_ms, second.trials_ms) if sequential else None
    judged: Contrast | Look | None = look if sequential else contrast(first, second, pooled)
    interval = judged.interval() if judged else None
    tested = judged is not None and pooled is not None
    hl, hl_interval = _hodges_lehmann(np.log(first.trials_ms), np.log(second.trials_ms))
    sd = _spread_between_trials(first, second)
    design_sd, alpha = None if sequential else sd, ALPHA / metrics
    rests_on = f"{found.rests_on}, always-valid" if sequential else found.rests_on
    # of a sequence, the ratio that its interval is around: that of the trials' means
    ratio = math.exp(look.difference) if look else found.ratio
    return Effect(
        ratio=ratio,
        low=math.exp(interval[0]) if interval else None,
        high=math.exp(interval[1]) if interval else None,
        p=judged.p_differs() if judged and tested else None,
        p_equivalent=judged.p_equivalent(math.log1p(margin)) if judged and tested else None,
        cohen_d=math.log(ratio) / sd if sd else None,
        superiority=_superiority(first.trials_ms, second.trials_ms),
        hodges_lehmann=hl,
        hodges_lehmann_low=hl_interval[0] if hl_interval else None,
        hodges_lehmann_high=hl_interval[1] if hl_interval else None,
        power=_power(design_sd, first.trials, second.trials, margin, alpha) if design_sd else None,
        settle=_settle(design_sd, math.log(ratio), math.log1p(margin), alpha) if design_sd else None,
        shown=found.shown and not sequential,
        rests_on=rests_on,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values that hold together over all that are known [2]_."""
    from statsmodels.stats.multitest import multipletests  # imported late: the command must start fast

    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, ALPHA, method="holm")[1] if known else ())
    return [None if p is None else float(next(corrected)) for p in p_values]


def decide(
    effects: Sequence[Effect], beside: Sequence[float | None] = ()
) -> list[tuple[Decision, float | None, float | None]]:
    """The decision on each metric, and its corrected p values: of no difference, and of one that matters.

    ``beside`` are p values of other differences that share the 5 % with those of the effects.

    A difference that is shown, and shown to be smaller than the margin, is ``equivalent``. What was not
    repeated has no p value; there the margin for single trials decides.
    """
    differ = holm([*(one.p for one in effects), *beside])[: len(effects)]
    equivalent = holm([one.p_equivalent for one in effects])
    return [(_decision(one, p, q), p, q) for one, p, q in zip(effects, differ, equivalent, strict=True)]


def _decision(one: Effect, p: float | None, q: float | None) -> Decision:
    if q is not None and q <= ALPHA:
        return "equivalent"
    if one.shown if p is None else p <= ALPHA:
        return "slower" if one.ratio > 1 else "faster"
    return "not shown"


def _superiority(first: Floats, second: Floats) -> float | None:
    """The probability that a trial of the second is slower than one of the first, a tie counting half."""
    if min(len(first), len(second)) < 2:
        return None
    above = (second[:, None] > first).mean() + (second[:, None] == first).mean() / 2
    return float(above)


def _spread_between_trials(first: Estimate, second: Estimate) -> float | None:
    """Standard deviation of a trial's logarithm, as the decision sees it; None where nothing was repeated."""
    pooled = pool([first, second])
    spread = contrast(first, second, pooled).spread
    if pooled is None or spread is None:
        return None
    return (spread.below + spread.above) / 2 / math.sqrt(1 / first.trials + 1 / second.trials)


def _hodges_lehmann(first: Floats, second: Floats) -> tuple[float | None, tuple[float, float] | None]:
    """The median of all differences between two trials, and those that the exact test does not reject."""
    from scipy.stats import mannwhitneyu

    if min(len(first), len(second)) < HODGES_LEHMANN_FROM:
        return None, None
    steps = np.sort((second[:, None] - first).ravel())
    middle = math.exp(float(np.median(steps)))

    def rejected(shift: float) -> bool:
        return bool(mannwhitneyu(second - shift, first, method="exact").pvalue <= ALPHA)

    # Between two successive steps the test's answer is the same; it is asked there, where nothing ties.
    probes = [steps[0] - 1.0, *((steps[1:] + steps[:-1]) / 2), steps[-1] + 1.0]
    half = len(steps) // 2
    low = _first(lambda i: not rejected(probes[i]), 0, half)
    high = _first(lambda i: rejected(probes[i]), half, len(steps))
    return middle, (math.exp(steps[low - 1]), math.exp(steps[high - 1])) if low else None


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest number for which a condition holds that holds from some number on; ``high`` does."""
    while low < high:
        at = (low + high) // 2
        low, high = (low, at) if holds(at) else (at + 1, high)
    return low


def _power(sd: float, first: int, second: int, margin: float, alpha: float) -> float:
    """The chance that so many trials show a difference as large as the margin [3]_."""
    from statsmodels.stats.power import TTestIndPower

    size = min(math.log1p(margin) / sd, LARGEST_EFFECT)
    # One-sided: to show it the wrong way round is no success, and the far tail of the law comes out as NaN.
    found = TTestIndPower().power(size, first, alpha / 2, ratio=second / first, alternative="larger")
    return 1.0 if math.isnan(found) else float(found)  # it overflows where the power is practically 1


def _settle(sd: float, seen: float, margin: float, alpha: float) -> int | None:
    """Trials of each until the seen difference is shown, or shown not to matter, whichever comes first."""
    from statsmodels.stats.power import TTestIndPower

    to_differ = _trials(TTestIndPower(), abs(seen) / sd, alpha / 2)
    room = margin - abs(seen)
    # With nothing between them both one-sided tests must succeed: each may fail in half as many cases.
    to_agree = _trials(TTestIndPower(), room / sd, alpha, POWER + (1 - POWER) / 2)
    return min((n for n in (to_differ, to_agree) if n), default=None)


def _trials(solver: Any, size: float, alpha: float, power: float = POWER) -> int | None:
    """The smallest number of trials of each with that power; its own solver does not always converge."""

    def enough(n: int) -> bool:
        # the law overflows to NaN where the power is practically 1
        return not solver.power(size, n, alpha, alternative="larger") < power

    size = min(size, LARGEST_EFFECT)
    return _first(enough, 2, MOST_TRIALS) if size > 0 and enough(MOST_TRIALS) else None
