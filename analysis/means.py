"""How the means of two samples differ: Welch's t test, by Student's law or by dealing the values again.

The mean of few requests with a long tail is skewed: most small samples miss the slow ones, so that their mean
lies below the true one, and so does their spread. Beside a large sample that missed none, the small one seems
faster. Of two like samples of one size the skew cancels. Where it does not, the law of Welch's t is found by
dealing the same values to samples of these sizes by chance again [1]_; of two variants that each request went
to by chance that is exactly how they came about.

References
----------
.. [1] A. Janssen, "Studentized permutation tests for non-i.i.d. hypotheses and the generalized Behrens-Fisher
   problem", Statistics & Probability Letters 36 (1997): exact where both come from the same law, right in the
   long run where only their means are the same.
.. [2] R. Kohavi, D. Tang and Y. Xu, Trustworthy Online Controlled Experiments, 2020, chapter 17: a mean is
   near enough to normal from 355 times its values' squared skewness on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.histograms import Floats, Histogram, Ints, bucket_middle_ms
from analysis.uncertainty import Spread, welch_of

SKEWED = 355**-0.5
"""Above this skewness of the difference of means Student's law is not used [2]_."""
DRAWS = 1999
"""With them a p value of 5 % is off by half a point, and 1 % of a level of 5 % has a draw of its own."""


@dataclass(frozen=True)
class Sample:
    """Latencies in ms by bucket: ``counts`` (buckets,) of the values at ``values_ms`` (buckets,)."""

    values_ms: Floats
    counts: Ints

    @cached_property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @cached_property
    def mean_ms(self) -> float:
        """The mean."""
        return float(self.counts @ self.values_ms) / self.total

    @cached_property
    def variance(self) -> float:
        """The variance in ms², of a sample."""
        return float(self.counts @ (self.values_ms - self.mean_ms) ** 2) / (self.total - 1)

    @cached_property
    def third_moment(self) -> float:
        """The third central moment in ms³."""
        return float(self.counts @ (self.values_ms - self.mean_ms) ** 3) / self.total


def samples(first: Histogram, second: Histogram) -> tuple[Sample, Sample]:
    """Two histograms over the buckets that either uses."""
    used = np.flatnonzero(first.counts + second.counts)
    values = bucket_middle_ms(used)
    return Sample(values, first.counts[used]), Sample(values, second.counts[used])


@dataclass(frozen=True)
class MeanDifference:
    """The second sample's mean less the first's, in ms, with Welch's error; None where no value differs.

    ``dealt`` has, in ascending order, Welch's t of the values dealt again (``DRAWS``,), where Student's law
    is not used; ``skewness`` is that of the difference.
    """

    ms: float
    error: Spread | None
    skewness: float
    dealt: Floats | None

    @property
    def p(self) -> float:
        """The two-sided p value of "they are the same"."""
        from scipy.special import stdtr  # imported late: the command must start fast

        if self.error is None:
            return 0.0 if self.ms else 1.0
        t = self.ms / self.error.above
        if self.dealt is None:
            return float(2 * stdtr(self.error.free, -abs(t)))
        below = int(np.searchsorted(self.dealt, t, side="right"))
        above = len(self.dealt) - int(np.searchsorted(self.dealt, t, side="left"))
        return min(1.0, 2 * (1 + min(below, above)) / (1 + len(self.dealt)))

    def interval_ms(self, level: float) -> tuple[float, float]:
        """The interval at a level; without 0 exactly where ``p`` is at most ``1 - level``."""
        if self.error is None:
            return self.ms, self.ms
        if self.dealt is None:
            below, above = self.error.half(level)
            return self.ms - below, self.ms + above
        ends = max(1, math.floor((1 - level) / 2 * (1 + len(self.dealt)) + 1e-9))
        low, high = self.dealt[ends - 1], self.dealt[-ends]
        return self.ms - float(high) * self.error.above, self.ms - float(low) * self.error.above


def mean_difference(first: Sample, second: Sample, rng: np.random.Generator) -> MeanDifference:
    """How the second sample's mean differs from the first's; each has two values or more."""
    error = welch_of([first.variance, second.variance], [first.total, second.total])
    skewness = _skewness(first, second, error.above) if error else 0.0
    return MeanDifference(
        ms=second.mean_ms - first.mean_ms,
        error=error,
        skewness=skewness,
        dealt=_dealt(first, second, rng) if skewness > SKEWED else None,
    )


def _skewness(first: Sample, second: Sample, error_ms: float) -> float:
    """That of the difference of the means: as measured, or of samples of these sizes from both together.

    A small sample that met no slow request knows nothing of their tail.
    """
    n, m = first.total, second.total
    both = Sample(first.values_ms, first.counts + second.counts)
    measured = second.third_moment / m**2 - first.third_moment / n**2
    alike = both.third_moment * (1 / m**2 - 1 / n**2)
    error_alike = math.sqrt(both.variance * (1 / n + 1 / m))
    return max(abs(measured) / error_ms**3, abs(alike) / error_alike**3)


def _dealt(first: Sample, second: Sample, rng: np.random.Generator) -> Floats:
    """Welch's t of all values dealt by chance to samples of the same sizes, in ascending order."""
    both = Sample(first.values_ms, first.counts + second.counts)
    values = both.values_ms - both.mean_ms
    n, m = first.total, second.total
    dealt = rng.multivariate_hypergeometric(both.counts, min(n, m), size=DRAWS, method="marginals")
    sums, squares = dealt @ values, dealt @ values**2
    few = _mean_and_error(sums, squares, min(n, m))
    many = _mean_and_error(both.counts @ values - sums, both.counts @ values**2 - squares, max(n, m))
    sign = 1 if m <= n else -1
    error = np.sqrt(few[1] + many[1])
    return np.sort(sign * (few[0] - many[0]) / np.maximum(error, 1e-12))


def _mean_and_error(sums: Floats, squares: Floats, total: int) -> tuple[Floats, Floats]:
    """Means, and their squared errors, of samples of which the sums of values and squares are known."""
    means = sums / total
    return means, np.maximum(squares - total * means**2, 0.0) / (total - 1) / total
