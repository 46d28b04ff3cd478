"""The books of one trial, without Locust."""

from __future__ import annotations

from locustfiles.engine.options import LoadPlan
from locustfiles.engine.recorder import UNFINISHED
from locustfiles.engine.trial import Trial, Worker


def trial_with(**worker: int) -> Trial:
    trial = Trial(LoadPlan.from_options({"rate": "10"}, 10), None, lambda: 0.0)
    trial.workers["a"] = Worker("a:1", "a", 0.0, **worker)
    return trial


class TestATrialThatIsStopped:
    def test_counts_what_was_in_flight_as_failed(self) -> None:
        trial = trial_with(outstanding=3)
        trial.counts.update(planned=10, completed=7)
        trial.settle()
        counts = trial.counts
        assert counts["planned"] == counts["completed"] + counts["failed"] + counts["dropped"]
        assert trial.failures == {UNFINISHED: 3}

    def test_is_settled_once(self) -> None:
        trial = trial_with(outstanding=3)
        trial.settle()
        trial.settle()
        assert trial.counts["failed"] == 3
