import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.histograms import Floats, Intervals, Ints, bucket_low_us, bucket_middle_ms, together
from analysis.uncertainty import (
    SINGLE_TRIAL_MARGIN,
    Estimate,
    _welch,
    block_seconds,
    differences,
    estimates,
    interval_ms,
    pool,
    resampled_ms,
)


def trial(seconds: list[Floats]) -> Intervals:
    parts = []
    for start, values in enumerate(seconds):
        bucket, count = np.unique(
            np.searchsorted(bucket_low_us(), values * 1000, side="right") - 1, return_counts=True
        )
        row = np.zeros(len(bucket), dtype=np.int64)
        parts.append(Intervals(np.array([float(start)]), np.array([values.max()]), row, bucket, count))
    return together(parts)


def correlated(rng: np.random.Generator, median_ms: float, seconds: int = 60, per_s: int = 20) -> Intervals:
    """Latencies whose level drifts from second to second, as queues do."""
    level, levels = 0.0, []
    for _ in range(seconds):
        level = 0.6 * level + rng.normal(0, 0.08)
        levels.append(level)
    return trial([median_ms * np.exp(one + rng.normal(0, 0.25, per_s)) for one in levels])


def measured(rng: np.random.Generator, median_ms: float, trials: int, spread: float) -> Estimate:
    """p95 of so many trials, each of which settles at its own level."""
    each = [correlated(rng, median_ms * math.exp(rng.normal(0, spread)), seconds=20) for _ in range(trials)]
    return estimates(each, [0.95], rng)[0]


def told(merged: float, *trials: float, within: float = 0.01, blocks: int = 20) -> Estimate:
    return Estimate(merged, np.array(trials), np.full(len(trials), within), blocks * len(trials))


class TestTheIntervalWithinATrial:
    def test_covers_the_truth_of_correlated_latencies(self) -> None:
        rng = np.random.default_rng(1)
        sigma = math.hypot(0.25, 0.08 / math.sqrt(1 - 0.6**2))
        truth = 50 * math.exp(1.6449 * sigma)
        covered = 0
        for _ in range(100):
            (one,) = estimates([correlated(rng, 50.0)], [0.95], rng)
            interval = interval_ms(one, None)
            assert interval is not None
            covered += interval[0] <= truth <= interval[1]
        assert covered >= 84  # about 91 % at this correlation

    def test_is_narrower_with_more_seconds(self) -> None:
        rng = np.random.default_rng(2)
        short, long = (estimates([correlated(rng, 50.0, seconds=s)], [0.5], rng)[0] for s in (20, 320))
        assert long.within[0] < 0.6 * short.within[0]

    def test_needs_five_seconds(self) -> None:
        rng = np.random.default_rng(3)
        (one,) = estimates([correlated(rng, 50.0, seconds=4)], [0.5], rng)
        assert interval_ms(one, None) is None
        difference = differences([one, one])[0, 1]
        assert not difference.shown
        assert difference.rests_on == "nothing: too few seconds or trials to tell"

    def test_of_a_day_takes_no_more_pieces_than_of_ten_minutes(self) -> None:
        rng = np.random.default_rng(7)
        short = correlated(rng, 50.0, seconds=20)
        day = replace(short, start_s=short.start_s * 4320)
        (one,) = estimates([day], [0.5], rng)
        assert one.blocks <= 600 / block_seconds(600) + 1

    def test_has_blocks_that_grow_with_the_trial(self) -> None:
        assert [block_seconds(s) for s in (1, 10, 60, 600)] == [2, 4, 8, 17]


class TestTwoBackendsThatAreTheSame:
    @pytest.mark.parametrize(("trials", "spread"), [(2, 0.05), (3, 0.05), (5, 0.05), (1, 0.05)])
    def test_are_rarely_told_apart(self, trials: int, spread: float) -> None:
        rng = np.random.default_rng(4)
        wrong = sum(
            differences([measured(rng, 50.0, trials, spread) for _ in range(2)])[0, 1].shown
            for _ in range(30)
        )
        assert wrong <= 4  # 1.5 expected at 5 %; more than 4 happens once in 60 tries


class TestTwoBackendsThatDiffer:
    def test_by_half_are_told_apart_with_two_trials(self) -> None:
        rng = np.random.default_rng(5)
        found = [
            differences([measured(rng, 50.0, 2, 0.02), measured(rng, 75.0, 2, 0.02)])[0, 1] for _ in range(20)
        ]
        assert sum(one.shown for one in found) >= 18
        assert np.median([one.ratio for one in found]) == pytest.approx(1.5, rel=0.05)

    def test_by_a_fifth_are_told_apart_with_five_trials(self) -> None:
        rng = np.random.default_rng(6)
        found = [
            differences([measured(rng, 50.0, 5, 0.02), measured(rng, 60.0, 5, 0.02)])[0, 1] for _ in range(20)
        ]
        assert sum(one.shown for one in found) >= 15


class TestASingleTrial:
    def test_shows_only_what_lies_beyond_the_margin(self) -> None:
        base = told(100.0, 100.0)
        assert not differences([base, told(115.0, 115.0)])[0, 1].shown
        assert differences([base, told(140.0, 140.0)])[0, 1].shown
        assert differences([told(140.0, 140.0), base])[0, 1].shown
        assert "less than 20% is not called a difference" in differences([base, base])[0, 1].rests_on
        assert pytest.approx(1.2) == SINGLE_TRIAL_MARGIN

    def test_beside_repeated_ones_borrows_their_spread(self) -> None:
        family = [told(100.0, 99.0, 101.0), told(102.0, 101.0, 103.0), told(150.0, 150.0)]
        found = differences(family)
        assert found[0, 2].shown
        assert found[0, 2].rests_on == "2 and 1 trials"
        assert not found[0, 1].shown


class TestAnIntervalThatSaysNothing:
    def test_is_not_given(self) -> None:
        wild = told(100.0, 10.0, 1000.0)
        assert interval_ms(wild, pool([wild])) is None
        found = differences([wild, told(500.0, 500.0)])[0, 1]
        assert (found.low, found.high, found.shown) == (0.0, math.inf, False)


class TestTheSpreadBetweenTrials:
    def test_is_pooled_over_the_family(self) -> None:
        pooled = pool([told(10.0, 9.0, 11.0), told(20.0, 18.0, 20.0, 22.0), told(5.0, 5.0)])
        assert pooled is not None
        assert pooled.free == 3
        squares = sum(float(np.var(np.log(v)) * len(v)) for v in ([9.0, 11.0], [18.0, 20.0, 22.0]))
        assert pooled.deviation == pytest.approx(math.sqrt(squares / 3))

    def test_decides_where_it_is_wider_than_the_noise_within(self) -> None:
        calm = differences([told(100.0, 100.0, 100.0), told(130.0, 130.0, 130.0)])[0, 1]
        wild = differences([told(100.0, 80.0, 125.0), told(130.0, 104.0, 162.0)])[0, 1]
        assert calm.shown
        assert not wild.shown
        assert wild.high / wild.low > 3 * calm.high / calm.low

    def test_never_makes_equal_trials_look_certain(self) -> None:
        low, high = interval_ms(told(100.0, 100.0, 100.0, 100.0, 100.0, 100.0), pool([])) or (0, 0)
        assert low < 99.5
        assert high > 100.5

    def test_holds_over_more_comparisons_by_being_wider(self) -> None:
        pair = [told(100.0, 95.0, 105.0), told(130.0, 125.0, 135.0)]
        one, ten = differences(pair)[0, 1], differences(pair, comparisons=10)[0, 1]
        assert ten.low < one.low < one.high < ten.high


class TestWhatIsComputedQuickly:
    """Shortcuts give what the plain way gives."""

    def test_a_resampled_quantile_is_that_of_the_joined_seconds(self) -> None:
        measured = correlated(np.random.default_rng(3), 40, seconds=23)
        quick = resampled_ms(measured, [0.01, 0.5, 0.99, 1.0], np.random.default_rng(7), draws=50)
        rng = np.random.default_rng(7)
        block = block_seconds(23)
        whole, rest = rng.integers(23, size=(23 // block, 50)), rng.integers(23, size=(1, 50))
        for draw in range(50):
            seconds = [(first + i) % 23 for first in whole[:, draw] for i in range(block)]
            seconds += [(first + i) % 23 for first in rest[:, draw] for i in range(23 % block)]
            mine = np.sort(np.concatenate([np.repeat(*second_of(measured, s)) for s in seconds]))
            for q, found in zip((0.01, 0.5, 0.99, 1.0), quick[:, draw], strict=True):
                rank = max(1, int(np.ceil(q * len(mine) - 1e-9)))
                assert bucket_middle_ms(mine[rank - 1]) == found

    @pytest.mark.parametrize("trials", [(5, 5), (5, 9)])
    def test_welchs_interval_is_that_of_scipy(self, trials: tuple[int, int]) -> None:
        from scipy.stats import ttest_ind

        rng = np.random.default_rng(1)
        first, second = rng.normal(3, 0.1, trials[0]), rng.normal(3.2, 0.4, trials[1])
        theirs = ttest_ind(first, second, equal_var=False).confidence_interval(0.99)
        assert _welch(first, second, 0.99) == pytest.approx((theirs.high - theirs.low) / 2, rel=1e-9)
        assert math.isnan(_welch(np.ones(5), np.ones(5), 0.99))


def second_of(measured: Intervals, second: int) -> tuple[Ints, Ints]:
    mine = measured.row == second
    return measured.bucket[mine], measured.count[mine]
