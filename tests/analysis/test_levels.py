"""What each backend did at each rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.figures import over_rates
from analysis.levels import Level, families, levels
from analysis.metrics import cells
from analysis.runfolder import read_run
from tests.analysis.folders import TrialSpec, exact, write_run


def found(folder: Path, *specs: TrialSpec) -> list[Level]:
    return levels(cells(read_run(write_run(folder, specs))))


def stepped(**changes: object) -> TrialSpec:
    """20 requests of 10 ms for 5 s, then 40 of 30 ms for 5 s."""
    shape = {"name": "step", "levels": [[20.0, 5.0], [40.0, 5.0]]}
    latencies = [*exact([10.0] * 20, 5), *exact([30.0] * 40, 5)]
    return TrialSpec(latencies, shape=shape | changes, scenario="step")


class TestAStep:
    def test_is_a_level_per_rate_with_its_own_latencies(self, tmp_path: Path) -> None:
        first, second = found(tmp_path, stepped())
        assert (first.offered_per_s, first.answered_per_s, first.requests) == (20, 20, 100)
        assert (second.offered_per_s, second.answered_per_s, second.requests) == (40, 40, 200)
        assert first.p95_ms == pytest.approx(10, rel=0.001)
        assert second.p95_ms == pytest.approx(30, rel=0.001)
        assert (first.carried, second.carried) == (False, True)

    def test_level_with_drops_has_a_lower_bound(self, tmp_path: Path) -> None:
        spec = stepped()
        spec.dropped = 3  # in the first second
        assert [level.lower_bound for level in found(tmp_path, spec)] == [True, False]

    def test_level_that_fails_answers_no_more_than_its_right_answers(self, tmp_path: Path) -> None:
        spec = stepped()
        spec.failed = 30  # in the first two seconds
        first, second = found(tmp_path, spec)
        assert (first.offered_per_s, first.answered_per_s, first.lower_bound) == (20, 14, True)
        assert (second.offered_per_s, second.answered_per_s, second.lower_bound) == (40, 40, False)
        assert "p95 at least 10.0 ms" in over_rates([first, second], {"fastapi": 1})[0].throughput

    def test_level_is_marked_where_nothing_tells_which_level_failed(self, tmp_path: Path) -> None:
        spec = stepped()
        spec.failed = 30
        file = write_run(tmp_path, [spec]) / spec.path / "generator.csv"
        file.write_text(file.read_text().replace(",completed,failed,", ",done,lost,"))
        run = read_run(tmp_path)
        assert run.problems == []
        told = [(level.answered_per_s, level.lower_bound) for level in levels(cells(run))]
        assert told == [(20, True), (40, True)]

    @pytest.mark.parametrize("given", [None, "x", [[1]], [[20, "5"]], [[-1, 5]], [[True, 5]], [[5, 1e400]]])
    def test_whose_levels_make_no_sense_has_none(self, tmp_path: Path, given: object) -> None:
        assert found(tmp_path, stepped(levels=given)) == []


class TestOtherShapes:
    def test_of_one_rate_are_a_level(self, tmp_path: Path) -> None:
        (level,) = found(tmp_path, TrialSpec(exact([10.0] * 20, 10)))
        assert (level.offered_per_s, level.answered_per_s, level.users) == (20, 20, None)

    def test_that_fail_are_marked(self, tmp_path: Path) -> None:
        specs = [TrialSpec(exact([10.0] * 20, 10), f"of-{lost}", failed=lost) for lost in (2, 3)]
        assert [level.lower_bound for level in found(tmp_path, *specs)] == [False, True]

    def test_of_changing_rate_have_none(self, tmp_path: Path) -> None:
        assert found(tmp_path, TrialSpec(exact([10.0] * 20, 10), shape={"name": "spike"})) == []

    def test_that_are_closed_offer_no_rate(self, tmp_path: Path) -> None:
        (level,) = found(
            tmp_path, TrialSpec(exact([10.0] * 20, 10), model="closed", shape={"name": "closed"})
        )
        assert level.offered_per_s is None

    def test_of_invalid_trials_have_none(self, tmp_path: Path) -> None:
        assert found(tmp_path, TrialSpec(exact([10.0] * 20, 10), verdict="invalid")) == []


class TestThePlots:
    def test_need_two_rates_of_some_backend(self, tmp_path: Path) -> None:
        one = found(tmp_path / "one", TrialSpec(exact([10.0] * 20, 10)))
        assert families(one) == []
        two = found(tmp_path / "two", stepped())
        (figures,) = over_rates(two, {"fastapi": 1})
        assert figures.heading == "open load: step"
        assert "step, 40/s planned, 40/s answered, p95 30.0 ms" in figures.throughput
        assert "step, 20/s planned, 20/s answered, p95 10.0 ms of only 100 requests" in str(
            figures.saturation
        )

    def test_never_mix_open_and_closed_load(self, tmp_path: Path) -> None:
        closed = [
            TrialSpec(exact([10.0] * n, 10), scenario=f"{n}", model="closed", shape={"name": "closed"})
            for n in (20, 30)
        ]
        figures = over_rates(found(tmp_path, stepped(), *closed), {"fastapi": 1})
        assert [one.heading.split(":")[0] for one in figures] == ["open load"]
