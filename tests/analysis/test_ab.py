from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, ttest_ind

from analysis.ab import ALPHA, ABResult, _fails_times, compare_variants, variants_of
from analysis.effects import holm
from analysis.hlog import VARIANT, HistogramLog
from analysis.locust_csv import LocustFiles, RequestLine
from analysis.runfolder import Counts, Summary, Trial, TrialEntry
from analysis.words import percent
from tests.analysis.simulated import intervals

SECONDS = 60
EVENLY = {"blue": 1, "green": 1}


def trial(seed: int = 1, times: float = 1.0, share: float = 0.5, per_s: int = 40) -> Trial:
    """A trial whose requests go to either variant by chance; the machine's mood is the same for both."""
    rng = np.random.default_rng(seed)
    second = np.repeat(np.arange(SECONDS), per_s)
    mood = np.exp(rng.normal(0, 0.1, SECONDS))[second]
    chosen = rng.random(len(second)) < share
    latency = 40 * mood * rng.lognormal(0, 0.3, len(second)) * np.where(chosen, times, 1.0)
    tags = {
        VARIANT + name: intervals(latency[mine], second[mine], SECONDS)
        for name, mine in (("blue", ~chosen), ("green", chosen))
    }
    entry = TrialEntry(backend="nginx", scenario="ab", path="nginx/ab/1")
    return Trial(entry, "nginx/ab/1", log=HistogramLog(0.0, tags))


def failing(one: Trial, **failures: int) -> Trial:
    """The trial with so many failures of each variant."""
    lines = [
        RequestLine.model_construct(method="POST", name=name, requests=_requests(one, name), failures=count)
        for name, count in failures.items()
    ]
    return replace(one, locust=LocustFiles(requests=lines))


def saturated(one: Trial) -> Trial:
    """The trial as one that dropped 62 % of its arrivals."""
    counts = Counts(planned=10_000, sent=3_800, completed=3_800, failed=0, dropped=6_200)
    return replace(one, summary=Summary.model_construct(counts=counts, saturated=True))


def _requests(one: Trial, name: str) -> int:
    return int(one.log.tag(VARIANT + name).count.sum())


def result(weights: dict[str, float] | None = None, **how: float) -> ABResult:
    return compare_variants([trial(**how)], weights or {"blue": 1, "green": 1}, "blue")


class TestATreatment:
    def test_that_is_slower_is_found_so_and_the_control_kept(self) -> None:
        found = result(times=1.15)
        assert found.verdict == "slower"
        assert found.low_ms < 0.15 * found.control.mean_ms < found.high_ms
        assert found.recommendation.startswith("Keep blue: green is slower by ")
        assert found.superiority > 0.55
        assert found.cohen_d > 0.3
        p95 = next(one for one in found.quantiles if one.name == "p95")
        assert p95.low is not None
        assert p95.high is not None
        assert p95.low < 1.15 < p95.high

    def test_that_is_faster_is_taken(self) -> None:
        found = result(times=0.85)
        assert (found.verdict, found.recommendation[:10]) == ("faster", "Take green")

    def test_that_is_the_same_is_equivalent_after_enough_requests(self) -> None:
        found = result(per_s=200)
        assert found.verdict == "equivalent"
        assert found.power > 0.9

    def test_of_few_requests_shows_nothing_and_says_how_many_it_takes(self) -> None:
        found = result(times=1.03, per_s=4)
        assert found.verdict == "not shown"
        assert found.power < 0.5
        assert found.needed_requests is not None
        assert f"needs {found.needed_requests:,} requests" in found.recommendation
        assert "p99" not in found.treatment.quantiles_ms

    def test_that_is_the_same_is_called_different_in_at_most_5_of_100(self) -> None:
        """Failures are differences too: of both one request in five fails, or hardly one of 300."""
        rng = np.random.default_rng(10_000)
        found = []
        for seed in range(400):
            one, rate = trial(seed=seed, per_s=10), 0.2 if seed % 2 else 0.003
            failures = {name: int(rng.binomial(_requests(one, name), rate)) for name in EVENLY}
            found.append(compare_variants([failing(one, **failures)], EVENLY, "blue"))
        called = sum(one.verdict in ("slower", "faster", "fails", "fails less") for one in found)
        assert 4 <= called <= 28  # 20 expected, 28 is 2 sigma
        assert sum(one.stop_after_s is not None for one in found) <= 20

    def test_that_fails_more_often_is_not_taken_however_fast_it_is(self) -> None:
        found = compare_variants([failing(trial(times=0.5), blue=2, green=30)], EVENLY, "blue")
        assert found.verdict == "fails"
        assert found.recommendation == (
            f"Keep blue: {percent(found.treatment.failing)} of the requests to green failed, but "
            f"{percent(found.control.failing)} of those to blue."
        )
        assert found.fails_times == pytest.approx(15, abs=2)
        assert 1 < found.fails_low < 5

    def test_that_fails_less_often_is_taken_however_slow_it_is(self) -> None:
        """The control's errors answer fast, which makes its mean low."""
        found = compare_variants([failing(trial(times=1.5), blue=454, green=12)], EVENLY, "blue")
        assert (found.verdict, found.fails_less_p < 0.001) == ("fails less", True)
        assert found.recommendation.startswith(
            f"Take green: {percent(found.treatment.failing)} of its requests failed, but "
            f"{percent(found.control.failing)} of those to blue."
        )

    def test_is_not_called_faster_or_slower_where_both_fail(self) -> None:
        for times in (0.7, 1.0, 1.5):
            found = compare_variants([failing(trial(times=times), blue=454, green=455)], EVENLY, "blue")
            assert found.verdict == "not valid"
            assert found.recommendation.startswith("Decide nothing: ")
            assert "errors answer fast" in found.recommendation


class TestTheLevel:
    def test_is_all_5_percent_where_nothing_failed(self) -> None:
        assert (result().confidence, result().fails_times) == (0.95, None)

    @pytest.mark.parametrize("failures", [(5, 5), (5, 14), (5, 15), (5, 16), (5, 40), (0, 6)])
    @pytest.mark.parametrize("times", [1.0, 1.01, 1.0125, 1.015, 1.05])
    def test_is_holms_and_an_interval_never_contradicts_it(
        self, failures: tuple[int, int], times: float
    ) -> None:
        blue, green = failures
        one = failing(trial(times=times, per_s=160), blue=blue, green=green)
        found = compare_variants([one], EVENLY, "blue", 0.001)
        slower, fails = (p <= ALPHA for p in holm([found.t_p, found.fails_p]) if p is not None)
        assert (not found.low_ms < 0 < found.high_ms) == slower
        assert (found.fails_low > 1) == (found.fails_p <= 1 - found.fails_confidence) == fails
        assert (found.verdict == "fails") == fails
        assert fails or (found.verdict in ("slower", "faster")) == slower

    @pytest.mark.parametrize(
        ("failures", "verdict"),
        [((600, 640), "not valid"), ((600, 690), "fails"), ((600, 550), "fails less"), ((3, 15), "fails")],
    )
    def test_is_shared_by_more_and_fewer_failures_where_over_1_percent_fail(
        self, failures: tuple[int, int], verdict: str
    ) -> None:
        blue, green = failures
        found = compare_variants([failing(trial(times=1.1), blue=blue, green=green)], EVENLY, "blue")
        assert (found.verdict, found.confidence, found.fails_confidence) == (verdict, 0.95, 0.975)
        assert (found.fails_low > 1) == (found.fails_p <= 0.025) == (verdict == "fails")
        assert (found.fails_less_p <= 0.025) == (verdict == "fails less")

    def test_of_very_many_failures_is_found_at_once(self) -> None:
        times, low = _fails_times([[40_000, 960_000], [39_000, 961_000]], 0.05)
        assert times == pytest.approx(1.027, abs=0.001)
        assert 1.01 < low < times


class TestASaturatedRun:
    def test_concludes_nothing_from_a_variant_that_is_no_worse(self) -> None:
        for times in (1.0, 0.8):
            found = compare_variants([saturated(trial(times=times, per_s=200))], EVENLY, "blue")
            assert (found.saturated, found.verdict) == (True, "not valid")
            assert found.recommendation.startswith(
                "Decide nothing: the server was saturated; 62\N{NO-BREAK SPACE}% of the arrivals were dropped"
            )

    def test_still_shows_what_is_worse(self) -> None:
        assert compare_variants([saturated(trial(times=1.2))], EVENLY, "blue").verdict == "slower"
        worse = saturated(failing(trial(), blue=2, green=60))
        assert compare_variants([worse], EVENLY, "blue").verdict == "fails"
        better = saturated(failing(trial(), blue=60, green=2))
        assert compare_variants([better], EVENLY, "blue").verdict == "not valid"


class TestTheSplit:
    def test_that_was_asked_for_is_believed(self) -> None:
        found = result({"blue": 9, "green": 1}, share=0.1)
        assert not found.split_is_wrong
        assert found.treatment.wanted == pytest.approx(0.1)
        assert found.treatment.share == pytest.approx(0.1, abs=0.02)

    def test_that_was_not_makes_every_difference_worthless(self) -> None:
        found = result({"blue": 9, "green": 1}, share=0.14, times=1.5)
        assert found.split_is_wrong
        assert found.verdict == "not valid"
        assert found.recommendation.startswith(
            "Decide nothing: green got 14\N{NO-BREAK SPACE}% of the requests"
        )


class TestTheNumbers:
    def test_are_scipys(self) -> None:
        found = result(times=1.05)
        log = trial(times=1.05).log
        first, second = (
            np.repeat([float(v) for v in _middles(log, name)], [int(c) for c in _counts(log, name)])
            for name in ("blue", "green")
        )
        assert found.t_p == pytest.approx(ttest_ind(second, first, equal_var=False).pvalue)
        assert found.mann_whitney_p == pytest.approx(mannwhitneyu(second, first).pvalue)

    def test_of_a_long_enough_test_could_have_stopped_early(self) -> None:
        found = result(times=1.3)
        assert found.stop_after_s is not None
        assert 10 <= found.stop_after_s < SECONDS

    def test_of_a_test_that_is_not_valid_or_not_of_latency_do_not_say_when_it_was_settled(self) -> None:
        assert result({"blue": 9, "green": 1}, share=0.14, times=1.5).stop_after_s is None
        worse = compare_variants([failing(trial(times=1.3), blue=0, green=200)], EVENLY, "blue")
        assert (worse.verdict, worse.stop_after_s) == ("fails", None)


def _middles(log: HistogramLog, name: str) -> list[float]:
    from analysis.histograms import bucket_middle_ms

    merged = log.tag(VARIANT + name).merged()
    return list(bucket_middle_ms(np.flatnonzero(merged.counts)))


def _counts(log: HistogramLog, name: str) -> list[int]:
    merged = log.tag(VARIANT + name).merged()
    return list(merged.counts[np.flatnonzero(merged.counts)])


class TestVariants:
    def test_are_named_by_the_log(self) -> None:
        assert variants_of([trial()]) == ["blue", "green"]

    def test_that_nobody_answered_as_are_refused(self) -> None:
        with pytest.raises(ValueError, match="the answers named blue, green, the weights name a, b"):
            compare_variants([trial()], {"a": 1, "b": 1}, "a")

    def test_that_no_answer_named_are_refused_with_how_to_record_them(self) -> None:
        unnamed = replace(trial(), log=HistogramLog(0.0, {}))
        with pytest.raises(ValueError, match="no answer named a variant: record with --variant-by"):
            compare_variants([unnamed], {}, "blue")

    def test_that_hardly_answered_are_refused(self) -> None:
        with pytest.raises(ValueError, match="variant green answered fewer than two"):
            compare_variants([trial(share=0.0)], {"blue": 1, "green": 1}, "blue")


def test_a_log_keeps_the_seconds_of_variants(tmp_path: Path) -> None:
    from analysis.hlog import read_hlog
    from tests.analysis.folders import TrialSpec, hlog_text, steady

    text = hlog_text(TrialSpec(steady(40, 6, 20)))
    file = tmp_path / "latency.hlog"
    lines = [line.replace("Tag=service", f"Tag={VARIANT}green") for line in text.splitlines()]
    file.write_text("\n".join(lines) + "\n")
    assert len(read_hlog(file, "latency.hlog", []).tag(VARIANT + "green").start_s) == 6
