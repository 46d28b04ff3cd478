"""What `compare` prints, and the exit status that it means."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from scripts import cli
from tests.analysis.folders import TrialSpec, steady, write_run, write_trial


def trials(
    backend: str, median_ms: float, count: int = 3, seed: int = 0, **others: object
) -> list[TrialSpec]:
    return [
        TrialSpec(steady(median_ms, seed=seed + n), backend, trial=n, **others)  # type: ignore[arg-type]
        for n in range(1, count + 1)
    ]


def compared(base: object, new: object, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["compare", str(base), str(new), *options])
    if isinstance(done.exception, cli.UserError):
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_run(tmp_path / "base", [*trials("fastapi", 40), *trials("bentoml", 60, seed=50)])


class TestTheExitStatus:
    def test_is_0_where_all_was_measured_and_none_got_slower(self, base: Path, tmp_path: Path) -> None:
        same = [*trials("fastapi", 40, seed=90), *trials("bentoml", 60, seed=70)]
        status, told = compared(base, write_run(tmp_path / "new", same))
        assert status == 0
        assert "No regression was shown." in told

    def test_is_3_where_no_percentile_could_be_compared(self, tmp_path: Path) -> None:
        few = [
            write_run(tmp_path / name, [TrialSpec(steady(median, 4, 4))])
            for name, median in (("base", 40), ("new", 400))
        ]
        status, told = compared(*few)
        assert status == 3
        assert (
            "p50: it needs 20 requests, the base run has 16 requests; it needs 20 requests, the new" in told
        )
        assert "Nothing could be compared" in told

    def test_is_3_where_the_new_server_crashed(self, base: Path, tmp_path: Path) -> None:
        crashed = trials("fastapi", 40, status="failed", error="it died")
        new = write_run(tmp_path / "new", [*crashed, *trials("bentoml", 60, seed=70)])
        status, told = compared(base, new)
        assert status == 3
        assert "! new: fastapi/constant/1 is not valid, and is left out: failed: it died." in told
        assert "the new side is not complete" in told

    def test_is_3_where_some_new_trials_failed(self, base: Path, tmp_path: Path) -> None:
        failed = [*trials("fastapi", 40, 1, seed=90), *trials("fastapi", 40, 3, status="failed")[1:]]
        new = write_run(tmp_path / "new", [*failed, *trials("bentoml", 60, seed=70)])
        assert compared(base, new)[0] == 3

    def test_is_0_where_a_generator_was_too_late_in_one_trial_of_several(
        self, base: Path, tmp_path: Path
    ) -> None:
        late = trials("fastapi", 40, 1, verdict="invalid", reasons=["dispatch lag p99 90 ms"])
        rest = [*late, *trials("fastapi", 40, seed=90)[1:], *trials("bentoml", 60, seed=70)]
        status, told = compared(base, write_run(tmp_path / "new", rest))
        assert status == 0
        assert "! new: fastapi/constant/1 is not valid, and is left out: dispatch lag p99 90 ms." in told

    def test_is_3_where_a_backend_is_missing(self, base: Path, tmp_path: Path) -> None:
        new = write_run(tmp_path / "new", trials("bentoml", 60, seed=70))
        status, told = compared(base, new)
        assert status == 3
        assert "! new: fastapi in constant is missing; the base has it." in told
        assert compared(new, base)[0] == 0

    def test_is_3_where_nothing_tells_how_many_trials_the_new_side_had(
        self, base: Path, tmp_path: Path
    ) -> None:
        same = [*trials("fastapi", 40, seed=90), *trials("bentoml", 60, seed=70)]
        new = write_run(tmp_path / "new", same)
        (new / "run.json").unlink()
        status, told = compared(base, new)
        assert status == 3
        assert "the new side is not complete" in told

    def test_is_0_of_single_recorded_trials(self, tmp_path: Path) -> None:
        """They have no run.json, and need none: there is one trial."""
        sides = []
        for name in ("base", "new"):
            (tmp_path / name).mkdir()
            folder = write_trial(tmp_path / name, TrialSpec(steady(40)))
            sides.append(folder.rename(tmp_path / name / "fastapi-recorded"))
        assert compared(*sides)[0] == 0

    def test_is_1_for_a_regression_whatever_else_is_missing(self, base: Path, tmp_path: Path) -> None:
        assert compared(base, write_run(tmp_path / "new", trials("bentoml", 90, seed=70)))[0] == 1


def test_a_rise_of_errors_is_shown_with_its_interval(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", trials("fastapi", 40))
    status, told = compared(base, write_run(tmp_path / "new", trials("fastapi", 40, failed=9)))
    assert status == 0
    assert "+0.90 pp" in told
    assert "a rise of less than the 1 % that is tolerated was shown" in told


def test_what_would_settle_it_is_told_of_a_fixed_number_of_trials_only(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", trials("fastapi", 40))
    new = write_run(tmp_path / "new", trials("fastapi", 41, seed=90))
    assert "with a probability of about" in compared(base, new)[1]
    told = compared(base, new, "--sequential")[1]
    assert "Go on: not settled yet." in told
    assert "probability" not in told


def test_a_suspect_side_is_named_with_its_reasons(base: Path, tmp_path: Path) -> None:
    suspect = trials("fastapi", 40, seed=90, verdict="suspect", reasons=["dispatch lag p99 12 ms"])
    new = write_run(tmp_path / "new", [*suspect, *trials("bentoml", 60, seed=70)])
    sentence = "fastapi in constant is suspect in the new run: dispatch lag p99 12 ms."
    assert sentence in compared(base, new)[1]
    assert sentence in compared(base, new, "--json")[1]


class TestACiJob:
    def test_gets_the_answer_and_the_table_on_its_page(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page.md"))
        slower = write_run(
            tmp_path / "new", [*trials("fastapi", 40, seed=90), *trials("bentoml", 90, seed=70)]
        )
        assert compared(base, slower)[0] == 1
        told = (tmp_path / "page.md").read_text()
        assert told.startswith(
            "### modelswarm · compare: regression\n\n**bentoml in constant: p50 went from "
        )
        assert "| constant | bentoml | p50 | " in told
        head, *lines = [line for line in told.splitlines() if line.startswith("|")]
        assert head.endswith("| p | d | P(new slower) | power for 5\N{NO-BREAK SPACE}% | verdict |")
        p50 = next(line for line in lines if line.startswith("| constant | bentoml | p50 | "))
        assert "| 100\N{NO-BREAK SPACE}% | " in p50
        assert p50.endswith("| slower |")
        assert "[red]" not in told

    @pytest.mark.parametrize(
        ("new", "status", "failures", "errors"),
        [
            ([*trials("fastapi", 40, seed=90), *trials("bentoml", 60, seed=70)], 0, 0, 0),
            ([*trials("fastapi", 40, seed=90), *trials("bentoml", 90, seed=70)], 1, 3, 0),
            (trials("bentoml", 60, seed=70), 3, 0, 1),
        ],
    )
    def test_gets_junit_that_fails_where_the_exit_status_does(
        self, base: Path, tmp_path: Path, new: list[TrialSpec], status: int, failures: int, errors: int
    ) -> None:
        file = tmp_path / "compare.xml"
        assert compared(base, write_run(tmp_path / "new", new), "--junit", str(file))[0] == status
        root = ElementTree.parse(file).getroot()
        assert [int(root.get(name, "")) for name in ("failures", "errors")] == [failures, errors]
        if failures:
            failure = root.find(".//testcase[@classname='constant.bentoml']/failure")
            assert failure is not None
            assert "times as slow (95 % interval" in failure.get("message", "")
        if status == 3:
            assert root.find(".//testcase[@classname='constant.fastapi']/skipped") is not None

    def test_is_refused_a_junit_file_that_cannot_be_written(self, base: Path, tmp_path: Path) -> None:
        status, told = compared(base, base, "--junit", str(tmp_path / "no" / "where.xml"))
        assert status == 2
        assert "where.xml cannot be written: No such file or directory." in told


class TestRunsAreNamed:
    @pytest.mark.parametrize("empty", [",", "", " , "])
    def test_at_least_once(self, base: Path, empty: str) -> None:
        status, told = compared(empty, base)
        assert status == 2
        assert "names no run: write a run's folder or `latest`" in told

    def test_on_both_sides_to_be_told_so(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for again in (base, base.relative_to(tmp_path)):
            status, told = compared(base, again)
            assert status == 0
            assert "is on both sides: it is compared with itself." in told

    def test_on_a_side_no_more_than_once(self, base: Path, tmp_path: Path) -> None:
        other = write_run(tmp_path / "other", trials("fastapi", 40))
        (tmp_path / "link").symlink_to(base)
        for sides in ((f"{base},{base}", other), (other, f"{base},{tmp_path / 'link'}")):
            status, told = compared(*sides)
            assert status == 2
            assert "is named twice, and its trials are no new ones: name each run once." in told
