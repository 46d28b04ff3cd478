"""HDR histograms that numpy fills and the `hdrhistogram` package encodes.

Values are microseconds from 1 to `HIGHEST_US`, kept to 3 significant digits: the bucket of a value is at
most 0.1 % wide (Tene's HdrHistogram, https://hdrhistogram.org).  The package records one value at a time
in Python; a batch of thousands is folded here by computing its bucket indices at once.  The package encodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

LOWEST_US = 1
HIGHEST_US = 60_000_000
SIGNIFICANT_DIGITS = 3
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}

Ints = npt.NDArray[np.int64]

_HALF_BITS = 10  # a bucket is 2^-10 of its value or finer: what 3 significant digits ask for
_SUB_BUCKETS = 1 << (_HALF_BITS + 1)


def bucket_of(values_us: Ints) -> Ints:
    """Bucket indices of values, any shape, from 0 to `HIGHEST_US`.

    The arithmetic of HdrHistogram's counts_index_for on arrays; frexp gives the length in bits.
    """
    bits = np.frexp(values_us | (_SUB_BUCKETS - 1))[1].astype(np.int64)
    exponent = bits - (_HALF_BITS + 1)
    return np.asarray((exponent << _HALF_BITS) + (values_us >> exponent))


_BUCKETS = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS).counts_len


class Histogram:
    """Counts of durations in microseconds; merging loses nothing."""

    def __init__(self) -> None:
        self._counts: Ints = np.zeros(_BUCKETS, dtype=np.int64)
        self.count = 0
        self.smallest_us = HIGHEST_US
        self.largest_us = 0
        self.clamped = 0  # values above HIGHEST_US, counted in the last bucket

    def add(self, values_us: Ints) -> None:
        """Record values (n,) in microseconds; negative ones count as 0, too large ones are clamped."""
        if len(values_us):
            clamped = np.clip(values_us, 0, HIGHEST_US)
            self.add_buckets(bucket_of(clamped), int(clamped.min()), int(clamped.max()))
            self.clamped += int(np.count_nonzero(values_us > HIGHEST_US))

    def add_buckets(self, buckets: Ints, smallest_us: int, largest_us: int) -> None:
        """Record values (n,), n > 0, whose buckets and extremes are known already."""
        # Most batches lie close together: counting only the span that they cover saves clearing the rest.
        first = int(buckets.min())
        counts = np.bincount(buckets - first)
        self._counts[first : first + len(counts)] += counts
        self.count += len(buckets)
        self.smallest_us = min(self.smallest_us, smallest_us)
        self.largest_us = max(self.largest_us, largest_us)

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        if other.count:
            self._counts += other._counts
            self.count += other.count
            self.smallest_us = min(self.smallest_us, other.smallest_us)
            self.largest_us = max(self.largest_us, other.largest_us)
        self.clamped += other.clamped

    @property
    def hdr(self) -> HdrHistogram:
        """A copy as the package's own type, to encode or to compare with."""
        hdr = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
        np.frombuffer(hdr.counts, dtype=np.uint64)[:] = self._counts
        if self.count:
            hdr.total_count, hdr.min_value, hdr.max_value = self.count, self.smallest_us, self.largest_us
        return hdr

    def encode(self) -> bytes:
        """HdrHistogram's V2 compressed encoding, base64."""
        hdr = self.hdr
        encoded = bytes(hdr.encode())
        # It and its encoder hold each other: left so, every second's counts would wait for the collector.
        hdr.encoder.histogram = None
        return encoded

    def to_message(self) -> tuple[bytes, bytes, int, int, int]:
        """Its non-empty buckets as plain values for msgpack.

        A hundred times faster than `encode`, which compresses: a worker reports between two arrivals.
        """
        index = np.flatnonzero(self._counts)
        counts = self._counts[index]
        return index.tobytes(), counts.tobytes(), self.smallest_us, self.largest_us, self.clamped

    @classmethod
    def from_message(cls, message: Sequence[Any]) -> Histogram:
        """The histogram that `to_message` wrote."""
        index, counts, smallest, largest, clamped = message
        histogram = cls()
        added = np.frombuffer(counts, dtype=np.int64)
        histogram._counts[np.frombuffer(index, dtype=np.int64)] = added
        histogram.count = int(added.sum())
        histogram.smallest_us, histogram.largest_us, histogram.clamped = smallest, largest, clamped
        return histogram

    def buckets(self) -> tuple[Ints, Ints]:
        """Middle value in µs of each bucket that is not empty, and its count."""
        index = np.flatnonzero(self._counts)
        exponent = np.maximum((index >> _HALF_BITS) - 1, 0)
        return ((index - (exponent << _HALF_BITS)) << exponent) + ((1 << exponent) >> 1), self._counts[index]

    def percentiles_ms(self) -> dict[str, float | None]:
        """Mean, `PERCENTILES` and maximum in milliseconds; None where nothing was recorded.

        The percentile q is the value of the ceil(q·n)-th smallest, as the middle of its bucket, never
        beyond the largest value recorded; the error is at most half a bucket, 0.05 %.
        """
        if not self.count:
            return dict.fromkeys(["mean", *PERCENTILES, "max"])
        values, counts = self.buckets()
        below = np.cumsum(counts)
        # In tenths of a percent and whole numbers: 0.999 is not exact in binary.
        ranks = [-(-round(10 * q) * self.count // 1000) for q in PERCENTILES.values()]
        at = values[np.searchsorted(below, ranks, side="left")]
        capped = np.minimum(at, self.largest_us) / 1000
        mean = float((values * counts).sum() / self.count) / 1000
        return {
            "mean": round(mean, 4),
            **{name: round(float(v), 4) for name, v in zip(PERCENTILES, capped, strict=True)},
            "max": self.largest_us / 1000,
        }


class IntervalLog:
    """HdrHistogram's interval log, version 1.3: a line per second and tag, flushed as it is written.

    Written here because the package's own writer knows no tags and fails on every start time
    (`output_start_time` calls datetime's `iso_format`, which does not exist); its reader reads this.
    """

    def __init__(self, file: TextIO, start_epoch_s: float, comment: str) -> None:
        self._file = file
        started = datetime.fromtimestamp(start_epoch_s, UTC).isoformat(" ", "milliseconds")
        file.write(
            f"#[{comment}]\n#[Histogram log format version 1.3]\n"
            f"#[StartTime: {start_epoch_s:.3f} (seconds since epoch), {started}]\n"
            '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n'
        )
        file.flush()

    def write(self, second: int, tagged: Mapping[str, Histogram]) -> None:
        """Append the histograms of one second, counted from the start of the log; maxima are in ms."""
        for tag, histogram in tagged.items():
            if histogram.count:
                largest_ms = histogram.largest_us / 1000
                self._file.write(
                    f"Tag={tag},{second:.3f},1.000,{largest_ms:.3f},{histogram.encode().decode()}\n"
                )
        self._file.flush()
