"""When a server is shown to keep up no longer, and how often that is said of a server that did not change."""

import numpy as np
import pytest
from scipy.stats import binom

from analysis.pairs import FEWEST, falls_behind

ALPHA = 0.05
LIMITS = np.linspace(0.02, 0.98, 49)
"""How often a server at its limit may fall behind."""


@pytest.mark.parametrize(
    ("before", "after", "alpha", "shown"),
    [
        ((0, 1), (1, 1), ALPHA, True),
        ((0, 5), (1, 1), ALPHA, True),
        ((0, 1), (1, 5), ALPHA, False),
        ((0, 3), (3, 3), ALPHA / 100, True),
        ((0, 3), (2, 3), ALPHA, False),
        ((0, 4), (3, 4), ALPHA, True),
        ((0, 4), (3, 4), ALPHA / 2, False),
        ((1, 7), (5, 6), ALPHA, True),
        ((1, 7), (5, 6), ALPHA / 12, False),
        ((5, 5), (5, 5), ALPHA, False),
        ((5, 6), (1, 7), ALPHA, False),
        ((0, 5), (0, 5), ALPHA, False),
    ],
)
def test_more_saturated_trials_than_chance_explains(
    before: tuple[int, int], after: tuple[int, int], alpha: float, shown: bool
) -> None:
    assert falls_behind(before, after, alpha) == shown


@pytest.mark.parametrize(("of_before", "of_after"), [(3, 3), (3, 5), (5, 3), (5, 5), (6, 9)])
def test_an_unchanged_server_is_called_in_at_most_5_percent(of_before: int, of_after: int) -> None:
    """Exactly, over every outcome, at whatever limit the server is."""
    called = np.array(
        [
            [falls_behind((a, of_before), (b, of_after), ALPHA) for b in range(of_after + 1)]
            for a in range(of_before + 1)
        ]
    )
    for limit in LIMITS:
        before, after = (binom.pmf(range(n + 1), n, limit) for n in (of_before, of_after))
        assert before @ called @ after <= ALPHA


def test_nor_when_looked_at_after_every_trial() -> None:
    """Exactly, over every path of up to eight trials of each side."""
    most = 8
    calls = {
        (a, b, n): falls_behind((a, n), (b, n), ALPHA, sequential=True)
        for n in range(1, most + 1)
        for a in range(n + 1)
        for b in range(n + 1)
    }
    assert not any(call for (_, _, n), call in calls.items() if n < FEWEST)
    assert calls[0, 7, 8]
    for limit in LIMITS:
        uncalled = {(0, 0): 1.0}
        for n in range(1, most + 1):
            uncalled = _after_a_trial(uncalled, limit)
            uncalled = {(a, b): p for (a, b), p in uncalled.items() if not calls[a, b, n]}
        assert 1 - sum(uncalled.values()) <= ALPHA


def _after_a_trial(paths: dict[tuple[int, int], float], limit: float) -> dict[tuple[int, int], float]:
    """The probability of each outcome after one more trial of either side."""
    found: dict[tuple[int, int], float] = {}
    for (a, b), p in paths.items():
        for more_a in (0, 1):
            for more_b in (0, 1):
                chance = np.prod([limit if more else 1 - limit for more in (more_a, more_b)])
                key = a + more_a, b + more_b
                found[key] = found.get(key, 0.0) + p * float(chance)
    return found
