"""What happened under load stands on the time axis and in a table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from analysis.figures import by_scenario
from analysis.happenings import happenings, of_trial
from analysis.metrics import cells
from analysis.ranking import rank
from analysis.report import write_report
from analysis.runfolder import read_run
from analysis.usage import usage
from tests.analysis.folders import START, TrialSpec, exact, steady, write_rows, write_run

EPOCH = START.timestamp()
POD_COLUMNS = [
    "time",
    "pod",
    "container",
    "cpu_cores",
    "memory_bytes",
    "restarts",
    "ready",
    "phase",
    "component",
]


def told(run: Path) -> list[tuple[float | None, str, str, bool]]:
    return [(one.at_s, one.what, one.reason, one.warning) for one in happenings(read_run(run))]


class TestKubernetesEvents:
    def test_are_told_with_their_second_and_whether_they_are_warnings(self, tmp_path: Path) -> None:
        events = [
            (-4, "Pulled", "Container image", "Normal"),
            (7, "OOMKilling", 'out, of "memory"', "Warning"),
        ]
        run = write_run(tmp_path / "run", [TrialSpec(exact([10] * 20, 12), events=events)])
        assert told(run) == [(-4, "fastapi", "Pulled", False), (7, "fastapi", "OOMKilling", True)]
        assert happenings(read_run(run))[1].message == 'out, of "memory"'

    def test_under_load_are_flags_on_the_time_axis(self, tmp_path: Path) -> None:
        events = [(-4, "Pulled", "image", "Normal"), (7, "Unhealthy", "<b>", "Warning")]
        run = read_run(write_run(tmp_path / "run", [TrialSpec(exact([10] * 20, 12), events=events)]))
        measured = cells(run)
        (figures,) = by_scenario(measured, rank(measured, "p95"), happenings(run))
        drawing = figures.over_time[0].svg
        assert "7 s: fastapi Unhealthy &lt;b&gt;" in drawing
        assert drawing.count('class="flag bad"') == 1
        assert "Pulled" not in drawing

    def test_are_in_the_report(self, tmp_path: Path) -> None:
        events = [(7, "Unhealthy", "<b>", "Warning")]
        run = write_run(tmp_path / "run", [TrialSpec(exact([10] * 20, 12), events=events)])
        write_report(run)
        assert (
            "| FastAPI | constant, trial 1 | fastapi | Unhealthy | \\<b\\> | 7 s |"
            in (run / "report.md").read_text()
        )

    def test_are_of_note_where_they_warn_under_load(self, tmp_path: Path) -> None:
        """A pod's probes fail while it starts, and its workers are not ready once they ended."""
        events = [
            (-4, "Unhealthy", "starting", "Warning"),
            (3, "Scheduled", "in order", "Normal"),
            (7, "OOMKilling", "memory", "Warning"),
            (25, "Unhealthy", "ending", "Warning"),
        ]
        run = write_run(tmp_path / "run", [TrialSpec(exact([10] * 20, 12), events=events)])
        assert [one.of_note for one in happenings(read_run(run))] == [False, False, True, False]
        write_report(run)
        words = (run / "report.md").read_text()
        assert "| OOMKilling | memory | 7 s |" in words
        assert "starting" not in words
        assert "3 others, in order, or before and after the load, are in `report.html`" in words
        page = (run / "report.html").read_text()
        assert "Warnings under load (1)" in page
        assert "before and after the load (3)" in page

    def test_of_a_damaged_file_are_not_made_up(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10] * 20, 12), events=[(7, "A", "b", "Normal")])])
        (run / "fastapi/constant/1/events.csv").write_bytes(b"\xff\x00time")
        found = read_run(run)
        assert happenings(found) == []
        assert any("events.csv" in problem for problem in found.problems)


class TestPods:
    def pods(self, tmp_path: Path, *rows: tuple[object, ...]) -> Path:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10] * 20, 6))])
        lines = [[EPOCH + float(str(second)), *rest] for second, *rest in rows]
        write_rows(run / "fastapi/constant/1/pods.csv", POD_COLUMNS, *lines)
        return run

    def test_that_restart_or_lose_readiness_are_told(self, tmp_path: Path) -> None:
        run = self.pods(
            tmp_path,
            (1, "a", "server", 0.5, 1e6, 0, 1, "Running", "server"),
            (2, "a", "server", 0.5, 1e6, 0, 0, "Failed", "server"),
            (3, "a", "server", 0.5, 1e6, 1, 0, "Running", "server"),
            (4, "a", "server", 0.5, 1e6, 1, 1, "Running", "server"),
        )
        assert told(run) == [(2, "a", "NotReady", True), (3, "a", "Restarted", True)]

    def test_of_the_generator_are_not_added_to_the_servers(self, tmp_path: Path) -> None:
        rows = [
            (second, pod, container, cores, memory, 0, 1, "Running", component)
            for second in range(1, 7)
            for pod, container, cores, memory, component in (
                ("a", "server", 0.5, 1e6, "server"), ("worker-0", "locust", 0.25, 3e6, "generator"),
            )
        ]  # fmt: skip
        trial = read_run(self.pods(tmp_path, *rows)).trials[0]
        for component, cores, memory in (("server", 0.5, 1e6), ("generator", 0.25, 3e6)):
            used = usage(trial, component=component)
            assert used is not None
            assert set(used.cpu_cores) == {cores}
            assert set(used.memory_bytes) == {memory}


class TestLostWorkers:
    def test_are_told_when_they_were_lost(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(exact([10] * 20, 6))])
        path = run / "fastapi/constant/1/summary.json"
        lost = [
            {"worker": "w-1", "time": "2026-11-21T14:31:03Z", "dropped": 4},
            {"worker": "w-2", "time": "yesterday"},
            {},
        ]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lost_workers": lost}))
        assert told(run) == [(3, "w-1", "WorkerLost", True)]


class TestALatencyThatChanges:
    def test_is_told_where_it_jumps(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [TrialSpec([*steady(20, 20), *steady(60, 20)])])
        trial = read_run(run).trials[0]
        (jump,) = [one for one in of_trial(trial) if one.reason == "Changed"]
        assert jump.at_s == pytest.approx(20, abs=1)
        assert jump.message.startswith("median from 19.5 ms to 58.6 ms")

    def test_is_not_told_of_a_level_that_is_kept(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(steady(20, 60))])
        assert told(run) == []


def test_a_run_without_events_has_no_file_of_them_and_no_problem(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [TrialSpec(exact([10] * 20, 6))])
    assert read_run(run).problems == []
    with (run / "fastapi/constant/1/pods.csv").open(newline="") as file:
        assert "component" not in next(csv.reader(file))
