import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.uncertainty import (
    SINGLE_TRIAL_MARGIN,
    Contrast,
    Estimate,
    Spread,
    contrast,
    differences,
    estimates,
    interval_ms,
    pool,
    welch,
)
from tests.analysis.simulated import Kind, autocorrelated, heavy_tailed, intervals

QUEUE = Kind(autocorrelated(0.6))


def measured(rng: np.random.Generator, times: float, trials: int, spread: float) -> Estimate:
    """p95 of so many trials, each of which settles at its own level."""
    kind = Kind(autocorrelated(0.6), spread)
    return estimates([kind.trial(rng, 20, 20, times) for _ in range(trials)], [0.95])[0]


def told(merged: float, *trials: float, within: float = 0.005, free: float = 10) -> Estimate:
    return Estimate(merged, np.array(trials), Spread.even(within, free))


class TestTheIntervalWithinATrial:
    def test_is_narrower_with_more_seconds(self) -> None:
        rng = np.random.default_rng(2)
        short, long = (estimates([QUEUE.trial(rng, s, 20)], [0.5])[0].within for s in (20, 320))
        assert short is not None
        assert long is not None
        assert long.below + long.above < 0.6 * (short.below + short.above)
        assert long.free > 3 * short.free

    def test_is_wider_where_seconds_depend_on_each_other(self) -> None:
        rng = np.random.default_rng(3)
        shuffled = []
        kept = QUEUE.trial(rng, 600, 50)
        order = rng.permutation(600)
        shuffled = replace(kept, row=order[kept.row])
        errors = [estimates([one], [0.5])[0].within for one in (kept, shuffled)]
        assert errors[0] is not None
        assert errors[1] is not None
        assert errors[0].below > 1.3 * errors[1].below

    def test_of_independent_requests_is_that_of_the_binomial_law(self) -> None:
        rng = np.random.default_rng(4)
        found = [estimates([Kind(heavy_tailed).trial(rng, 100, 100)], [0.95])[0] for _ in range(100)]
        # a Pareto's quantile moves by 1 / (2.5 (1 - q)) for each unit of q
        theory = math.sqrt(0.95 * 0.05 / 10_000) / (2.5 * 0.05)
        errors = [(one.within.below + one.within.above) / 2 for one in found if one.within]
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(theory, rel=0.15)

    def test_leans_to_the_side_on_which_values_lie_further(self) -> None:
        rng = np.random.default_rng(5)
        (one,) = estimates([Kind(heavy_tailed).trial(rng, 60, 50)], [0.99])
        assert one.within is not None
        assert one.within.above > 1.2 * one.within.below

    def test_is_given_whatever_its_width_and_ends_with_the_sample(self) -> None:
        rng = np.random.default_rng(12)
        found = [estimates([QUEUE.trial(rng, 30, 50)], [0.99])[0] for _ in range(50)]
        assert all(interval_ms(one, None) for one in found)

    @pytest.mark.parametrize("q", [0.5, 0.999])
    def test_is_not_known_of_four_seconds_or_beyond_the_largest_value(self, q: float) -> None:
        rng = np.random.default_rng(6)
        (one,) = estimates([QUEUE.trial(rng, 4 if q == 0.5 else 40, 20)], [q])
        assert one.within is None
        assert interval_ms(one, None) is None
        difference = differences([one, one])[0, 1]
        assert not difference.shown
        assert difference.rests_on == "nothing: too few seconds or trials to tell"

    def test_of_a_day_takes_no_more_pieces_than_of_ten_minutes(self) -> None:
        rng = np.random.default_rng(7)
        short = QUEUE.trial(rng, 20, 20)
        day = replace(short, start_s=short.start_s * 4320)
        (one,) = estimates([day], [0.5])
        assert one.within is None or one.within.free <= 0.35 * 600 ** (2 / 3) + 1

    def test_of_values_that_are_all_the_same_is_a_bucket_wide(self) -> None:
        second = np.repeat(np.arange(10), 50)
        (one,) = estimates([intervals(np.full(500, 10.0), second, 10)], [0.5])
        low, high = interval_ms(one, None) or (0, 0)
        assert 9.99 < low < 10.0 < high < 10.01 + 0.01


class TestTwoBackendsThatDiffer:
    def test_by_half_are_told_apart_with_two_trials(self) -> None:
        rng = np.random.default_rng(5)
        found = [
            differences([measured(rng, 1.0, 2, 0.02), measured(rng, 1.5, 2, 0.02)])[0, 1] for _ in range(20)
        ]
        assert sum(one.shown for one in found) >= 18
        assert np.median([one.ratio for one in found]) == pytest.approx(1.5, rel=0.05)

    def test_by_a_fifth_are_told_apart_with_five_trials(self) -> None:
        rng = np.random.default_rng(6)
        found = [
            differences([measured(rng, 1.0, 5, 0.02), measured(rng, 1.2, 5, 0.02)])[0, 1] for _ in range(20)
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

    def test_of_two_trials_that_agree_by_chance_is_not_taken_for_certain(self) -> None:
        one = told(100.0, 99.99, 100.01, within=0.01)
        low, high = interval_ms(one, pool([one])) or (0, 0)
        assert (math.log(high / 100), math.log(100 / low)) == pytest.approx((0.01, 0.01))

    def test_of_two_trials_is_theirs_however_much_is_known_within_them(self) -> None:
        from scipy.stats import t

        one = told(100.0, 99.0, 101.0, within=0.012, free=1000)
        _, high = interval_ms(one, pool([one])) or (0, 0)
        error = np.log([99.0, 101.0]).std(ddof=1) / math.sqrt(2)
        assert math.log(high / 100) == pytest.approx(t.ppf(0.975, 1) * error)

    def test_of_calm_neighbours_does_not_calm_a_wild_one(self) -> None:
        wild, alone = told(100.0, 99.0, 101.0, within=0.05), told(100.0, 100.0, within=0.05)
        calm = [told(100.0, 99.0, 101.0) for _ in range(5)]
        borrowed, own = (interval_ms(one, pool(family)) for one, family in ((wild, calm), (alone, [])))
        assert borrowed == pytest.approx(own)

    def test_holds_over_more_comparisons_by_being_wider(self) -> None:
        pair = [told(100.0, 95.0, 105.0), told(130.0, 125.0, 135.0)]
        one, ten = differences(pair)[0, 1], differences(pair, comparisons=10)[0, 1]
        assert ten.low < one.low < one.high < ten.high


class TestAPValue:
    def test_is_that_of_a_t_test(self) -> None:
        from scipy.stats import ttest_ind

        rng = np.random.default_rng(8)
        first, second = rng.lognormal(3, 0.05, 6), rng.lognormal(3.04, 0.05, 7)
        means = [float(np.exp(np.log(one).mean())) for one in (first, second)]
        pair = [Estimate(mean, one, None) for mean, one in zip(means, (first, second), strict=True)]
        theirs = ttest_ind(np.log(first), np.log(second), equal_var=False).pvalue
        assert contrast(*pair, pool(pair)).p_differs() == pytest.approx(theirs, rel=1e-9)

    def test_of_equivalence_is_that_of_two_one_sided_tests(self) -> None:
        from statsmodels.stats.weightstats import ttost_ind

        rng = np.random.default_rng(9)
        first, second = rng.normal(3, 0.02, 6), rng.normal(3.01, 0.02, 6)
        pair = [Estimate(float(np.exp(one.mean())), np.exp(one), None) for one in (first, second)]
        margin = math.log(1.05)
        theirs, _, _ = ttost_ind(second, first, -margin, margin, usevar="unequal")
        assert contrast(*pair, pool(pair)).p_equivalent(margin) == pytest.approx(theirs, rel=1e-9)

    def test_agrees_with_the_interval(self) -> None:
        for spread in (Spread.even(0.1, 4), Spread(0.05, 0.2, 3)):
            low, _ = Contrast(0.3, spread).interval(0.95) or (0, 0)
            assert 2 * Contrast(0.3, spread).p_one_sided(low) == pytest.approx(0.05)

    def test_of_nothing_known_is_one(self) -> None:
        unknown = Contrast(0.3, None)
        assert (unknown.p_differs(), unknown.p_equivalent(0.5)) == (1.0, 0.5)

    def test_of_equivalence_is_one_beyond_the_margin(self) -> None:
        assert Contrast(0.06, Spread.even(0.001, 8)).p_equivalent(0.05) == 1.0


@pytest.mark.parametrize("trials", [(5, 5), (5, 9)])
def test_welchs_error_is_that_of_scipy(trials: tuple[int, int]) -> None:
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(1)
    first, second = rng.normal(3, 0.1, trials[0]), rng.normal(3.2, 0.4, trials[1])
    theirs = ttest_ind(first, second, equal_var=False).confidence_interval(0.99)
    ours = welch(first, second)
    assert ours is not None
    assert ours.half(0.99)[0] == pytest.approx((theirs.high - theirs.low) / 2, rel=1e-9)
    assert welch(np.ones(5), np.ones(5)) is None
