import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from analysis.by_name import disagreements, exceptions_of_users, failures_by_name, requests_by_name
from analysis.metrics import cells
from analysis.report import build_report
from analysis.runfolder import Run, read_run
from tests.analysis.folders import (
    EXCEPTION_COLUMNS,
    FAILURE_COLUMNS,
    START,
    TrialSpec,
    exact,
    write_rows,
    write_run,
)

SPEC = TrialSpec(exact([10.0, 20.0, 30.0], 6))
TRIAL = "fastapi/constant/1"
TRACE = 'Traceback\n  File "a.py", line 3, in predict\nValueError: boom'
SLOWER = TrialSpec([*exact([40.0, 50.0, 60.0], 6)], trial=2, started=START + timedelta(minutes=1))


def written(tmp_path: Path, *specs: TrialSpec) -> Run:
    return read_run(write_run(tmp_path / "run", specs))


def at(second: int) -> str:
    return f"{START + timedelta(seconds=second):%Y-%m-%dT%H:%M:%SZ}"


def rewrite(run: Run, file: str, change: Callable[[dict[str, Any]], object]) -> Run:
    path = run.path / TRIAL / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return read_run(run.path)


class TestRequestsByName:
    def test_have_a_row_per_name_summed_over_the_trials(self, tmp_path: Path) -> None:
        run = written(tmp_path, SPEC, SLOWER)
        rows = requests_by_name(cells(run))
        assert [(row.method, row.name, row.trials, row.requests) for row in rows] == [
            ("POST", "large", 2, 12), ("POST", "medium", 2, 12), ("POST", "small", 2, 12),
        ]  # fmt: skip
        assert sum(row.requests for row in rows) == 36

    def test_give_times_as_the_range_of_the_trials_since_they_cannot_be_merged(self, tmp_path: Path) -> None:
        run = written(tmp_path, SPEC, SLOWER)
        row = requests_by_name(cells(run))[0]
        assert (row.median_ms, row.p95_ms, row.p99_ms) == ((10, 40), (10, 40), (10, 40))

    def test_weigh_the_size_of_answers_by_requests(self, tmp_path: Path) -> None:
        run = written(tmp_path, replace(SPEC, latency_ms=exact([10.0], 30)), SLOWER)
        path = run.path / TRIAL / "stats.csv"
        path.write_text(path.read_text().replace("460.5", "1000"))
        row = requests_by_name(cells(read_run(run.path)))[0]
        assert row.answer_bytes_mean == pytest.approx((10 * 1000 + 6 * 460.5) / 16)

    def test_have_no_time_where_nothing_was_sent(self, tmp_path: Path) -> None:
        run = written(tmp_path, replace(SPEC, dropped=7))
        row = requests_by_name(cells(run))[0]
        assert (row.method, row.requests, row.failures) == ("DROP", 7, 7)
        assert (row.median_ms, row.p99_ms, row.answer_bytes_mean) == (None, None, None)

    def test_leave_out_trials_that_are_not_merged(self, tmp_path: Path) -> None:
        run = written(tmp_path, SPEC, replace(SLOWER, status="failed", error="died"))
        rows = requests_by_name(cells(run))
        assert {(row.trials, row.requests) for row in rows} == {(1, 6)}


class TestFailuresByName:
    def test_are_counted_once_though_two_files_tell_them(self, tmp_path: Path) -> None:
        (row,) = failures_by_name(written(tmp_path, replace(SPEC, failed=4)))
        assert (row.error, row.count, row.trials) == ("HTTP 500", 4, [1])
        assert row.names == ["large", "medium", "small"]
        assert (row.first_s, row.last_s) == (1, 2)  # Locust's second begins with the plan's

    def test_say_when_in_seconds_of_each_trials_own_plan(self, tmp_path: Path) -> None:
        run = written(tmp_path, replace(SPEC, failed=1), replace(SLOWER, failed=1))
        lines = (
            ["POST", "small", "HTTP 500", 1, at(3), at(4)],
            ["POST", "small", "HTTP 500", 1, at(60), at(65)],
        )
        for trial, line in enumerate(lines, 1):
            write_rows(run.path / f"fastapi/constant/{trial}/failures.csv", FAILURE_COLUMNS, line)
        (row,) = failures_by_name(read_run(run.path))
        assert (row.count, row.trials, row.first_s, row.last_s) == (2, [1, 2], 1, 6)

    def test_tell_dropped_arrivals_by_their_own_reason(self, tmp_path: Path) -> None:
        rows = failures_by_name(written(tmp_path, replace(SPEC, failed=1, dropped=5)))
        assert [(row.error, row.count) for row in rows] == [
            ("dropped: every user was busy", 5), ("HTTP 500", 1),
        ]  # fmt: skip

    def test_are_those_of_the_summary_where_locusts_file_is_lost(self, tmp_path: Path) -> None:
        run = written(tmp_path, replace(SPEC, failed=2, dropped=3))
        (run.path / TRIAL / "failures.csv").unlink()
        rows = failures_by_name(read_run(run.path))
        assert [(row.error, row.count, row.names, row.first_s) for row in rows] == [
            ("dropped", 3, [], None), ("HTTP 500", 2, [], None),
        ]  # fmt: skip

    def test_of_a_trial_that_died_are_those_of_locusts_file(self, tmp_path: Path) -> None:
        run = written(tmp_path, replace(SPEC, failed=2, status="failed", error="the server died"))
        (run.path / TRIAL / "summary.json").unlink()
        (row,) = failures_by_name(read_run(run.path))
        assert (row.error, row.count) == ("HTTP 500", 2)

    def test_are_the_same_whatever_address_an_object_had(self, tmp_path: Path) -> None:
        run = written(tmp_path, replace(SPEC, failed=2))
        line = ["POST", "small", "Bad(<object at 0x....>)", 2, at(1), at(2)]
        write_rows(run.path / TRIAL / "failures.csv", FAILURE_COLUMNS, line)
        told = {"Bad(<object at 0x7f01>)": 1, "Bad(<object at 0x7f02>)": 1}
        run = rewrite(run, "summary.json", lambda content: content.update(failures=told))
        (row,) = failures_by_name(run)
        assert (row.error, row.count) == ("Bad(<object at 0x....>)", 2)
        assert disagreements(run.trials[0]) == ([], [])

    @pytest.mark.parametrize("when", ["", "1999-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
    def test_have_no_time_that_cannot_be(self, tmp_path: Path, when: str) -> None:
        run = written(tmp_path, replace(SPEC, failed=2))
        line = ["POST", "small", "HTTP 500", 2, when, when]
        write_rows(run.path / TRIAL / "failures.csv", FAILURE_COLUMNS, line)
        (row,) = failures_by_name(read_run(run.path))
        assert (row.first_s, row.last_s) == (None, None)


class TestExceptions:
    def test_are_summed_over_the_trials_with_their_tracebacks(self, tmp_path: Path) -> None:
        run = written(tmp_path, SPEC, SLOWER)
        for trial, count in ((1, 2), (2, 3)):
            path = run.path / f"fastapi/constant/{trial}/exceptions.csv"
            write_rows(path, EXCEPTION_COLUMNS, [count, "boom", TRACE, "local"])
        (row,) = exceptions_of_users(read_run(run.path))
        assert (row.message, row.count, row.trials) == ("boom", 5, [1, 2])
        assert row.traceback.replace("\r", "") == TRACE


class TestLocustsCountAgainstTheSummary:
    def test_says_nothing_where_both_agree(self, tmp_path: Path) -> None:
        run = written(tmp_path, replace(SPEC, failed=4, dropped=3))
        assert disagreements(run.trials[0]) == ([], [])
        assert build_report(run.path).problems == []

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (
                lambda c: c["counts"].update(planned=19, sent=19, completed=17),
                "stats.csv counts 18 requests and 2 failures, "
                "summary.json 19 (completed, failed and dropped) and 2.",
            ),
            (
                lambda c: c.update(failures={"HTTP 500": 1, "timeout": 1}),
                "failures.csv and summary.json differ: 'HTTP 500' 2 against 1 and 'timeout' 0 against 1.",
            ),
            (
                lambda c: c.update(failures={"HTTP 500": 9}),
                "the failures in summary.json add up to 9, its count is 2.",
            ),
        ],
    )
    def test_is_odd_where_they_differ(
        self, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
    ) -> None:
        run = rewrite(written(tmp_path, replace(SPEC, failed=2)), "summary.json", change)
        assert disagreements(run.trials[0]) == ([f"{TRIAL}: {told}"], [])
        assert f"{TRIAL}: {told}" in build_report(run.path).problems

    def test_names_the_first_of_many_failures(self, tmp_path: Path) -> None:
        run = written(tmp_path, replace(SPEC, failed=2))
        lines = [["POST", "small", f"HTTP {n}", 1, at(1), at(1)] for n in range(501, 507)]
        write_rows(run.path / TRIAL / "failures.csv", FAILURE_COLUMNS, *lines)
        odd, _ = disagreements(read_run(run.path).trials[0])
        assert odd[0].endswith(
            "'HTTP 500' 0 against 2, 'HTTP 501' 1 against 0, 'HTTP 502' 1 against 0 and 4 more."
        )

    @pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
    def test_is_a_note_where_the_trial_broke_off(self, tmp_path: Path, status: str) -> None:
        run = written(tmp_path, replace(SPEC, status=status))
        run = rewrite(run, "summary.json", lambda c: c["counts"].update(planned=20, sent=20, completed=20))
        assert disagreements(run.trials[0])[0] == []
        report = build_report(run.path)
        assert any(note.startswith(f"{TRIAL}: stats.csv counts 18 requests") for note in report.notes)
        assert not any("stats.csv" in problem for problem in report.problems)

    def test_is_held_against_the_log_where_there_is_no_summary(self, tmp_path: Path) -> None:
        run = written(tmp_path, replace(SPEC, dropped=3))
        (run.path / TRIAL / "summary.json").unlink()
        assert disagreements(read_run(run.path).trials[0]) == ([], [])
        log = run.path / TRIAL / "latency.hlog"
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:-3]))
        told = f"{TRIAL}: broke off: stats.csv holds 18 requests, latency.hlog 15."
        assert disagreements(read_run(run.path).trials[0]) == ([], [told])
