"""How far a measured quantile can be trusted, and whether two of them differ.

Trials are the unit. A server restarted settles at a slightly different latency each time (memory layout,
placement, warm-up), and no length of one trial shows that [1]_ [2]_. So:

* **Several trials:** a t interval on the logarithms of the trials' quantiles, and an interval from resampling
  seconds within the trials; the wider one is used. The first alone would be too sure when trials happen to
  agree to the last bucket, the second alone does not see what differs between trials. Where both have at
  least ``WELCH_FROM`` trials the t interval is Welch's. With fewer, one variance is pooled over all backends
  of the scenario, as Tukey's and other post-hoc intervals do: two trials alone have one degree of freedom, so
  that a server half as slow again would not be told apart. That assumes trials of all backends spread by
  about the same *factor*.
* **No backend measured twice:** only the resampled interval exists. It sees the noise within a trial, so a
  difference is claimed only where the whole interval lies beyond ``SINGLE_TRIAL_MARGIN``. The margin stands
  in for the spread between trials that was not measured: 20 % is twice the standard error of the ratio of
  two trials whose own spread is 7 %. It is a convention, not an estimate; repeating the trials replaces it.

Seconds are resampled in blocks, because a queue that is long in one second is long in the next: the
circular block bootstrap [3]_ with blocks of twice the cube root of the number of seconds, the order that
estimates a standard error best [4]_, and a t quantile on the number of blocks. Simulated for trials of 10 to
60 s at 20 requests/s, the 95 % interval of p50 and p95 covers the truth in 92 to 98 % where seconds are
independent, 88 to 94 % where neighbours correlate by 0.6, and only 80 % at 0.8: one more reason to repeat
trials. Shapes whose rate changes (step, spike) are not stationary, so their intervals come out too wide
rather than too narrow. Intervals are on the logarithm: latencies differ by factors.

References
----------
.. [1] T. Kalibera and R. Jones, "Rigorous benchmarking in reasonable time", ISMM 2013,
   doi:10.1145/2464157.2464160.
.. [2] Y. Zhang, D. Meisner, J. Mars and L. Tang, "Treadmill: attributing the source of tail latency through
   precise load testing and statistical inference", ISCA 2016.
.. [3] D. N. Politis and J. P. Romano, "A circular block-resampling procedure for stationary data", in
   Exploring the Limits of Bootstrap, Wiley 1992.
.. [4] P. Hall, J. L. Horowitz and B.-Y. Jing, "On blocking rules for the bootstrap with dependent data",
   Biometrika 82 (1995).
.. [5] B. L. Welch, "The generalization of Student's problem when several different population variances are
   involved", Biometrika 34 (1947).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis.histograms import Floats, Intervals, Ints, all_values, bucket_middle_ms

SINGLE_TRIAL_MARGIN = 1.2
SINGLE_TRIAL = "a single trial"
SAYS_NOTHING = math.log(30)
"""An interval from a thirtieth to thirty times the value is as good as none."""
WELCH_FROM = 5
DRAWS = 500
FEWEST_DRAWS = 100
MOST_BINS = 600
SHORTEST_MS = 0.0005  # half a microsecond: what was recorded as 0 µs has a logarithm too
MIN_SECONDS = 5
"""A trial shorter than this has too few seconds to resample."""


Pair = tuple[int, int]


@dataclass(frozen=True)
class Estimate:
    """One quantile of one backend in one scenario.

    ``merged_ms`` is the quantile of all trials' requests together, ``trials_ms`` that of each trial (n,);
    ``within`` (n,) is the standard error of the logarithm of each, from resampling, NaN where a trial is too
    short; ``blocks`` is the number of blocks that rests on.
    """

    merged_ms: float
    trials_ms: Floats
    within: Floats
    blocks: int

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.trials_ms)


@dataclass(frozen=True)
class Difference:
    """``ratio`` = second / first with its interval; ``shown``: whether the two may be called different."""

    ratio: float
    low: float
    high: float
    shown: bool
    rests_on: str


def block_seconds(seconds: int) -> int:
    """Length of a block for a trial of so many seconds."""
    return max(1, round(2 * float(np.cbrt(seconds))))


def resampled_ms(
    trial: Intervals, quantiles: Sequence[float], rng: np.random.Generator, draws: int = DRAWS
) -> Floats:
    """Quantiles in ms of so many resampled trials, shape (quantiles, draws).

    ``trial`` has an interval per second. Each draw joins blocks of successive seconds, chosen with
    replacement, to a trial of the same length.
    """
    seconds = len(trial.start_s)
    present = np.bincount(trial.bucket) > 0
    used = np.flatnonzero(present)
    counts = np.zeros((seconds, len(used)), dtype=np.int64)
    counts[trial.row, (np.cumsum(present) - 1)[trial.bucket]] = trial.count
    below = np.cumsum(counts, axis=1)
    block = block_seconds(seconds)
    parts = [
        (_block_sums(below, length), rng.integers(seconds, size=(times, draws)))
        for length, times in ((block, seconds // block), (seconds % block, 1))
    ]
    found = used[_smallest_columns(parts, quantiles)]
    return np.maximum(bucket_middle_ms(found), SHORTEST_MS)


def _smallest_columns(parts: Sequence[tuple[Ints, Ints]], quantiles: Sequence[float]) -> Ints:
    """The first column in which each draw's cumulative counts reach each quantile, (quantiles, draws).

    ``parts`` has rows of cumulative counts and which of them a draw adds up, (times, draws). A draw is never
    summed as a whole: its quantile is found by bisection, from the few columns that this looks at.
    """

    def reached(column: Ints) -> Ints:
        return np.asarray(sum(rows[drawn[:, None, :], column].sum(axis=0) for rows, drawn in parts))

    shape = len(quantiles), parts[0][1].shape[1]
    last = parts[0][0].shape[1] - 1
    rank = np.ceil(np.array(quantiles)[:, None] * reached(np.full(shape, last)) - 1e-9)
    low, high = np.zeros(shape, dtype=np.int64), np.full(shape, last)
    while np.any(low < high):
        middle = (low + high) // 2
        enough = reached(middle) >= rank
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return low


def _block_sums(rows: Ints, length: int) -> Ints:
    """Sums of ``length`` successive rows from each row on, the first rows following the last."""
    circle = np.concatenate([np.zeros_like(rows[:1]), rows, rows[: max(0, length - 1)]]).cumsum(axis=0)
    return np.asarray(circle[length : length + len(rows)] - circle[: len(rows)])


def estimates(
    trials: Sequence[Intervals], quantiles: Sequence[float], rng: np.random.Generator
) -> list[Estimate]:
    """One estimate per quantile from the latency intervals of one or more trials that have values.

    A trial of more than ``MOST_BINS`` seconds is resampled by longer pieces than seconds.
    """
    merged = all_values(trials)
    histograms = [trial.merged() for trial in trials]
    within = np.full((len(trials), len(quantiles)), np.nan)
    blocks = []
    draws = max(FEWEST_DRAWS, DRAWS // len(trials))  # their standard errors are averaged over the trials
    for i, trial in enumerate(trials):
        binned = trial.binned(math.ceil((trial.start_s.max() + 1) / MOST_BINS))
        seconds = len(binned.start_s)
        blocks.append(math.ceil(seconds / block_seconds(seconds)))
        if seconds >= MIN_SECONDS:
            within[i] = np.log(resampled_ms(binned, quantiles, rng, draws)).std(axis=1, ddof=1)
    return [
        Estimate(
            max(merged.quantile_ms(q) or 0.0, SHORTEST_MS),
            np.array([max(h.quantile_ms(q) or 0.0, SHORTEST_MS) for h in histograms]),
            within[:, i],
            sum(blocks),
        )
        for i, q in enumerate(quantiles)
    ]


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


def interval_ms(estimate: Estimate, pooled: Pool | None, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of a quantile in ms around its merged value, or None where nothing is known of its spread."""
    n = estimate.trials
    halves = [_t(level, max(1, estimate.blocks - n)) * _within(estimate)]
    if n >= WELCH_FROM:
        halves.append(_t(level, n - 1) * np.log(estimate.trials_ms).std(ddof=1) / math.sqrt(n))
    elif pooled:
        halves.append(_t(level, pooled.free) * pooled.deviation / math.sqrt(n))
    half = _widest([float(one) for one in halves])
    return (
        None if half is None else (estimate.merged_ms * math.exp(-half), estimate.merged_ms * math.exp(half))
    )


def differences(family: Sequence[Estimate], comparisons: int | None = None) -> dict[Pair, Difference]:
    """How much larger each later member's quantile is than each earlier one's, keyed by their positions.

    The intervals hold together at 95 % over ``comparisons`` differences (Bonferroni), by default over all
    pairs of the family.
    """
    pairs = list(combinations(range(len(family)), 2))
    level = 1 - 0.05 / max(1, comparisons or len(pairs))
    pooled = pool(family)
    return {(i, j): _difference(family[i], family[j], level, pooled) for i, j in pairs}


def _difference(first: Estimate, second: Estimate, level: float, pooled: Pool | None) -> Difference:
    free = max(1, first.blocks + second.blocks - first.trials - second.trials)
    within = _t(level, free) * math.hypot(_within(first), _within(second))
    between = _between(first, second, level, pooled)
    half = _widest([within, between])
    ratio = second.merged_ms / first.merged_ms
    if half is None:
        return Difference(ratio, 0.0, math.inf, False, "nothing: too few seconds or trials to tell")
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
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


def _widest(halves: Sequence[float]) -> float | None:
    """The widest half interval that is known; None if none is, or if it says nothing."""
    widest = max((half for half in halves if math.isfinite(half)), default=math.inf)
    return widest if widest < SAYS_NOTHING else None


def _between(first: Estimate, second: Estimate, level: float, pooled: Pool | None) -> float:
    """Half the interval of the logarithm of the ratio, from the spread between trials; NaN if not known."""
    if pooled is None:
        return math.nan
    if min(first.trials, second.trials) >= WELCH_FROM:
        return _welch(np.log(first.trials_ms), np.log(second.trials_ms), level)
    error = pooled.deviation * math.sqrt(1 / first.trials + 1 / second.trials)
    return _t(level, pooled.free) * error


def _welch(first: Floats, second: Floats, level: float) -> float:
    """Half of Welch's interval of the difference of two means [5]_; the same as scipy's ``ttest_ind``.

    That takes longer to import than a report of a small run takes.
    """
    parts = [float(one.var(ddof=1)) / len(one) for one in (first, second)]
    total = sum(parts)
    if total == 0:
        return math.nan
    weights = [part**2 / (len(one) - 1) for part, one in zip(parts, (first, second), strict=True)]
    return _t(level, total**2 / sum(weights)) * math.sqrt(total)


def _t(level: float, free: float) -> float:
    """The two-sided quantile of Student's t distribution."""
    from scipy.special import stdtrit  # imported late: the command must start fast

    return float(stdtrit(free, (1 + level) / 2))


def _within(estimate: Estimate) -> float:
    """Standard error of the mean logarithm over the trials, from the spread within them."""
    return math.sqrt(float(np.sum(estimate.within**2))) / estimate.trials
