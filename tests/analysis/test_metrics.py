import csv
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.metrics import Row, TrialRow
from analysis.report import build_report
from tests.analysis.folders import START, TrialSpec, exact, steady, write_run


def rows_of(tmp_path: Path, *specs: TrialSpec) -> list[Row]:
    return build_report(write_run(tmp_path / "run", specs)).rows


def trials_of(tmp_path: Path, *specs: TrialSpec) -> list[TrialRow]:
    return build_report(write_run(tmp_path / "run", specs)).trials


class TestACell:
    def test_has_the_numbers_of_its_trial(self, tmp_path: Path) -> None:
        hundred = [float(i) for i in range(1, 101)]
        spec = TrialSpec(
            exact(hundred, 10), failed=50, dropped=25, cpu_cores=0.5, memory_bytes=2e8, lag_ms=0.2
        )
        (row,) = rows_of(tmp_path, spec)
        assert (row.planned, row.sent, row.completed, row.failed, row.dropped) == (1025, 1000, 950, 50, 25)
        assert (row.planned_per_s, row.achieved_per_s) == (102.5, 95.0)
        assert row.error_rate == pytest.approx(75 / 1025)
        assert row.drop_rate == pytest.approx(25 / 1025)
        for name, value in {
            "p50": 50,
            "p90": 90,
            "p95": 95,
            "p99": 99,
            "p99.9": 100,
            "max": 100,
            "mean": 50.5,
        }.items():
            assert row.latency_ms[name] == pytest.approx(value, rel=0.0006), name
        assert row.service_ms["p50"] == pytest.approx(49.8, rel=0.001)
        assert row.lag_ms["p99"] == pytest.approx(0.2)
        assert row.not_carried == ["p99.9"]
        assert (row.cpu_cores_mean, row.cpu_cores_peak) == (0.5, 0.5)
        assert (row.memory_bytes_mean, row.memory_bytes_peak) == (2e8, 2e8)
        assert row.predictions_per_cpu_s == pytest.approx(950 / (0.5 * 10))

    def test_merges_the_requests_of_its_trials_not_their_percentiles(self, tmp_path: Path) -> None:
        few = TrialSpec(exact([10.0] * 10, 10), trial=1)
        many = TrialSpec(exact([100.0] * 90, 10), trial=2)
        (row,) = rows_of(tmp_path, few, many)
        assert row.trials == 2
        assert row.requests == 1000
        assert row.latency_ms["p50"] == pytest.approx(100, rel=0.001)
        assert row.spread_ms["p50"] == pytest.approx((10, 100), rel=0.001)

    def test_leaves_invalid_trials_out_and_says_so(self, tmp_path: Path) -> None:
        good = TrialSpec(exact([10.0] * 30, 10), trial=1)
        late = TrialSpec(
            exact([99.0] * 30, 10), trial=2, verdict="invalid", reasons=["the generator was late"]
        )
        died = TrialSpec(exact([99.0] * 30, 4), trial=3, status="failed", error="the server died")
        (row,) = rows_of(tmp_path, good, late, died)
        assert (row.trials, row.trials_planned, row.verdict) == (1, 3, "valid")
        assert row.latency_ms["max"] == pytest.approx(10, rel=0.001)
        assert row.reasons == [
            "the generator was late (1 trial of 3)",
            "failed: the server died (1 trial of 3)",
        ]

    def test_without_a_valid_trial_shows_what_there_is_as_invalid(self, tmp_path: Path) -> None:
        (row,) = rows_of(
            tmp_path, TrialSpec(exact([10.0] * 30, 10), status="failed", error="the server died")
        )
        assert (row.trials, row.verdict, row.reasons) == (0, "invalid", ["failed: the server died"])
        assert row.latency_ms["p50"] == pytest.approx(10, rel=0.001)
        assert row.interval_ms == {}

    def test_of_a_saturated_server_has_lower_bounds_and_no_interval(self, tmp_path: Path) -> None:
        (row,) = rows_of(tmp_path, TrialSpec(steady(50, 10, 50), dropped=100, saturated=True))
        assert row.lower_bound
        assert row.interval_ms == {}

    def test_of_a_saturated_server_achieves_what_it_answers_within_the_plan(self, tmp_path: Path) -> None:
        """100/s for 10 s of a server that does 60/s: it is done after 16.7 s."""
        behind = [*exact([50.0] * 60, 16), *exact([50.0] * 40, 1)]
        specs = [
            TrialSpec(behind, scenario=f"{seconds}", trial=n, saturated=True, duration_s=seconds, failed=lost)
            for seconds in (10, 10.5)
            for n, lost in ((1, 250), (2, 200))
        ]
        report = build_report(write_run(tmp_path, specs, objectives=["throughput > 50/s"]))
        for row, judged in zip(report.rows, report.objectives, strict=True):
            assert (row.planned, judged.passed) == (2000, False)
            assert row.achieved_per_s == judged.value == pytest.approx((45 + 48) / 2)
            assert judged.high == pytest.approx(46.5 + 12.706 * 1.5, rel=0.001)  # Student's

    def test_of_a_server_that_kept_up_achieves_what_it_answers_just_after_the_plan_too(
        self, tmp_path: Path
    ) -> None:
        late = [*exact([50.0] * 100, 9), *exact([50.0] * 95, 1), *exact([50.0] * 5, 1)]
        (row,) = rows_of(tmp_path, TrialSpec(late, duration_s=10))
        assert row.achieved_per_s == 100

    def test_with_drops_has_lower_bounds_though_it_kept_up(self, tmp_path: Path) -> None:
        burst = TrialSpec(steady(50, 10, 50), dropped=100, verdict="suspect", reasons=["in-flight cap"])
        (row,) = rows_of(tmp_path, burst)
        assert (row.lower_bound, row.saturated, row.interval_ms) == (True, False, {})

    @pytest.mark.parametrize(
        ("edited", "told"),
        [
            ({"shape": {"name": "constant", "rate": 10.0}}, "rate 10.0 and 50.0"),
            ({"shape": {"name": "poisson", "rate": 50.0}}, "name constant and poisson"),
            ({"model": "closed"}, "load closed and open"),
        ],
    )
    def test_of_a_plan_edited_between_its_trials_is_not_valid(
        self, tmp_path: Path, edited: dict[str, Any], told: str
    ) -> None:
        specs = [TrialSpec(steady(50, 10, 50)), TrialSpec(steady(50, 10, 50, seed=1), trial=2, **edited)]
        report = build_report(write_run(tmp_path / "run", specs, objectives=["p50 < 1s"]))
        (row,) = report.rows
        assert (row.verdict, row.trials, row.interval_ms) == ("invalid", 0, {})
        assert row.reasons == [f"its trials had different loads ({told})"]
        assert report.objectives[0].note == f"no valid measurement: {row.reasons[0]}"
        assert not report.valid

    def test_is_suspect_if_one_trial_is(self, tmp_path: Path) -> None:
        fine = TrialSpec(steady(50, 10, 50), trial=1)
        (row,) = rows_of(
            tmp_path, fine, TrialSpec(steady(50, 10, 50), trial=2, verdict="suspect", reasons=["why"])
        )
        assert (row.verdict, row.trials) == ("suspect", 2)

    def test_has_an_interval_around_each_percentile_it_carries(self, tmp_path: Path) -> None:
        (row,) = rows_of(tmp_path, TrialSpec(steady(50, 20, 50)))
        assert set(row.interval_ms) == {"p50", "p90", "p95", "p99"}
        low, high = row.interval_ms["p50"]
        assert low < row.latency_ms["p50"] < high  # type: ignore[operator]
        assert high / low < 1.2


class TestCpuAndMemory:
    def write(self, tmp_path: Path, pods: list[list[object]]) -> Row:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10.0] * 30, 10))])
        header = "time,pod,container,cpu_cores,memory_bytes,restarts,ready"
        lines = [",".join(map(str, [START.timestamp() + float(str(row[0])), *row[1:], 0, 1])) for row in pods]
        (run / "fastapi/constant/1/pods.csv").write_text("\n".join([header, *lines]) + "\n")
        self.report = build_report(run)
        return self.report.rows[0]

    def test_are_added_up_over_containers(self, tmp_path: Path) -> None:
        rows: list[list[object]] = [[s + 0.6, "a", "server", 0.5, 100] for s in range(10)]
        rows += [[s + 1.1, "b", "server", 0.25, 50] for s in range(10)]
        row = self.write(tmp_path, rows)
        assert (row.cpu_cores_mean, row.memory_bytes_mean) == (0.75, 150)

    def test_are_those_of_the_trial_without_warm_up_and_after(self, tmp_path: Path) -> None:
        rows: list[list[object]] = [
            [s + 0.5, "a", "server", 1 if 0 <= s < 10 else 9, 100] for s in range(-5, 20)
        ]
        assert self.write(tmp_path, rows).cpu_cores_peak == 1

    def test_of_a_pod_that_came_late_count_from_then(self, tmp_path: Path) -> None:
        rows: list[list[object]] = [[s + 0.5, "a", "server", 1, 100] for s in range(10)]
        rows += [[s + 0.5, "b", "server", 1, 100] for s in range(5, 10)]
        row = self.write(tmp_path, rows)
        assert (row.cpu_cores_mean, row.cpu_cores_peak) == (1.5, 2)

    def test_of_a_server_that_works_on_after_the_plan_count_against_its_predictions(
        self, tmp_path: Path
    ) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10.0] * 30, 10), cpu_cores=1.0)])
        path = run / "fastapi/constant/1/summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"duration_s": 5.0}))
        row = build_report(run).rows[0]
        assert row.predictions_per_cpu_s == pytest.approx(300 / 10)
        assert row.achieved_per_s == 60

    def test_without_a_sample_in_the_trial_are_not_known_and_named(self, tmp_path: Path) -> None:
        row = self.write(tmp_path, [[1000, "a", "server", 1, 100]])
        assert (row.cpu_cores_mean, row.predictions_per_cpu_s) == (None, None)
        assert "no sample in pods.csv falls into the trial" in self.report.problems[0]


class TestATrial:
    @pytest.mark.parametrize(
        ("shape", "suspect"), [("constant", True), ("poisson", True), ("closed", True), ("step", False)]
    )
    def test_is_suspect_where_littles_law_does_not_hold_at_a_steady_rate(
        self, tmp_path: Path, shape: str, suspect: bool
    ) -> None:
        run = write_run(
            tmp_path / "run", [TrialSpec(steady(80, 40, 50), shape={"name": shape, "rate": 50.0})]
        )
        file = run / "fastapi/constant/1/generator.csv"
        first, *rows = csv.DictReader(file.open())
        assert build_report(run).trials[0].verdict == "valid"
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, first)
            writer.writeheader()
            writer.writerows({**row, "in_flight": 1.0} for row in (first, *rows))
        (trial,) = build_report(run).trials
        assert trial.verdict == ("suspect" if suspect else "valid")
        assert [reason.startswith("Little's law does not hold: 1.00") for reason in trial.reasons] == (
            [True] if suspect else []
        )

    def test_whose_counts_do_not_add_up_is_invalid(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10.0] * 30, 10))])
        path = run / "fastapi/constant/1/summary.json"
        content = json.loads(path.read_text())
        content["counts"]["completed"] -= 3
        path.write_text(json.dumps(content))
        (trial,) = build_report(run).trials
        assert trial.verdict == "invalid"
        assert trial.reasons == [
            "the counts do not add up: 300 planned, but 297 completed + 0 failed + 0 dropped = 297"
        ]

    @pytest.mark.parametrize(
        ("seconds", "verdict"), [(100, "valid"), (99, "suspect"), (90, "invalid"), (101, "invalid")]
    )
    def test_whose_log_lacks_or_invents_requests_is_not_valid(
        self, tmp_path: Path, seconds: int, verdict: str
    ) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10.0] * 10, 100))])
        other = write_run(tmp_path / "other", [TrialSpec(exact([10.0] * 10, seconds))])
        log = "fastapi/constant/1/latency.hlog"
        (run / log).write_bytes((other / log).read_bytes())
        assert build_report(run).trials[0].verdict == verdict

    @pytest.mark.parametrize(("cut_off", "verdict"), [(100, "valid"), (0, "invalid"), (101, "invalid")])
    def test_is_not_missing_in_its_log_what_never_ended(
        self, tmp_path: Path, cut_off: int, verdict: str
    ) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10.0] * 10, 90))])
        path = run / "fastapi/constant/1/summary.json"
        content = json.loads(path.read_text())
        content["counts"] |= {"planned": 1000, "sent": 1000, "failed": 100}
        path.write_text(json.dumps(content | {"cut_off": cut_off}))
        assert build_report(run).trials[0].verdict == verdict

    def test_keeps_the_generators_reasons_but_not_those_on_its_own_sample(self, tmp_path: Path) -> None:
        reasons = ["p99 rests on 200 requests; it takes 1000 to quote it", "a generator used 90% of a core"]
        (trial,) = trials_of(tmp_path, TrialSpec(exact([10.0] * 30, 10), verdict="suspect", reasons=reasons))
        assert trial.reasons == reasons[1:]

    def test_with_wrong_answers_is_invalid(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10.0] * 30, 10))])
        content = json.loads((run / "run.json").read_text())
        content["trials"][0]["parity"] = {"checked": 9, "wrong": 2}
        (run / "run.json").write_text(json.dumps(content))
        assert build_report(run).trials[0].reasons == ["2 of 9 test images were answered wrongly"]

    @pytest.mark.parametrize(
        ("status", "told"),
        [
            ("failed", "failed: it died"),
            ("interrupted", "was interrupted before its end: it died"),
            ("pending", "was not made: it died"),
            (
                "running",
                "was still running when run.json was last written, or the run was killed in it: it died",
            ),
        ],
    )
    def test_that_did_not_end_says_what_happened(self, tmp_path: Path, status: str, told: str) -> None:
        (trial,) = trials_of(tmp_path, TrialSpec(exact([1.0], 6), status=status, error="it died"))
        assert (trial.verdict, trial.reasons) == ("invalid", [told])

    def test_whose_server_restarted_or_whose_clocks_differ_is_named(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10.0] * 30, 10))])
        folder = run / "fastapi/constant/1"
        lines = (folder / "pods.csv").read_text().splitlines()
        lines[-1] = lines[-1].replace(",0,1", ",2,1")
        (folder / "pods.csv").write_text("\n".join(lines) + "\n")
        summary = json.loads((folder / "summary.json").read_text())
        summary |= {"started": (START + timedelta(seconds=60)).isoformat(), "clamped": 3}
        (folder / "summary.json").write_text(json.dumps(summary))
        assert build_report(run).problems == [
            "fastapi/constant/1: fastapi was restarted 2 times under load.",
            "fastapi/constant/1: 3 values above 60 s recorded as 60 s.",
            "fastapi/constant/1: latency.hlog and summary.json put its start 60 s apart.",
        ]


def test_the_same_folder_gives_the_same_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [TrialSpec(steady(50)), TrialSpec(steady(60), "bentoml")])
    assert build_report(run) == build_report(run)
    assert np.isfinite(build_report(run).rows[0].interval_ms["p95"]).all()
