"""The books of one trial, without Locust."""

from __future__ import annotations

import numpy as np

from locustfiles.engine.deal import Deal
from locustfiles.engine.histogram import Histogram
from locustfiles.engine.options import LoadPlan
from locustfiles.engine.recorder import TAGS, UNFINISHED, Second
from locustfiles.engine.trial import Trial, Worker


def trial_with(**worker: float) -> Trial:
    trial = Trial(LoadPlan.from_options({"rate": "10"}, 10), None, lambda: 0.0)
    trial.workers["a"] = Worker("a:1", "a", 0.0, **worker)  # type: ignore[arg-type]
    return trial


class TestAWorkerThatIsLost:
    def test_is_charged_with_its_share_of_every_deal_since_it_was_heard(self) -> None:
        """10/s: all of [1, 2) from the first deal, half of [2, 4) from the second, nothing from 4 on."""
        trial = trial_with(accounted_s=1.0)
        worker = trial.workers["a"]
        worker.deals = [Deal(1, 0, 1, 0.0, 0.0, trial.plan), Deal(2, 0, 2, 2.0, 0.0, trial.plan)]
        trial.latest_since_s = 4.0
        assert trial.write_off(worker) == 10 + 10

    def test_is_not_charged_with_a_deal_that_was_over_when_it_was_heard(self) -> None:
        trial = trial_with(accounted_s=3.0)
        worker = trial.workers["a"]
        worker.deals = [Deal(1, 0, 1, 0.0, 0.0, trial.plan), Deal(2, 0, 2, 2.0, 0.0, trial.plan)]
        trial.latest_since_s = 4.0
        assert trial.write_off(worker) == 5


class TestATrialThatIsStopped:
    def test_counts_what_was_in_flight_as_failed(self) -> None:
        trial = trial_with(outstanding=3)
        trial.stopping = True
        trial.counts.update(planned=10, completed=7)
        assert trial.settle() == 3
        counts = trial.counts
        assert counts["planned"] == counts["completed"] + counts["failed"] + counts["dropped"]
        assert trial.failures == {UNFINISHED: 3}

    def test_is_settled_once(self) -> None:
        trial = trial_with(outstanding=3)
        trial.stopping = True
        trial.settle()
        assert trial.settle() == 0
        assert trial.counts["failed"] == 3


class TestATrialThatEndsAsPlanned:
    def test_counts_tasks_that_never_returned_as_failed(self) -> None:
        trial = trial_with(outstanding=3, in_flight=3)
        assert trial.settle() == 3
        assert trial.counts["failed"] == trial.counts["sent"] == 3

    def test_hides_no_fault_in_the_recording(self) -> None:
        trial = trial_with(outstanding=3, in_flight=1)
        assert trial.settle() == 1
        assert trial_with(outstanding=3).settle() == 0

    def test_leaves_out_what_hung_since_the_warm_up(self) -> None:
        assert trial_with(in_flight=2).settle() == 0


class TestAServerThatFellBehind:
    def test_owes_its_rate_to_the_answers_within_the_plan(self) -> None:
        """It answers 6 of 10 a second of a plan of ten seconds, and the rest after the plan's end."""
        trial = trial_with()
        for second in range(17):
            histogram = Histogram()
            histogram.add(np.full(6 if second < 16 else 4, 1000 * (1 + second)))
            trial._open[second] = Second(dict.fromkeys(TAGS, histogram))
        trial.write_seconds(everything=True)
        assert trial.share_in_plan() == 0.6

    def test_is_nobody_before_the_first_answer(self) -> None:
        assert trial_with().share_in_plan() == 1.0
