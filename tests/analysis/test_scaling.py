from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from analysis.runfolder import read_run
from analysis.scaling import Little, fit_usl, little
from tests.analysis.folders import TrialSpec, write_run


def law(n: float, one: float = 100.0, contention: float = 0.05, coherency: float = 0.002) -> float:
    return one * n / (1 + contention * (n - 1) + coherency * n * (n - 1))


class TestTheUniversalScalabilityLaw:
    def test_is_found_again_in_noise_with_its_intervals(self) -> None:
        rng = np.random.default_rng(1)
        points = [(n, law(n) * np.exp(rng.normal(0, 0.02))) for n in (1, 2, 4, 8, 12, 16, 24, 32, 48)]
        found, refused = fit_usl(points, [x for _, x in points])
        assert refused == ""
        assert found is not None
        for parameter, truth in ((found.one_per_s, 100), (found.contention, 0.05), (found.coherency, 0.002)):
            best, low, high = parameter
            assert low <= truth <= high
            assert best == pytest.approx(truth, rel=0.25)
        assert found.peak_in_flight == pytest.approx(np.sqrt(0.95 / 0.002), rel=0.1)

    @pytest.mark.parametrize(("contention", "coherency"), [(0.05, 0.002), (0.05, 0.0)])
    def test_covers_the_truth_from_few_levels(self, contention: float, coherency: float) -> None:
        """Where the truth lies at a bound, more: the interval goes no further there."""
        rng = np.random.default_rng(1)
        levels = (1, 2, 4, 8, 16, 32)
        covered = []
        for _ in range(600):
            points = [(n, law(n, 100.0, contention, coherency) * np.exp(rng.normal(0, 0.02))) for n in levels]
            found, _ = fit_usl(points, levels)
            assert found is not None
            told = (found.one_per_s, found.contention, found.coherency)
            truths = (100.0, contention, coherency)
            covered.append([low <= truth <= high for (_, low, high), truth in zip(told, truths, strict=True)])
        assert np.all(np.mean(covered, axis=0) >= 0.92)
        assert np.all(np.mean(covered, axis=0) <= (0.985 if coherency else 1.0))

    def test_of_a_single_server_levels_off_without_a_peak(self) -> None:
        points = [(n, law(n, 50, 0.5, 0.0)) for n in (0.1, 0.3, 0.6, 1, 2, 4, 9)]
        found, _ = fit_usl(points, [x for _, x in points])
        assert found is not None
        assert found.contention[0] == pytest.approx(0.5, abs=0.01)
        assert found.peak_in_flight is None

    def test_needs_six_levels(self) -> None:
        points = [(n, law(n)) for n in (1, 2, 4, 8, 16)] * 3
        refused = "the Universal Scalability Law needs 6 levels, there are 5"
        assert fit_usl(points, [x for _, x in points]) == (None, refused)

    @pytest.mark.parametrize("rates", [[40.0], [40.0, 60.0], [40.0, 40.2, 60.0]])
    def test_does_not_take_replicates_for_levels(self, rates: list[float]) -> None:
        rng = np.random.default_rng(1)
        planned = rates * 8
        points = [(rate * 0.05 * np.exp(rng.normal(0, 0.05)), rate) for rate in planned]
        refused = f"the Universal Scalability Law needs 6 levels, there are {min(2, len(rates))}"
        assert fit_usl(points, planned) == (None, refused)

    def test_is_refused_where_it_does_not_fit(self) -> None:
        points = [(n, 100.0 if n % 2 else 30.0) for n in range(1, 10)]
        found, refused = fit_usl(points, list(range(1, 10)))
        assert found is None
        assert "does not fit: it is off by" in refused


def checked(tmp_path: Path, in_flight: float, noise: float = 0.0, latency_ms: float = 40.2) -> Little | None:
    """A trial of 50/s at 40 ms, so with 2 in flight, whose generator counted ``in_flight`` of them."""
    spec = TrialSpec([np.full(50, latency_ms)] * 40, shape={"name": "poisson"})
    write_run(tmp_path, [spec])
    file = tmp_path / spec.path / "generator.csv"
    rows = list(csv.DictReader(file.open()))
    rng = np.random.default_rng(1)
    for row in rows:
        row["in_flight"] = str(max(0.0, in_flight + rng.normal(0, noise)))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return little(read_run(tmp_path).trials[0])


class TestLittlesLaw:
    def test_holds_where_the_counts_agree(self, tmp_path: Path) -> None:
        found = checked(tmp_path, 2.0, noise=0.1)
        assert found is not None
        assert found.verdict == "held"
        assert found.expected == pytest.approx(2.0, rel=0.01)
        assert found.difference == pytest.approx(0, abs=0.05)
        assert found.reason == ""

    def test_makes_a_trial_suspect_where_they_do_not(self, tmp_path: Path) -> None:
        found = checked(tmp_path, 3.0, noise=0.1)
        assert found is not None
        assert found.verdict == "suspect"
        assert found.difference == pytest.approx(0.5, abs=0.03)
        assert found.reason.startswith("Little's law does not hold: 3.0")
        assert found.reason.endswith(" in flight, rate times service time is 2.00")

    def test_is_not_shown_where_too_few_were_in_flight_to_tell(self, tmp_path: Path) -> None:
        found = checked(tmp_path, 2.2, noise=1.5)
        assert found is not None
        assert found.verdict == "not shown"
        assert found.low < 2.0 < found.high

    def test_is_not_shown_where_so_few_were_in_flight_that_no_look_met_one(self, tmp_path: Path) -> None:
        """At 50/s and 0.8 ms, 39 looks meet 1.6 on average, and none in one run of five."""
        found = checked(tmp_path, 0.0, noise=0.0, latency_ms=1.0)
        assert found is not None
        assert (found.in_flight, found.verdict) == (0.0, "not shown")

    def test_is_not_asked_of_a_saturated_server(self, tmp_path: Path) -> None:
        run = read_run(write_run(tmp_path, [TrialSpec([np.full(50, 40.0)] * 20, saturated=True)]))
        assert little(run.trials[0]) is None
