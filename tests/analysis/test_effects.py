from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis import effects
from analysis.compare import Comparison, compare
from analysis.effects import decide, effect, holm
from analysis.sequential import Look
from analysis.uncertainty import Estimate, Spread
from tests.analysis.folders import TrialSpec, write_run

SPREAD = 0.01
"""How far trials of one server lie apart: about what a quiet machine shows."""


def server(folder: Path, times: float, seed: int, trials: int = 5) -> Path:
    """A run of 30 s trials at 60/s; each trial settles at a level of its own."""
    rng = np.random.default_rng(seed)
    levels = 40 * times * np.exp(rng.normal(0, SPREAD, trials))
    specs = [
        TrialSpec([rng.lognormal(np.log(level), 0.2, 60) for _ in range(30)], trial=n)
        for n, level in enumerate(levels, 1)
    ]
    return write_run(folder, specs)


def told(merged: float, *trials: float) -> Estimate:
    return Estimate(merged, np.array(trials), Spread.even(0.002, 20))


def verdict(found: Comparison, metric: str = "p95") -> str:
    return next(row.verdict for row in found.rows if row.metric == metric)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[float, list[Comparison]]:
    folder = tmp_path_factory.mktemp("runs")
    base = [server(folder / f"base{i}", 1.0, i) for i in range(4)]
    return {
        times: [
            compare([one], [server(folder / f"{times}-{i}", times, 100 + i)]) for i, one in enumerate(base)
        ]
        for times in (1.0, 1.01, 1.1)
    }


class TestAServerWithFiveTrialsOfHalfAMinute:
    def test_made_10_percent_slower_is_found_slower(self, pairs: dict[float, list[Comparison]]) -> None:
        for found in pairs[1.1]:
            assert verdict(found) == "slower"
            assert found.regressions
            row = next(row for row in found.rows if row.metric == "p95")
            assert row.low is not None
            assert row.high is not None
            assert row.low < 1.1 < row.high

    def test_made_1_percent_slower_is_equivalent_within_5(self, pairs: dict[float, list[Comparison]]) -> None:
        assert [verdict(found) for found in pairs[1.01]] == ["equivalent"] * 4
        assert all(not found.regressions for found in pairs[1.01])

    def test_that_is_the_same_is_neither_faster_nor_slower(
        self, pairs: dict[float, list[Comparison]]
    ) -> None:
        verdicts = {row.verdict for found in pairs[1.0] for row in found.rows}
        assert verdicts <= {"equivalent", "not shown"}


class TestTheDecision:
    def test_is_equivalent_where_a_difference_is_shown_that_does_not_matter(self) -> None:
        near = effect(told(100, 99.9, 100, 100.1, 100, 100), told(102, 101.9, 102, 102.1, 102, 102), 0.05)
        ((found, p, p_equivalent),) = decide([near])
        assert found == "equivalent"
        assert p is not None
        assert p < 0.001
        assert p_equivalent is not None
        assert p_equivalent < 0.001

    def test_takes_more_of_one_metric_among_several(self) -> None:
        some = effect(told(100, 97, 98, 100, 102, 103), told(104.5, 102, 103, 104, 106, 107), 0.001)
        none = effect(told(100, 97, 98, 100, 102, 103), told(100, 97, 98, 100, 102, 103), 0.001)
        assert some.p is not None
        assert 0.0167 < some.p < 0.05
        assert [found for found, _, _ in decide([some])] == ["slower"]
        assert next(found for found, _, _ in decide([some, none, none])) == "not shown"

    def test_on_single_trials_has_no_p_value_and_needs_the_margin(self) -> None:
        far, near = (effect(told(100, 100), told(value, value), 0.05) for value in (150, 110))
        assert [found for found, _, _ in decide([far, near])] == ["slower", "not shown"]
        assert (far.p, far.cohen_d, far.power, far.settle) == (None, None, None, None)

    def test_of_a_sequence_is_never_made_on_single_trials(self) -> None:
        far = effect(told(100, 100), told(150, 150), 0.05, sequential=True)
        assert [found for found, _, _ in decide([far])] == ["not shown"]
        assert (far.low, far.high) == (None, None)

    def test_on_single_trials_is_harder_to_make_among_many(self) -> None:
        """The interval of 1.25 at 95 % lies beyond the margin of 1.2, that for one of 66 does not."""
        first, second = (Estimate(ms, np.array([ms]), Spread.even(0.01, 20)) for ms in (100.0, 125.0))
        alone, among = (effect(first, second, 0.05, metrics=tests) for tests in (1, 66))
        assert (alone.shown, among.shown) == (True, False)
        assert (alone.low, alone.high) == (among.low, among.high)

    def test_shares_the_5_percent_with_p_values_beside_it(self) -> None:
        some = effect(told(100, 97, 98, 100, 102, 103), told(104.5, 102, 103, 104, 106, 107), 0.001)
        assert decide([some])[0][0] == "slower"
        assert decide([some], [1.0, 1.0])[0][0] == "not shown"

    def test_of_a_sequence_has_the_ratio_that_its_interval_is_around(self) -> None:
        """All requests together may be moved by one slow trial; the test is on the trials' means."""
        trials = ((100, 101, 99, 100, 100, 101), (100, 101, 99, 100, 101, 100))
        found = effect(told(100, *trials[0]), told(150, *trials[1]), 0.05, sequential=True)
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.ratio < found.high

    def test_is_corrected_as_statsmodels_does_and_passes_over_what_is_not_known(self) -> None:
        assert holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
        assert holm([None]) == [None]


class TestTheSizes:
    base = told(100, 97, 99, 100, 101, 103)
    new = told(110, 106, 109, 110, 112, 114)

    def test_have_hodges_lehmanns_interval_that_the_exact_test_does_not_reject(self) -> None:
        from scipy.stats import mannwhitneyu

        found = effect(self.base, self.new, 0.05)
        assert found.hodges_lehmann == pytest.approx(1.10, abs=0.005)
        low, high = found.hodges_lehmann_low, found.hodges_lehmann_high
        assert low is not None
        assert high is not None
        new, base = np.log(self.new.trials_ms), np.log(self.base.trials_ms)
        for shift, rejected in ((low * 1.000001, False), (low * 0.999999, True), (high * 1.000001, True)):
            p = mannwhitneyu(new - np.log(shift), base, method="exact").pvalue
            assert (p <= 0.05) == rejected

    def test_have_cohens_d_in_units_of_the_spread_between_trials(self) -> None:
        found = effect(self.base, self.new, 0.05)
        logs = [np.log(one.trials_ms) for one in (self.base, self.new)]
        spread = np.sqrt((logs[0].var(ddof=1) + logs[1].var(ddof=1)) / 2)
        assert found.cohen_d == pytest.approx(np.log(1.1) / spread, rel=1e-6)

    def test_have_the_share_of_pairs_in_which_the_new_one_is_slower(self) -> None:
        assert effect(self.base, self.new, 0.05).superiority == 1.0
        assert effect(self.base, self.base, 0.05).superiority == 0.5

    @pytest.mark.parametrize("spread", [0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.012, 0.015])
    def test_have_a_power_that_grows_to_1_as_the_spread_shrinks(self, spread: float) -> None:
        logs = np.random.default_rng(3).normal(0, spread, 5)
        one = told(100, *(100 * np.exp(logs - logs.mean())))
        power = effect(one, one, 0.05, metrics=3).power
        assert power is not None
        assert 0.5 < power <= 1

    @pytest.mark.parametrize("tests", range(1, 13))
    def test_have_a_power_of_practically_1_where_the_law_overflows(self, tests: int) -> None:
        """A margin of 20 % is far more than a spread of 1 %: at 49 trials of each the law says NaN."""
        powers = [effects._power(0.01, trials, trials, 0.2, 0.05 / tests) for trials in range(2, 121)]
        assert all(0 < power <= 1 for power in powers)
        assert powers[10:] == pytest.approx([1.0] * len(powers[10:]))

    def test_say_how_likely_the_design_was_to_show_the_margin(self) -> None:
        wide = told(100, 80, 90, 100, 110, 120)
        powers = [effect(one, one, 0.05).power for one in (wide, self.base)]
        assert powers[0] is not None
        assert powers[1] is not None
        assert powers[0] < 0.15 < 0.5 < powers[1]

    def test_reckon_with_the_correction_over_the_metrics(self) -> None:
        close = told(103, 98, 101, 103, 105, 108)
        one, three = (effect(self.base, close, 0.05, metrics=metrics) for metrics in (1, 3))
        assert one.power is not None
        assert three.power is not None
        assert three.power < one.power
        assert one.settle is not None
        assert three.settle is not None
        assert three.settle > one.settle

    def test_of_a_sequence_promise_nothing(self) -> None:
        found = effect(self.base, told(103, 98, 101, 103, 105, 108), 0.05, sequential=True)
        assert (found.power, found.settle) == (None, None)

    def test_say_how_many_trials_would_settle_it(self) -> None:
        close = told(103, 98, 101, 103, 105, 108)
        found = effect(self.base, close, 0.05)
        assert found.settle is not None
        assert 5 < found.settle < 100
        assert effect(self.base, told(105, 92, 98, 105, 112, 118), 0.0001).settle is not None
        # a difference as large as the margin is not settled by showing that it is smaller
        assert effect(self.base, told(100.001, 60, 80, 100, 125, 160), 0.001).settle is None


class TestALook:
    def test_has_no_interval_while_everything_is_possible(self) -> None:
        assert Look.of(np.array([1.0]), np.array([2.0, 2.1])) is None
        assert Look.of(np.ones(3), np.ones(3)) is None
        two = Look.of(np.array([1.0, 1.1]), np.array([2.0, 2.1]))
        assert two is not None
        assert two.interval() is None

    def test_agrees_with_its_p_value(self) -> None:
        look = Look(0.2, 0.05, 3.2, 11)
        low, _ = look.interval() or (0.0, 0.0)
        assert 1 / look.evidence(low) == pytest.approx(0.05)

    def test_reaches_as_far_as_its_documentation_says(self) -> None:
        reach = {n: (Look(0.0, 1.0, n / 2, 2 * n - 2).interval() or (0.0, 0.0))[1] for n in (5, 20)}
        assert reach == {5: pytest.approx(4.0, abs=0.05), 20: pytest.approx(3.3, abs=0.05)}

    def test_shows_that_two_are_the_same_within_a_margin(self) -> None:
        assert Look(0.0, 0.005, 5, 18).p_equivalent(0.05) < 0.001
        assert Look(0.06, 0.005, 5, 18).p_equivalent(0.05) == 1.0
        assert Look(0.0, 0.05, 5, 18).p_equivalent(0.05) > 0.05
