"""The master's side, without workers."""

from __future__ import annotations

import itertools
from argparse import Namespace

from locust import User
from locust.env import Environment

from locustfiles.engine.coordinator import HELLO_TIMEOUT_S, Coordinator
from locustfiles.engine.options import NOT_MEASURED, LoadPlan

PLAN = LoadPlan.from_options({"rate": "10"}, 1)


class TestATrialWithoutAWorkerThatIsReady:
    def test_ends_with_3_instead_of_waiting_for_ever(self) -> None:
        environment = Environment(user_classes=[User])
        runner = environment.create_local_runner()
        environment.parsed_options = Namespace(record="", headless=True)
        clock = itertools.count(step=2 * HELLO_TIMEOUT_S).__next__
        Coordinator(environment, lambda: PLAN, clock)
        environment.events.test_start.fire(environment=environment)
        environment.events.spawning_complete.fire(user_count=1)
        runner.greenlet.join(timeout=5)
        assert environment.process_exit_code == NOT_MEASURED
        assert not len(runner.greenlet)
