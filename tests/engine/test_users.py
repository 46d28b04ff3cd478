"""Users that the engine paces, without a Locust process around them."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest
from gevent.pool import Group
from locust import task
from locust.env import Environment

from locustfiles.engine.options import LoadPlan
from locustfiles.engine.pacing import Dispatcher
from locustfiles.engine.recorder import Recorder
from locustfiles.engine.users import ArrivalUser, Pacing


class SlowToStart(ArrivalUser):
    """Connects for a while before it is ready."""

    def on_start(self) -> None:
        gevent.sleep(0.05)

    @task
    def nothing(self) -> None:
        """What an arrival asks for."""


@pytest.fixture
def pacing() -> Iterator[Pacing]:
    recorder = Recorder()
    dispatcher = Dispatcher(recorder.drop, recorder.drop_late)
    yield Pacing(LoadPlan.from_options({"rate": "10"}, 10), dispatcher, recorder)
    dispatcher.close()


class TestAUserThatIsToldToStop:
    def test_while_it_starts_ends_as_soon_as_it_has_started(self, pacing: Pacing) -> None:
        environment = Environment(user_classes=[SlowToStart])
        SlowToStart.prepare(pacing, environment)
        user = SlowToStart(environment)
        users = Group()
        user.start(users)
        gevent.sleep(0.01)
        assert not user.stop()
        users.join(timeout=1)
        assert not len(users)
        assert pacing.dispatcher.users == 0
