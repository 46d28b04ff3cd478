from pathlib import Path

import numpy as np
import pytest

from analysis.histograms import Histogram, Intervals, bucket_low_us, carries, needed_for, together
from analysis.hlog import read_hlog
from locustfiles.engine.histogram import Histogram as Recorded
from tests.analysis.folders import TrialSpec, exact, hlog_text


def of(values_ms: list[float]) -> Histogram:
    """The histogram of values as the recorder would keep it."""
    us = np.array(values_ms) * 1000
    bucket = np.searchsorted(bucket_low_us(), us, side="right") - 1
    return Histogram(np.bincount(bucket, minlength=len(bucket_low_us()) - 1), max(values_ms, default=0.0))


def intervals(*seconds: tuple[float, list[float]]) -> Intervals:
    """Intervals that start at the given seconds and hold the given latencies in ms."""
    parts = []
    for start, values in seconds:
        counts = of(values).counts
        bucket = np.flatnonzero(counts)
        row = np.zeros(len(bucket), dtype=np.int64)
        parts.append(Intervals(np.array([start]), np.array([max(values)]), row, bucket, counts[bucket]))
    return together(parts)


class TestAQuantile:
    @pytest.mark.parametrize(
        ("q", "expected"),
        [(0.0, 0.1), (0.1, 0.1), (0.5, 0.5), (0.51, 0.6), (0.9, 0.9), (0.95, 1.0), (1.0, 1.0)],
    )
    def test_is_the_smallest_value_that_q_of_all_do_not_exceed(self, q: float, expected: float) -> None:
        ten = of([0.1 * i for i in range(1, 11)])
        assert ten.quantile_ms(q) == pytest.approx(expected)

    def test_is_within_half_a_bucket_of_the_value_recorded(self) -> None:
        values = np.random.default_rng(1).lognormal(3, 2, 10_000).clip(0.01, 50_000)
        histogram = of(values.tolist())
        for q in (0.5, 0.9, 0.99, 0.999):
            true = np.quantile(values, q, method="inverted_cdf")
            assert histogram.quantile_ms(q) == pytest.approx(true, rel=0.0005, abs=0.0011)

    def test_never_exceeds_the_largest_value(self) -> None:
        assert of([1805.4]).quantile_ms(0.99) == 1805.4

    def test_of_nothing_is_none(self) -> None:
        empty = Histogram.empty()
        assert (empty.quantile_ms(0.5), empty.mean_ms(), empty.max_ms()) == (None, None, None)

    def test_agrees_with_what_the_engine_writes_into_summary_json(self) -> None:
        us = (np.random.default_rng(2).lognormal(3, 1, 5_000) * 1000).astype(np.int64)
        recorded = Recorded()
        recorded.add(us)
        histogram = of((us / 1000).tolist())
        theirs = recorded.percentiles_ms()
        assert histogram.quantile_ms(0.95) == pytest.approx(theirs["p95"], abs=1e-4)
        assert histogram.quantile_ms(0.999) == pytest.approx(theirs["p99.9"], abs=1e-4)
        assert histogram.mean_ms() == pytest.approx(theirs["mean"], abs=1e-3)
        assert histogram.max_ms() == theirs["max"]


class TestASample:
    @pytest.mark.parametrize(
        ("total", "q", "carried"),
        [(199, 0.95, False), (200, 0.95, True), (999, 0.99, False), (1000, 0.99, True), (9_999, 0.999, False),
         (10_000, 0.999, True), (20, 0.5, True), (0, 0.5, False)],
    )  # fmt: skip
    def test_carries_a_quantile_that_ten_requests_lie_beyond(
        self, total: int, q: float, carried: bool
    ) -> None:
        assert carries(total, q) is carried

    @pytest.mark.parametrize(("q", "needed"), [(0.5, 20), (0.95, 200), (0.99, 1000), (0.999, 10_000)])
    def test_needs_so_many_requests(self, q: float, needed: int) -> None:
        assert needed_for(q) == needed

    def test_of_59_bounds_its_p95_at_95_percent_confidence_and_one_of_58_does_not(self) -> None:
        # 0.95 ** 59 = 0.0485: the chance that all of 59 lie below the true p95
        assert of([10.0] * 58 + [20.0]).bounds_ms(0.95, 0.95)[1] == pytest.approx(20.0)
        assert of([10.0] * 57 + [20.0]).bounds_ms(0.95, 0.95)[1] is None
        assert Histogram.empty().bounds_ms(0.95, 0.95) == (None, None)

    def test_of_two_may_bound_a_percentile_from_below(self) -> None:
        # 0.05 ** 2 = 0.0025: the chance that both lie above the true p95, as 0.5 ** 2 above the true median
        assert of([10.0, 10.0]).bounds_ms(0.95, 0.95)[0] == pytest.approx(10.0)
        assert of([10.0, 10.0]).bounds_ms(0.5, 0.95)[0] is None
        assert of([float(i) for i in range(1, 21)]).bounds_ms(0.95, 0.95)[0] == pytest.approx(17.0)


class TestMerging:
    def test_loses_nothing(self) -> None:
        rng = np.random.default_rng(3)
        one, two = rng.lognormal(3, 1, 500).tolist(), rng.lognormal(4, 1, 700).tolist()
        both = together([intervals((0, one)), intervals((7, two))]).merged()
        assert np.array_equal(both.counts, of(one + two).counts)
        assert (both.total, both.max_ms()) == (1200, max(one + two))

    def test_of_trials_puts_them_on_one_axis(self) -> None:
        both = together([intervals((0, [1.0]), (2, [3.0])), intervals((0, [2.0, 2.0]))])
        assert both.binned().totals.tolist() == [3, 0, 1]
        assert together([]).merged().total == 0


class TestBins:
    def test_hold_every_value_of_their_seconds(self) -> None:
        some = intervals((0, [1.0]), (1, [2.0, 4.0]), (3, [8.0]))
        assert some.binned(2).totals.tolist() == [3, 1]
        assert some.binned(2).quantiles_ms(1.0).tolist() == pytest.approx([4.0, 8.0])

    def test_without_values_have_no_quantile(self) -> None:
        gap = intervals((0, [1.0]), (2, [3.0])).binned()
        assert np.isnan(gap.quantiles_ms(0.5)).tolist() == [False, True, False]

    def test_quantiles_are_those_of_each_bin_alone(self) -> None:
        rng = np.random.default_rng(4)
        seconds = [(float(s), rng.lognormal(3, 1, 40).tolist()) for s in range(5)]
        found = intervals(*seconds).binned().quantiles_ms(0.9)
        assert found.tolist() == pytest.approx([of(values).quantile_ms(0.9) for _, values in seconds])


def test_a_frozen_server_shows_its_tail_as_theory_has_it(tmp_path: Path) -> None:
    """100/s for 20 s, frozen from 10 s to 12 s: the freeze's 200 arrivals wait 2,000 ms down to 10 ms."""
    frozen = [2000.0 - 10 * i + 1 for i in range(200)]
    seconds = exact([1.0] * 100, 18)
    seconds.insert(12, np.array(frozen))
    (tmp_path / "latency.hlog").write_text(hlog_text(TrialSpec(seconds)))
    problems: list[str] = []
    latency = read_hlog(tmp_path / "latency.hlog", "latency.hlog", problems).tag("latency").merged()
    assert problems == []
    assert latency.total == 2000
    assert latency.quantile_ms(0.95) == pytest.approx(1005, rel=0.01)
    assert latency.quantile_ms(0.99) == pytest.approx(1805, rel=0.01)
