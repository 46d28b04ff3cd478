"""Histograms that numpy fills, against the package that records one by one and against exact values."""

from __future__ import annotations

import io
import math
import re
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given
from hypothesis import strategies as st

from locustfiles.engine.histogram import (
    HIGHEST_US,
    LOWEST_US,
    PERCENTILES,
    SIGNIFICANT_DIGITS,
    Histogram,
    IntervalLog,
    Ints,
    bucket_of,
)

MILLION = 1_000_000


def histogram_of(values: Ints | list[int]) -> Histogram:
    histogram = Histogram()
    histogram.add(np.asarray(values, dtype=np.int64))
    return histogram


def recorded_by_hdrh(values: Ints | list[int]) -> HdrHistogram:
    hdr = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
    for value in values:
        hdr.record_value(int(value))
    return hdr


def assert_same(a: HdrHistogram, b: HdrHistogram) -> None:
    assert list(a.counts) == list(b.counts)
    assert (a.total_count, a.min_value, a.max_value) == (b.total_count, b.min_value, b.max_value)


def sample(name: str, n: int, seed: int = 1) -> Ints:
    """Latencies in µs as servers have them."""
    rng = np.random.default_rng(seed)
    slow = rng.random(n) < 0.1
    us = {
        "lognormal": rng.lognormal(math.log(20_000), 1.0, n),
        "bimodal": np.where(slow, rng.normal(900_000, 50_000, n), rng.normal(3_000, 200, n)),
        "heavy tail": 500 * (1 + rng.pareto(1.1, n)),
        "microseconds": rng.exponential(300, n),
    }
    return np.asarray(np.clip(us[name], 1, HIGHEST_US).astype(np.int64))


def nearest_rank(q: float, n: int) -> int:
    """The rank of percentile q among n values: ceil(q n / 100), in exact arithmetic."""
    return math.ceil(Fraction(str(q)) * n / 100)


samples = pytest.mark.parametrize("name", ["lognormal", "bimodal", "heavy tail", "microseconds"])


class TestBuckets:
    def test_are_those_of_hdrh_at_every_magnitude(self) -> None:
        edges = [v for bit in range(26) for v in ((1 << bit) - 1, 1 << bit, (1 << bit) + 1)]
        spread = np.geomspace(1, HIGHEST_US, 20_000).astype(np.int64)
        values = np.concatenate([[0], edges, np.arange(5000), spread, [HIGHEST_US - 1, HIGHEST_US]])
        values = values[values <= HIGHEST_US]
        hdr = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
        assert bucket_of(values).tolist() == [hdr._counts_index_for(int(v)) for v in values]

    @samples
    def test_hold_what_hdrh_would_have_recorded_one_by_one(self, name: str) -> None:
        values = sample(name, 5000)
        assert_same(histogram_of(values).hdr, recorded_by_hdrh(values))

    @given(st.lists(st.integers(0, HIGHEST_US), min_size=1, max_size=50))
    def test_hold_what_hdrh_would_have_recorded_whatever_it_is(self, values: list[int]) -> None:
        assert_same(histogram_of(values).hdr, recorded_by_hdrh(values))

    def test_have_middles_that_lie_in_them(self) -> None:
        values = np.unique(np.geomspace(1, HIGHEST_US, 5000).astype(np.int64))
        middles, counts = histogram_of(values).buckets()
        assert bucket_of(middles).tolist() == np.unique(bucket_of(values)).tolist()
        assert counts.sum() == len(values)

    def test_fill_the_same_in_one_batch_and_in_many(self) -> None:
        values = sample("lognormal", 3000)
        many = Histogram()
        for start in range(0, 3000, 7):
            many.add(values[start : start + 7])
        assert_same(many.hdr, histogram_of(values).hdr)

    def test_take_an_empty_batch(self) -> None:
        assert histogram_of([]).count == 0


class TestPercentiles:
    @samples
    def test_are_within_a_tenth_of_a_percent_of_exact_ones_of_a_million(self, name: str) -> None:
        values = np.sort(sample(name, MILLION))
        measured = histogram_of(values).percentiles_ms()
        for percentile, q in PERCENTILES.items():
            exact_ms = values[nearest_rank(q, MILLION) - 1] / 1000
            assert measured[percentile] == pytest.approx(exact_ms, rel=0.001), percentile
        assert measured["mean"] == pytest.approx(values.mean() / 1000, rel=0.001)
        assert measured["max"] == values.max() / 1000

    @pytest.mark.parametrize("n", [1, 2, 3, 9, 10, 11, 19, 20, 21, 99, 100, 101, 999, 1000, 1001])
    def test_are_the_nearest_rank_however_few_values_there_are(self, n: int) -> None:
        values = np.sort(np.random.default_rng(n).permutation(2000)[:n])  # each in a bucket of its own
        measured = histogram_of(values).percentiles_ms()
        for percentile, q in PERCENTILES.items():
            assert measured[percentile] == values[nearest_rank(q, n) - 1] / 1000, percentile

    def test_are_the_nearest_rank_however_many_values_there_are(self) -> None:
        index, counts = np.array([5, 7], dtype=np.int64), np.array([999 * 10**8, 10**8], dtype=np.uint64)
        histogram = Histogram.from_message((index.tobytes(), counts.tobytes(), 5, 7, 0))
        assert histogram.percentiles_ms()["p99.9"] == 0.005
        histogram.add(np.array([7]))
        assert histogram.percentiles_ms()["p99.9"] == 0.007

    def test_are_none_when_there_is_no_value(self) -> None:
        assert Histogram().percentiles_ms() == dict.fromkeys(["mean", *PERCENTILES, "max"])

    def test_never_exceed_the_largest_value(self) -> None:
        for value in (2048, 3_000_000, 59_999_999):
            measured = histogram_of([value]).percentiles_ms()
            assert measured["p99.9"] == pytest.approx(value / 1000, rel=0.0005)
            assert measured["p99.9"] <= value / 1000  # type: ignore[operator]

    def test_of_no_time_at_all_are_zero(self) -> None:
        assert set(histogram_of([0, 0]).percentiles_ms().values()) == {0.0}


class TestValuesOutOfRange:
    def test_are_counted_where_they_are_too_large(self) -> None:
        histogram = histogram_of([5, HIGHEST_US, HIGHEST_US + 1, 10 * HIGHEST_US])
        assert (histogram.count, histogram.clamped) == (4, 2)
        assert histogram.percentiles_ms()["max"] == HIGHEST_US / 1000
        assert histogram.hdr.counts[int(bucket_of(np.array([HIGHEST_US]))[0])] == 3

    def test_count_as_nothing_where_they_are_negative(self) -> None:
        histogram = histogram_of([-3, 7])
        assert (histogram.count, histogram.clamped, histogram.smallest_us) == (2, 0, 0)


class TestMerging:
    @samples
    def test_of_four_workers_gives_the_histogram_of_all_values(self, name: str) -> None:
        values = sample(name, MILLION)
        workers = [histogram_of(values[k::4]) for k in range(4)]
        merged = Histogram()
        for worker in workers:
            merged.merge(worker)
        one = histogram_of(values)
        assert_same(merged.hdr, one.hdr)
        assert merged.percentiles_ms() == one.percentiles_ms()

    def test_adds_up_what_was_clamped(self) -> None:
        a, b = histogram_of([HIGHEST_US + 1]), histogram_of([HIGHEST_US + 1, 1])
        a.merge(b)
        assert (a.count, a.clamped) == (3, 2)

    def test_with_nothing_changes_nothing(self) -> None:
        a = histogram_of([1, 5000])
        a.merge(Histogram())
        assert_same(a.hdr, recorded_by_hdrh([1, 5000]))

    def test_leaves_the_other_histogram_as_it_was(self) -> None:
        a, b = histogram_of([1]), histogram_of([2])
        a.merge(b)
        a.add(np.array([2]))
        assert_same(b.hdr, recorded_by_hdrh([2]))


class TestMessages:
    @samples
    def test_carry_a_histogram_without_loss(self, name: str) -> None:
        sent = histogram_of(np.append(sample(name, 10_000), HIGHEST_US + 1))
        received = Histogram.from_message(msgpack.unpackb(msgpack.packb(sent.to_message())))
        assert_same(received.hdr, sent.hdr)
        assert received.clamped == 1
        assert received.percentiles_ms() == sent.percentiles_ms()

    def test_carry_an_empty_histogram(self) -> None:
        received = Histogram.from_message(msgpack.unpackb(msgpack.packb(Histogram().to_message())))
        assert (received.count, received.clamped) == (0, 0)
        received.add(np.array([5]))
        assert_same(received.hdr, recorded_by_hdrh([5]))

    def test_can_be_merged_at_the_other_end(self) -> None:
        values = sample("bimodal", 4000)
        merged = Histogram()
        for k in range(4):
            merged.merge(Histogram.from_message(histogram_of(values[k::4]).to_message()))
        assert_same(merged.hdr, histogram_of(values).hdr)

    @samples
    def test_are_encoded_for_the_log_as_hdrh_does_it_without_loss(self, name: str) -> None:
        values = sample(name, 2000)
        histogram = histogram_of(values)
        assert histogram.encode() == recorded_by_hdrh(values).encode()
        decoded = HdrHistogram.decode(histogram.encode())
        assert list(decoded.counts) == list(histogram.hdr.counts)
        assert decoded.total_count == 2000


STARTED = 1_795_272_000.125


class TestIntervalLog:
    def write(self, path: Path) -> None:
        with path.open("w") as file:
            log = IntervalLog(file, STARTED, "values in microseconds")
            log.write(0, {"latency": histogram_of([1500, 2500]), "service": histogram_of([1400])})
            log.write(2, {"latency": histogram_of([70_000_000]), "service": Histogram()})

    def test_is_read_back_by_hdrh_with_tags_and_times(self, tmp_path: Path) -> None:
        path = tmp_path / "latency.hlog"
        self.write(path)
        reader = HistogramLogReader(str(path), HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS))
        read = []
        while (hdr := reader.get_next_interval_histogram()) is not None:
            start, end = hdr.get_start_time_stamp() / 1000, hdr.get_end_time_stamp() / 1000
            read.append((hdr.get_tag(), start - STARTED, end - STARTED, hdr.get_total_count()))
        reader.input_file.close()
        assert reader.get_start_time_sec() == STARTED
        assert read == [
            ("latency", pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3), 2),
            ("service", pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3), 1),
            ("latency", pytest.approx(2, abs=1e-3), pytest.approx(3, abs=1e-3), 1),
        ]

    def test_has_the_lines_of_format_1_3_as_the_java_tools_write_them(self, tmp_path: Path) -> None:
        path = tmp_path / "latency.hlog"
        self.write(path)
        comment, version, start, legend, *lines = path.read_text().splitlines()
        utc = datetime.fromtimestamp(STARTED, UTC).strftime("%Y-%m-%d %H:%M:%S.125+00:00")
        assert comment == "#[values in microseconds]"
        assert version == "#[Histogram log format version 1.3]"
        assert start == f"#[StartTime: {STARTED:.3f} (seconds since epoch), {utc}]"
        assert legend == ('"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"')
        assert all(
            re.fullmatch(r"Tag=\w+,\d+\.\d{3},1\.000,\d+\.\d{3},HIST[A-Za-z0-9+/]+=*", x) for x in lines
        )

    def test_gives_maxima_in_milliseconds(self, tmp_path: Path) -> None:
        path = tmp_path / "latency.hlog"
        self.write(path)
        maxima = [line.split(",")[3] for line in path.read_text().splitlines() if line.startswith("Tag")]
        assert maxima == ["2.500", "1.400", "60000.000"]

    def test_is_flushed_at_each_second_so_that_a_crash_leaves_it_readable(self) -> None:
        class Flushed(io.StringIO):
            seen = ""

            def flush(self) -> None:
                Flushed.seen = self.getvalue()

        file = Flushed()
        log = IntervalLog(file, STARTED, "x")
        assert Flushed.seen.endswith('Histogram"\n')
        log.write(0, {"latency": histogram_of([1])})
        assert Flushed.seen == file.getvalue()
        assert Flushed.seen.endswith("\n")
