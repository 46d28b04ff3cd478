from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.histograms import Floats, Histogram
from analysis.metrics import Cell, Row
from analysis.ranking import rank
from analysis.report import Report, build_report
from analysis.uncertainty import Estimate
from analysis.words import ms, number
from tests.analysis.folders import TrialSpec, exact, run_json, steady, write_run


def trials(backend: str, median_ms: float, count: int = 3, **others: Any) -> list[TrialSpec]:
    """Trials that lie a percent or two apart."""
    seeds = [sum(map(ord, backend)) + 10 * i for i in range(count)]
    return [
        TrialSpec(steady(median_ms * (1 + 0.01 * i), 20, 50, seed=seed), backend, trial=i + 1, **others)
        for i, seed in enumerate(seeds)
    ]


def report_of(tmp_path: Path, *specs: list[TrialSpec], **head: Any) -> Report:
    return build_report(write_run(tmp_path / "run", [one for some in specs for one in some], **head))


def ranks(report: Report, scenario: int = 0) -> dict[str, int]:
    return {one.backend: one.rank for one in report.rankings[scenario].ranked}


def measured(backend: str, scenario: str, trials_ms: Floats) -> Cell:
    """A cell of which no more is known than each trial's p95."""
    row = Row(backend=backend, title=backend, scenario=scenario, load="open", stand_in=False,
              trials=len(trials_ms), trials_planned=len(trials_ms), verdict="valid", reasons=[],
              requests=3000)  # fmt: skip
    known = Estimate(float(np.exp(np.log(trials_ms).mean())), trials_ms, None)
    return Cell(row, [], Histogram.empty(), dict.fromkeys(("p50", "p90", "p95"), known))


@pytest.mark.parametrize("scenarios", [1, 6])
def test_the_same_server_twice_is_told_apart_in_at_most_5_percent_of_runs(scenarios: int) -> None:
    """Of runs, however many scenarios each has; 6.5 of 100 is what chance makes of 5 in 500 runs."""
    rng, told = np.random.default_rng(4), 0
    for _ in range(500):
        cells = [
            measured(backend, f"s{n}", 50 * np.exp(rng.normal(0, 0.03, 3)))
            for n in range(scenarios)
            for backend in "ab"
        ]
        told += any(pair.shown for ranking in rank(cells, "p95") for pair in ranking.pairs)
    assert told / 500 <= 0.065


class TestWhatDiffers:
    def test_is_ranked_and_the_fastest_recommended_with_its_numbers(self, tmp_path: Path) -> None:
        report = report_of(tmp_path, trials("fastapi", 40), trials("bentoml", 60), trials("ray_serve", 90))
        assert ranks(report) == {"fastapi": 1, "bentoml": 2, "ray_serve": 3}
        assert report.recommendation.backend == "fastapi"
        first, second = report.recommendation.sentences
        rows = {row.backend: row for row in report.rows}
        assert first.startswith("Run FastAPI: its p95 latency was ")
        low, high = (number(end) for end in rows["fastapi"].interval_ms["p95"])
        interval = f"95\N{NO-BREAK SPACE}% interval {low} to {high}"
        assert f"{ms(rows['fastapi'].latency_ms['p95'])} ({interval}) at 50/s (constant)" in first
        assert f"BentoML's {ms(rows['bentoml'].latency_ms['p95'])} (constant; 1." in first
        assert second == "This rests on 3 trials of each backend per scenario."

    def test_is_a_tie_where_no_difference_is_shown(self, tmp_path: Path) -> None:
        report = report_of(tmp_path, trials("fastapi", 40), trials("bentoml", 40.2), trials("ray_serve", 90))
        assert ranks(report) == {"fastapi": 1, "bentoml": 1, "ray_serve": 3}
        assert report.recommendation.backend is None
        values = [
            f"{title} {ms(row.latency_ms['p95'])} ({number(low)} to {number(high)})"
            for title, row in zip(("BentoML", "FastAPI"), report.rows, strict=False)
            for low, high in [row.interval_ms["p95"]]
        ]
        assert report.recommendation.sentences[0] == (
            "No difference was shown between BentoML and FastAPI: p95 latency at 50/s (constant), with "
            f"95\N{NO-BREAK SPACE}% intervals: {values[0]} and {values[1]}."
        )

    def test_on_a_single_trial_must_differ_by_more_than_the_margin(self, tmp_path: Path) -> None:
        near = report_of(tmp_path / "1", trials("fastapi", 40, 1), trials("bentoml", 44, 1))
        assert near.recommendation.backend is None
        far = report_of(tmp_path / "2", trials("fastapi", 40, 1), trials("bentoml", 80, 1))
        assert far.recommendation.backend == "fastapi"
        assert "on a single trial less than 20% is not called a difference" in far.recommendation.sentences[1]

    def test_by_the_percentile_of_the_objectives(self, tmp_path: Path) -> None:
        report = report_of(tmp_path, trials("fastapi", 40), trials("bentoml", 60), objectives=["p99 < 1s"])
        assert report.rankings[0].metric == "p99"
        assert "its p99 latency was" in report.recommendation.sentences[0]

    def test_by_a_lower_percentile_where_p95_is_not_carried(self, tmp_path: Path) -> None:
        few = [TrialSpec(steady(m, 15, 10), b) for b, m in (("fastapi", 40.0), ("bentoml", 90.0))]
        assert report_of(tmp_path, few).rankings[0].metric == "p90"

    def test_is_not_ranked_on_a_handful_of_requests(self, tmp_path: Path) -> None:
        report = report_of(tmp_path, [TrialSpec(exact([10.0] * 3, 6), b) for b in ("fastapi", "bentoml")])
        assert report.rankings[0].ranked == []
        assert report.rankings[0].excluded["fastapi"].reason == "18 requests, p50 needs 20"
        assert report.recommendation.sentences[0] == "No server can be recommended from this run."


class TestWhatIsNotRanked:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"verdict": "invalid", "reasons": ["the generator was late"]}, "the generator was late"),
            ({"status": "failed", "error": "it died"}, "failed: it died"),
            ({"status": "interrupted"}, "was interrupted before its end"),
            (
                {"saturated": True, "dropped": 500},
                "saturated, it could not keep up: 33\N{NO-BREAK SPACE}% of arrivals dropped",
            ),
            ({"saturated": True}, "saturated, it could not keep up"),
            ({"failed": 40}, "4\N{NO-BREAK SPACE}% of its arrivals failed"),
        ],
    )
    def test_however_fast_it_looks(self, tmp_path: Path, change: dict[str, Any], told: str) -> None:
        quick = [replace(spec, **change) for spec in trials("fastapi", 1)]
        report = report_of(tmp_path, quick, trials("bentoml", 60), trials("ray_serve", 90))
        assert list(ranks(report)) == ["bentoml", "ray_serve"]
        assert report.rankings[0].excluded["fastapi"].reason.startswith(told)
        assert report.recommendation.backend == "bentoml"
        assert f"; not ranked: FastAPI (constant: {told}" in report.recommendation.sentences[1]

    def test_is_a_stand_in(self, tmp_path: Path) -> None:
        specs = [*trials("fastapi", 1), *trials("bentoml", 60), *trials("ray_serve", 90)]
        backends = run_json(specs)["backends"]
        backends["fastapi"]["stand_in"] = True
        report = report_of(tmp_path, specs, backends=backends)
        assert list(ranks(report)) == ["bentoml", "ray_serve"]
        assert (
            "; not ranked: FastAPI (constant: a stand-in, never ranked)" in report.recommendation.sentences[1]
        )
        assert (
            "Stand-ins play a server that is not installed; they are shown and never ranked." in report.notes
        )

    def test_is_closed_load_beside_open(self, tmp_path: Path) -> None:
        closed = trials("bentoml", 10, model="closed", shape={"name": "closed"})
        report = report_of(tmp_path, trials("fastapi", 40), closed)
        assert report.rankings[0].ranked == []
        assert (
            "its load differs from the others' (closed, 50.0 arrivals/s"
            in report.rankings[0].excluded["bentoml"].reason
        )

    def test_is_another_rate(self, tmp_path: Path) -> None:
        other = trials("bentoml", 10, shape={"name": "constant", "rate": 5.0})
        report = report_of(tmp_path, trials("fastapi", 40), other)
        assert report.rankings[0].ranked == []
        assert report.recommendation.backend is None

    def test_are_more_than_two_by_name_only(self, tmp_path: Path) -> None:
        bad = [one for b in ("a", "b", "c") for one in trials(b, 5, 1, status="failed", error="it died")]
        report = report_of(tmp_path, bad, trials("fastapi", 40), trials("bentoml", 60))
        assert (
            "; not ranked everywhere, for the reasons given below: a, b and c."
            in report.recommendation.sentences[1]
        )


class TestTheRecommendation:
    def test_names_trials_so_far_apart_that_they_hide_a_difference(self, tmp_path: Path) -> None:
        slow_once = [TrialSpec(steady(m, 20, 50, seed=i), "bentoml", trial=i) for i, m in ((1, 40), (2, 300))]
        report = report_of(tmp_path, trials("fastapi", 40, 2), slow_once)
        assert report.recommendation.backend is None
        low, high = next(row for row in report.rows if row.backend == "bentoml").spread_ms["p95"]
        told = f"; trials lay far apart: BentoML's from {low:.1f} to {high:.0f} ms (constant)."
        assert report.recommendation.sentences[1].endswith(told)

    def test_counts_a_rival_that_saturated_as_beaten(self, tmp_path: Path) -> None:
        slow = trials("bentoml", 500, saturated=True, dropped=200)
        report = report_of(tmp_path, trials("fastapi", 40), slow)
        assert report.recommendation.backend == "fastapi"
        assert "against BentoML, saturated, it could not keep up" in report.recommendation.sentences[0]

    def test_has_nothing_to_rank_a_lone_backend_against(self, tmp_path: Path) -> None:
        report = report_of(
            tmp_path, trials("fastapi", 40), trials("bentoml", 1, status="failed", error="it died")
        )
        assert report.recommendation.backend is None
        assert report.recommendation.sentences[0].startswith(
            "FastAPI has nothing to be ranked against: its p95"
        )

    def test_is_not_given_by_a_rival_that_was_not_measured(self, tmp_path: Path) -> None:
        """A tie in one scenario and no valid measurement of the rival in the other show nothing."""
        specs = [
            *trials("fastapi", 40), *trials("bentoml", 40.2),
            *trials("fastapi", 40, scenario="poisson"),
            *trials("bentoml", 40, scenario="poisson", verdict="invalid", reasons=["late"]),
        ]  # fmt: skip
        report = report_of(tmp_path, specs)
        assert report.recommendation.backend is None
        assert report.recommendation.sentences[0].startswith(
            "No difference was shown between FastAPI and BentoML"
        )

    def test_names_the_leader_of_each_scenario_where_they_differ(self, tmp_path: Path) -> None:
        specs = [
            *trials("fastapi", 40), *trials("bentoml", 60),
            *trials("fastapi", 90, scenario="poisson"), *trials("bentoml", 60, scenario="poisson"),
        ]  # fmt: skip
        report = report_of(tmp_path, specs)
        assert report.recommendation.backend is None
        first = report.recommendation.sentences[0]
        assert first.startswith(
            "No server leads in every scenario: at 50/s (constant) FastAPI, whose p95 latency was "
        )
        assert "; at 50/s (poisson) BentoML, whose p95 latency was " in first

    def test_tells_of_a_rate_that_changes_that_it_is_a_mean(self, tmp_path: Path) -> None:
        spike = {"shape": {"name": "spike"}}
        report = report_of(tmp_path, trials("fastapi", 40, **spike), trials("bentoml", 60, **spike))
        assert "at 50/s on average (constant)" in report.recommendation.sentences[0]

    def test_tells_of_closed_load_no_rate(self, tmp_path: Path) -> None:
        closed = {"model": "closed", "shape": {"name": "closed"}}
        report = report_of(tmp_path, trials("fastapi", 40, **closed), trials("bentoml", 60, **closed))
        assert "/s" not in report.recommendation.sentences[0]

    def test_rests_on_open_load_and_takes_closed_only_alone(self, tmp_path: Path) -> None:
        closed = {"scenario": "callers", "model": "closed", "shape": {"name": "closed"}}
        both = [*trials("fastapi", 90, **closed), *trials("bentoml", 40, **closed)]
        alone = report_of(tmp_path / "1", both)
        assert alone.recommendation.backend == "bentoml"
        mixed = report_of(tmp_path / "2", both, trials("fastapi", 40), trials("bentoml", 60))
        assert mixed.recommendation.backend == "fastapi"
        assert "callers" not in mixed.recommendation.sentences[0]
        assert any("the two are not compared" in note for note in mixed.notes)

    def test_says_what_is_suspect_and_how_many_objectives_were_missed(self, tmp_path: Path) -> None:
        suspect = trials("fastapi", 40, verdict="suspect", reasons=["busy"])
        report = report_of(tmp_path, suspect, trials("bentoml", 60), objectives=["p95 < 80ms"])
        assert report.recommendation.backend == "fastapi"
        assert report.recommendation.sentences[1] == (
            "This rests on 3 trials of each backend per scenario; measurements of FastAPI are suspect; "
            "1 of 2 objectives missed."
        )
        assert report.valid

    def test_of_nothing_says_so(self, tmp_path: Path) -> None:
        report = report_of(tmp_path, [TrialSpec([], status="pending")])
        assert report.recommendation.sentences == (
            "No server can be recommended from this run.",
            "Not ranked: FastAPI (constant: was not made).",
        )
        assert not report.valid
