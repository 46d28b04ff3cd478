"""Means of two samples: against SciPy, and how often the same law twice is called different."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_ind

from analysis.histograms import Floats
from analysis.means import Sample, mean_difference

Draw = Callable[[np.random.Generator, int], Floats]


def two(first: Floats, second: Floats) -> tuple[Sample, Sample]:
    values, which = np.unique(np.concatenate([first, second]), return_inverse=True)
    counts = [np.bincount(part, minlength=len(values)) for part in np.split(which, [len(first)])]
    return Sample(values, counts[0]), Sample(values, counts[1])


def stalling(rng: np.random.Generator, count: int) -> Floats:
    """One request in a hundred takes two seconds."""
    values = np.where(rng.random(count) < 0.01, 2000.0, 20.0) * rng.lognormal(0, 0.2, count)
    return np.round(values)


def heavy(rng: np.random.Generator, count: int) -> Floats:
    return np.asarray(np.round(20 * (1 + rng.pareto(2.5, count)), 1))


def test_where_they_are_normal_it_is_welchs() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(50, 5, 80).round(1), rng.normal(51, 9, 60).round(1)
    found, theirs = mean_difference(*two(first, second), rng), ttest_ind(second, first, equal_var=False)
    assert found.dealt is None
    assert found.error is not None
    assert (found.p, found.error.free) == (pytest.approx(theirs.pvalue), pytest.approx(theirs.df))
    interval = theirs.confidence_interval(0.9)
    assert found.interval_ms(0.9) == (pytest.approx(interval.low), pytest.approx(interval.high))


@pytest.mark.parametrize("few_first", [True, False])
def test_where_they_are_skewed_it_is_scipys_permutation_test(few_first: bool) -> None:
    rng = np.random.default_rng(2)
    few, many = heavy(rng, 60) + 8, heavy(rng, 500)
    first, second = (few, many) if few_first else (many, few)
    found = mean_difference(*two(first, second), rng)
    assert found.dealt is not None
    theirs = permutation_test(
        (second, first), lambda a, b, axis: ttest_ind(a, b, equal_var=False, axis=axis).statistic,
        vectorized=True, n_resamples=4000, rng=rng,
    )  # fmt: skip
    assert found.p == pytest.approx(theirs.pvalue, abs=0.02)
    assert np.quantile(found.dealt, [0.05, 0.5, 0.95]) == pytest.approx(
        np.quantile(theirs.null_distribution, [0.05, 0.5, 0.95]), abs=0.2
    )


@pytest.mark.parametrize("draw", [stalling, heavy])
@pytest.mark.parametrize(("many", "few"), [(1080, 120), (600, 600)])
def test_the_same_law_twice_is_called_different_in_at_most_5_percent(draw: Draw, many: int, few: int) -> None:
    """9.5 of 100 is what chance makes of 5 in 120 experiments; the t test calls 9 to 30 at 90 to 10."""
    rng, called = np.random.default_rng(3), 0
    for _ in range(120):
        called += mean_difference(*two(draw(rng, many), draw(rng, few)), rng).p <= 0.05
    assert called / 120 <= 0.095


@pytest.mark.parametrize("shift", [0.0, 2.0, 5.0])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.975])
def test_an_interval_never_contradicts_its_p_value(shift: float, level: float) -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        found = mean_difference(*two(heavy(rng, 900), heavy(rng, 100) + shift), rng)
        low, high = found.interval_ms(level)
        assert (not low < 0 < high) == (found.p <= 1 - level + 1e-12)


def test_values_that_are_all_the_same_do_not_differ() -> None:
    found = mean_difference(*two(np.full(9, 5.0), np.full(5, 5.0)), np.random.default_rng(5))
    assert (found.ms, found.p, found.interval_ms(0.95)) == (0.0, 1.0, (0.0, 0.0))
