"""A run that looks at itself after every block: what it takes for an answer, and how often it is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.histograms import Floats
from analysis.metrics import cells
from analysis.ranking import rank
from analysis.report import Report, build_report, write_report
from analysis.runfolder import Sequential, read_run
from analysis.sequential import always_valid, fewest_trials
from analysis.settled import Standing, about_looks, look_at, tell
from analysis.uncertainty import Difference, Estimate, Pair, differences
from tests.analysis.folders import TrialSpec, steady, write_run

RUNS = 1000
BLOCKS = 20
PAIRS = 3


def facts(comparisons: int = 1, **others: Any) -> dict[str, Any]:
    started = {"method": "t test", "margin": 0.05, "comparisons": comparisons, "ceiling": 8, "first_look": 3}
    return started | {"looks": [], "ended": ""} | others


def trials(backend: str, median_ms: float, count: int = 5, **others: Any) -> list[TrialSpec]:
    """Trials that lie about 2 % apart."""
    rng = np.random.default_rng(sum(map(ord, backend)))
    return [
        TrialSpec(steady(median_ms * np.exp(rng.normal(0, 0.02)), 20, 50, seed=i), backend, trial=i, **others)
        for i in range(1, count + 1)
    ]


def run_of(folder: Path, *specs: list[TrialSpec], **head: Any) -> Path:
    head = {"sequential": facts()} | head
    return write_run(folder / "run", [one for some in specs for one in some], **head)


def looked(
    folder: Path, *specs: list[TrialSpec], without: tuple[str, ...] = (), **head: Any
) -> list[Standing]:
    return look_at(run_of(folder, *specs, **head), without)


class TestAPairIsSettled:
    def test_when_one_is_shown_to_be_slower(self, tmp_path: Path) -> None:
        (one,) = looked(tmp_path, trials("fastapi", 40), trials("bentoml", 60))
        assert one == Standing("bentoml slower than fastapi (p < 0.001)", settled=True)

    def test_when_they_differ_by_less_than_the_margin(self, tmp_path: Path) -> None:
        head = {"sequential": facts(margin=0.2)}
        (one,) = looked(tmp_path, trials("fastapi", 40), trials("bentoml", 40), **head)
        assert one.settled
        assert one.told.startswith(
            ("bentoml equivalent to fastapi within 20\N{NO-BREAK SPACE}%", "fastapi equi")
        )

    def test_when_one_cannot_keep_up(self, tmp_path: Path) -> None:
        (one,) = looked(tmp_path, trials("fastapi", 40), trials("bentoml", 60, saturated=True, dropped=500))
        assert one.settled
        assert "bentoml not to be compared with fastapi (saturated" in one.told

    def test_in_each_scenario_by_itself(self, tmp_path: Path) -> None:
        one, other = looked(
            tmp_path,
            trials("fastapi", 40),
            trials("bentoml", 60),
            trials("fastapi", 40, scenario="spike"),
            trials("bentoml", 41, scenario="spike"),
            sequential=facts(2),
        )
        assert (one.settled, other.settled) == (True, False)
        assert (one.told[-11:], other.told[-8:]) == ("in constant", "in spike")


class TestAPairIsOpen:
    def test_when_neither_a_difference_nor_its_absence_is_shown(self, tmp_path: Path) -> None:
        (one,) = looked(tmp_path, trials("fastapi", 40, 3), trials("bentoml", 41, 3))
        assert not one.settled
        assert "open (p = " in one.told

    def test_when_a_difference_would_be_shown_if_it_were_the_only_pair(self, tmp_path: Path) -> None:
        """The correction is in force: the same trials, and more pairs that share the 5 %."""
        pair = trials("fastapi", 40, 3), trials("bentoml", 60, 3)
        (alone,) = looked(tmp_path / "1", *pair)
        (among_many,) = looked(tmp_path / "2", *pair, sequential=facts(1000))
        assert (alone.settled, among_many.settled) == (True, False)

    def test_when_trials_order_the_two_otherwise_than_all_their_requests_do(self, tmp_path: Path) -> None:
        run = read_run(run_of(tmp_path, trials("fastapi", 40), trials("bentoml", 60)))
        told = {"bentoml": (60.0, 40.0), "fastapi": (50.0, 50.0)}
        spread = np.array([0.99, 1.0, 1.01, 1.0, 0.995])
        measured = [
            replace(cell, estimates=dict.fromkeys(cell.estimates, Estimate(merged_ms, level * spread, None)))
            for cell in cells(run)
            for merged_ms, level in [told[cell.row.backend]]
        ]
        (ranking,) = rank(measured, "p95", run.facts.sequential)
        (pair,) = ranking.pairs
        assert (pair.faster, pair.slower, pair.shown) == ("fastapi", "bentoml", False)
        assert pair.high is not None
        assert pair.high < 1

    def test_when_one_has_no_valid_trial_yet(self, tmp_path: Path) -> None:
        (one,) = looked(tmp_path, trials("fastapi", 40), trials("bentoml", 60, status="failed", error="died"))
        assert one == Standing("bentoml and fastapi open (bentoml: failed: died)", settled=False)

    def test_when_the_percentile_of_the_question_is_not_carried_yet(self, tmp_path: Path) -> None:
        pair = trials("fastapi", 40, 3), trials("bentoml", 90, 3)
        (one,) = looked(tmp_path, *pair, objectives=["p99.9 < 1s"])
        assert one == Standing("bentoml and fastapi open (too few requests for p99.9)", settled=False)


class TestAPairIsNotLookedAt:
    def test_with_a_stand_in(self, tmp_path: Path) -> None:
        backends = {"bentoml": {"title": "BentoML", "stand_in": True}}
        assert looked(tmp_path, trials("fastapi", 40), trials("bentoml", 60), backends=backends) == []

    def test_with_a_backend_that_is_not_tried_any_more(self, tmp_path: Path) -> None:
        three = trials("fastapi", 40), trials("bentoml", 60), trials("ray_serve", 90)
        (one,) = looked(tmp_path, *three, without=("ray_serve",), sequential=facts(3))
        assert one.told.startswith("bentoml slower than fastapi")


class TestALine:
    def test_tells_each_of_a_few_pairs(self) -> None:
        assert tell([Standing("a", True), Standing("b", False)]) == "a, b"

    def test_tells_of_many_pairs_how_many_are_settled_and_what_is_open(self) -> None:
        many = [Standing(f"{n}", settled=n < 6) for n in range(10)]
        assert tell(many) == "6 of 10 pairs settled, 6, 7, 8, 1 more"

    def test_says_when_there_is_nothing_to_compare(self) -> None:
        assert tell([]) == "nothing to compare"


class TestTheReport:
    def report(self, folder: Path, *specs: list[TrialSpec], **head: Any) -> Report:
        return build_report(run_of(folder, *specs, **head))

    def test_says_that_it_was_sequential_by_which_method_how_many_looks_and_why_it_ended(
        self, tmp_path: Path
    ) -> None:
        look = {
            "after_trials": 5,
            "settled": 1,
            "pairs": 1,
            "told": "bentoml slower than fastapi (p < 0.001)",
        }
        head = facts(looks=[look | {"after_trials": 4}, look], ended="settled")
        path = run_of(tmp_path, trials("fastapi", 40), trials("bentoml", 60), sequential=head)
        report = write_report(path)
        assert report.run.sequential is not None
        assert report.run.sequential.ended == "settled"
        for file in ("report.md", "report.html"):
            text = (path / file).read_text()
            assert "This run was sequential" in text
            assert "from 3 of each on (t test over 1 pair)." in text
            assert ">settled after 5 of at most 8 trials<" in (path / "report.html").read_text()
            assert "After 2 looks and 5 of at most 8 trials of each it ended: every pair was settled" in text

    @pytest.mark.parametrize(
        ("ended", "told"),
        [
            ("settled", "every pair was settled, so it stopped early."),
            ("ceiling", "not every pair was settled (1 of 3)."),
            ("nothing to compare", "nothing was left to compare."),
            ("", "it was stopped before it was settled."),
        ],
    )
    def test_says_how_a_run_ended(self, ended: str, told: str) -> None:
        look = {"after_trials": 5, "settled": 1, "pairs": 3, "told": "what was seen"}
        assert told in about_looks(Sequential.model_validate(facts(looks=[look], ended=ended)))

    def test_says_of_a_run_without_a_look_that_there_was_none(self) -> None:
        assert "did not come to its first look" in about_looks(Sequential.model_validate(facts()))

    def test_has_intervals_that_allow_for_the_looks(self, tmp_path: Path) -> None:
        pair = trials("fastapi", 40), trials("bentoml", 60)
        once = self.report(tmp_path / "1", *pair, sequential=None).rankings[0].pairs[0]
        often = self.report(tmp_path / "2", *pair).rankings[0].pairs[0]
        assert once.high is not None
        assert often.high is not None
        assert often.low < once.low < once.high < often.high
        assert often.rests_on == "5 trials of each, always-valid"

    def test_calls_equivalent_what_is(self, tmp_path: Path) -> None:
        pair = trials("fastapi", 40, 8), trials("bentoml", 40, 8)
        path = run_of(tmp_path, *pair, sequential=facts(margin=0.2))
        report = write_report(path)
        assert {one.rank for one in report.rankings[0].ranked} == {1}
        within = "equivalent within 20\N{NO-BREAK SPACE}%"
        assert report.recommendation.sentences[0].startswith(f"BentoML and FastAPI are {within}: ")
        assert f"| {within} |" in (path / "report.md").read_text()

    def test_goes_without_what_run_json_says_wrongly_of_it(self, tmp_path: Path) -> None:
        pair = trials("fastapi", 40), trials("bentoml", 60)
        report = self.report(tmp_path, *pair, sequential=facts(comparisons=0))
        assert report.run.sequential is None
        assert any("sequential of it was left out" in problem for problem in report.problems)


class TestThePairs:
    def test_share_the_5_percent_in_both_kinds_of_claim(self) -> None:
        rng = np.random.default_rng(3)
        pair = [Estimate(1.0, level * np.exp(rng.normal(0, 0.03, 12)), None) for level in (1.0, 1.03)]
        one, many = (always_valid(pair, 0.1, comparisons)[0, 1] for comparisons in (1, 7))
        assert (one.p, one.p_equivalent) != (1.0, 1.0)
        assert many.p == pytest.approx(min(1.0, 7 * (one.p or 0)))
        assert many.p_equivalent == pytest.approx(7 * (one.p_equivalent or 0))
        assert (one.equivalent, many.equivalent) == (True, False)
        assert many.low < one.low < one.high < many.high


class TestTheFirstLook:
    @pytest.mark.parametrize(("comparisons", "trials"), [(1, 3), (2, 3), (3, 4), (36, 4), (37, 5)])
    def test_comes_as_soon_as_any_difference_could_be_told(self, comparisons: int, trials: int) -> None:
        assert fewest_trials(comparisons) == trials

        def low(count: int) -> float:
            rng = np.random.default_rng(1)
            pair = [Estimate(1.0, level * np.exp(rng.normal(0, 1e-6, count)), None) for level in (1.0, 1e3)]
            return always_valid(pair, 0.05, comparisons)[0, 1].low

        assert low(trials - 1) == 0.0
        assert low(trials) > 1.0


def ever(
    runs: Floats, claim: Any, look: Any, first: int = fewest_trials(PAIRS)
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether a claim was made of any pair at any look; ``runs`` is (runs, backends, blocks) in ms."""

    def at(run: Floats, blocks: int) -> dict[Pair, Difference]:
        return look([Estimate(float(np.median(one)), one, None) for one in run[:, :blocks]])

    return np.array(
        [
            any(claim(one) for blocks in range(first, BLOCKS + 1) for one in at(run, blocks).values())
            for run in runs
        ]
    )


@pytest.fixture(scope="module")
def alike() -> Floats:
    """Quantiles of three backends that are the same: 3 % from trial to trial."""
    return 50 * np.exp(np.random.default_rng(7).normal(0, 0.03, (RUNS, 3, BLOCKS)))


class TestOfThreeBackendsLookedAtAfterEveryBlock:
    @staticmethod
    def sequential(family: list[Estimate]) -> dict[Pair, Difference]:
        return always_valid(family, 0.05, PAIRS)

    def test_any_pair_is_called_different_in_at_most_5_of_100_runs_of_the_same(self, alike: Floats) -> None:
        assert ever(alike, lambda one: one.shown, self.sequential).mean() <= 0.05

    def test_any_pair_would_be_in_more_by_intervals_that_allow_for_the_pairs_only(
        self, alike: Floats
    ) -> None:
        """The simulation can fail: it is the method that keeps it at 5 %."""
        assert ever(alike[:300], lambda one: one.shown, differences).mean() > 0.1

    def test_any_pair_that_differs_by_the_margin_is_called_equivalent_in_at_most_5_of_100(
        self, alike: Floats
    ) -> None:
        apart = alike * np.array([1 / 1.05, 1.0, 1.05])[:, None]
        assert ever(apart, lambda one: one.equivalent, self.sequential).mean() <= 0.05

    def test_those_that_differ_by_10_percent_are_told_apart_and_those_alike_found_equivalent(
        self, alike: Floats
    ) -> None:
        """20 trials, the default, are enough for both where trials lie 3 % apart."""
        apart = alike[:200] * np.array([1.0, 1.0, 1.1])[:, None]
        last = [self.sequential([Estimate(1.0, one, None) for one in run]) for run in apart]
        assert np.mean([found[0, 2].shown and found[1, 2].shown for found in last]) > 0.95
        assert np.mean([found[0, 1].equivalent for found in last]) > 0.8
