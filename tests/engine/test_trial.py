"""A trial's books, from made-up reports of workers."""

from __future__ import annotations

from typing import Any

import pytest

from locustfiles.engine.deal import Deal
from locustfiles.engine.options import LoadPlan
from locustfiles.engine.recorder import Outcome, Recorder
from locustfiles.engine.trial import PINGS, Trial, Worker


def report(trial: Trial, worker: Worker, plan_s: float, planned: int, answered: int, in_flight: int) -> None:
    """What a worker tells at `plan_s`: arrivals that fell due, answers, and users that are busy."""
    recorder = Recorder()
    recorder.start = recorder.since = 0.0
    for _ in range(answered):
        recorder.record(max(plan_s, 0.0), plan_s, plan_s + 0.001, recorder.key(Outcome("POST", "x", None)), 1)
    tick: dict[str, Any] = {
        "accounted_s": plan_s,
        "plan_s": plan_s,
        "in_flight": in_flight,
        "done": False,
        "precise": True,
        "rss_bytes": 1,
        "pause_s": 0.0,
        "interval_s": 1.0,
        "cpu_cores": 0.1,
        "planned": planned,
        "time": 0.0,
    }
    worker.note(tick)
    trial.add(worker, tick, recorder.take())


@pytest.fixture
def trial() -> Trial:
    plan = LoadPlan.from_options({"rate": "10", "warmup": "5s"}, 20)
    made = Trial(plan, None, lambda: 0.0)
    made.launch(0.0, 0.0)
    for k in range(2):
        worker = Worker(f"host:{k}", str(k), 0.0, pings=PINGS)
        worker.deal = Deal(1, k, 2, -5.0, 0.0, plan)
        made.workers[str(k)] = worker
    return made


class TestALostWorker:
    def lose(self, trial: Trial, since_s: float) -> dict[str, int]:
        trial.latest_since_s = since_s
        trial.write_off(trial.workers["0"])
        return dict(trial.counts)

    def test_is_charged_with_what_it_had_not_answered_and_would_have_sent(self, trial: Trial) -> None:
        report(trial, trial.workers["0"], plan_s=4.0, planned=20, answered=17, in_flight=3)
        counts = self.lose(trial, since_s=7.0)
        assert counts == {"planned": 35, "sent": 17, "completed": 17, "failed": 0, "dropped": 18}

    def test_is_not_charged_with_the_warm_up_that_it_had_in_flight(self, trial: Trial) -> None:
        report(trial, trial.workers["0"], plan_s=-1.0, planned=0, answered=0, in_flight=4)
        counts = self.lose(trial, since_s=2.0)
        assert counts == {"planned": 10, "sent": 0, "completed": 0, "failed": 0, "dropped": 10}

    def test_is_charged_only_once_when_it_comes_back_and_is_lost_again(self, trial: Trial) -> None:
        report(trial, trial.workers["0"], plan_s=4.0, planned=20, answered=17, in_flight=3)
        self.lose(trial, since_s=7.0)
        counts = self.lose(trial, since_s=4.0)
        assert counts["planned"] == counts["completed"] + counts["failed"] + counts["dropped"]
