"""What is drawn over time comes from four files and stands on one axis."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.figures import by_scenario
from analysis.metrics import cells
from analysis.ranking import rank
from analysis.runfolder import read_run
from tests.analysis.folders import HISTORY_COLUMNS, START, TrialSpec, exact, write_rows, write_run

SPEC = TrialSpec(exact([10.0] * 20, 6))
EPOCH = int(START.timestamp())


def told(run: Path) -> list[str]:
    """What each second of the first panel tells when it is pointed at."""
    measured = cells(read_run(run))
    (figures,) = by_scenario(measured, rank(measured, "p95"))
    return re.findall(r"<title>(\d+ to \d+ s: [^<]*)</title>", figures.by_locust[0].svg)


def history(run: Path, *rows: tuple[int, int, int], trial: int = 1) -> None:
    """Replace stats_history.csv: second of the plan, users, requests so far."""
    lines = [
        [EPOCH + second, users, "", "Aggregated", "0", "0", *["N/A"] * 11, total, 0, 0, 0, 0, 0, 0]
        for second, users, total in rows
    ]
    write_rows(run / f"fastapi/constant/{trial}/stats_history.csv", HISTORY_COLUMNS, *lines)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", [SPEC])


class TestTooFewRequests:
    def test_leave_a_backend_without_p99_side_by_side(self, run: Path) -> None:
        measured = cells(read_run(run))
        (figures,) = by_scenario(measured, rank(measured, "p95"))
        assert "FastAPI: p50 10.0 ms, 120 requests, too few for p95 and p99" in figures.side_by_side

    def test_of_a_trial_are_told_where_its_own_percentile_stands(self, tmp_path: Path) -> None:
        specs = [replace(SPEC, trial=trial, latency_ms=exact([10.0] * 20, 8)) for trial in (1, 2)]
        measured = cells(read_run(write_run(tmp_path / "two", specs)))
        (figures,) = by_scenario(measured, rank(measured, "p95"))
        assert "FastAPI, trial 2: p95 10.0 ms of only 160 requests<" in str(figures.apart)


class TestLocustsHistory:
    def test_stands_on_the_axis_of_latency_and_cpu(self, run: Path) -> None:
        history(
            run, (-3, 50, 0), (0, 100, 0), (1, 100, 20), (2, 100, 40), (3, 90, 40), (4, 90, 40), (5, 0, 40)
        )
        found = told(run)
        assert len(found) == 6
        for second, (users, rate) in enumerate([(100, 10), (100, 20), (100, 10), (90, 0), (90, 0)]):
            assert found[second] == (
                f"{second} to {second + 1} s: p50 10.0 ms, p95 10.0 ms of only 20 answers, 20 answers/s, "
                f"0.5 CPU cores, 0.1 of the generator, {rate} requests/s by Locust, {users} users, 286 MiB"
            )

    def test_spreads_what_came_in_seconds_that_were_not_written(self, run: Path) -> None:
        history(run, (-1, 100, 0), (0, 100, 0), (5, 100, 50))
        rates = [re.findall(r"([\d.]+) requests/s by Locust", one) for one in told(run)]
        assert rates == [["5"], ["10"], ["10"], ["10"], ["10"], ["5"]]

    def test_is_not_continued_beyond_its_last_row(self, run: Path) -> None:
        history(run, (-1, 100, 0), (0, 100, 5), (1, 100, 20))
        assert ["Locust" in one for one in told(run)] == [True, True, False, False, False, False]

    def test_is_averaged_over_the_trials_and_zero_after_the_end_of_one(self, tmp_path: Path) -> None:
        longer = replace(SPEC, trial=2, latency_ms=exact([10.0] * 20, 9))
        run = write_run(tmp_path / "both", [SPEC, longer])
        history(run, (-1, 40, 0), (0, 40, 0), (5, 40, 50), (6, 0, 50))
        history(run, (-1, 60, 0), (0, 60, 0), (9, 60, 180), trial=2)
        assert "7.5 requests/s by Locust, 60 users" in told(run)[0]
        assert "15 requests/s by Locust" in told(run)[2]
        assert "10 requests/s by Locust" in told(run)[7]

    def test_that_is_lost_leaves_no_panel(self, run: Path) -> None:
        (run / "fastapi/constant/1/stats_history.csv").unlink()
        measured = cells(read_run(run))
        (figures,) = by_scenario(measured, rank(measured, "p95"))
        assert figures.by_locust == []
        assert len(figures.over_time) == 1
