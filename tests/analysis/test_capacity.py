from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from analysis.capacity import (
    MOST_TRIALS,
    REPLICATES,
    UNKNOWN_ERROR,
    Level,
    crossing_per_s,
    interval,
    knee_per_s,
    ladder,
    level_of,
    propose,
    refuse,
    requests_needed,
    shown,
    summarise,
)
from analysis.objectives import parse
from analysis.runfolder import read_run
from analysis.uncertainty import estimates, interval_ms
from tests.analysis.folders import TrialSpec, steady, write_run
from tests.analysis.queues import Mmc
from tests.analysis.simulated import intervals

SERVER = Mmc(servers=4, per_s=50)
SLO = parse("p95 < 80ms")


def measured(
    rng: np.random.Generator,
    rate: float,
    seconds: int = 60,
    server: Mmc = SERVER,
    allowed_ms: float = SLO.threshold,
) -> Level:
    """What a trial of a simulated M/M/c server tells."""
    most = server.servers * server.per_s
    latency_ms, ended = server.simulate_ms(rng, min(rate, most * 0.999), seconds)
    log = intervals(latency_ms, np.floor(ended).astype(np.int64), int(ended.max()) + 1)
    (p95,) = estimates([log], [0.95])
    error = (p95.within.below + p95.within.above) / 2 if p95.within else UNKNOWN_ERROR
    score = float(np.clip(np.log(p95.merged_ms / allowed_ms), -3, 1))
    return Level(
        rate_per_s=rate,
        achieved_per_s=len(ended) / seconds,
        requests=len(ended),
        mean_ms=float(latency_ms.mean()),
        values={"p95": p95.merged_ms},
        score=score if rate < most else 1.0,
        error=error,
        free=p95.within.free if p95.within else 0.0,
        saturated=rate >= most,
    )


def searched(
    seed: int, seconds: int = 60, server: Mmc = SERVER, allowed_ms: float = SLO.threshold
) -> list[Level]:
    rng = np.random.default_rng(seed)
    levels: list[Level] = []
    rates = ladder(server.servers * server.per_s)
    while rates:
        levels += [measured(rng, rate, seconds, server, allowed_ms) for rate in rates]
        rates = propose(levels)
        assert len(levels) < 60
    return levels


def level(rate: float, score: float, error: float = 0.05, **others: object) -> Level:
    fields = {"achieved_per_s": rate, "requests": 1000, "mean_ms": 20.0, "values": {"p95": 1.0}}
    fields |= {"saturated": False, **others}
    return Level(rate_per_s=rate, score=score, error=error, **fields)


class TestTheKnownAnswer:
    """M/M/4, 20 ms of service: theory puts p95 < 80 ms at 147/s."""

    truth = SERVER.capacity_per_s(0.95, 80.0)

    def test_of_a_single_server_is_the_exponential_law(self) -> None:
        one = Mmc(1, 50)
        assert one.mean_ms(30) == pytest.approx(1000 / 20)
        assert one.quantile_ms(0.95, 30) == pytest.approx(1000 * np.log(20) / 20)

    def test_has_the_measured_mean_and_percentiles_within_their_intervals(self) -> None:
        rng = np.random.default_rng(1)
        logs = []
        for _ in range(5):
            latency_ms, ended = SERVER.simulate_ms(rng, 120, 60)
            logs.append(intervals(latency_ms, np.floor(ended).astype(np.int64), int(ended.max()) + 1))
        quantiles = (0.5, 0.9, 0.95, 0.99)
        for q, estimate in zip(quantiles, estimates(logs, quantiles), strict=True):
            low, high = interval_ms(estimate, None) or (0.0, 0.0)
            assert low <= SERVER.quantile_ms(q, 120) <= high
        means = [log.merged().mean_ms() or 0.0 for log in logs]
        error = np.std(means, ddof=1) / np.sqrt(5)
        assert abs(np.mean(means) - SERVER.mean_ms(120)) < 2.776 * error

    def test_is_found_within_5_percent_and_lies_in_the_interval(self) -> None:
        searches = [searched(seed) for seed in range(100)]
        found = np.array([crossing_per_s(levels) or 0.0 for levels in searches])
        assert np.mean(np.abs(found / self.truth - 1) < 0.05) >= 0.95
        assert np.median(found) == pytest.approx(self.truth, rel=0.02)
        between = [interval(levels) or (0.0, 0.0) for levels in searches]
        assert np.mean([low <= self.truth <= high for low, high in between]) >= 0.92
        assert np.median([(high - low) / self.truth for low, high in between]) < 0.13
        assert max(map(len, searches)) <= MOST_TRIALS + REPLICATES


class TestShortTrials:
    """30 s of a queue scatter by 12 % in their p95, and know that by three degrees of freedom."""

    @pytest.mark.parametrize(
        ("server", "allowed_ms"), [(Mmc(1, 100), 60.0), (Mmc(2, 40), 100.0)], ids=["M/M/1", "M/M/2"]
    )
    def test_have_intervals_that_cover_and_a_capacity_within_5_percent(
        self, server: Mmc, allowed_ms: float
    ) -> None:
        truth = server.capacity_per_s(0.95, allowed_ms)
        searches = [searched(seed, 30, server, allowed_ms) for seed in range(200)]
        known = [found for levels in searches if (found := interval(levels))]
        assert len(known) >= 0.93 * len(searches)
        assert 0.93 <= np.mean([low <= truth <= high for low, high in known]) <= 0.995
        found = np.array([crossing_per_s(levels) or 0.0 for levels in searches])
        assert np.mean(np.abs(found / truth - 1) < 0.05) >= 0.82  # 50 to 62 % where searches ended early
        assert np.median(found) == pytest.approx(truth, rel=0.01)
        assert np.mean([len(levels) for levels in searches]) < 24
        held = [rate for levels in searches if (rate := shown(levels))]
        assert np.mean(np.array(held) > 1.05 * truth) < 0.03


class TestTheSearch:
    def test_goes_down_where_nothing_held(self) -> None:
        assert propose([level(60, 0.5), level(80, 0.9)]) == [36.0]

    def test_goes_up_where_everything_held(self) -> None:
        assert propose([level(60, -0.5), level(80, -0.1)]) == [92.0, 104.0]

    def test_halves_the_gap_around_the_crossing(self) -> None:
        (rate,) = propose([level(60, -0.2), level(80, 0.2)])
        assert rate == 70.0

    def test_is_not_misled_by_a_lucky_trial(self) -> None:
        lucky = [level(40, -0.5), level(60, 0.15), level(65, -0.05), level(70, 0.3), level(80, 0.9)]
        (rate,) = propose(lucky)
        assert 44 <= rate < 60

    def test_measures_the_crossing_again_and_then_a_rate_that_holds(self) -> None:
        close = [level(*pair, error=0.02) for pair in ((50, -0.9), (60, -0.3), (61.5, 0.3), (70, 0.9))]
        (again,) = propose(close)  # two lie near enough
        assert 60 < again < 61.5
        missed = [*close, level(again, 0.1, error=0.02)]
        assert propose(missed) == [60.0]  # the other lies next to it
        done = [*missed, level(60, -0.29), level(60, -0.3)]
        assert propose(done) == []
        assert shown(done) == 60.0

    def test_measures_both_sides_of_the_crossing_until_the_interval_is_narrow_or_time_is_up(self) -> None:
        noisy = [level(rate, (rate - 100) / 100, error=0.2) for rate in (60, 80, 98, 100, 102, 120, 150)]
        again = propose(noisy)
        assert again == [90.0, 90.0, 110.0, 110.0]
        assert MOST_TRIALS - 4 < len([*noisy, *[level(100, 0.0, error=0.2)] * 14]) <= MOST_TRIALS
        assert propose([*noisy, *[level(100, 0.0, error=0.2)] * 14]) == []
        told = "The interval of its capacity reaches 40% below it and 50% above: "
        assert (
            f"{told}longer trials (--trial-time) narrow it." in summarise("a", "A", [SLO], noisy, None).notes
        )

    def test_does_not_show_a_rate_whose_replicates_missed(self) -> None:
        assert shown([level(60, -0.3), level(60, 0.4), level(60, 0.1)]) is None
        assert shown([level(60, -0.3), level(60, -0.2)]) is None


class TestTheInterval:
    def test_is_wider_where_trials_at_the_same_rate_lie_apart(self) -> None:
        calm = [level(rate, score) for rate, score in ((50, -0.5), *[(60, -0.2)] * 6, (70, 0.3), (80, 0.9))]
        wild = [one.model_copy(update={"score": 0.2}) if i == 1 else one for i, one in enumerate(calm)]
        narrow, wide = interval(calm), interval(wild)
        assert narrow is not None
        assert wide is not None
        assert narrow == (60, 70)
        assert wide[1] - wide[0] > 15

    def test_is_not_widened_by_trials_that_only_missed_by_far(self) -> None:
        held = [level(rate, score) for rate, score in ((50, -0.9), (60, -0.2), (60, -0.2), (60, -0.2))]
        assert interval([*held, level(60, 1.0), level(70, 1.0), level(80, 1.0)]) is not None

    def test_is_not_told_where_the_draws_do_not_cross(self) -> None:
        assert interval([level(50, -0.5), level(60, -0.01, error=0.5)]) is None


class TestALevel:
    def test_is_read_from_a_trial(self, tmp_path: Path) -> None:
        run = read_run(write_run(tmp_path, [TrialSpec(steady(40, 20, 50), dropped=10)]))
        found = level_of(run.trials[0], [parse("p95 < 100ms"), parse("error_rate < 1%")])
        assert found is not None
        assert found.rate_per_s == 50  # as planned, although 50.5/s came
        assert found.values["error_rate"] == pytest.approx(10 / 1010)
        # the errors are nearest to what is allowed
        assert found.score == pytest.approx(np.log(10 / 1010 / 0.01))
        assert found.in_flight == pytest.approx(50 * 0.0418, rel=0.05)

    def test_has_the_rate_that_came_where_none_is_told(self, tmp_path: Path) -> None:
        specs = [
            TrialSpec(steady(40, 20, 50), dropped=10, scenario=str(number), shape=shape)
            for number, shape in enumerate(({"name": "poisson"}, {"name": "closed", "rate": 10.0}))
        ]
        for trial in read_run(write_run(tmp_path, specs)).trials:
            found = level_of(trial, [SLO])
            assert found is not None
            assert found.rate_per_s == pytest.approx(50.5)

    def test_is_suspect_where_littles_law_does_not_hold(self, tmp_path: Path) -> None:
        spec = TrialSpec([np.full(50, 80.0)] * 20, shape={"name": "poisson", "rate": 50.0})
        file = write_run(tmp_path, [spec]) / spec.path / "generator.csv"
        file.write_text(re.sub(r",3\.9[89]\d*,", ",1.0,", file.read_text()))
        found = level_of(read_run(tmp_path).trials[0], [SLO])
        assert found is not None
        assert found.suspect
        assert found.reasons == [
            "Little's law does not hold: 1.00 in flight, rate times service time is 3.99"
        ]

    def test_keeps_why_its_verdict_is_suspect(self, tmp_path: Path) -> None:
        spec = TrialSpec(steady(40, 20, 50), verdict="suspect", reasons=["the generator lagged"])
        found = level_of(read_run(write_run(tmp_path, [spec])).trials[0], [SLO])
        assert found is not None
        assert found.suspect
        assert found.reasons == ["the generator lagged"]

    def test_of_a_saturated_server_missed_by_far(self, tmp_path: Path) -> None:
        run = read_run(write_run(tmp_path, [TrialSpec(steady(40, 20, 50), saturated=True)]))
        found = level_of(run.trials[0], [parse("p95 < 100s")])
        assert found is not None
        assert found.score == 1.0

    @pytest.mark.parametrize(
        ("slo", "failed", "held"),
        [("p95 < 200ms", 40, True), ("p95 < 200ms", 60, False), ("p99 < 200ms", 20, False),
         ("mean < 200ms", 5, True), ("mean < 200ms", 20, False), ("error_rate < 10%", 60, True)],
    )  # fmt: skip
    def test_whose_errors_answer_fast_missed_a_latency_by_far(
        self, tmp_path: Path, slo: str, failed: int, held: bool
    ) -> None:
        run = read_run(write_run(tmp_path, [TrialSpec(steady(40, 20, 50), failed=failed)]))
        found = level_of(run.trials[0], [parse(slo)])
        assert found is not None
        assert (found.score <= 0, found.score == 1.0) == (held, not held)

    def test_achieves_its_right_answers(self, tmp_path: Path) -> None:
        run = read_run(write_run(tmp_path, [TrialSpec(steady(40, 20, 50), failed=600)]))
        found = level_of(run.trials[0], [SLO])
        assert found is not None
        assert (found.achieved_per_s, found.calm) == (20, False)
        assert found.in_flight == pytest.approx(50 * 0.0418, rel=0.05)  # those that fail are in flight too

    def test_that_ends_just_after_the_plan_achieves_what_came(self, tmp_path: Path) -> None:
        late = [*steady(40, 19, 50), np.full(48, 40.0), np.full(2, 40.0)]
        found = level_of(read_run(write_run(tmp_path, [TrialSpec(late, duration_s=20)])).trials[0], [SLO])
        assert found is not None
        assert found.achieved_per_s == 50

    @pytest.mark.parametrize(
        "spec", [TrialSpec(steady(40, 20, 50), verdict="invalid"), TrialSpec(steady(40, 5, 20))]
    )
    def test_is_none_of_what_is_not_valid_or_too_small(self, tmp_path: Path, spec: TrialSpec) -> None:
        assert level_of(read_run(write_run(tmp_path, [spec])).trials[0], [SLO]) is None


@pytest.mark.parametrize(
    ("slo", "told"),
    [
        ("throughput > 5/s", "does not end"),
        ("p95 > 5ms", "does not end"),
        ("p95 < 1.2 * baseline", "no baseline; write a value"),
        ("fastapi: p95 < 200ms", "write it without 'fastapi:', and name the backend with --backends"),
        ("p95 < 0ms", "holds at no rate"),
        ("p95 <= 0ms", "holds at no rate"),
        ("error_rate < 0%", "holds at no rate"),
        ("error_rate <= 100%", "holds at every rate"),
        ("drop_rate < 150%", "holds at every rate"),
    ],
)
def test_what_no_rate_can_be_searched_for_is_refused(slo: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        refuse([parse(slo)])
    with pytest.raises(ValueError, match="write --slo"):
        refuse([])
    refuse([SLO, parse("error_rate <= 0%"), parse("error_rate < 100%")])


def test_a_percentile_needs_its_requests() -> None:
    assert requests_needed([SLO, parse("error_rate < 1%")]) == 200
    assert requests_needed([parse("mean < 9ms")]) == 0


def test_the_knee_is_where_throughput_per_latency_is_largest() -> None:
    one = Mmc(1, 100)
    levels = [level(rate, -1, mean_ms=one.mean_ms(rate)) for rate in (10, 30, 50, 70, 90)]
    assert knee_per_s(levels) == 50
    shedding = [level(rate, 1, mean_ms=1.0, failing=0.6) for rate in (120, 150)]
    assert knee_per_s([*levels, *shedding]) == 50
    assert knee_per_s(levels[:2]) is None
    assert knee_per_s([level(rate, -1, mean_ms=10.0) for rate in (10, 30, 50)]) is None


def test_a_summary_says_which_trials_are_suspect_and_why() -> None:
    lagged = [level(rate, -0.1, suspect=True, reasons=["the generator lagged"]) for rate in (60, 60, 40)]
    found = summarise("a", "A", [SLO], [*lagged, level(80, 0.5)], None)
    assert "Suspect at 40/s and 60/s: the generator lagged." in found.notes


def test_a_summary_has_no_law_of_replicates() -> None:
    levels = [level(rate, -0.1, mean_ms=20 + n) for rate in (50, 60) for n in range(6)]
    found = summarise("a", "A", [SLO], levels, None)
    assert found.usl is None
    assert found.usl_refused.endswith("needs 6 levels, there are 2")


def test_a_summary_has_no_law_of_rates_at_which_most_requests_failed() -> None:
    levels = [
        level(rate, -0.1, mean_ms=20 + rate / 10, failing=0.6 if rate > 50 else 0.0)
        for rate in range(10, 80, 10)
    ]
    assert summarise("a", "A", [SLO], levels, None).usl_refused.endswith("needs 6 levels, there are 5")


def test_a_summary_is_json_that_reads_back() -> None:
    levels = searched(3)
    found = summarise("fastapi", "FastAPI", [SLO], levels, 200.0)
    assert found.shown_per_s is not None
    assert found.low_per_s is not None
    assert found.per_s is not None
    assert found.high_per_s is not None
    assert found.low_per_s < found.per_s < found.high_per_s
    assert type(found).model_validate(json.loads(found.model_dump_json())) == found
