"""HDR histograms as numpy arrays: quantiles, means, merging, and a log of one histogram a second.

Values are microseconds, kept in HdrHistogram's buckets of three significant digits from 1 µs, so any value
read back is at most 0.1 % above the one recorded, and merging loses nothing [1]_. The bucket boundaries come
from the ``hdrhistogram`` package itself. In this layout the highest trackable value only sets how many
buckets there are, so histograms with different ones merge.

References
----------
.. [1] G. Tene, HdrHistogram, https://hdrhistogram.github.io/HdrHistogram/
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

LOWEST_US = 1
HIGHEST_US = 3_600_000_000  # an hour: more than any recorder here keeps
DIGITS = 3

MIN_BEYOND = 10
"""Requests that must lie beyond a quantile before the sample is said to carry it."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@cache
def bucket_low_us() -> Ints:
    """Lowest value of each bucket in µs, with one more at the end that closes the last bucket."""
    layout = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    lows = [layout.get_value_from_index(i) for i in range(layout.counts_len + 1)]
    return np.array(lows, dtype=np.int64)


def bucket_high_ms(bucket: Ints) -> Floats:
    """Highest value that falls into each bucket, in ms: what HdrHistogram reports for a quantile."""
    return (bucket_low_us()[bucket + 1] - 1) / 1000.0


def carries(total: int, q: float) -> bool:
    """Whether a sample of ``total`` requests carries quantile ``q``: at least 10 of them lie beyond it."""
    return total * (1 - q) >= MIN_BEYOND - 1e-9  # 1 - 0.999 is a little under 0.001


def needed_for(q: float) -> int:
    """Requests that a sample must have to carry quantile ``q``."""
    return int(np.ceil(MIN_BEYOND / (1 - q) - 1e-6))


@dataclass(frozen=True)
class Histogram:
    """How many values fell into each bucket. ``counts`` has one entry per bucket of :func:`bucket_low_us`."""

    counts: Ints

    @classmethod
    def empty(cls) -> Histogram:
        """A histogram of no values."""
        return cls(np.zeros(len(bucket_low_us()) - 1, dtype=np.int64))

    def __add__(self, other: Histogram) -> Histogram:
        """Both histograms' values in one."""
        return Histogram(self.counts + other.counts)

    @cached_property
    def cumulative(self) -> Ints:
        """Values in this bucket or a lower one, per bucket."""
        return np.cumsum(self.counts)

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.cumulative[-1])

    def rank_ms(self, rank: int) -> float:
        """The ``rank``-th smallest value, counted from 1, in ms."""
        bucket = np.searchsorted(self.cumulative, rank)
        return float(bucket_high_ms(np.asarray(bucket)))

    def quantile_ms(self, q: float) -> float | None:
        """Smallest value in ms that at least ``q`` of all values do not exceed; None if there are none."""
        return self.rank_ms(max(1, _ceil(q * self.total))) if self.total else None

    def mean_ms(self) -> float | None:
        """Mean in ms, each value taken at the middle of its bucket as HdrHistogram does."""
        if not self.total:
            return None
        used = np.flatnonzero(self.counts)
        low, size = bucket_low_us()[used], np.diff(bucket_low_us())[used]
        return float(np.average(low + size // 2, weights=self.counts[used]) / 1000.0)

    def max_ms(self) -> float | None:
        """Largest value in ms."""
        return self.rank_ms(self.total) if self.total else None

    def quantile_at_most_ms(self, q: float, confidence: float) -> float | None:
        """Upper confidence bound in ms of quantile ``q``; None where the sample is too small to have one.

        The order statistic whose rank the binomial law of "values below the true quantile" reaches with the
        given confidence, free of any assumption but independence [1]_.

        References
        ----------
        .. [1] W. J. Conover, Practical Nonparametric Statistics, 3rd ed., 1999, section 3.2.
        """
        from scipy.stats import binom  # imported late: the command must start fast

        rank = int(binom.ppf(confidence, self.total, q)) + 1 if self.total else 1
        return self.rank_ms(rank) if rank <= self.total else None


@dataclass(frozen=True)
class Intervals:
    """Histograms of successive intervals, kept sparse.

    Entry ``j`` says that interval ``row[j]`` has ``count[j]`` values in bucket ``bucket[j]``.

    ``start_s`` and ``length_s`` have one entry per interval, sorted by start, in seconds of the log's own
    clock; ``row``, ``bucket`` and ``count`` have one per non-empty bucket, sorted by row and then bucket.
    """

    start_s: Floats
    length_s: Floats
    row: Ints
    bucket: Ints
    count: Ints

    @classmethod
    def empty(cls) -> Intervals:
        """No intervals."""
        no_floats, no_ints = np.empty(0), np.empty(0, dtype=np.int64)
        return cls(no_floats, no_floats, no_ints, no_ints, no_ints)

    @property
    def totals(self) -> Ints:
        """Number of values per interval."""
        return np.bincount(self.row, self.count, len(self.start_s)).astype(np.int64)

    def merged(self) -> Histogram:
        """All intervals as one histogram."""
        buckets = len(bucket_low_us()) - 1
        return Histogram(np.bincount(self.bucket, self.count, buckets).astype(np.int64))

    def by_second(self) -> Intervals:
        """The same counts with one interval per whole second, from second 0 to the last one that has any.

        Several workers or trials that wrote the same second become one interval; a second without any value
        is an interval without values.
        """
        second = np.floor(self.start_s + 1e-6).astype(np.int64)
        seconds = int(second.max()) + 1 if len(second) else 0
        buckets = len(bucket_low_us())
        keys, where = np.unique(second[self.row] * buckets + self.bucket, return_inverse=True)
        count = np.bincount(where, self.count, len(keys)).astype(np.int64)
        start = np.arange(seconds, dtype=np.float64)
        return Intervals(start, np.ones(seconds), keys // buckets, keys % buckets, count)

    def quantiles_ms(self, q: float) -> Floats:
        """Quantile ``q`` of each interval in ms, NaN where an interval has no values."""
        totals = self.totals
        result = np.full(len(totals), np.nan)
        filled = np.flatnonzero(totals)
        before = np.cumsum(totals) - totals
        rank = before[filled] + np.maximum(1, np.ceil(q * totals[filled] - 1e-9).astype(np.int64))
        result[filled] = bucket_high_ms(self.bucket[np.searchsorted(np.cumsum(self.count), rank)])
        return result


def together(parts: list[Intervals]) -> Intervals:
    """Several trials' intervals on one time axis, without merging any of them."""
    if not parts:
        return Intervals.empty()
    offset = np.cumsum([0, *(len(part.start_s) for part in parts)])
    return Intervals(
        np.concatenate([part.start_s for part in parts]),
        np.concatenate([part.length_s for part in parts]),
        np.concatenate([part.row + first for part, first in zip(parts, offset, strict=False)]),
        np.concatenate([part.bucket for part in parts]),
        np.concatenate([part.count for part in parts]),
    )


def _ceil(x: float) -> int:
    return int(np.ceil(x - 1e-9))  # 0.95 * 100 must be rank 95 whatever its last bit
