"""The pages of an A/B comparison and of a capacity search."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.ab import compare_variants
from analysis.ab_report import write_ab_report
from analysis.capacity import Capacity, Level, summarise
from analysis.capacity_report import write_capacity_report
from analysis.cost import Cost
from analysis.objectives import parse
from analysis.runfolder import Backend, Fairness, Machine, Model, RunFacts
from analysis.scaling import Little
from analysis.words import percent
from tests.analysis.test_ab import failing, saturated, trial

EVIL = '<script>alert("1")</script>'


class Words(HTMLParser):
    """What a page shows, and its tags."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + " "


class TestAnABComparison:
    @pytest.fixture
    def page(self, tmp_path: Path) -> Words:
        trials = [trial(times=1.15)]
        result = compare_variants(trials, {"blue": 90, "green": 90}, "blue")
        return Words(write_ab_report(result, trials, RunFacts(command=f"modelswarm ab {EVIL}"), tmp_path))

    def test_begins_with_what_to_do(self, page: Words) -> None:
        words = page.text[page.text.index("modelswarm · green against blue") :]
        assert words.index("Keep blue: green is slower by ") < 120
        assert "which fits the weights (p = " in words

    def test_names_every_test_with_its_numbers(self, page: Words) -> None:
        for told in (
            "Welch's t, p < 0.0001",
            "Mann-Whitney",
            "Cohen's d",
            "Power",
            "chi-square",
            "Percentile",
        ):
            assert told in page.text

    def test_shows_both_distributions(self, page: Words) -> None:
        assert page.tags.count("svg") == 2
        assert page.tags.count("script") == 1

    def test_of_one_that_fails_shows_how_often_each_does_and_how_sure_that_is(self, tmp_path: Path) -> None:
        trials = [failing(trial(), blue=10, green=60)]
        result = compare_variants(trials, {"blue": 1, "green": 1}, "blue")
        path = write_ab_report(result, trials, RunFacts(), tmp_path)
        assert '<li class="bad">fails</li>' in path.read_text()
        page = Words(path)
        shares = [" ".join(percent(arm.failing).split()) for arm in (result.control, result.treatment)]
        test = "Fisher's exact test of more failures, p < 0.0001; with 97.5 % confidence at least "
        for told in ("Failed", *shares, "Odds of a failure", test):
            assert told in page.text

    def test_says_what_to_know_of_its_trials(self, tmp_path: Path) -> None:
        trials = [saturated(trial())]
        told = [f"nginx/ab/2 is not valid and was left out: {EVIL}."]
        result = compare_variants(trials, {"blue": 1, "green": 1}, "blue", notes=told)
        page = Words(write_ab_report(result, trials, RunFacts(), tmp_path))
        assert told[0] in page.text
        assert "nothing failed" in page.text
        assert "Decide nothing: the server was saturated" in page.text
        assert page.tags.count("script") == 1

    def test_of_a_wrong_split_says_to_decide_nothing(self, tmp_path: Path) -> None:
        trials = [trial(share=0.3)]
        result = compare_variants(trials, {"blue": 1, "green": 1}, "blue")
        page = Words(write_ab_report(result, trials, RunFacts(), tmp_path))
        assert "Decide nothing: green got " in page.text
        assert "split not as asked for" in page.text
        content = json.loads((tmp_path / "ab.json").read_text())
        assert (content["schema"], content["split_is_wrong"]) == (1, True)


def level(rate: float, score: float) -> Level:
    return Level(
        rate_per_s=rate,
        achieved_per_s=min(rate, 45),
        requests=round(30 * rate),
        mean_ms=20 + rate,
        values={"p95": 100.0},
        score=score,
        error=0.1,
        saturated=rate > 45,
    )


def searched(backend: str, scores: dict[float, float], trials: int = 1) -> Capacity:
    """What so many trials at each rate tell."""
    levels = [level(rate, score) for rate, score in scores.items() for _ in range(trials)]
    return summarise(backend, backend, [parse("p95 < 200ms")], levels, 50.0)


def test_the_page_of_a_search_has_what_a_prediction_costs_and_who_is_left_out(tmp_path: Path) -> None:
    held = searched("a", {20: -1.0, 40: 0.5}, 3)
    cost = Cost(
        backend="a", title="a", scenario="at-20", answered_per_s=20.0, cpu_cores_used=0.5,
        cpu_cores_reserved=1, memory_bytes_peak=2.0**30, predictions_per_cpu_s=40.0,
        predictions_per_cpu_s_interval=(36.0, 44.0), predictions_per_gib_hour=7e4, million_used=3.25,
        million_reserved=4.5, joules_per_prediction=None,
    )  # fmt: skip
    missed = searched("b", {20: 0.4, 40: 0.5}, 3)
    page = write_capacity_report([held.model_copy(update={"cost": cost}), missed], tmp_path).read_text()
    for told in ("What a prediction costs", "36.0 to 44.0", "3.25", "b (no rate was held in replicates)"):
        assert told in page
    assert "What a prediction costs" not in write_capacity_report([missed], tmp_path).read_text()


def capacity(backend: str, per_s: float | None) -> Capacity:
    return Capacity(
        backend=backend,
        title=f"{backend} {EVIL}",
        objectives=["p95 < 200ms"],
        per_s=per_s,
        low_per_s=per_s and per_s * 0.9,
        high_per_s=per_s and per_s * 1.1,
        shown_per_s=per_s and per_s * 0.9,
        knee_per_s=20.0,
        ceiling_per_s=50.0,
        usl=None,
        usl_refused="Too few levels",
        levels=[level(rate, score) for rate, score in ((20, -1.0), (40, -0.1), (50, 0.5))],
        notes=["The search was ended."],
    )


class TestACapacitySearch:
    def test_says_on_what_it_was_measured(self, tmp_path: Path) -> None:
        facts = [
            RunFacts(
                started=datetime(2026, 11, 28, 9 + n, tzinfo=UTC),
                ended=datetime(2026, 11, 28, 10 + n, tzinfo=UTC),
                target="local",
                machine=Machine(cpu="Example CPU", cores=2),
                model=Model(digest="sha256:abcdef"),
                fairness=Fairness(threads=1, server_cores=[1]),
                backends={name: Backend(title=name, version="1.2")},
            )
            for n, name in enumerate(("one", "two"))
        ]
        found = [capacity("one", 30), capacity("two", 40)]
        told = Words(write_capacity_report(found, tmp_path, "modelswarm capacity", facts)).text
        for words in ("Example CPU, 2 cores", "sha256:abcdef", "one 1.2, two 1.2", "core 1", "local"):
            assert words in told
        assert told.index("2026-11-28 09:00:00 UTC") < told.index("2026-11-28 11:00:00 UTC")

    def test_begins_with_who_carries_most_and_how_sure(self, tmp_path: Path) -> None:
        page = Words(
            write_capacity_report([capacity("a", 30), capacity("b", 40)], tmp_path, "modelswarm capacity")
        )
        words = page.text[page.text.index("modelswarm · capacity at p95 < 200ms") :]
        assert "carries most: 40/s (95 % interval 36.0 to 44.0)." in words
        assert words.index("b <script>") < words.index("30/s (95 % interval 27.0 to 33.0)")
        assert "Too few levels" in words
        assert "The search was ended." in words
        assert page.tags.count("svg") == 2
        assert page.tags.count("script") == 1

    def test_names_nobody_where_the_intervals_overlap(self, tmp_path: Path) -> None:
        page = Words(write_capacity_report([capacity("a", 38), capacity("b", 40)], tmp_path))
        assert "No difference was shown between b <script>" in page.text
        assert "carries most" not in page.text

    def test_says_that_no_rate_held(self, tmp_path: Path) -> None:
        page = Words(write_capacity_report([capacity("a", None)], tmp_path))
        assert "No server held the objectives at any rate that was tried." in page.text

    @pytest.mark.parametrize(
        ("found", "told"),
        [
            ({6: 0.1, 8: 0.2}, "No server held the objectives at any rate that was tried."),
            (
                {6: -0.4, 8: -0.2},
                "a seems to carry at least 8/s (no upper end was found, not confirmed by replicates).",
            ),
            (
                {8: -0.01, 10: 0.01},
                "a seems to carry 9/s (without an interval, not confirmed by replicates).",
            ),
            (
                {6: -0.9, 8: 0.9},
                "a seems to carry 7/s (95 % interval 6.00 to 8.00, not confirmed by replicates).",
            ),
        ],
    )
    def test_says_what_was_not_found(self, tmp_path: Path, found: dict[float, float], told: str) -> None:
        assert told in Words(write_capacity_report([searched("a", found)], tmp_path)).text

    def test_says_that_no_upper_end_was_found(self, tmp_path: Path) -> None:
        page = Words(write_capacity_report([searched("a", {8: -0.4, 10: -0.2}, trials=3)], tmp_path))
        assert "a carries at least 10/s (no upper end was found)." in page.text
        assert "≥ 10.0" in page.text
        assert "a: It held the objectives up to 10/s: no upper end was found." in page.text

    def test_tells_a_server_without_an_upper_end_from_one_that_ends_below(self, tmp_path: Path) -> None:
        ends = searched("ends", {6: -0.9, 8: 0.9}, trials=3)
        on, on_alone = (searched("on", {8: -0.4, 10: -0.2}, trials=count) for count in (3, 1))
        none = searched("none", {6: 0.4})
        page = Words(write_capacity_report([ends, none, on], tmp_path))
        assert "on carries most: at least 10/s (no upper end was found)." in page.text
        assert "interval 6.00 to 8.00) and none held the objectives at no rate that was tried." in page.text
        page = Words(write_capacity_report([ends, on_alone], tmp_path))
        assert "No difference was shown between on and ends." in page.text

    def test_only_seems_to_be_led_by_a_rate_without_replicates(self, tmp_path: Path) -> None:
        first, second = (
            searched("first", {20: -0.9, 22: 0.9}),
            searched("second", {6: -0.9, 8: 0.9}, trials=3),
        )
        page = Words(write_capacity_report([first, second], tmp_path))
        assert "first seems to carry most: 21/s (95 % interval 20.0 to 22.0, not confirmed" in page.text

    def test_shows_of_each_trial_whether_it_may_be_believed(self, tmp_path: Path) -> None:
        apart = Little(in_flight=2.6, expected=2.0, low=2.4, high=2.8, verdict="suspect")
        few = Little(in_flight=1.8, expected=2.0, low=1.2, high=2.4, verdict="not shown")
        levels = [
            level(6, -0.9).model_copy(update={"little": few}),
            level(8, -0.3).model_copy(update={"little": apart, "suspect": True, "reasons": ["why <b>"]}),
            level(10, 0.9),
        ]
        found = summarise("a", "a", [parse("p95 < 200ms")], levels, 50.0)
        page = Words(write_capacity_report([found], tmp_path))
        words = " ".join(page.text.split())
        assert "-10.0 %, not shown held valid" in words
        assert "+30.0 % held suspect" in words
        assert "a: Suspect at 8/s: why <b>." in words
        assert "1 of 3 trials suspect" in words

    def test_marks_each_trial_against_the_limit(self, tmp_path: Path) -> None:
        text = write_capacity_report([capacity("a", 40)], tmp_path).read_text()
        assert "50/s: 1.65 of allowed" in text
        assert text.count('class="interval"') == 1
