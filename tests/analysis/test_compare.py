import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.compare import Comparison, compare, compare_pairs
from analysis.histograms import Histogram
from analysis.importing import import_files
from analysis.metrics import Cell, Row
from analysis.pairs import CellPair
from analysis.runfolder import Counts, NotARunFolder, Summary, Trial, TrialEntry
from analysis.uncertainty import Estimate
from tests.analysis.folders import TrialSpec, exact, steady, write_run


def run(path: Path, median_ms: float, count: int = 3, seed: int = 0, head: Any = None, **others: Any) -> Path:
    specs = [
        TrialSpec(steady(median_ms * (1 + 0.01 * i), 20, 60, seed=seed + i), trial=i + 1, **others)
        for i in range(count)
    ]
    return write_run(path, specs, **(head or {}))


def compared(tmp_path: Path, base: dict[str, Any], new: dict[str, Any]) -> Comparison:
    return compare([run(tmp_path / "base", **base)], [run(tmp_path / "new", seed=50, **new)])


def verdicts(found: Comparison) -> dict[str, str]:
    return {row.metric: row.verdict for row in found.rows}


class TestTwoRuns:
    def test_of_the_same_server_show_no_difference(self, tmp_path: Path) -> None:
        found = compared(tmp_path, {"median_ms": 40}, {"median_ms": 40})
        assert verdicts(found) == {
            "p50": "equivalent", "p95": "not shown", "p99": "not shown", "error_rate": "not shown"
        }  # fmt: skip
        assert (found.regressions, found.differs, found.problems) == ([], [], [])

    def test_of_a_slower_server_show_a_regression_with_its_numbers(self, tmp_path: Path) -> None:
        found = compared(tmp_path, {"median_ms": 40}, {"median_ms": 60})
        assert verdicts(found)["p95"] == "slower"
        row = next(row for row in found.rows if row.metric == "p50")
        assert row.ratio == pytest.approx(1.5, rel=0.03)
        assert row.low is not None
        assert row.high is not None
        assert 1.4 < row.low < row.ratio < row.high < 1.6  # type: ignore[operator]
        assert found.regressions[0].startswith("fastapi in constant: p50 went from 39.9 ms to 60.8 ms")
        assert "times as slow (95 % interval 1.4" in found.regressions[0]

    def test_of_a_faster_server_show_no_regression(self, tmp_path: Path) -> None:
        found = compared(tmp_path, {"median_ms": 60}, {"median_ms": 40})
        assert verdicts(found)["p95"] == "faster"
        assert found.regressions == []

    def test_that_differ_by_less_than_the_tolerance_show_no_regression(self, tmp_path: Path) -> None:
        calm = {"count": 8}
        found = compared(tmp_path, {"median_ms": 40, **calm}, {"median_ms": 41.6, **calm})
        row = next(row for row in found.rows if row.metric == "p50")
        assert (row.verdict, row.regression) in {("slower", False), ("not shown", False)}

    def test_one_of_which_saturated_is_a_regression(self, tmp_path: Path) -> None:
        found = compared(tmp_path, {"median_ms": 40}, {"median_ms": 400, "saturated": True, "dropped": 300})
        assert verdicts(found) == {"p95": "worse", "error_rate": "worse"}
        assert "the server no longer keeps up" in found.regressions[0]
        assert "error_rate went from 0\N{NO-BREAK SPACE}% to 20\N{NO-BREAK SPACE}%" in found.regressions[1]
        assert found.regressions[1].endswith(", a rise by 18.85 to 21.19 points (95 % interval).")

    @pytest.mark.parametrize(("failed", "worse"), [(5, False), (60, True)])
    def test_with_more_errors_are_a_regression_from_a_percent_on(
        self, tmp_path: Path, failed: int, worse: bool
    ) -> None:
        found = compared(tmp_path, {"median_ms": 40}, {"median_ms": 40, "failed": failed})
        assert (verdicts(found)["error_rate"] == "worse") is worse

    def test_say_how_much_the_error_rate_rose_and_how_sure_that_is(self, tmp_path: Path) -> None:
        found = compared(tmp_path, {"median_ms": 40}, {"median_ms": 40, "failed": 11})
        row = next(row for row in found.rows if row.metric == "error_rate")
        assert (row.verdict, row.regression) == ("within tolerance", False)
        assert row.note == (
            "error_rate: a rise of less than the 1\N{NO-BREAK SPACE}% that is tolerated was shown"
        )
        assert row.p is not None
        assert row.p < 0.001
        assert row.difference == pytest.approx(33 / 3600)
        assert row.difference_low is not None
        assert row.difference_high is not None
        # Newcombe's method 10 for 33 of 3,600 and 0 of 3,600: Wilson's limits of both
        assert row.difference_low == pytest.approx(0.00633, abs=1e-5)
        assert row.difference_high == pytest.approx(0.01285, abs=1e-5)

    def test_of_which_none_had_errors_say_how_many_there_may_be(self, tmp_path: Path) -> None:
        row = compared(tmp_path, {"median_ms": 40}, {"median_ms": 40}).rows[-1]
        assert (row.verdict, row.difference, row.p) == ("not shown", 0.0, 1.0)
        assert row.difference_high == pytest.approx(3.84 / 3600, rel=0.01)

    def test_say_how_sure_they_are_and_what_would_settle_it(self, tmp_path: Path) -> None:
        found = compared(tmp_path, {"median_ms": 40}, {"median_ms": 41})
        row = next(row for row in found.rows if row.metric == "p99")
        assert (row.verdict, row.regression) == ("not shown", False)
        assert row.p is not None
        assert row.p > 0.05
        assert row.power is not None
        assert 0.05 < row.power < 0.9
        assert row.more_trials is not None
        assert row.more_trials >= 1
        assert not found.settled

    def test_take_a_margin(self, tmp_path: Path) -> None:
        base, new = run(tmp_path / "base", 40, 6), run(tmp_path / "new", 43, 6, seed=50)
        verdict = {margin: verdicts(compare([base], [new], margin=margin))["p50"] for margin in (0.02, 0.2)}
        assert verdict == {0.02: "slower", 0.2: "equivalent"}

    def test_looked_at_after_each_trial_need_more_of_them(self, tmp_path: Path) -> None:
        base, new = run(tmp_path / "base", 40, 3), run(tmp_path / "new", 43, 3, seed=50)
        once, always = (compare([base], [new], sequential=mode).rows[0] for mode in (False, True))
        assert (once.verdict, always.verdict) == ("slower", "not shown")
        assert once.low is not None
        assert always.low is None or always.low < once.low

    def test_on_other_machines_or_models_say_so(self, tmp_path: Path) -> None:
        head = {"machine": {"cpu": "Other CPU", "cores": 8}, "model": {"digest": "sha256:cd"}}
        found = compared(tmp_path, {"median_ms": 40}, {"median_ms": 40, "head": head})
        assert "Machine: Example CPU, 2 cores, now Other CPU, 8 cores." in found.differs
        assert any(sentence.startswith("Model: sha256:ab") for sentence in found.differs)

    @pytest.mark.parametrize(
        ("server", "generator", "told"),
        [
            ([2], [3], ""),
            ([1, 2], [0], "2 cores for the server, the generator on others"),
            ([0, 1], [0, 1], "2 cores for the server, shared with the generator"),
            ([1], None, "1 core for the server"),
            ([], [], "not pinned"),
            (None, None, "not known"),
        ],
    )
    def test_on_other_cores_say_so(
        self, tmp_path: Path, server: list[int] | None, generator: list[int] | None, told: str
    ) -> None:
        held = {"server_cores": server, "generator_cores": generator, "threads": 1, "workers": 1}
        found = compared(tmp_path, {"median_ms": 40}, {"median_ms": 40, "head": {"fairness": held}})
        before = "1 core for the server, the generator on others"
        assert found.differs == ([f"Cores: {before}, now {told}."] if told else [])

    def test_of_a_plan_that_was_edited_say_so(self, tmp_path: Path) -> None:
        before, after = (
            {"plan": {"warmup": warmup, "warmup_requests": n}} for warmup, n in (("5s", 10), ("0s", 0))
        )
        found = compared(tmp_path, {"median_ms": 40, "head": before}, {"median_ms": 40, "head": after})
        assert found.differs == ["Warm-up: 5s, 10 requests first, now 0s."]


class TestManyCells:
    def cell(self, rng: np.random.Generator, scenario: int, trials: int) -> Cell:
        """A server whose trials lie 4 % apart; each of its percentiles moves a little on its own."""
        level = 50 * np.exp(rng.normal(0, 0.04, trials))
        values = {name: level * times * np.exp(rng.normal(0, 0.01, trials))
                  for name, times in (("p50", 1.0), ("p95", 2.0), ("p99", 3.0))}  # fmt: skip
        told = {name: Estimate(float(np.median(ms)), ms, None) for name, ms in values.items()}
        lost = rng.binomial(1500, 0.004, trials)
        row = Row(
            backend="fastapi", title="FastAPI", scenario=f"s{scenario}", load="open", stand_in=False,
            trials=trials, trials_planned=trials, verdict="valid", reasons=[], requests=1500 * trials,
            latency_ms={name: one.merged_ms for name, one in told.items()},
        )  # fmt: skip
        entry = TrialEntry(backend="fastapi", scenario=row.scenario, path="x")
        counts = [Counts(planned=1500, sent=1500, completed=1500 - n, failed=n, dropped=0) for n in lost]
        parts = [Trial(entry, "x", Summary(counts=one, duration_s=30)) for one in counts]
        return Cell(row, parts, Histogram.empty(), told)

    @pytest.mark.parametrize("sequential", [False, True])
    def test_of_a_server_compared_with_itself_call_a_difference_in_5_percent(self, sequential: bool) -> None:
        """Of 25 comparisons of 12 cells at most 4, which chance exceeds once in a hundred times."""
        rng = np.random.default_rng(7)
        called = 0
        for _ in range(25):
            cells = [(self.cell(rng, n, 5), self.cell(rng, n, 5)) for n in range(12)]
            pairs = [CellPair(one.row.scenario, "fastapi", one, other) for one, other in cells]
            rows = compare_pairs(pairs, 0.001, sequential)
            called += any(row.verdict not in {"not shown", "equivalent"} for row in rows)
        assert called <= 4

    def test_need_more_to_call_a_difference_than_one_does(self, tmp_path: Path) -> None:
        def side(name: str, median_ms: float, scenarios: int, seed: int) -> Path:
            specs = [
                TrialSpec(
                    steady(median_ms * (1 + 0.02 * t), 10, 40, seed=seed + t), scenario=f"s{n}", trial=t
                )
                for n in range(scenarios)
                for t in (1, 2, 3)
            ]
            return write_run(tmp_path / f"{name}{scenarios}", specs)

        alone, among = (compare([side("base", 40, n, 0)], [side("new", 45, n, 50)]).rows[0] for n in (1, 20))
        assert (alone.verdict, among.verdict) == ("slower", "not shown")
        assert (alone.low, alone.high) == (among.low, among.high)
        assert alone.power is not None
        assert among.power is not None
        assert among.power < alone.power


class TestTwoSetsOfRuns:
    def test_count_all_their_trials(self, tmp_path: Path) -> None:
        base = [run(tmp_path / f"base{i}", 40, 2, seed=10 * i) for i in range(3)]
        new = [run(tmp_path / f"new{i}", 44, 2, seed=100 + 10 * i) for i in range(3)]
        found = compare(base, new)
        assert found.rows[0].verdict == "slower"
        assert found.rows[0].note == "rests on 6 trials of each"
        assert found.differs == []

    def test_that_lie_further_apart_than_their_trials_say_so(self, tmp_path: Path) -> None:
        base = [run(tmp_path / f"base{i}", median, 3, seed=10 * i) for i, median in enumerate((40, 60))]
        found = compare(base, [run(tmp_path / "new", 50, 3, seed=50)])
        assert found.differs[0].startswith(
            "fastapi in constant: the base runs lie further apart than their trials (p = "
        )

    def test_of_which_one_was_a_stand_in_are_not_compared(self, tmp_path: Path) -> None:
        stand_in = {"backends": {"fastapi": {"version": "1.2.3", "stand_in": True}}}
        new = [run(tmp_path / "1", 40), run(tmp_path / "2", 40, head=stand_in)]
        found = compare([run(tmp_path / "3", 40)], new)
        assert found.rows[0].note == "the new side is a stand-in, the other the server itself"

    def test_say_of_which_run_a_trial_is(self, tmp_path: Path) -> None:
        new = [run(tmp_path / "one", 40), run(tmp_path / "two", 40, status="failed", error="it died")]
        (tmp_path / "one/fastapi/constant/1/pods.csv").unlink()
        found = compare([run(tmp_path / "base", 40)], new)
        assert "new: two/fastapi/constant/1 is not valid, and is left out: failed: it died." in found.problems
        assert any(told.startswith("new: one: fastapi/constant/1/pods.csv: ") for told in found.problems)

    @pytest.mark.parametrize("which", [0, 1])
    def test_that_lost_a_trial_are_not_complete(self, tmp_path: Path, which: int) -> None:
        new = [run(tmp_path / name, 40) for name in ("one", "two")]
        file = new[which] / "run.json"
        head = json.loads(file.read_text())
        head["trials"][2].pop("path")
        file.write_text(json.dumps(head))
        base = run(tmp_path / "base", 40)
        assert not compare([base], new).complete
        assert not compare([base], [new[which]]).complete
        assert compare(new, [base]).complete

    def test_on_two_machines_name_both(self, tmp_path: Path) -> None:
        other = {"machine": {"cpu": "Other CPU", "cores": 8}}
        base = [run(tmp_path / "1", 40), run(tmp_path / "2", 40, head=other)]
        found = compare(base, [run(tmp_path / "3", 40)])
        assert "Machine: Example CPU, 2 cores; Other CPU, 8 cores, now Example CPU, 2 cores." in found.differs


class TestSaturatedTrials:
    """Pairs of (saturated trials, trials): of the base, and of the new side."""

    def side(self, path: Path, saturated: int, count: int) -> Path:
        specs = [
            TrialSpec(steady(40, seed=n), trial=n, saturated=n <= saturated, dropped=int(n <= saturated))
            for n in range(1, count + 1)
        ]
        others = [TrialSpec(steady(60, seed=50 + n), "bentoml", trial=n) for n in range(1, count + 1)]
        return write_run(path, [*specs, *others])

    def found(self, tmp_path: Path, base: tuple[int, int], new: tuple[int, int]) -> Comparison:
        return compare([self.side(tmp_path / "base", *base)], [self.side(tmp_path / "new", *new)])

    @pytest.mark.parametrize(
        ("base", "new"),
        [((0, 1), (1, 1)), ((0, 5), (5, 5)), ((0, 5), (4, 5)), ((0, 2), (2, 2)), ((1, 6), (6, 6))],
    )
    def test_of_the_new_side_are_a_regression_where_they_are_shown_to_be_more(
        self, tmp_path: Path, base: tuple[int, int], new: tuple[int, int]
    ) -> None:
        found = self.found(tmp_path, base, new)
        assert found.outcome == "regression"
        assert "the server no longer keeps up with this load" in found.regressions[0]

    @pytest.mark.parametrize(("base", "new"), [((0, 5), (1, 5)), ((0, 5), (3, 5)), ((1, 5), (3, 5))])
    def test_of_the_new_side_that_chance_explains_show_nothing(
        self, tmp_path: Path, base: tuple[int, int], new: tuple[int, int]
    ) -> None:
        found = self.found(tmp_path, base, new)
        assert (found.regressions, found.outcome, found.complete) == ([], "not measured", False)
        row = next(row for row in found.rows if (row.backend, row.metric) == ("fastapi", "p95"))
        assert row.verdict == "not comparable"
        told = f"{base[0] or 'none'} of 5 in the base run and {new[0]} of 5 in the new run"
        assert told in row.note
        assert any(problem.startswith("new: fastapi in constant fell behind") for problem in found.problems)

    def test_of_the_base_are_told_too(self, tmp_path: Path) -> None:
        found = self.found(tmp_path, (1, 5), (0, 5))
        (row,) = (row for row in found.rows if row.backend == "fastapi")
        assert row.verdict == "not comparable"
        assert row.note == (
            "saturated in the base run (trials saturated: 1 of 5 in the base run and none of 5 in the new "
            "run): its percentiles are lower bounds"
        )


class TestWhatIsNotComparable:
    @pytest.mark.parametrize(
        ("base", "new", "told"),
        [
            ({}, {"backend": "bentoml"}, "the base run does not have it"),
            ({}, {"scenario": "poisson"}, "the base run does not have it"),
            ({}, {"shape": {"name": "constant", "rate": 9.0}}, "the load was not the same"),
            ({}, {"model": "closed"}, "the load was not the same"),
            ({}, {"status": "failed", "error": "it died"}, "not valid in the new run: failed: it died"),
            ({"verdict": "invalid", "reasons": ["late"]}, {}, "not valid in the base run: late"),
            ({"saturated": True}, {}, "saturated in the base run"),
        ],
    )
    def test_is_told_with_the_reason(
        self, tmp_path: Path, base: dict[str, Any], new: dict[str, Any], told: str
    ) -> None:
        found = compared(tmp_path, {"median_ms": 40, **base}, {"median_ms": 90, **new})
        assert set(verdicts(found).values()) == {"not comparable"}
        assert any(told in row.note for row in found.rows)
        assert found.regressions == []
        assert not found.compared

    @pytest.mark.parametrize(("failed", "side"), [((700, 0), "base"), ((0, 700), "new")])
    def test_is_a_latency_where_one_side_answered_with_errors(
        self, tmp_path: Path, failed: tuple[int, int], side: str
    ) -> None:
        """Errors answer fast: a server that was repaired did not get slower, nor a broken one faster."""
        base, new = ({"median_ms": 2 if lost else 40, "failed": lost} for lost in failed)
        found = compared(tmp_path, base, new)
        worse = "worse" if side == "new" else "not shown"
        assert verdicts(found) == dict.fromkeys(("p50", "p95", "p99"), "not comparable") | {
            "error_rate": worse
        }
        told = f"58\N{NO-BREAK SPACE}% of the {side} run's arrivals got no right answer"
        assert all(told in row.note for row in found.rows[:3])
        assert bool(found.regressions) == (side == "new")

    @pytest.mark.parametrize(("base", "new"), [(True, False), (False, True)])
    def test_is_a_stand_in_and_the_server_that_it_stands_for(
        self, tmp_path: Path, base: bool, new: bool
    ) -> None:
        sides: list[dict[str, Any]] = [
            {"median_ms": 40, "head": {"backends": {"fastapi": {"version": "1.2.3", "stand_in": it}}}}
            for it in (base, new)
        ]
        found = compared(tmp_path, *sides)
        assert {row.verdict for row in found.rows} == {"not comparable"}
        side = "base" if base else "new"
        assert found.rows[0].note == f"the {side} side is a stand-in, the other the server itself"
        assert any("fastapi 1.2.3 (stand-in)" in sentence for sentence in found.differs)

    def test_is_a_folder_without_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(NotARunFolder):
            compare([run(tmp_path / "base", 40)], [tmp_path / "nothing"])


def test_json_has_rows_and_regressions(tmp_path: Path) -> None:
    found = compared(tmp_path, {"median_ms": 40}, {"median_ms": 60})
    content = json.loads(found.to_json())
    assert content["schema"] == 2
    assert content["regressions"] == found.regressions
    assert content["rows"][1]["metric"] == "p95"
    assert content["rows"][1]["ratio"] == found.rows[1].ratio


def test_a_single_short_trial_each_is_never_called_different(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", [TrialSpec(exact([10.0] * 100, 3))])
    new = write_run(tmp_path / "new", [TrialSpec(exact([30.0] * 100, 3))])
    found = compare([base], [new])
    assert verdicts(found) == {
        "p50": "not shown", "p95": "not shown", "p99": "not comparable", "error_rate": "not shown"
    }  # fmt: skip
    assert found.compared


@pytest.mark.parametrize(("per_s", "same"), [(11, True), (300, False)])
def test_imported_runs_are_compared_at_the_same_rate_only(tmp_path: Path, per_s: int, same: bool) -> None:
    """Nothing tells what they were asked for."""
    imported: dict[str, Any] = {"model": "imported", "shape": {"name": "imported"}}
    sides = [write_run(tmp_path / str(n), [TrialSpec(steady(40, 20, n), **imported)]) for n in (10, per_s)]
    found = compare(sides[:1], sides[1:])
    assert (found.rows[0].verdict != "not comparable") is same
    if not same:
        assert found.rows[0].note == "the load was not the same (10/s and 300/s)"


def test_percentiles_of_locusts_buckets_are_shown_but_not_compared(tmp_path: Path) -> None:
    stats = Path(__file__).parent / "foreign" / "stock_stats.csv"
    sides = [tmp_path / "base", tmp_path / "new"]
    for side in sides:
        import_files([stats], side, ["shop"], "checkout", "modelswarm import")
    found = compare(sides[:1], sides[1:])
    row = next(row for row in found.rows if row.metric == "p50")
    assert (row.verdict, row.base, row.new) == ("not comparable", 32, 32)
    assert "of the new run only percentiles of Locust's buckets are known" in row.note
    assert not found.compared
