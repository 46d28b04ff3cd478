"""Objectives against an earlier run, JUnit, the step summary, and the exit status that they mean."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis.baseline import FILE
from analysis.objectives import parse
from analysis.report import Asked, Report, build_report, write_report
from analysis.runfolder import NotARunFolder, read_run
from scripts import cli
from scripts.plan import read_plan
from scripts.reporting import report_run
from tests.analysis.folders import TrialSpec, exact, steady, write_run

Damage = Callable[[dict[str, Any]], object]
RELATIVE = "p95 < 1.2 * baseline"


def run_of(folder: Path, p95_ms: float, *objectives: str, **changes: object) -> Path:
    """A run of one trial whose latencies are all the same."""
    spec = replace(TrialSpec(exact([p95_ms] * 50, 20)), **changes)
    return write_run(folder, [spec], objectives=list(objectives))


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return run_of(tmp_path / "before", 100)


class TestReadingAnObjectiveOnABaseline:
    @pytest.mark.parametrize(
        ("expression", "factor", "scope"),
        [
            ("p99 < 1.2 * baseline", 1.2, ""),
            ("p99<1.2*baseline", 1.2, ""),
            ("p99 <= baseline * 1.05", 1.05, ""),
            ("throughput >= baseline", 1.0, ""),
            ("bentoml+workers=2/poisson: p99 < 2 * baseline", 2.0, "bentoml+workers=2/poisson"),
        ],
    )
    def test_takes(self, expression: str, factor: float, scope: str) -> None:
        objective = parse(expression)
        assert objective.relative
        assert (objective.threshold, objective.scope) == (factor, scope)

    @pytest.mark.parametrize(
        ("expression", "told"),
        [
            ("p99 < 1.2 * base", "is not an objective: write METRIC < VALUE"),
            ("p99 < 1.2.3 * baseline", "'1.2.3' is not a number; write 1.2 * baseline."),
            ("p99 < 2 * baseline * 3", "write one factor, such as 'p99 < 1.2 * baseline'."),
        ],
    )
    def test_refuses_with_what_to_write_instead(self, expression: str, told: str) -> None:
        with pytest.raises(ValueError, match=re.escape(told)):
            parse(expression)


class TestAnObjectiveOnABaseline:
    @pytest.mark.parametrize(("p95_ms", "passed"), [(119, True), (121, False)])
    def test_is_judged_by_the_earlier_value(
        self, before: Path, tmp_path: Path, p95_ms: float, passed: bool
    ) -> None:
        now = run_of(tmp_path / "now", p95_ms, RELATIVE)
        result = build_report(now, Asked(baseline=before)).objectives[0]
        assert result.passed is passed
        assert result.baseline == pytest.approx(100, rel=0.001)
        assert result.threshold == pytest.approx(120, rel=0.001)
        assert result.note == f"{p95_ms / 100} times the baseline's 100 ms"

    def test_that_is_missed_by_its_value_is_called_missed(self, before: Path, tmp_path: Path) -> None:
        report = build_report(run_of(tmp_path / "now", 150, RELATIVE), Asked(baseline=before))
        assert report.objectives[0].judgement == "missed"

    def test_also_takes_rates_and_shares(self, before: Path, tmp_path: Path) -> None:
        now = run_of(
            tmp_path / "now", 100, "throughput > 0.9 * baseline", "error_rate <= baseline", failed=101
        )
        rate, share = build_report(now, Asked(baseline=before)).objectives
        assert rate.passed is False  # 899 of 1000
        assert share.passed is False
        assert share.baseline == 0

    def test_without_one_is_not_shown(self, tmp_path: Path) -> None:
        result = build_report(run_of(tmp_path / "now", 10, RELATIVE)).objectives[0]
        assert not result.passed
        assert result.note == "not shown: there is no baseline; name its run with --baseline DIR"
        assert result.threshold is None

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"saturated": True}, "in the baseline it was saturated"),
            ({"verdict": "invalid", "reasons": ["late"]}, "in the baseline it was not valid"),
            ({"backend": "bentoml"}, "the baseline has no fastapi/constant"),
            ({"shape": {"name": "constant", "rate": 5.0}}, "the baseline's load was not the same"),
            ({"latency_ms": exact([10.0] * 6, 10)}, "p95 needs 200 requests, the baseline has 60 requests"),
            ({"failed": 600}, "60\N{NO-BREAK SPACE}% of the baseline's arrivals got no right answer"),
        ],
    )
    def test_is_not_shown_by_a_baseline_that_tells_nothing(
        self, tmp_path: Path, changes: dict[str, object], told: str
    ) -> None:
        old, now = run_of(tmp_path / "old", 100, **changes), run_of(tmp_path / "now", 10, RELATIVE)
        result = build_report(now, Asked(baseline=old)).objectives[0]
        assert not result.passed
        assert result.note == f"not shown: {told}"

    def test_on_another_machine_or_model_is_judged_and_says_so(self, before: Path, tmp_path: Path) -> None:
        now = write_run(
            tmp_path / "now",
            [TrialSpec(exact([100] * 50, 20))],
            objectives=[RELATIVE],
            machine={"cpu": "Other"},
            model={"digest": "sha256:00"},
        )
        report = build_report(now, Asked(baseline=before))
        assert report.objectives[0].passed
        told = " ".join(report.problems)
        assert "Machine of the baseline: Example CPU, 2 cores, now Other." in told
        assert "Model of the baseline: sha256:abab" in told

    def test_on_another_plan_or_warm_up_says_so(self, before: Path, tmp_path: Path) -> None:
        now = write_run(tmp_path / "now", [TrialSpec(exact([100] * 50, 20))], objectives=[RELATIVE],
                        plan_name="nightly", plan={"warmup": "5s"})  # fmt: skip
        assert build_report(now, Asked(baseline=before)).problems == [
            "Plan of the baseline: quick, now nightly.", "Warm-up of the baseline: not known, now 5s."
        ]  # fmt: skip

    @pytest.mark.parametrize("played", [(True, False), (False, True)])
    def test_of_a_stand_in_is_not_held_against_the_server(
        self, tmp_path: Path, played: tuple[bool, bool]
    ) -> None:
        old, now = (
            write_run(tmp_path / str(n), [TrialSpec(exact([100] * 50, 20))], objectives=[RELATIVE],
                      backends={"fastapi": {"stand_in": it}})
            for n, it in enumerate(played)
        )  # fmt: skip
        which = "the baseline's" if played[0] else "this run's"
        result = build_report(now, Asked(baseline=old)).objectives[0]
        assert (result.judgement, result.note) == (
            "not shown", f"not shown: {which} is a stand-in, the other the server itself"
        )  # fmt: skip

    def test_below_a_baseline_of_nothing_says_what_to_write(self, before: Path, tmp_path: Path) -> None:
        now = run_of(tmp_path / "now", 100, "error_rate < 1.2 * baseline")
        result = build_report(now, Asked(baseline=before)).objectives[0]
        assert result.judgement == "missed"
        assert result.note.endswith("and nothing is below that: write <=")

    def test_gives_the_same_when_the_earlier_run_is_gone(self, before: Path, tmp_path: Path) -> None:
        now = run_of(tmp_path / "now", 110, RELATIVE)
        first = write_report(now, Asked(baseline=before))
        shutil.rmtree(before)
        again = write_report(now)
        assert again.objectives == first.objectives
        assert again.baseline == first.baseline == "before of 2026-11-21 14:31 UTC"

    def test_is_found_through_the_plan(self, before: Path, tmp_path: Path) -> None:
        now = run_of(tmp_path / "now", 110, RELATIVE)
        content = json.loads((now / "run.json").read_text())
        (now / "run.json").write_text(json.dumps(content | {"plan": {"baseline": str(before)}}))
        assert write_report(now).objectives[0].passed
        assert (now / FILE).exists()

    def test_says_what_is_wrong_with_a_damaged_one(self, before: Path, tmp_path: Path) -> None:
        now = run_of(tmp_path / "now", 110, RELATIVE)
        write_report(now, Asked(baseline=before))
        (now / FILE).write_text('{"cells": [{"backend": 5}]}')
        report = write_report(now)
        assert not report.objectives[0].passed
        assert any(
            problem.startswith("baseline.json: cells.0.backend is wrong") for problem in report.problems
        )


def suites(report: Report) -> ElementTree.Element:
    assert report.paths is not None
    return ElementTree.parse(report.paths.junit).getroot()


class TestTheJUnitFile:
    def test_has_a_test_for_each_trial_and_objective_with_why_it_failed(self, tmp_path: Path) -> None:
        died = TrialSpec(steady(5, 4), "ray.serve", status="failed", error="died \x1b[31m<b>\x00")
        run = write_run(
            tmp_path / "run",
            [TrialSpec(exact([90] * 50, 20)), died],
            objectives=["p95 < 80ms", "fastapi: error_rate < 1%"],
        )
        root = suites(write_report(run))
        assert {name: root.get(name) for name in ("tests", "failures", "errors")} == {
            "tests": "5", "failures": "1", "errors": "2",
        }  # fmt: skip
        failure = root.find(".//testcase[@classname='constant.fastapi'][@name='p95 < 80ms']/failure")
        assert failure is not None
        assert (failure.get("type"), failure.get("message")) == ("missed", "p95 < 80ms: 90.0 ms")
        broken = [
            case.find("error") for case in root.iter("testcase") if "ray_serve" in case.get("classname", "")
        ]
        assert all(error is not None and "<b>" in error.get("message", "") for error in broken)

    def test_keeps_an_objective_that_covers_nothing(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [TrialSpec(steady(5, 4))], objectives=["nobody: p95 < 80ms"])
        failure = suites(write_report(run)).find("testsuite[@name='objectives']/testcase/failure")
        assert failure is not None
        assert "nothing here is called 'nobody'" in failure.get("message", "")


class TestTheCommand:
    def report(self, run: Path, *arguments: str, **variables: str) -> tuple[int, str]:
        done = CliRunner(env=variables).invoke(cli.app, ["report", str(run), *arguments])
        return done.exit_code, done.output

    @pytest.mark.parametrize(
        ("objective", "status"), [("p95 < 120ms", 0), ("p95 < 80ms", 1), ("fastapi/constant: p95 < 120ms", 0)]
    )
    def test_ends_with_what_the_objectives_mean(self, before: Path, objective: str, status: int) -> None:
        assert self.report(before, "--objective", objective)[0] == status

    def test_ends_with_3_when_a_trial_was_not_measured_whatever_the_objectives_say(
        self, tmp_path: Path
    ) -> None:
        run = run_of(tmp_path / "run", 100, "p95 < 1ms", verdict="invalid", reasons=["late"])
        assert self.report(run)[0] == 3

    @pytest.mark.parametrize(
        "damage",
        [
            lambda head: [],
            lambda head: head | {"objectives": "p95 < 1ms"},
            lambda head: head | {"objectives": ["p95 < 1"]},
            lambda head: head | {"status": "failed"},
            lambda head: head | {"status": 7},
            lambda head: head | {"trials": [*head["trials"], head["trials"][0] | {"status": "new"}]},
        ],
    )
    def test_ends_with_3_where_the_gate_itself_is_lost(self, tmp_path: Path, damage: Damage) -> None:
        run = run_of(tmp_path / "run", 100, "p95 < 1ms")
        assert self.report(run)[0] == 1
        (run / "run.json").write_text(json.dumps(damage(json.loads((run / "run.json").read_text()))))
        assert self.report(run)[0] == 3
        root = ElementTree.parse(run / "junit.xml").getroot()
        (case,) = (one for one in root.iter("testcase") if one.find("error") is not None)
        assert (case.get("name"), root.get("errors")) == ("the run is whole", "1")
        assert case.find("error").get("message")  # type: ignore[union-attr]

    def test_ends_with_3_where_run_json_is_cut_off_or_missing(self, tmp_path: Path) -> None:
        run = run_of(tmp_path / "run", 100, "p95 < 1ms")
        (run / "run.json").write_bytes((run / "run.json").read_bytes()[:300])
        assert self.report(run)[0] == 3
        (run / "run.json").unlink()
        assert self.report(run)[0] == 3

    def test_asked_for_an_objective_needs_only_every_trial(self, tmp_path: Path) -> None:
        run = run_of(tmp_path / "run", 100)
        head = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(head | {"status": "failed", "objectives": 5}))
        assert [self.report(run, "--objective", f"p95 < {ms}ms")[0] for ms in (80, 120)] == [1, 0]
        entries = [*head["trials"], {"backend": "bentoml"}]
        (run / "run.json").write_text(json.dumps(head | {"trials": entries}))
        assert self.report(run, "--objective", "p95 < 120ms")[0] == 3

    def test_holds_a_run_against_another(self, before: Path, tmp_path: Path) -> None:
        slower = run_of(tmp_path / "now", 150, RELATIVE)
        assert self.report(slower, "--baseline", str(before))[0] == 1
        assert self.report(slower)[0] == 1
        assert self.report(slower, "--objective", "p95 < 2 * baseline")[0] == 0

    def test_writes_junit_where_it_is_wanted(self, before: Path, tmp_path: Path) -> None:
        assert self.report(before, "--junit", str(tmp_path / "gate.xml"))[0] == 0
        assert (tmp_path / "gate.xml").read_text() == (before / "junit.xml").read_text()

    def test_refuses_a_junit_file_that_cannot_be_written(self, before: Path, tmp_path: Path) -> None:
        with pytest.raises(cli.UserError, match=r"no/where\.xml cannot be written: No such file"):
            report_run(before, Console(quiet=True), junit=tmp_path / "no" / "where.xml")

    def test_tells_the_job_on_github_what_was_missed(self, before: Path, tmp_path: Path) -> None:
        page = tmp_path / "summary.md"
        page.write_text("before\n")
        self.report(before, "--objective", "p95 < 80ms", GITHUB_STEP_SUMMARY=str(page))
        told = page.read_text()
        assert told.startswith("before\n### modelswarm · quick: missed\n")
        assert "100 ms missed" in told

    def test_a_page_that_cannot_be_written_does_not_fail_the_job(
        self,
        before: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "page.md"))
        assert report_run(before, Console(quiet=True)) == 0
        assert "page.md cannot be written: No such file or directory." in capsys.readouterr().err

    def test_refuses_to_measure_against_nothing(self) -> None:
        with pytest.raises(cli.UserError, match="needs a run to be held against: write baseline = "):
            read_plan("quick", {"objectives": [RELATIVE]})

    def test_tells_why_a_run_json_cannot_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "run.json").write_text('{"a":')
        with pytest.raises(NotARunFolder, match=r"holds no run: run\.json: is not whole JSON"):
            read_run(tmp_path)

        def refused(path: Path) -> bytes:  # as of a file or a folder of somebody else
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "read_bytes", refused)
        monkeypatch.setattr(Path, "exists", refused)
        with pytest.raises(NotARunFolder, match=r"run\.json: cannot be read \(Permission denied\)"):
            read_run(tmp_path)

    def test_refuses_to_measure_against_what_is_no_run(self, tmp_path: Path) -> None:
        arguments = ["run", "quick", "--objective", RELATIVE, "--baseline", str(tmp_path)]
        done = CliRunner().invoke(cli.app, arguments)
        assert isinstance(done.exception, cli.UserError)
        assert "holds no run: run.json: is missing, and there is no BACKEND/" in str(done.exception)

    @pytest.mark.parametrize(
        ("objective", "told"),
        [
            ("fastpi: p95 < 1s", "'fastpi'; did you mean 'fastapi'? There are constant, fastapi."),
            ("fastapi/cnstant: p95 < 1s", "did you mean 'fastapi/constant'?"),
            ("zzz: p95 < 1s", "nothing here is called 'zzz'; there are constant, fastapi."),
            (RELATIVE, "needs a run to be held against: write --baseline RUN."),
        ],
    )
    def test_refuses_an_objective_that_can_only_be_missed(
        self, before: Path, objective: str, told: str
    ) -> None:
        with pytest.raises(cli.UserError, match=re.escape(told)):
            report_run(before, Console(quiet=True), asked=Asked(objectives=(objective,)))
        assert not (before / "report.json").exists()

    def test_refuses_a_wrong_objective(self, before: Path) -> None:
        done = CliRunner().invoke(cli.app, ["report", str(before), "--objective", "p95"])
        assert isinstance(done.exception, cli.UserError)
        assert "'p95' is not an objective" in str(done.exception)
