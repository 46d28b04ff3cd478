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


class TestSeveralLeaders:
    def test_are_told_without_who_is_shown_to_be_slower_than_one_of_them(self, tmp_path: Path) -> None:
        # KServe is not shown to be slower than BentoML, but it is than FastAPI.
        told = first_sentence(tmp_path, {"bentoml": [24], "fastapi": [20], "kserve": [28]})
        assert told.startswith("No difference was shown between BentoML and FastAPI: ")

    def test_of_which_only_one_leads_everywhere_are_named_beside_it(self, tmp_path: Path) -> None:
        # FastAPI and KServe beat each other in one scenario each; BentoML lies between, close to both.
        told = first_sentence(tmp_path, {"bentoml": [20, 20], "fastapi": [24, 17], "kserve": [17, 24]})
        shown = "BentoML leads, and no difference was shown between it and FastAPI and kserve: "
        assert told.startswith(shown)
