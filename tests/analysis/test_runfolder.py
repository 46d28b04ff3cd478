import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report import build_report
from analysis.runfolder import NotARunFolder, read_run
from tests.analysis.folders import TrialSpec, exact, run_json, write_run, write_trial

SPECS = [TrialSpec(exact([10.0] * 20, 6)), TrialSpec(exact([20.0] * 20, 6), "bentoml")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", SPECS)


def rewrite(run: Path, change: Callable[[dict[str, Any]], Any], name: str = "run.json") -> None:
    content = json.loads((run / name).read_text())
    change(content)
    (run / name).write_text(json.dumps(content))


class TestAWholeRun:
    def test_is_read_without_a_word(self, run: Path) -> None:
        found = read_run(run)
        assert found.problems == []
        assert [trial.name for trial in found.trials] == ["fastapi/constant/1", "bentoml/constant/1"]
        assert found.facts.machine.cores == 2
        assert found.facts.backends["fastapi"].title == "FastAPI"
        assert found.trials[0].summary is not None
        assert found.trials[0].summary.counts.planned == 120

    def test_may_have_keys_of_a_newer_writer(self, run: Path) -> None:
        rewrite(run, lambda content: content["machine"].update(gpus=2))
        assert read_run(run).problems == []


class TestNoRun:
    @pytest.mark.parametrize("name", ["missing", "file"])
    def test_is_refused_with_a_sentence(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(NotARunFolder, match="is not a folder: name a run folder, such as results/"):
            read_run(tmp_path / name)

    def test_in_an_empty_folder_is_refused_with_what_was_looked_for(self, tmp_path: Path) -> None:
        with pytest.raises(
            NotARunFolder, match=r"run\.json: is missing, and there is no BACKEND/SCENARIO/TRIAL"
        ):
            read_run(tmp_path)


class TestADamagedRunJson:
    @pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "{\xff", "[" * 100_000])
    def test_leaves_the_trials_on_disk(self, run: Path, content: str) -> None:
        (run / "run.json").write_bytes(content.encode("latin-1"))
        found = read_run(run)
        assert sorted(trial.name for trial in found.trials) == ["bentoml/constant/1", "fastapi/constant/1"]
        assert "plan, machine, model and objectives are not known" in found.problems[-1]

    def test_that_is_lost_leaves_the_trials_on_disk(self, run: Path) -> None:
        (run / "run.json").unlink()
        assert len(read_run(run).trials) == 2

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda c: c.update(machine="fast"), "machine is wrong"),
            (lambda c: c.update(machine={"cores": "two"}), "machine.cores is wrong"),
            (lambda c: c.update(seed=float("nan")), "seed is wrong"),
            (lambda c: c.update(started="yesterday"), "started is wrong"),
            (lambda c: c.update(objectives="p95 < 1ms"), "objectives is wrong"),
            (lambda c: c.update(schema=2), "was written by a newer modelswarm (schema 2, this one reads 1)"),
            (lambda c: c["trials"][1].update(status="weird"), "trial 2: status is wrong"),
            (lambda c: c["trials"][1].pop("path"), "trial 2: path is wrong (Field required)"),
            (lambda c: c["trials"].append(c["trials"][0]), "trial 3 has the path of an earlier one"),
            (lambda c: c["trials"].append(7), "trial 3: it is wrong"),
            (lambda c: c.pop("trials"), "has no list of trials"),
            (lambda c: c.update(trials={"a": 1}), "has no list of trials"),
        ],
    )
    def test_loses_only_the_part_that_is_wrong(
        self, run: Path, change: Callable[[dict[str, Any]], Any], told: str
    ) -> None:
        rewrite(run, change)
        found = read_run(run)
        assert len(found.problems) == 1
        assert told in found.problems[0]
        assert found.facts.command == "modelswarm run quick --seed 1"
        if "trial" not in told:
            assert len(found.trials) == 2

    @pytest.mark.parametrize(
        ("trials", "told"), [(None, "has no list of trials"), ([], "lists no trials"), (7, "has no list")]
    )
    def test_that_lists_no_trials_leaves_those_on_disk(self, run: Path, trials: Any, told: str) -> None:
        rewrite(run, lambda content: content.update(trials=trials))
        found = read_run(run)
        assert sorted(trial.name for trial in found.trials) == ["bentoml/constant/1", "fastapi/constant/1"]
        assert found.lost_trials
        (problem,) = found.problems
        assert told in problem
        assert problem.endswith("; those below are the 2 found on disk.")

    @pytest.mark.parametrize(
        "path", ["../outside", "/etc", "fastapi/../../x", "no/such/trial", "a\0b", "x" * 5000]
    )
    def test_never_leads_out_of_the_run(self, run: Path, path: str) -> None:
        write_trial(run.parent / "outside", SPECS[0])
        rewrite(run, lambda content: content["trials"][0].update(path=path))
        found = read_run(run)
        assert found.trials[0].summary is None
        assert "fastapi/constant/1: " in found.problems[0]


class TestADamagedSummary:
    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("", "is not whole JSON"),
            ('{"counts": {', "is not whole JSON"),
            ("[1]", "holds a list where an object was expected"),
            ("{}", "counts is wrong (Field required)"),
            ('{"counts": {"planned": -1}, "duration_s": 1}', "counts.planned is wrong"),
        ],
    )
    def test_makes_its_trial_invalid_and_is_named(self, run: Path, content: str, told: str) -> None:
        (run / "fastapi/constant/1/summary.json").write_text(content)
        report = build_report(run)
        assert any(told in problem for problem in report.problems)
        assert {row.backend: row.verdict for row in report.rows} == {"fastapi": "invalid", "bentoml": "valid"}
        assert not report.valid

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -3.0, 1e300, "long", None])
    def test_with_an_impossible_duration_is_named(self, run: Path, value: object) -> None:
        rewrite(run, lambda content: content.update(duration_s=value), "fastapi/constant/1/summary.json")
        assert any("duration_s is wrong" in problem for problem in read_run(run).problems)

    @pytest.mark.parametrize(
        ("rate", "duration_s", "told"),
        [
            ({"planned": 12.0, "achieved": 12.0}, 10.0, "from the arrivals and the rate that were planned"),
            ({"planned": 0, "achieved": 0}, 6.0, "to the end of the log's last second"),
            ({"planned": "fast"}, 6.0, "to the end of the log's last second"),
            (None, 6.0, "to the end of the log's last second"),
        ],
    )
    def test_without_its_duration_has_one_that_is_reckoned_and_says_so(
        self, run: Path, rate: object, duration_s: float, told: str
    ) -> None:
        rewrite(run, lambda content: content.pop("duration_s"), "fastapi/constant/1/summary.json")
        rewrite(run, lambda content: content.update(rate=rate), "fastapi/constant/1/summary.json")
        found = read_run(run)
        assert found.trials[0].summary is not None
        assert found.trials[0].summary.duration_s == duration_s
        assert found.problems == [
            f"fastapi/constant/1/summary.json: has no duration_s; {duration_s:.0f} s were reckoned {told}."
        ]
        assert build_report(run).valid

    def test_without_anything_that_tells_its_duration_is_left_out(self, run: Path) -> None:
        folder = run / "fastapi/constant/1"
        (folder / "latency.hlog").unlink()
        rewrite(run, lambda content: [content.pop(key) for key in ("duration_s", "rate")],
                "fastapi/constant/1/summary.json")  # fmt: skip
        assert any("duration_s is wrong (Field required)" in problem for problem in read_run(run).problems)

    def test_that_is_lost_leaves_the_latencies_to_be_seen(self, run: Path) -> None:
        (run / "fastapi/constant/1/summary.json").unlink()
        row = next(row for row in build_report(run).rows if row.backend == "fastapi")
        assert row.latency_ms["p50"] == pytest.approx(10, rel=0.001)
        assert row.planned is None
        assert "there is no readable summary.json" in row.reasons[0]


class TestASingleRecordedTrial:
    def test_is_a_run_of_one(self, tmp_path: Path) -> None:
        folder = write_trial(tmp_path, SPECS[0])
        report = build_report(folder)
        assert [(row.scenario, row.trials, row.verdict) for row in report.rows] == [("recorded", 1, "valid")]
        assert report.rows[0].title == "FastapiUser"
        assert report.problems == []
        assert report.notes[0].startswith("A single recorded trial: ")
        assert report.valid

    def test_is_not_asked_for_the_samples_of_a_server_it_did_not_start(self, tmp_path: Path) -> None:
        folder = write_trial(tmp_path, SPECS[0])
        (folder / "pods.csv").unlink()
        assert build_report(folder).problems == []


def test_a_trial_not_yet_made_is_not_looked_for(tmp_path: Path) -> None:
    pending = TrialSpec([], "bentoml", status="pending")
    run = write_run(tmp_path / "run", [SPECS[0], pending])
    assert read_run(run).problems == []
    assert run_json([pending])["trials"][0]["status"] == "pending"
