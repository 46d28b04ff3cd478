"""The first sentence when there are more scenarios than one reads through."""

from __future__ import annotations

from pathlib import Path

from analysis.report import build_report
from tests.analysis.folders import TrialSpec, steady, write_run


def first_sentence(folder: Path, medians_ms: dict[str, list[float]], **changes: object) -> str:
    specs = [
        TrialSpec(steady(median, seed=i), backend, f"scenario{i}")
        for backend, medians in medians_ms.items()
        for i, median in enumerate(medians)
    ]
    return build_report(write_run(folder, specs, **changes)).recommendation.sentences[0]


class TestOverManyScenarios:
    def test_the_winners_ranges_are_told(self, tmp_path: Path) -> None:
        told = first_sentence(tmp_path, {"fastapi": [20, 30, 40], "bentoml": [60, 90, 120]})
        assert told.startswith("Run FastAPI: its p95 latency was 31.5 to 64.7 ms over 3")
        assert " scenarios; the nearest other was 2." in told
        assert told.endswith("times as slow in each.")

    def test_scenarios_without_a_difference_are_counted(self, tmp_path: Path) -> None:
        told = first_sentence(tmp_path, {"fastapi": [20, 30, 40], "bentoml": [60, 90, 40]})
        assert told.endswith("times as slow in 2 of them, and not shown to differ in 1 other.")

    def test_up_to_two_are_told_one_by_one(self, tmp_path: Path) -> None:
        told = first_sentence(tmp_path, {"fastapi": [20, 30], "bentoml": [60, 90]})
        assert "(scenario0)" in told
        assert "(scenario1)" in told
