"""How often intervals and verdicts are right, over 2,000 simulated experiments each.

The standard error of a rate of 95 % over 2,000 experiments is half a percent, so that 93 to 97 % is four of
them to each side.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from analysis.histograms import Floats
from analysis.sequential import Look
from analysis.uncertainty import Estimate, contrast, estimates, interval_ms, pool
from tests.analysis.simulated import Kind, autocorrelated, bimodal, heavy_tailed

EXPERIMENTS = 2000
QUANTILES = (0.5, 0.95)
LATENCIES = {
    "heavy-tailed": heavy_tailed,
    "bimodal": bimodal,
    "autocorrelated": autocorrelated(0.6),
}
PEEKS = 20
"""Trials of each backend, after every one of which somebody looks."""


@cache
def experiments(latencies: str, trials: int, seconds: int, per_s: float) -> list[list[Estimate]]:
    """What is known of each quantile after each experiment."""
    rng, kind = np.random.default_rng(1), kind_of(latencies, trials)
    return [
        estimates([kind.trial(rng, seconds, per_s) for _ in range(trials)], QUANTILES)
        for _ in range(EXPERIMENTS)
    ]


def kind_of(latencies: str, trials: int) -> Kind:
    """Trials lie 5 % apart where there are several; of a single one it cannot be known."""
    return Kind(LATENCIES[latencies], spread=0.05 if trials > 1 else 0.0)


@pytest.mark.parametrize("latencies", LATENCIES)
@pytest.mark.parametrize(("trials", "seconds", "per_s"), [(1, 60, 50), (5, 20, 20)])
def test_an_interval_covers_the_truth_in_95_of_100(
    latencies: str, trials: int, seconds: int, per_s: float
) -> None:
    for i, q in enumerate(QUANTILES):
        truth = kind_of(latencies, trials).truth_ms(q)
        known = [one[i] for one in experiments(latencies, trials, seconds, per_s)]
        found = [interval_ms(one, pool([one])) or (0.0, math.inf) for one in known]
        covered = np.mean([low <= truth <= high for low, high in found])
        assert 0.93 <= covered <= 0.97, f"p{100 * q:g}"


@pytest.mark.parametrize("latencies", LATENCIES)
def test_two_backends_that_are_the_same_differ_in_any_percentile_in_at_most_5_of_100(latencies: str) -> None:
    known = experiments(latencies, 5, 20, 20)
    wrong = 0
    for one, other in zip(known[::2], known[1::2], strict=True):
        pairs = [list(pair) for pair in zip(one, other, strict=True)]
        # Holm's correction rejects anything only if it rejects the smallest, times their number
        wrong += min(contrast(*pair, pool(pair)).p_differs() for pair in pairs) * len(pairs) <= 0.05
    assert wrong / len(known[::2]) <= 0.05


def trial_quantiles(latencies: str, rng: np.random.Generator, times: float = 1.0) -> Floats:
    """p95 of each trial in each experiment, (experiments, trials), without taking the way over histograms."""
    trials = EXPERIMENTS * PEEKS
    # ten seconds of each trial, and ten between it and the next in which its queue is forgotten
    second = np.add.outer(20 * np.arange(trials), np.repeat(np.arange(10), 10))
    values = LATENCIES[latencies](rng, second.ravel(), 20 * trials).reshape(trials, 100)
    p95 = np.quantile(values, 0.95, axis=1).reshape(EXPERIMENTS, -1)
    return times * p95 * np.exp(rng.normal(0, 0.03, p95.shape))


@pytest.mark.parametrize("latencies", LATENCIES)
class TestLookingAfterEveryTrial:
    def test_calls_a_difference_in_at_most_5_of_100_that_are_the_same(self, latencies: str) -> None:
        rng = np.random.default_rng(2)
        base, new = (trial_quantiles(latencies, rng) for _ in range(2))
        assert np.mean([self.ever_differs(*pair) for pair in zip(base, new, strict=True)]) <= 0.05

    def test_has_the_truth_in_all_intervals_in_at_least_95_of_100(self, latencies: str) -> None:
        rng = np.random.default_rng(3)
        base, new = trial_quantiles(latencies, rng), trial_quantiles(latencies, rng, times=1.1)
        missed = [
            any(not low <= math.log(1.1) <= high for low, high in self.intervals(*pair))
            for pair in zip(base, new, strict=True)
        ]
        assert np.mean(missed) <= 0.05

    @staticmethod
    def intervals(base: Floats, new: Floats) -> list[tuple[float, float]]:
        looks = [Look.of(base[:n], new[:n]) for n in range(2, PEEKS + 1)]
        return [found for look in looks if look and (found := look.interval())]

    def ever_differs(self, base: Floats, new: Floats) -> bool:
        looks = [Look.of(base[:n], new[:n]) for n in range(2, PEEKS + 1)]
        return any(look.p_differs() <= 0.05 for look in looks if look)


def test_looking_after_every_trial_at_what_is_meant_for_one_look_would_go_wrong_often() -> None:
    """The simulation can fail: it is the method that keeps it at 5 %."""
    rng = np.random.default_rng(2)
    base, new = (trial_quantiles("heavy-tailed", rng)[:300] for _ in range(2))

    def p(*values: Floats) -> float:
        pair = [Estimate(float(np.exp(np.log(one).mean())), one, None) for one in values]
        return contrast(*pair, pool(pair)).p_differs()

    wrong = [
        any(p(one[:n], other[:n]) <= 0.05 for n in range(2, PEEKS + 1))
        for one, other in zip(base, new, strict=True)
    ]
    assert np.mean(wrong) > 0.15
