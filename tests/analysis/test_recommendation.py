"""The first sentence when there are more scenarios than one reads through."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analysis.histograms import Floats
from analysis.recommendation import Recommendation
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
        told = first_sentence(tmp_path, {"bentoml": [20, 20], "fastapi": [25, 16.5], "kserve": [16.5, 25]})
        shown = "BentoML leads, and no difference was shown between it and FastAPI and kserve: "
        assert told.startswith(shown)


class TestAMissedObjective:
    """FastAPI is fast but for one answer in 50, BentoML slower and even."""

    def stalling(self, seed: int) -> list[Floats]:
        return [np.concatenate([second[:49], [900.0]]) for second in steady(20, seed=seed, spread=0.1)]

    def recommended(
        self, folder: Path, *objectives: str, others: dict[str, float] | None = None
    ) -> Recommendation:
        backends = {"bentoml": 30.0} if others is None else others
        specs = [
            *(TrialSpec(self.stalling(n), "fastapi", trial=n) for n in (1, 2, 3)),
            *(
                TrialSpec(steady(median, seed=10 * i + n, spread=0.1), backend, trial=n)
                for i, (backend, median) in enumerate(backends.items(), 1)
                for n in (1, 2, 3)
            ),
        ]
        return build_report(write_run(folder, specs, objectives=list(objectives))).recommendation

    def test_is_not_asked_of_anybody(self, tmp_path: Path) -> None:
        assert self.recommended(tmp_path).backend == "fastapi"

    def test_speaks_for_a_slower_one_that_held_it(self, tmp_path: Path) -> None:
        found = self.recommended(tmp_path, "p95 < 100ms", "p99 < 500ms")
        assert found.backend == "bentoml"
        first, second = found.sentences
        assert first.startswith("Run BentoML: its p95 latency was 35.")
        assert first.endswith(
            ", against no other that held its objectives (constant); "
            "FastAPI is faster but missed p99 < 500ms."
        )
        assert second.endswith("; 1 of 4 objectives missed.")

    def test_leaves_the_others_ranked_among_themselves(self, tmp_path: Path) -> None:
        others = {"bentoml": 30.0, "kserve": 45.0}
        found = self.recommended(tmp_path, "p95 < 100ms", "p99 < 500ms", others=others)
        assert found.backend == "bentoml"
        assert ", against kserve's " in found.sentences[0]
        assert found.sentences[0].endswith("; FastAPI is faster but missed p99 < 500ms.")

    def test_leaves_ties_of_those_that_held_it(self, tmp_path: Path) -> None:
        others = {"bentoml": 30.0, "kserve": 30.0}
        found = self.recommended(tmp_path, "p95 < 100ms", "p99 < 500ms", others=others)
        assert found.backend is None
        told = found.sentences[0]
        assert told.startswith("No difference was shown between BentoML and kserve: ")
        assert told.endswith("; FastAPI missed p99 < 500ms.")
        assert "a difference is called where it holds over all 3 pairs at once" in found.sentences[1]

    def test_is_not_one_that_too_few_requests_can_show(self, tmp_path: Path) -> None:
        second = self.recommended(tmp_path, "p99.99 < 20s", "p99 < 500ms").sentences[1]
        assert second.endswith("; 1 of 4 objectives missed and 2 not shown.")
        only = self.recommended(tmp_path / "only", "p99.99 < 20s").sentences[1]
        assert only.endswith("; 2 of 2 objectives not shown.")

    def test_that_all_missed_is_named_with_the_fastest(self, tmp_path: Path) -> None:
        found = self.recommended(tmp_path, "p95 < 1ms")
        assert found.backend == "fastapi"
        assert found.sentences[0].endswith(
            ", but it missed p95 < 1ms, and no other is known to have held every objective."
        )
