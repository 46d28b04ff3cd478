"""How far a measured quantile can be trusted, and whether two of them differ.

Trials are the unit. A server restarted settles at a slightly different latency each time (memory layout,
placement, warm-up), and no length of one trial shows that [1]_ [2]_. So:

* **Several trials of both:** Welch's t interval on the logarithms of the trials' quantiles, and an
  interval from resampling seconds within the trials; the wider one is used. The first alone would be too
  sure when two trials happen to agree to the last bucket, the second alone does not see what differs
  between trials.
* **One trial of either:** only the resampled interval exists. It sees the noise within a trial, so a
  difference is claimed only where the whole interval lies beyond ``SINGLE_TRIAL_MARGIN``. The margin stands
  in for the spread between trials that was not measured: 20 % is twice the standard error of the ratio of
  two trials whose own spread is 7 %. It is a convention, not an estimate; repeating the trials replaces it.

Seconds are resampled in blocks, because a queue that is long in one second is long in the next: the
circular block bootstrap [3]_ with blocks of the cube root of the number of seconds, the order that estimates
a standard error best [4]_. Shapes whose rate changes (step, spike) are not stationary, so their intervals
come out too wide rather than too narrow. Intervals are on the logarithm: latencies differ by factors.

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
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.histograms import Floats, Intervals, bucket_high_ms, together

SINGLE_TRIAL_MARGIN = 1.2
DRAWS = 500
MIN_SECONDS = 5
"""A trial shorter than this has too few seconds to resample."""


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
    return max(1, round(float(np.cbrt(seconds))))


def resampled_ms(trial: Intervals, quantiles: Sequence[float], rng: np.random.Generator) -> Floats:
    """Quantiles in ms of ``DRAWS`` resampled trials, shape (quantiles, draws).

    Each draw joins blocks of successive seconds, chosen with replacement, to a trial of the same length.
    """
    by_second = trial.by_second()
    seconds = len(by_second.start_s)
    block = block_seconds(seconds)
    first = rng.integers(seconds, size=(DRAWS, math.ceil(seconds / block)))
    picked = ((first[:, :, None] + np.arange(block)) % seconds).reshape(DRAWS, -1)[:, :seconds]
    weights = np.zeros((DRAWS, seconds))
    np.add.at(weights, (np.arange(DRAWS)[:, None], picked), 1)
    used, column = np.unique(by_second.bucket, return_inverse=True)
    counts = np.zeros((seconds, len(used)))
    counts[by_second.row, column] = by_second.count
    cumulative = np.cumsum(weights @ counts, axis=1)
    total = cumulative[:, -1]
    draws = [
        used[np.minimum((cumulative < np.ceil(q * total - 1e-9)[:, None]).sum(axis=1), len(used) - 1)]
        for q in quantiles
    ]
    return bucket_high_ms(np.array(draws))


def estimates(
    trials: Sequence[Intervals], quantiles: Sequence[float], rng: np.random.Generator
) -> list[Estimate]:
    """One estimate per quantile from the latency intervals of one or more trials that have values."""

    merged = together(list(trials)).merged()
    histograms = [trial.merged() for trial in trials]
    within = np.full((len(trials), len(quantiles)), np.nan)
    blocks = []
    for i, trial in enumerate(trials):
        seconds = int(trial.start_s.max()) + 1
        blocks.append(math.ceil(seconds / block_seconds(seconds)))
        if seconds >= MIN_SECONDS:
            within[i] = np.log(resampled_ms(trial, quantiles, rng)).std(axis=1, ddof=1)
    return [
        Estimate(
            merged.quantile_ms(q) or math.nan,
            np.array([histogram.quantile_ms(q) for histogram in histograms], dtype=np.float64),
            within[:, i],
            sum(blocks),
        )
        for i, q in enumerate(quantiles)
    ]


def interval_ms(estimate: Estimate, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of a quantile in ms around its merged value, or None where nothing is known of its spread."""
    from scipy.stats import t  # imported late: the command must start fast

    n = estimate.trials
    halves = [t.ppf((1 + level) / 2, max(1, estimate.blocks - n)) * _within(estimate)]
    if n > 1:
        halves.append(t.ppf((1 + level) / 2, n - 1) * np.log(estimate.trials_ms).std(ddof=1) / math.sqrt(n))
    half = float(np.nanmax(halves)) if np.any(np.isfinite(halves)) else math.nan
    if not math.isfinite(half):
        return None
    return estimate.merged_ms * math.exp(-half), estimate.merged_ms * math.exp(half)


def difference(first: Estimate, second: Estimate, comparisons: int = 1) -> Difference:
    """How much larger the second quantile is than the first.

    Intervals hold together at 95 % over ``comparisons`` differences (Bonferroni).
    """
    from scipy.stats import t, ttest_ind

    level = 1 - 0.05 / comparisons
    repeated = first.trials > 1 and second.trials > 1
    free = max(1, first.blocks + second.blocks - first.trials - second.trials)
    halves = [t.ppf((1 + level) / 2, free) * math.hypot(_within(first), _within(second))]
    if repeated:
        welch = ttest_ind(np.log(second.trials_ms), np.log(first.trials_ms), equal_var=False)
        between = welch.confidence_interval(level)
        halves.append((between.high - between.low) / 2)
    known = [float(half) for half in halves if math.isfinite(half)]
    ratio = second.merged_ms / first.merged_ms
    if not known:
        return Difference(ratio, 0.0, math.inf, False, "nothing: the trials are too short to resample")
    low, high = ratio * math.exp(-max(known)), ratio * math.exp(max(known))
    margin = 1.0 if repeated else SINGLE_TRIAL_MARGIN
    shown = low > margin or high < 1 / margin
    if repeated:
        rests_on = f"{first.trials} and {second.trials} trials"
    else:
        rests_on = (
            f"a single trial, so that less than {SINGLE_TRIAL_MARGIN - 1:.0%} is not called a difference"
        )
    return Difference(ratio, low, high, shown, rests_on)


def _within(estimate: Estimate) -> float:
    """Standard error of the mean logarithm over the trials, from the spread within them."""
    return math.sqrt(float(np.sum(estimate.within**2))) / estimate.trials
