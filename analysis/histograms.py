"""HDR histograms as numpy arrays: quantiles, means, merging, and a log of one histogram a second.

Values are microseconds, kept in HdrHistogram's buckets of three significant digits from 1 µs. A value is read
back as the middle of its bucket and never beyond the largest that was recorded, so it is at most 0.05 % off,
and merging loses nothing [1]_. The bucket boundaries come from the ``hdrhistogram`` package itself. In this
layout the highest trackable value only sets how many buckets there are, so histograms with different ones
merge.

References
----------
.. [1] G. Tene, HdrHistogram, https://hdrhistogram.github.io/HdrHistogram/
"""

from __future__ import annotations

from collections.abc import Sequence
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


def bucket_middle_ms(bucket: Ints) -> Floats:
    """Middle of each bucket in ms, HdrHistogram's "median equivalent value"."""
    low, next_low = bucket_low_us()[bucket], bucket_low_us()[bucket + 1]
    return (low + (next_low - low) // 2) / 1000.0


def carries(total: int, q: float) -> bool:
    """Whether a sample of ``total`` requests carries quantile ``q``: at least 10 of them lie beyond it."""
    return total * (1 - q) >= MIN_BEYOND - 1e-9  # 1 - 0.999 is a little under 0.001


def needed_for(q: float) -> int:
    """Requests that a sample must have to carry quantile ``q``."""
    return int(np.ceil(MIN_BEYOND / (1 - q) - 1e-6))


@dataclass(frozen=True)
class Histogram:
    """How many values fell into each bucket.

    ``counts`` has one entry per bucket of :func:`bucket_low_us`; ``largest_ms`` is the largest value.
    """

    counts: Ints
    largest_ms: float = 0.0

    @classmethod
    def empty(cls) -> Histogram:
        """A histogram of no values."""
        return cls(np.zeros(len(bucket_low_us()) - 1, dtype=np.int64))

    @cached_property
    def cumulative(self) -> Ints:
        """Values in this bucket or a lower one, per bucket."""
        return np.cumsum(self.counts)

    @cached_property
    def total(self) -> int:
        """Number of values."""
        return int(self.cumulative[-1])

    def rank_ms(self, rank: int) -> float:
        """The ``rank``-th smallest value, counted from 1, in ms."""
        bucket = np.searchsorted(self.cumulative, rank)
        return min(float(bucket_middle_ms(np.asarray(bucket))), self.largest_ms)

    def quantile_bucket(self, q: float) -> int:
        """The bucket in which quantile ``q`` lies."""
        return int(np.searchsorted(self.cumulative, max(1, _ceil(q * self.total))))

    def quantile_ms(self, q: float) -> float | None:
        """Smallest value in ms that at least ``q`` of all values do not exceed; None if there are none."""
        return self.rank_ms(max(1, _ceil(q * self.total))) if self.total else None

    def carried_ms(self, q: float) -> float | None:
        """Quantile ``q`` in ms; None where the sample is too small to carry it."""
        return self.quantile_ms(q) if carries(self.total, q) else None

    def bounds_ms(self, q: float, confidence: float) -> tuple[float | None, float | None]:
        """Lower and upper confidence bound in ms of quantile ``q``, each None where the sample has none.

        The order statistics whose ranks the binomial law of "values below the true quantile" reaches with the
        given confidence, each on its own side, free of any assumption but independence [1]_.

        References
        ----------
        .. [1] W. J. Conover, Practical Nonparametric Statistics, 3rd ed., 1999, section 3.2.
        """
        from scipy.stats import binom  # imported late: the command must start fast

        if not self.total:
            return None, None
        low, high = (int(rank) for rank in binom.ppf([1 - confidence, confidence], self.total, q))
        return self.rank_ms(low) if low else None, self.rank_ms(high + 1) if high < self.total else None

    def mean_ms(self) -> float | None:
        """Mean in ms, each value taken at the middle of its bucket."""
        if not self.total:
            return None
        used = np.flatnonzero(self.counts)
        return float(np.average(bucket_middle_ms(used), weights=self.counts[used]))

    def max_ms(self) -> float | None:
        """Largest value in ms."""
        return self.largest_ms if self.total else None


@dataclass(frozen=True)
class Intervals:
    """Histograms of successive intervals, kept sparse.

    Entry ``j`` says that interval ``row[j]`` has ``count[j]`` values in bucket ``bucket[j]``.

    ``start_s`` (in seconds of the log's own clock, sorted) and ``largest_ms`` have one entry per interval;
    ``row``, ``bucket`` and ``count`` have one per non-empty bucket, sorted by row and then bucket.
    """

    start_s: Floats
    largest_ms: Floats
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
        counts = np.bincount(self.bucket, self.count, buckets).astype(np.int64)
        return Histogram(counts, float(self.largest_ms.max(initial=0.0)))

    def summed(self) -> Intervals:
        """All values in one interval that begins with the first."""
        histogram = self.merged()
        used = np.flatnonzero(histogram.counts)
        largest = np.full(len(self.start_s[:1]), histogram.largest_ms)
        return Intervals(self.start_s[:1], largest, np.zeros_like(used), used, histogram.counts[used])

    def binned(self, width_s: int = 1) -> Intervals:
        """The same counts with one interval per ``width_s`` seconds, from 0 to the last that has any.

        What several workers or trials wrote for the same seconds becomes one interval; seconds without any
        value are an interval without values.
        """
        bin_of = np.floor((self.start_s + 1e-6) / width_s).astype(np.int64)
        bins = int(bin_of.max()) + 1 if len(bin_of) else 0
        row, bucket, count = bin_of[self.row], self.bucket, self.count
        if not np.all(np.diff(bin_of) > 0):  # some meet in a bin
            buckets = len(bucket_low_us())
            keys, where = np.unique(row * buckets + bucket, return_inverse=True)
            row, bucket = keys // buckets, keys % buckets
            count = np.bincount(where, self.count, len(keys)).astype(np.int64)
        largest_ms = np.zeros(bins)
        np.maximum.at(largest_ms, bin_of, self.largest_ms)
        return Intervals(np.arange(bins, dtype=np.float64) * width_s, largest_ms, row, bucket, count)

    def quantiles_ms(self, q: float) -> Floats:
        """Quantile ``q`` of each interval in ms, NaN where an interval has no values."""
        totals = self.totals
        result = np.full(len(totals), np.nan)
        filled = np.flatnonzero(totals)
        before = np.cumsum(totals) - totals
        rank = before[filled] + np.maximum(1, np.ceil(q * totals[filled] - 1e-9).astype(np.int64))
        middle = bucket_middle_ms(self.bucket[np.searchsorted(np.cumsum(self.count), rank)])
        result[filled] = np.minimum(middle, self.largest_ms[filled])
        return result

    def carried_ms(self, q: float) -> Floats:
        """The same, NaN also where an interval has too few values to carry it."""
        return np.where(self.totals >= needed_for(q), self.quantiles_ms(q), np.nan)


def all_values(parts: Sequence[Intervals]) -> Histogram:
    """What is in any of several trials, as one histogram."""
    return added([part.merged() for part in parts])


def added(histograms: Sequence[Histogram]) -> Histogram:
    """The values of several histograms in one."""
    if not histograms:
        return Histogram.empty()
    counts = np.sum([one.counts for one in histograms], axis=0)
    return Histogram(counts, max(one.largest_ms for one in histograms))


def together(parts: list[Intervals]) -> Intervals:
    """Several trials' intervals on one time axis, without merging any of them."""
    if not parts:
        return Intervals.empty()
    offset = np.cumsum([0, *(len(part.start_s) for part in parts)])
    return Intervals(
        np.concatenate([part.start_s for part in parts]),
        np.concatenate([part.largest_ms for part in parts]),
        np.concatenate([part.row + first for part, first in zip(parts, offset, strict=False)]),
        np.concatenate([part.bucket for part in parts]),
        np.concatenate([part.count for part in parts]),
    )


def _ceil(x: float) -> int:
    return int(np.ceil(x - 1e-9))  # 0.95 * 100 must be rank 95 whatever its last bit
