"""What predictions cost, in CPU, memory, money and energy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import sem, t
from typer.testing import CliRunner

from analysis.report import Asked, build_report, write_report
from scripts import cli
from scripts.errors import USAGE, UserError
from tests.analysis.folders import START, TrialSpec, exact, write_rows, write_run

GIB = 2**30


def spec(rate: int, ms: float, **changes: object) -> TrialSpec:
    made = TrialSpec(exact([ms] * rate, 20), scenario=f"at-{rate}", cpu_cores=0.5, memory_bytes=GIB)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


class TestCost:
    def test_is_that_of_the_highest_rate_that_held_the_objectives(self, tmp_path: Path) -> None:
        run = write_run(
            tmp_path / "run", [spec(10, 20), spec(20, 30), spec(40, 90)], objectives=["p95 < 50ms"]
        )
        (cost,) = build_report(run).costs
        assert (cost.scenario, cost.answered_per_s) == ("at-20", 20)
        assert cost.predictions_per_cpu_s == pytest.approx(40)
        assert cost.predictions_per_gib_hour == pytest.approx(20 * 3600)
        assert cost.million_used is None

    @pytest.mark.parametrize(
        "changes", [{"saturated": True}, {"failed": 100}, {"verdict": "invalid"}, {"model": "closed"}]
    )
    def test_is_not_that_of_a_rate_that_was_not_kept_up_with(
        self, tmp_path: Path, changes: dict[str, object]
    ) -> None:
        run = write_run(tmp_path / "run", [spec(10, 20), spec(40, 20, **changes)])
        assert [cost.scenario for cost in build_report(run).costs] == ["at-10"]

    def test_in_money_is_for_what_was_used_and_for_what_must_be_reserved(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [spec(20, 20)])
        hours = 1e6 / 20 / 3600
        (cost,) = build_report(run, Asked(price_cpu=0.04, price_memory=0.005)).costs
        assert cost.million_used == pytest.approx(hours * (0.5 * 0.04 + 0.005))
        assert cost.million_reserved == pytest.approx(hours * (1 * 0.04 + 0.005))
        (cpu_only,) = build_report(run, Asked(price_cpu=0.04)).costs
        assert cpu_only.million_used == pytest.approx(hours * 0.5 * 0.04)

    @pytest.mark.parametrize("command", ["report", "run"])
    @pytest.mark.parametrize("option", ["--price-cpu", "--price-memory"])
    @pytest.mark.parametrize("price", ["nan", "inf", "-inf", "-1"])
    def test_of_what_is_no_price_is_refused_by_the_command(
        self, command: str, option: str, price: str
    ) -> None:
        done = CliRunner().invoke(cli.app, [command, "nowhere", option, price])
        assert isinstance(done.exception, UserError)
        assert done.exception.exit_code == USAGE
        assert str(done.exception) == (
            f"{option} {price} is not a price: write a number such as {option} 0.04."
        )

    def test_takes_prices_from_the_plan(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", [spec(20, 20)], plan={"price_cpu": 0.04})
        write_report(run)
        assert "at 0.04 per vCPU-hour" in (run / "report.md").read_text()
        assert build_report(run, Asked(price_cpu=1)).prices.cpu_hour == 1

    @pytest.mark.parametrize("price", [-1, "x", float("nan"), float("inf")])
    def test_of_a_price_that_is_none_is_not_told(self, tmp_path: Path, price: object) -> None:
        run = write_run(tmp_path / "run", [spec(20, 20)], plan={"price_cpu": price})
        report = build_report(run)
        assert report.prices.cpu_hour is None
        assert any("plan.price_cpu is wrong" in problem for problem in report.problems)


class TestTheInterval:
    def test_is_that_of_the_mean_of_the_trials(self, tmp_path: Path) -> None:
        specs = [
            spec(20, 20, trial=trial, cpu_cores=cores) for trial, cores in ((1, 0.4), (2, 0.5), (3, 0.6))
        ]
        (cost,) = build_report(write_run(tmp_path / "run", specs), Asked(price_cpu=0.036)).costs
        values = [20 / cores for cores in (0.4, 0.5, 0.6)]
        expected = t.interval(0.95, 2, float(np.mean(values)), sem(values))
        assert cost.predictions_per_cpu_s_interval == pytest.approx(expected)
        low, high = cost.million_used_interval or (0, 0)
        assert low < cost.million_used < high  # type: ignore[operator]
        assert (low + high) / 2 == pytest.approx(1e6 / 20 / 3600 * 0.5 * 0.036)

    def test_of_a_single_trial_is_not_known(self, tmp_path: Path) -> None:
        (cost,) = build_report(write_run(tmp_path / "run", [spec(20, 20)])).costs
        assert cost.predictions_per_cpu_s_interval is None


def test_the_table_says_who_is_not_in_it_and_why(tmp_path: Path) -> None:
    specs = [
        spec(20, 20), spec(20, 90, backend="bentoml"), spec(20, 20, backend="ray_serve", saturated=True),
        TrialSpec(exact([20.0], 30), backend="triton", scenario="at-20"),
    ]  # fmt: skip
    run = write_run(tmp_path / "run", specs, objectives=["p95 < 50ms"])
    write_report(run)
    assert (
        "Not in the table: BentoML (held the objectives at no rate), Ray Serve (kept up with open load at no "
        "rate) and triton (its objectives were not shown to hold)."
    ) in (run / "report.md").read_text()


class TestTheRates:
    def head(self, run: Path) -> str:
        write_report(run)
        return (run / "report.md").read_text().partition("| Backend")[0]

    def test_are_told_to_be_but_one_where_no_other_was_tried(self, tmp_path: Path) -> None:
        one = [spec(20, ms, backend=backend) for backend, ms in (("fastapi", 20), ("bentoml", 30))]
        told = "No arrival rate but 20/s was tried: how much more they carry is not known."
        assert told in self.head(write_run(tmp_path / "one", one))
        by_chance = [one[0], spec(24, 30, backend="bentoml", scenario="at-20")]
        assert "No arrival rate but 22/s was tried" in self.head(write_run(tmp_path / "chance", by_chance))
        more = [*one, spec(40, 20, saturated=True), spec(40, 20, backend="bentoml", saturated=True)]
        assert "was tried" not in self.head(write_run(tmp_path / "more", more))


class TestWhatIsNotToBeCompared:
    @pytest.fixture(params=[{"stand_in": True}, {"kind": "text"}])
    def run(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        """BentoML carries most at the least price, but is a stand-in or does another task."""
        specs = [
            spec(10, 20),
            spec(40, 20, backend="bentoml", cpu_cores=0.1),
            spec(20, 20, backend="ray_serve"),
        ]
        backends = {"fastapi": {"title": "FastAPI"}, "ray_serve": {"title": "Ray Serve"}}
        other = {"bentoml": {"title": "BentoML", **request.param}}
        return write_run(tmp_path / "run", specs, backends=other | backends)

    def test_is_not_named_among_those_that_carry_most(self, run: Path) -> None:
        write_report(run)
        head = (run / "report.md").read_text().partition("| Backend")[0]
        assert "each kept up: Ray Serve 20/s (at-20) and FastAPI 10/s (at-10)." in head

    def test_comes_last_in_the_table_of_costs_with_a_mark(self, run: Path) -> None:
        write_report(run)
        table = (run / "report.md").read_text().partition("What a prediction costs")[2]
        first = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
        assert first[2:4] == ["| Ray Serve", "| FastAPI"]
        assert first[4] in ("| BentoML (a stand-in)", "| BentoML (text payloads)")


class TestEnergy:
    def energy(self, tmp_path: Path, *rows: tuple[float, str, float]) -> float | None:
        run = write_run(tmp_path / "run", [spec(20, 20)])
        epoch = START.timestamp()
        lines = [[epoch + second, zone, joules] for second, zone, joules in rows]
        write_rows(run / "fastapi/at-20/1/energy.csv", ["time", "zone", "joules"], *lines)
        return build_report(run).costs[0].joules_per_prediction

    def test_is_that_of_all_zones_over_the_trial(self, tmp_path: Path) -> None:
        rows = [
            (second, zone, watts * (second + 2))
            for second in range(-2, 24)
            for zone, watts in (("0", 20), ("1", 5))
        ]
        assert self.energy(tmp_path, *rows) == pytest.approx(25 * 20 / 400)

    def test_that_was_not_measured_to_the_end_is_not_told(self, tmp_path: Path) -> None:
        assert self.energy(tmp_path, *((s, "0", 20 * s + 40) for s in range(-2, 15))) is None

    def test_of_a_counter_that_fell_is_not_told(self, tmp_path: Path) -> None:
        assert self.energy(tmp_path, *((s, "0", (20 * s + 40) % 300) for s in range(-2, 24))) is None
