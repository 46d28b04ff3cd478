"""How far a measured quantile can be trusted, and whether two of them differ.

Trials are the unit. A server restarted settles at a slightly different latency each time (memory layout,
placement, warm-up), and no length of one trial shows that [1]_ [2]_. So there are two sources:

* **Between trials:** a t interval on the logarithms of the trials' quantiles. Where both of two backends have
  at least ``WELCH_FROM`` trials it is Welch's [3]_. With fewer, one variance is pooled over all backends of
  the scenario, as Tukey's and other post-hoc intervals do: two trials alone have one degree of freedom, so
  that a server half as slow again would not be told apart. That assumes trials of all backends spread by
  about the same *factor*. A bootstrap over the trials is not quoted: with 3 to 10 of them its interval is
  narrower than the t interval by construction [4]_, so the wider of the two is always the latter.
* **Within trials:** order statistics. The number of requests below the true quantile varies by a standard
  error ``e`` around ``n q``, so the values at ranks ``n q - t e`` and ``n q + t e`` enclose it whatever the
  distribution is, with two modes or a heavy tail too [5]_. Independent requests would have the binomial's
  ``e``; but a queue that is long in one second is long in the next, so ``e`` is the long-run error of the
  per-second counts below the quantile, from the ``B`` slowest cosines over the trial, with ``t`` on ``B``
  degrees of freedom [6]_. ``B`` grows with the two thirds power of the seconds; of a short trial little is
  known, and the interval says so.

The spread between trials contains the noise within them, so a backend's own trials decide, on their own
degrees of freedom. Where their spread comes out smaller than the noise within it does so by chance. Taking
the other source then, with its many degrees of freedom, is a pre-test [7]_, after which the intervals of two
trials covered as little as 89 %. So what lies within is only a floor, of one standard error: trials that
agree to the last bucket prove nothing. The wider of the two t intervals would cover 99 % there. A spread that
was borrowed from other backends may be too small for this one: there it is the wider of the two.

**No backend measured twice:** only the second source exists, so a difference is claimed only where the whole
interval lies beyond ``SINGLE_TRIAL_MARGIN``. The margin stands in for the spread between trials that was not
measured: 20 % is twice the standard error of the ratio of two trials whose own spread is 7 %. It is a
convention, not an estimate; repeating the trials replaces it.

Simulated (``tests/analysis/test_coverage.py``), the 95 % intervals cover the truth in 93 to 97 % of 2,000
experiments with heavy-tailed, bimodal and autocorrelated latencies: p50, p95 and p99 of one trial of 30 s or
more and of trials 5 % apart, p50 and p95 of 2, 3 and 5 trials 10 % apart. Elsewhere:

* Two trials that do not differ at all cover up to 98 %, for the floor; three and more 94 to 97 %.
* Trials far apart: the quantile of all requests is set by the slowest trials, while the error is that of the
  mean of the trials' logarithms, and few trials seldom have the slowest. With 10 % between them p99 of 3 and
  5 trials covers 92 to 96 %; of ten autocorrelated ones p95 92 and p99 91 %. With 20 % between them, p95 of 2
  to 5 trials covers 90 to 95 %, p99 of 3 and 5 trials 86 to 96 %; of ten autocorrelated ones 88 and 82 %. A
  jackknife of the merged quantile over the trials is wider and covers no more. That is the price of quoting
  the quantile that users saw.
* A single trial with fewer than ten times the seconds over which latencies remember each other: 91 % at 60 s
  with a correlation of 0.8 from second to second; 88 to 91 % at 10 s with one of 0.6.

Shapes whose rate changes (step, spike) are not stationary, so their intervals come out too wide rather than
too narrow. Intervals are on the logarithm: latencies differ by factors.

References
----------
.. [1] T. Kalibera and R. Jones, "Rigorous benchmarking in reasonable time", ISMM 2013,
   doi:10.1145/2464157.2464160.
.. [2] Y. Zhang, D. Meisner, J. Mars and L. Tang, "Treadmill: attributing the source of tail latency through
   precise load testing and statistical inference", ISCA 2016.
.. [3] B. L. Welch, "The generalization of Student's problem when several different population variances are
   involved", Biometrika 34 (1947).
.. [4] T. C. Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69 (2015).
.. [5] R. S. Woodruff, "Confidence intervals for medians and other position measures", JASA 47 (1952).
.. [6] E. Lazarus, D. J. Lewis, J. H. Stock and M. W. Watson, "HAR inference: recommendations for practice",
   Journal of Business & Economic Statistics 36 (2018): the equal-weighted cosine estimator.
.. [7] T. A. Bancroft, "On biases in estimation due to the use of preliminary tests of significance", Annals
   of Mathematical Statistics 15 (1944).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from analysis.histograms import Floats, Histogram, Intervals, Ints, added, carries

SINGLE_TRIAL_MARGIN = 1.2
SINGLE_TRIAL = "a single trial"
SAYS_NOTHING = math.log(30)
"""An interval from a thirtieth to thirty times the value is as good as none."""
LEVEL = 0.95
WELCH_FROM = 5
MOST_BINS = 600
SHORTEST_MS = 0.0005  # half a microsecond: what was recorded as 0 µs has a logarithm too
MIN_SECONDS = 5
"""A trial shorter than this has too few seconds to tell how they depend on each other."""
WAVES = 0.35
"""Cosines per two thirds power of the seconds: 0.4 is the recommendation [6]_; fewer see slower queues."""
SURE = 1.0
"""Standard errors within trials than which no interval of repeated trials is narrower."""
BUCKET = 0.0005
"""Half a bucket of the histograms, as a factor: no quantile is known better."""


Pair = tuple[int, int]


@dataclass(frozen=True)
class Spread:
    """What is known of a logarithm's error.

    ``below`` and ``above`` are standard errors towards lower and higher values, ``free`` their degrees of
    freedom: the interval at a level runs from ``t below`` under the estimate to ``t above`` over it.
    """

    below: float
    above: float
    free: float

    def half(self, level: float) -> tuple[float, float]:
        """How far the interval reaches down and up."""
        t = _t(level, self.free)
        return t * self.below, t * self.above

    @classmethod
    def even(cls, error: float, free: float) -> Spread:
        """The same error towards both sides."""
        return cls(error, error, free)


@dataclass(frozen=True)
class Estimate:
    """One quantile of one backend in one scenario.

    ``merged_ms`` is the quantile of all trials' requests together, ``trials_ms`` that of each trial (n,);
    ``within`` is the error of the former's logarithm as seen from within the trials, None where they are too
    short.
    """

    merged_ms: float
    trials_ms: Floats
    within: Spread | None

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.trials_ms)


@dataclass(frozen=True)
class Contrast:
    """The logarithm of a quantile or of the ratio of two, and what is known of its error."""

    log_ratio: float
    spread: Spread | None

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Interval of the logarithm; None if it says nothing."""
        if self.spread is None:
            return None
        below, above = self.spread.half(level)
        return (self.log_ratio - below, self.log_ratio + above) if max(below, above) < SAYS_NOTHING else None

    def p_one_sided(self, null: float) -> float:
        """How surprising the estimate is if the true logarithm lies at ``null`` or on its other side."""
        from scipy.special import stdtr  # imported late: the command must start fast

        if self.spread is None:
            return 0.5
        gap = self.log_ratio - null
        return float(
            stdtr(self.spread.free, -abs(gap) / (self.spread.below if gap > 0 else self.spread.above))
        )

    def p_differs(self) -> float:
        """The two-sided p value of "they are the same"."""
        return min(1.0, 2 * self.p_one_sided(0.0))

    def p_equivalent(self, margin: float) -> float:
        """The p value of "they differ by more than the margin", a logarithm: two one-sided tests [1]_.

        References
        ----------
        .. [1] D. J. Schuirmann, "A comparison of the two one-sided tests procedure and the power approach for
           assessing the equivalence of average bioavailability", J. Pharmacokin. Biopharm. 15 (1987).
        """
        if abs(self.log_ratio) >= margin:
            return 1.0
        return max(self.p_one_sided(margin), self.p_one_sided(-margin))


@dataclass(frozen=True)
class Difference:
    """``ratio`` = second / first with its interval; ``shown``: whether the two may be called different.

    The p values, of no difference and of one larger than a margin, and whether the two are ``equivalent``
    within it, are known where :mod:`analysis.sequential` looked.
    """

    ratio: float
    low: float
    high: float
    shown: bool
    rests_on: str
    p: float | None = None
    p_equivalent: float | None = None
    equivalent: bool = False


def estimates(trials: Sequence[Intervals], quantiles: Sequence[float]) -> list[Estimate]:
    """One estimate per quantile from the latency intervals of one or more trials that have values.

    A trial of more than ``MOST_BINS`` seconds is looked at by longer pieces than seconds.
    """
    histograms = [trial.merged() for trial in trials]
    merged = added(histograms)
    binned = [trial.binned(math.ceil((trial.start_s.max() + 1) / MOST_BINS)) for trial in trials]
    totals = [trial.totals for trial in binned]
    return [
        Estimate(
            max(merged.quantile_ms(q) or 0.0, SHORTEST_MS),
            np.array([max(h.quantile_ms(q) or 0.0, SHORTEST_MS) for h in histograms]),
            _within(merged, q, _excesses(binned, totals, merged.quantile_bucket(q), q)),
        )
        for q in quantiles
    ]


def _excesses(trials: Sequence[Intervals], totals: Sequence[Ints], bucket: int, q: float) -> list[Floats]:
    """By trial and second: how many more requests than ``q`` of them lie up to the bucket."""
    return [
        np.bincount(trial.row, trial.count * (trial.bucket <= bucket), len(trial.start_s)) - q * total
        for trial, total in zip(trials, totals, strict=True)
    ]


def _within(merged: Histogram, q: float, excesses: Sequence[Floats]) -> Spread | None:
    """The error of the merged quantile's logarithm, from order statistics.

    ``excesses`` has an array per trial with an entry per second. None where trials are too short or requests
    too few. Whether it is given must not depend on the error that was found: those left would be the ones
    whose error came out small. Where the ranks leave the sample, its ends are the limits; that costs no
    coverage, since of ten requests expected beyond the true quantile hardly ever none is.
    """
    if min(len(one) for one in excesses) < MIN_SECONDS or not carries(merged.total, q):
        return None
    error, free = _rank_error(excesses)
    t = _t(LEVEL, free)
    rank, reach = q * merged.total, t * error
    low, high = max(1, round(rank - reach)), min(merged.total, round(rank + reach) + 1)
    value = max(merged.quantile_ms(q) or 0.0, SHORTEST_MS)
    below = math.log(value / max(merged.rank_ms(low), SHORTEST_MS))
    above = math.log(max(merged.rank_ms(high), SHORTEST_MS) / value)
    return Spread(max(below, BUCKET) / t, max(above, BUCKET) / t, free)


def _rank_error(excesses: Sequence[Floats]) -> tuple[float, float]:
    """Standard error of how many requests lie below the true quantile, and its degrees of freedom.

    Cosines of few whole and half waves over a trial see slow variation only, and not the trial's own mean, so
    that what differs between trials stays the other source's business.
    """
    spreads = [mean_error(excess) for excess in excesses]
    variances = [(one.above * len(excess)) ** 2 for one, excess in zip(spreads, excesses, strict=True)]
    total = sum(variances)
    if not total:
        return 0.0, sum(one.free for one in spreads)
    weights = [variance**2 / one.free for variance, one in zip(variances, spreads, strict=True)]
    return math.sqrt(total), total**2 / sum(weights)


def mean_error(values: Floats) -> Spread:
    """The error of the mean of successive values (n,) that depend on each other [6]_ (of the module)."""
    cosines = _slow_cosines(len(values))
    variance = 2 * float(np.mean((cosines @ values) ** 2))
    return Spread.even(math.sqrt(variance) / len(values), len(cosines))


@lru_cache(maxsize=64)
def _slow_cosines(seconds: int) -> Floats:
    """The slowest cosines over so many seconds, a row for each (waves, seconds)."""
    waves = np.arange(1, max(3, round(WAVES * float(np.cbrt(seconds)) ** 2)) + 1)
    return np.asarray(np.cos(np.pi * np.outer(waves, np.arange(seconds) + 0.5) / seconds))


@dataclass(frozen=True)
class Pool:
    """Standard deviation of a trial's logarithm, pooled over a family, and its degrees of freedom."""

    deviation: float
    free: int


def pool(family: Sequence[Estimate]) -> Pool | None:
    """How far trials lie apart, from all members with several trials; None if there is none."""
    repeated = [np.log(one.trials_ms) for one in family if one.trials > 1]
    if not repeated:
        return None
    free = sum(len(logs) - 1 for logs in repeated)
    return Pool(math.sqrt(sum(float(logs.var()) * len(logs) for logs in repeated) / free), free)


def interval_ms(estimate: Estimate, pooled: Pool | None, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of a quantile in ms around its merged value, or None where nothing is known of its spread."""
    n, between = estimate.trials, None
    if n >= WELCH_FROM:
        between = Spread.even(float(np.log(estimate.trials_ms).std(ddof=1)) / math.sqrt(n), n - 1)
    elif pooled:
        between = Spread.even(pooled.deviation / math.sqrt(n), pooled.free)
    borrowed = pooled is not None and n < WELCH_FROM and pooled.free > n - 1
    spread = _told_by(between, estimate.within, borrowed)
    found = Contrast(math.log(estimate.merged_ms), spread).interval(level)
    return None if found is None else (math.exp(found[0]), math.exp(found[1]))


def differences(family: Sequence[Estimate], comparisons: int | None = None) -> dict[Pair, Difference]:
    """How much larger each later member's quantile is than each earlier one's, keyed by their positions.

    The intervals hold together at 95 % over ``comparisons`` differences (Bonferroni), by default over all
    pairs of the family.
    """
    pairs = list(combinations(range(len(family)), 2))
    level = 1 - (1 - LEVEL) / max(1, comparisons or len(pairs))
    pooled = pool(family)
    return {(i, j): _difference(family[i], family[j], level, pooled) for i, j in pairs}


def contrast(first: Estimate, second: Estimate, pooled: Pool | None) -> Contrast:
    """How many times as large ``second`` is as ``first``, on the logarithm."""
    repeated = min(first.trials, second.trials) >= WELCH_FROM
    borrowed = pooled is not None and not repeated and pooled.free > first.trials + second.trials - 2
    spread = _told_by(_between(first, second, pooled), _within_both(first, second), borrowed)
    return Contrast(math.log(second.merged_ms / first.merged_ms), spread)


def _told_by(between: Spread | None, within: Spread | None, borrowed: bool) -> Spread | None:
    """What both sources tell together: the former, but at 95 % no less than what the latter is sure of.

    ``borrowed`` is a spread that others' trials have told of too.
    """
    if between is None or not between.below:
        return within
    if within is None:
        return between
    least = (_t(LEVEL, within.free) if borrowed else SURE) / _t(LEVEL, between.free)
    below, above = max(between.below, least * within.below), max(between.above, least * within.above)
    return Spread(below, above, between.free)


def _difference(first: Estimate, second: Estimate, level: float, pooled: Pool | None) -> Difference:
    ratio = second.merged_ms / first.merged_ms
    found = contrast(first, second, pooled).interval(level)
    if found is None:
        return Difference(ratio, 0.0, math.inf, False, "nothing: too few seconds or trials to tell")
    low, high = math.exp(found[0]), math.exp(found[1])
    if pooled:
        margin, rests_on = 1.0, _trials(first.trials, second.trials)
    else:
        margin = SINGLE_TRIAL_MARGIN
        rests_on = f"{SINGLE_TRIAL} of each, so that less than {margin - 1:.0%} is not called a difference"
    return Difference(ratio, low, high, low > margin or high < 1 / margin, rests_on)


def _trials(first: int, second: int) -> str:
    if first != second:
        return f"{first} and {second} trials"
    return f"{first} trials of each" if first > 1 else "1 trial of each and how far others' trials lie apart"


def _within_both(first: Estimate, second: Estimate) -> Spread | None:
    """The error of the ratio as seen from within the trials, from the limits of both [1]_.

    References
    ----------
    .. [1] G. Y. Zou and A. Donner, "Construction of confidence limits about effect measures: a general
       approach", Statistics in Medicine 27 (2008): the method of variance estimates recovery.
    """
    one, other = first.within, second.within
    if one is None or other is None:
        return None
    below, above = math.hypot(other.below, one.above), math.hypot(other.above, one.below)
    return Spread(below, above, min(one.free, other.free))


def _between(first: Estimate, second: Estimate, pooled: Pool | None) -> Spread | None:
    """The error of the ratio's logarithm as seen from the spread between trials; None if not known."""
    if pooled is None:
        return None
    if min(first.trials, second.trials) >= WELCH_FROM:
        return welch(np.log(first.trials_ms), np.log(second.trials_ms))
    error = pooled.deviation * math.sqrt(1 / first.trials + 1 / second.trials)
    return Spread.even(error, pooled.free)


def welch(first: Floats, second: Floats) -> Spread | None:
    """Welch's error of the difference of two means; as scipy's ``ttest_ind``, which imports slowly."""
    return welch_of([float(one.var(ddof=1)) for one in (first, second)], [len(first), len(second)])


def welch_of(variances: Sequence[float], sizes: Sequence[int]) -> Spread | None:
    """The same, of two samples of which no more is known than these; None where neither varies."""
    parts = [variance / size for variance, size in zip(variances, sizes, strict=True)]
    total = sum(parts)
    if total == 0:
        return None
    weights = [part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True)]
    return Spread.even(math.sqrt(total), total**2 / sum(weights))


def _t(level: float, free: float) -> float:
    """The two-sided quantile of Student's t distribution."""
    from scipy.special import stdtrit  # imported late: the command must start fast

    return float(stdtrit(free, (1 + level) / 2))
