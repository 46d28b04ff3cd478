"""Looking after every trial without fooling oneself: an always-valid t test and its confidence sequence.

A 95 % interval is right in 95 of 100 experiments if it is looked at once. Looked at after every trial, and
stopped when it excludes "the same", it is wrong in a quarter of them and, in the long run, in all. Here the
evidence against a difference ``d`` between two backends is an e-process: the likelihood of the t statistic if
the difference in units of the spread between trials came from a normal law of standard deviation ``PRIOR``,
against its likelihood if it were ``d``. It is a martingale under ``d`` whatever the spread is, so by Ville's
inequality it ever exceeds ``1 / alpha`` with probability at most ``alpha``, no matter when one stops [1]_
[2]_. The differences whose evidence never did are the confidence sequence; ``1 / evidence`` is an
always-valid p value.

Several pairs at once (:func:`always_valid`) share the 5 % by Bonferroni: of ``m`` comparisons each gets
``alpha / m``. In 95 of 100 runs all confidence sequences then hold the truth, at all looks together, and so
does every claim that is read off them, "slower" and "equivalent" alike. Holm's correction would be right for
either kind of claim by itself; it gains little, since the evidence grows exponentially with the trials, and
has no intervals.

Assumed is what a t test assumes: logarithms of the trials' quantiles are normal, with the same spread in
both. The price of peeking is a wider interval: with 5 trials of each it reaches 4.0 standard errors instead
of 2.3, with 20 it is 3.3 instead of 2.0.

References
----------
.. [1] H. Wang and A. Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown
   variance", arXiv:2310.03722: the Gaussian mixture over the effect, and right Haar over the variance.
.. [2] M. F. Pérez-Ortiz, T. Lardy, R. de Heide and P. Grünwald, "E-statistics, group invariance and
   anytime-valid testing", Annals of Statistics 52 (2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, count

import numpy as np

from analysis.histograms import Floats
from analysis.uncertainty import SAYS_NOTHING, Difference, Estimate, Pair

PRIOR = 2.0
"""Standard deviation of the effects that the test is made for, in units of the spread between trials.

A server 5 % slower whose trials lie 2.5 % apart has an effect of 2.
"""
ALPHA = 0.05
METHOD = "always-valid t test (Gaussian mixture, Wang and Ramdas 2023), Bonferroni's correction"
FEWEST = 2
"""Trials of each without which there is no spread to speak of."""


@dataclass(frozen=True)
class Look:
    """What is known so far: a difference, its standard error with its degrees of freedom, and the size.

    ``size`` is the number of measurements by which the error is smaller than their spread, squared: n of one
    sample, ``n m / (n + m)`` of two.
    """

    difference: float
    error: float
    size: float
    free: int

    @classmethod
    def of(cls, first_ms: Floats, second_ms: Floats) -> Look | None:
        """The logarithm of a ratio, from the trials' quantiles (n,) and (m,) in ms."""
        return cls.of_means(np.log(first_ms), np.log(second_ms))

    @classmethod
    def of_means(cls, first: Floats, second: Floats, least_variance: float = 0.0) -> Look | None:
        """The difference of two means, from measurements (n,) and (m,) of ``least_variance`` or more.

        None of fewer than two of each, or where all are the same.
        """
        if min(len(first), len(second)) < FEWEST:
            return None
        free = len(first) + len(second) - 2
        variance = (float(first.var()) * len(first) + float(second.var()) * len(second)) / free
        variance = max(variance, least_variance)
        size = len(first) * len(second) / (len(first) + len(second))
        if not variance:
            return None
        return cls(float(second.mean() - first.mean()), math.sqrt(variance / size), size, free)

    @classmethod
    def of_pairs(cls, differences: Floats) -> Look | None:
        """The mean of differences (n,) of measurements made side by side."""
        n = len(differences)
        error = float(differences.std(ddof=1)) / math.sqrt(n) if n >= FEWEST else 0.0
        return cls(float(differences.mean()), error, n, n - 1) if error else None

    @property
    def _gain(self) -> float:
        """How many times as much variance the statistic has under the mixture as without a difference."""
        return 1 + PRIOR**2 * self.size

    def evidence(self, truth: float) -> float:
        """The e-process against a true difference of ``truth``: how many times its stake has grown."""
        squared = ((self.difference - truth) / self.error) ** 2 / self.free
        grown = (1 + squared) / (1 + squared / self._gain)
        return float(grown ** ((self.free + 1) / 2) / math.sqrt(self._gain))

    def interval(self, alpha: float = ALPHA) -> tuple[float, float] | None:
        """The confidence sequence now; None while everything is still possible."""
        needed = (math.sqrt(self._gain) / alpha) ** (2 / (self.free + 1))
        if needed >= self._gain:
            return None
        reach = self.error * math.sqrt(self.free * (needed - 1) / (1 - needed / self._gain))
        return self.difference - reach, self.difference + reach

    def p_differs(self) -> float:
        """The always-valid p value of "they are the same"."""
        return min(1.0, 1 / self.evidence(0.0))

    def p_equivalent(self, margin: float) -> float:
        """The always-valid p value of "they differ by more than the margin", a logarithm."""
        if abs(self.difference) >= margin:
            return 1.0
        return min(1.0, max(1 / self.evidence(margin), 1 / self.evidence(-margin)))


def fewest_trials(comparisons: int) -> int:
    """How many trials of each it takes until any difference, however large, can be told."""
    alpha = ALPHA / comparisons
    return next(n for n in count(FEWEST) if Look(0.0, 1.0, n / 2, 2 * n - 2).interval(alpha))


def always_valid(family: Sequence[Estimate], margin: float, comparisons: int) -> dict[Pair, Difference]:
    """As :func:`analysis.uncertainty.differences`, but right however often one looks before one stops.

    ``comparisons`` is how many pairs are looked at in all; it must not depend on what was measured. A
    difference that is shown to lie within the ``margin`` (0.05 for 5 %) is ``equivalent``, and not ``shown``.
    """
    pairs = combinations(range(len(family)), 2)
    return {(i, j): _difference(family[i], family[j], margin, comparisons) for i, j in pairs}


def _difference(first: Estimate, second: Estimate, margin: float, comparisons: int) -> Difference:
    look = Look.of(first.trials_ms, second.trials_ms)
    if look is None:
        ratio = second.merged_ms / first.merged_ms
        return Difference(ratio, 0.0, math.inf, False, "nothing: too few trials to tell")
    low, high = look.interval(ALPHA / comparisons) or (-math.inf, math.inf)
    if high - low > 2 * SAYS_NOTHING:
        low, high = -math.inf, math.inf
    p, p_equivalent = (
        min(1.0, comparisons * one) for one in (look.p_differs(), look.p_equivalent(math.log1p(margin)))
    )
    equivalent = p_equivalent <= ALPHA
    trials = " and ".join(str(n) for n in dict.fromkeys((first.trials, second.trials)))
    return Difference(
        ratio=math.exp(look.difference),
        low=math.exp(low),
        high=math.exp(high),
        shown=not equivalent and (low > 0 or high < 0),
        rests_on=f"{trials} trials of each, always-valid",
        p=p,
        p_equivalent=p_equivalent,
        equivalent=equivalent,
    )
