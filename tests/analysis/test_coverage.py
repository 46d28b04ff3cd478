"""How often intervals and verdicts are right, over 2,000 simulated experiments each.

The standard error of a rate of 95 % over 2,000 experiments is half a percent, so that 93 to 97 % is four of
them to each side.
"""

from __future__ import annotations

import numpy as np
import pytest

from analysis.uncertainty import estimates, interval_ms, pool
from tests.analysis.simulated import Kind, autocorrelated, bimodal, heavy_tailed

EXPERIMENTS = 2000
QUANTILES = (0.5, 0.95)
LATENCIES = {
    "heavy-tailed": heavy_tailed,
    "bimodal": bimodal,
    "autocorrelated": autocorrelated(0.6),
}


def covered(kind: Kind, trials: int, seconds: int, per_s: float) -> list[float]:
    """The share of experiments whose interval has the truth in it, per quantile."""
    rng = np.random.default_rng(1)
    truth = [kind.truth_ms(q) for q in QUANTILES]
    hits = np.zeros(len(QUANTILES))
    for _ in range(EXPERIMENTS):
        measured = [kind.trial(rng, seconds, per_s) for _ in range(trials)]
        for i, estimate in enumerate(estimates(measured, QUANTILES)):
            low, high = interval_ms(estimate, pool([estimate])) or (0.0, np.inf)
            hits[i] += low <= truth[i] <= high
    return [float(share) for share in hits / EXPERIMENTS]


@pytest.mark.parametrize("latencies", LATENCIES)
class TestTheIntervalOfAPercentile:
    def test_of_one_trial_covers_the_truth_in_95_of_100(self, latencies: str) -> None:
        for share in covered(Kind(LATENCIES[latencies]), trials=1, seconds=60, per_s=50):
            assert 0.93 <= share <= 0.97

    def test_of_five_trials_covers_the_truth_in_95_of_100(self, latencies: str) -> None:
        for share in covered(Kind(LATENCIES[latencies], spread=0.05), trials=5, seconds=20, per_s=20):
            assert 0.93 <= share <= 0.97
