"""Rises of an error rate: shown over trials and requests alike, and however often one looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest

from analysis.error_rates import Rise, rise
from analysis.metrics import Cell
from analysis.runfolder import Counts, Summary, Trial, TrialEntry


@dataclass(frozen=True)
class Side:
    """As much of a cell as its error rate is made of."""

    trials: list[Trial]


def side(*failed: int, requests: int = 500) -> Cell:
    trials = []
    for n, lost in enumerate(failed):
        entry = TrialEntry(backend="a", scenario="b", trial=n, path=f"a/b/{n}")
        counts = Counts(planned=requests, sent=requests, completed=requests - lost, failed=lost, dropped=0)
        trials.append(Trial(entry, "a/b", Summary(counts=counts, duration_s=10)))
    return cast(Cell, Side(trials))


def risen(before: Cell, after: Cell, sequential: bool = False) -> Rise:
    found = rise(before, after, sequential)
    assert found is not None
    return found


class TestARise:
    def test_in_one_trial_of_five_is_not_shown(self) -> None:
        found = risen(side(0, 0, 0, 0, 0), side(40, 0, 0, 0, 0))
        assert found.p == pytest.approx(0.187, abs=0.001)  # t is 1 on 4 degrees of freedom
        assert found.low is not None
        assert found.low < 0 < found.difference

    def test_in_every_trial_is_shown_by_the_requests(self) -> None:
        from scipy.stats import fisher_exact

        found = risen(side(0, 0, 0), side(20, 20, 20))
        assert found.p == pytest.approx(fisher_exact([[60, 1440], [0, 1500]], alternative="greater").pvalue)

    def test_that_spreads_over_the_trials_is_shown_by_them(self) -> None:
        from scipy.stats import ttest_ind

        before, after = [1, 0, 2], [30, 45, 38]
        found = risen(side(*before), side(*after))
        welch = ttest_ind(after, before, equal_var=False, alternative="greater")
        assert found.p == pytest.approx(welch.pvalue)

    def test_of_single_trials_is_one_of_requests(self) -> None:
        assert (risen(side(0), side(40)).p or 1) < 1e-6

    def test_that_is_a_fall_is_none(self) -> None:
        found = risen(side(20, 21, 22), side(0, 0, 0))
        assert (found.p, found.tells) == (1.0, True)

    def test_of_nothing_at_all_tells_nothing(self) -> None:
        found = risen(side(0, 0), side(0, 0))
        assert (found.difference, found.p, found.tells) == (0.0, 1.0, False)
        assert rise(side(0), side(0, requests=0)) is None


class TestLookedAtAfterEveryTrial:
    @pytest.mark.parametrize(
        ("before", "after", "shown"),
        [
            ((0, 0, 0, 0, 0), (500, 500, 500, 500, 500), True),
            ((0, 0, 0, 0, 0), (50, 50, 50, 50, 50), True),
            ((0, 0, 0, 0, 0), (40, 0, 0, 0, 0), False),
            ((50, 50, 50, 50, 50), (0, 0, 0, 0, 0), False),
        ],
    )
    def test_is_shown_where_the_trials_agree(
        self, before: tuple[int, ...], after: tuple[int, ...], shown: bool
    ) -> None:
        found = risen(side(*before), side(*after), sequential=True)
        assert found.p is not None
        assert (found.p <= 0.05) is shown

    def test_has_no_answer_of_a_single_trial(self) -> None:
        found = risen(side(0), side(500), sequential=True)
        assert (found.p, found.low, found.high) == (None, None, None)

    def test_errs_in_less_than_5_percent_of_experiments(self) -> None:
        """Bursts: a trial in four loses a share of its own, on both sides alike."""
        rng = np.random.default_rng(3)
        wrong = 0
        for _ in range(200):
            lost = rng.binomial(
                500, np.where(rng.random((2, 12)) < 0.25, rng.uniform(0.0, 0.2, (2, 12)), 0.001)
            )
            looks = (risen(side(*lost[0, :n]), side(*lost[1, :n]), True).p for n in range(2, 13))
            wrong += min(p for p in looks if p is not None) <= 0.05
        assert wrong <= 10


def test_bursts_are_called_a_rise_in_less_than_5_percent_of_experiments() -> None:
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(300):
        lost = rng.binomial(500, np.where(rng.random((2, 5)) < 0.25, rng.uniform(0.0, 0.2, (2, 5)), 0.001))
        wrong += (risen(side(*lost[0]), side(*lost[1])).p or 1) <= 0.05
    assert wrong <= 15
