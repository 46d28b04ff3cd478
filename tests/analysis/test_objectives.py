from pathlib import Path

import pytest

from analysis.judging import ACROSS, ObjectiveResult
from analysis.objectives import parse
from analysis.report import build_report
from tests.analysis.folders import TrialSpec, exact, steady, write_run

NONE_OF_200 = "none of 200 arrivals, so at most 1.49 % with 95% confidence"


class TestReading:
    @pytest.mark.parametrize(
        ("expression", "metric", "op", "threshold", "scope"),
        [
            ("p95 < 200ms", "p95", "<", 200.0, ""),
            ("  p95<0.2s ", "p95", "<", 200.0, ""),
            ("p99.9 < 1s", "p99.9", "<", 1000.0, ""),
            ("p75 <= 500us", "p75", "<=", 0.5, ""),
            ("mean < 20 ms", "mean", "<", 20.0, ""),
            ("max < 2s", "max", "<", 2000.0, ""),
            ("error_rate < 1%", "error_rate", "<", 0.01, ""),
            ("drop_rate <= 0.5 %", "drop_rate", "<=", 0.005, ""),
            ("error_rate < 0.01", "error_rate", "<", 0.01, ""),
            ("throughput > 50/s", "throughput", ">", 50.0, ""),
            ("throughput >= 50", "throughput", ">=", 50.0, ""),
            ("constant: p95 < 200ms", "p95", "<", 200.0, "constant"),
            ("fastapi/constant: p95 < 200ms", "p95", "<", 200.0, "fastapi/constant"),
            ("fastapi/*:p95 < 200ms", "p95", "<", 200.0, "fastapi/*"),
            ("5-callers: p95 < 200ms", "p95", "<", 200.0, "5-callers"),
        ],
    )
    def test_takes(self, expression: str, metric: str, op: str, threshold: float, scope: str) -> None:
        objective = parse(expression)
        assert (objective.metric, objective.op, objective.scope) == (metric, op, scope)
        assert objective.threshold == pytest.approx(threshold)
        assert objective.expression == expression.strip()

    @pytest.mark.parametrize(
        ("expression", "told"),
        [
            ("", "write METRIC < VALUE, such as 'p95 < 200ms'"),
            ("fast", "is not an objective: write METRIC < VALUE"),
            ("p95 = 200ms", "is not an objective"),
            ("p95 < ", "is not an objective"),
            ("p95 < -5ms", "is not an objective"),
            ("p95 < 200", "the value has no unit; write p95 with a value such as 200ms."),
            ("p95 < 200%", "the unit '%' does not fit; write p95 with a value such as 200ms."),
            ("p95 < 200 sec", "the unit 'sec' does not fit"),
            ("error_rate < 10ms", "the unit 'ms' does not fit; write error_rate with a value such as 1%."),
            ("error_rate < 1", "without % the value is a fraction of 1; write 1%."),
            ("throughput > 5%", "write throughput with a value such as 50/s."),
            ("p95 < 1.2.3ms", "'1.2.3' is not a number"),
            ("p59x < 3ms", "did you mean p"),
            ("p100 < 3ms", "did you mean p"),
            ("P95 < 3ms", "did you mean p95?"),
            ("error-rate < 1%", "did you mean error_rate?"),
            ("eror_rate < 1%", "did you mean error_rate?"),
            ("latency < 3ms", "there are mean, max, error_rate, drop_rate, throughput, p50"),
        ],
    )
    def test_refuses_with_what_to_write_instead(self, expression: str, told: str) -> None:
        with pytest.raises(ValueError, match=r"write|did you mean|there are") as refusal:
            parse(expression)
        assert told in str(refusal.value)
        if expression:
            assert repr(expression) in str(refusal.value)


class TestScope:
    @pytest.mark.parametrize(
        ("scope", "covers"),
        [("", True), ("*", True), ("constant", True), ("fastapi", True), ("fastapi/constant", True),
         ("*/constant", True), ("fastapi/*", True), ("poisson", False), ("bentoml", False),
         ("bentoml/constant", False), ("fastapi/poisson", False)],
    )  # fmt: skip
    def test_covers(self, scope: str, covers: bool) -> None:
        assert parse(f"{scope}: p95 < 1ms" if scope else "p95 < 1ms").covers("fastapi", "constant") is covers


class TestJudging:
    def judge(self, tmp_path: Path, expression: str, spec: TrialSpec) -> ObjectiveResult:
        (result,) = build_report(write_run(tmp_path / "run", [spec], objectives=[expression])).objectives
        return result

    @pytest.mark.parametrize(
        ("expression", "passed", "value"),
        [
            ("p95 < 95ms", False, 95.0),
            ("p90 < 94ms", True, 90.0),
            ("max <= 99ms", False, 100.0),
            ("error_rate < 8%", True, 75 / 1025),
            ("error_rate < 5%", False, 75 / 1025),
            ("drop_rate < 2%", False, 25 / 1025),
            ("throughput > 94/s", True, 95.0),
            ("throughput > 96/s", False, 95.0),
        ],
    )
    def test_compares_what_was_measured(
        self, tmp_path: Path, expression: str, passed: bool, value: float
    ) -> None:
        hundred = [float(i) for i in range(1, 101)]
        result = self.judge(tmp_path, expression, TrialSpec(exact(hundred, 10), failed=50, dropped=25))
        assert result.passed is passed
        assert result.value == pytest.approx(value, rel=0.001)
        assert (result.backend, result.scenario) == ("fastapi", "constant")
        assert not result.note.startswith("not shown")

    @pytest.mark.parametrize(
        ("expression", "spec", "note"),
        [
            # refused at once, all of them or about every twentieth
            ("p95 < 200ms", {"failed": 1000}, "100 % of its arrivals got no right answer"),
            ("p95 < 200ms", {"failed": 50}, "5 % of its arrivals got no right answer"),
            ("p95 < 200ms", {"failed": 49}, ""),
            ("p99 < 200ms", {"failed": 49}, "4.9 % of its arrivals got no right answer"),
            ("mean < 200ms", {"failed": 10}, ""),
            ("mean < 200ms", {"failed": 11}, "1.1 % of its arrivals got no right answer"),
            ("max < 200ms", {"failed": 11}, "1.1 % of its arrivals got no right answer"),
            # drops without saturation: the engine's suspects, bursts and lost workers
            ("p95 < 200ms", {"dropped": 200}, "17 % of its arrivals got no right answer"),
            ("p95 < 98ms", {"dropped": 30}, "with its 30 dropped arrivals it is at least 98.0 ms"),
            ("p95 < 99ms", {"dropped": 30}, ""),
            (
                "max < 200ms",
                {"dropped": 1},
                "1 dropped arrival had no latency, so the value is a lower bound",
            ),
        ],
    )
    def test_of_a_latency_holds_only_for_those_who_got_a_right_answer(
        self, tmp_path: Path, expression: str, spec: dict[str, int], note: str
    ) -> None:
        hundred = [float(i) for i in range(1, 101)]
        result = self.judge(tmp_path, expression, TrialSpec(exact(hundred, 10), verdict="suspect", **spec))  # type: ignore[arg-type]
        told = result.note.replace("\N{NO-BREAK SPACE}", " ")
        assert (result.judgement, told) == (("not shown", f"not shown: {note}") if note else ("held", ""))

    def test_of_a_saturated_server_is_not_shown_to_hold(self, tmp_path: Path) -> None:
        result = self.judge(tmp_path, "p95 < 900ms", TrialSpec(steady(50), saturated=True, dropped=9))
        assert not result.passed
        assert result.note == "not shown: the server was saturated, so the value is a lower bound"
        assert result.shown.startswith("≥ ")

    def test_without_a_valid_measurement_is_not_shown_to_hold(self, tmp_path: Path) -> None:
        result = self.judge(tmp_path, "p95 < 900ms", TrialSpec(steady(50), status="failed", error="it died"))
        assert (result.passed, result.value) == (False, None)
        assert result.note == "no valid measurement: failed: it died"

    @pytest.mark.parametrize("expression", ["p99 < 20ms", "p99.9 < 20ms", "p99 >= 20ms"])
    def test_of_a_percentile_that_so_few_requests_cannot_tell_neither_holds_nor_is_missed(
        self, tmp_path: Path, expression: str
    ) -> None:
        result = self.judge(tmp_path, expression, TrialSpec(exact([10.0] * 10, 6)))
        assert (result.judgement, result.value, result.told) == ("not shown", None, "\N{EN DASH}")
        needed = "10,000" if "p99.9" in expression else "1,000"
        assert result.note == (
            f"not shown: {expression.split()[0]} needs {needed} requests, there are 60 requests"
        )

    @pytest.mark.parametrize(
        ("expression", "judgement", "told"),
        [
            ("p95 < 20ms", "held", "≤ 10.0 ms"),
            ("p95 > 20ms", "missed", "≤ 10.0 ms"),
            ("p99 < 5ms", "missed", "≥ 10.0 ms"),
            ("p99.9 > 1ms", "held", "≥ 10.0 ms"),
        ],
    )
    def test_of_few_requests_is_judged_where_they_bound_it(
        self, tmp_path: Path, expression: str, judgement: str, told: str
    ) -> None:
        result = self.judge(tmp_path, expression, TrialSpec(exact([10.0] * 10, 6)))
        assert (result.judgement, result.value, result.told) == (judgement, None, told)
        assert [result.low, result.high].count(None) == 1
        assert result.note == "few requests: the bound holds with 95% confidence"

    def test_of_few_requests_with_errors_among_them_is_not_held(self, tmp_path: Path) -> None:
        result = self.judge(tmp_path, "p95 < 20ms", TrialSpec(exact([10.0] * 10, 6), failed=6))
        assert result.judgement == "not shown"

    @pytest.mark.parametrize(
        ("requests", "failed", "expression", "judgement", "note"),
        [
            (18, 0, "error_rate < 1%", "held", "none of 18 arrivals, so at most 15 % with 95% confidence"),
            (200, 0, "error_rate < 1%", "held", NONE_OF_200),
            (200, 0, "drop_rate < 1%", "held", NONE_OF_200),
            (200, 0, "error_rate <= 0%", "held", NONE_OF_200),
            (200, 1, "error_rate < 1%", "held", "1 of 200 arrivals, so at most 2.35 % with 95% confidence"),
            (200, 2, "error_rate < 1%", "missed", ACROSS),
            (1000, 9, "error_rate < 1%", "held", ACROSS),
            (1000, 1, "error_rate < 1%", "held", ""),
            (1000, 10, "error_rate < 1%", "missed", ACROSS),
        ],
    )  # fmt: skip
    def test_of_a_share_says_what_so_few_arrivals_show(
        self, tmp_path: Path, requests: int, failed: int, expression: str, judgement: str, note: str
    ) -> None:
        result = self.judge(tmp_path, expression, TrialSpec(exact([10.0] * requests, 1), failed=failed))
        assert (result.judgement, result.note.replace("\N{NO-BREAK SPACE}", " ")) == (judgement, note)

    def test_has_the_interval_of_what_was_measured(self, tmp_path: Path) -> None:
        from scipy.stats import binomtest

        result = self.judge(tmp_path / "1", "error_rate < 8%", TrialSpec(exact([10.0] * 50, 20), failed=50))
        exactly = binomtest(50, 1000).proportion_ci(0.95, "exact")
        assert (result.low, result.high) == (pytest.approx(exactly.low), pytest.approx(exactly.high))
        assert result.told.replace("\N{NO-BREAK SPACE}", " ") == "5 % (3.73 % to 6.54 %)"
        none = self.judge(tmp_path / "2", "error_rate < 8%", TrialSpec(exact([10.0] * 50, 20)))
        assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.05 ** (1 / 1000)))
        p95 = self.judge(tmp_path / "3", "p95 < 900ms", TrialSpec(steady(50)))
        assert p95.value is not None
        assert p95.low is not None
        assert p95.high is not None
        assert p95.low < p95.value < p95.high
        assert " ms to " in p95.interval

    @pytest.mark.parametrize(
        ("expression", "across"),
        [("mean < 52ms", True), ("mean < 70ms", False), ("mean < 50ms", True),
         ("p97 < 86ms", True), ("p97 < 200ms", False),
         ("throughput > 49.9/s", True), ("throughput > 10/s", False)],
    )  # fmt: skip
    def test_has_an_interval_over_trials_and_says_where_it_reaches_across_the_limit(
        self, tmp_path: Path, expression: str, across: bool
    ) -> None:
        specs = [
            TrialSpec(steady(level, 10, 50, seed=t), trial=t, failed=t % 3)
            for t, level in enumerate((46, 49, 50, 51, 49), 1)
        ]
        (result,) = build_report(write_run(tmp_path / "run", specs, objectives=[expression])).objectives
        assert result.value is not None
        assert result.low is not None
        assert result.high is not None
        assert result.low < result.value < result.high
        assert (result.note == ACROSS) is across

    def test_of_a_maximum_has_no_interval(self, tmp_path: Path) -> None:
        assert self.judge(tmp_path, "max < 900ms", TrialSpec(steady(50))).low is None

    def test_of_a_scope_that_is_not_there_is_not_shown_to_hold(self, tmp_path: Path) -> None:
        result = self.judge(tmp_path, "constnat: p95 < 200ms", TrialSpec(steady(50)))
        assert not result.passed
        assert result.note == (
            "nothing here is called 'constnat'; did you mean 'constant'? There are constant, fastapi"
        )

    def test_of_a_bad_expression_in_run_json_is_a_problem(self, tmp_path: Path) -> None:
        report = build_report(write_run(tmp_path / "run", [TrialSpec(steady(50))], objectives=["p95 < 200"]))
        assert report.objectives == []
        assert "run.json: 'p95 < 200': the value has no unit" in report.problems[0]
