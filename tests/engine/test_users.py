"""Users that the engine paces, without a Locust process around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import gevent
import pytest
from gevent.pool import Group, Pool
from locust import SequentialTaskSet, User, task
from locust.env import Environment

from locustfiles import tensorflow_serving_user
from locustfiles.engine.options import LoadPlan
from locustfiles.engine.pacing import Dispatcher
from locustfiles.engine.payloads import Image
from locustfiles.engine.protobuf import field
from locustfiles.engine.protocols import Protocol
from locustfiles.engine.recorder import Recorder
from locustfiles.engine.users import ArrivalUser, Pacing, PredictUser, note_request_failure, refuse_unpaced
from locustfiles.engine.v2 import V2Json
from tests.waiting import until


class SlowToStart(ArrivalUser):
    """Connects for a while before it is ready."""

    def on_start(self) -> None:
        gevent.sleep(0.05)

    @task
    def nothing(self) -> None:
        """What an arrival asks for."""


class Other(SlowToStart):
    """A second class."""


class Unpaced(User):
    """A user that Locust paces."""

    @task
    def nothing(self) -> None:
        """What it does again and again."""


class Nested(ArrivalUser):
    """A user with a flow of its own pace."""

    @task
    class Flow(SequentialTaskSet):
        """Never returns by itself."""

        @task
        def step(self) -> None:
            """A step of the flow."""


class Listed(ArrivalUser):
    """The same flow, in the other way that Locust has."""

    tasks = [Nested.Flow]  # noqa: RUF012  # as Locust's users write it


class Patient(ArrivalUser):
    """Works long on what it is handed."""

    @task
    def work(self) -> None:
        gevent.sleep(1)


class BusyGroup(Group):
    """Ends users late, as gevent does where hundreds of them are ended at once."""

    def killone(self, greenlet: Any, *arguments: Any, **options: Any) -> None:
        gevent.sleep(0.05)
        super().killone(greenlet, *arguments, **options)


@pytest.fixture
def pacing() -> Iterator[Pacing]:
    recorder = Recorder()
    dispatcher = Dispatcher(recorder.drop, recorder.drop_late)
    yield Pacing(LoadPlan.from_options({"rate": "10"}, 10), dispatcher, recorder)
    dispatcher.close()


def started(user_class: type[ArrivalUser], pacing: Pacing, users: Group) -> ArrivalUser:
    """A user that was told to start a moment ago, among others."""
    environment = Environment(user_classes=[user_class])
    user_class.prepare(pacing, environment)
    user = user_class(environment)
    user.start(users)
    gevent.sleep(0.01)
    return user


class TestAUserThatIsToldToStop:
    def test_while_it_starts_ends_as_soon_as_it_has_started(self, pacing: Pacing) -> None:
        users = Group()
        user = started(SlowToStart, pacing, users)
        assert not user.stop()
        users.join(timeout=1)
        assert not len(users)
        assert pacing.dispatcher.users == 0

    def test_while_it_waits_is_handed_nothing_that_falls_due_before_it_ends(self, pacing: Pacing) -> None:
        users = BusyGroup()
        user = started(Patient, pacing, users)
        pacing.recorder.start = pacing.recorder.since = pacing.clock()
        pacing.dispatcher.offer([pacing.clock() + 0.01], [0])
        assert user.stop()
        assert not len(users)
        increment = pacing.recorder.take()
        assert (increment.dropped, increment.failed, increment.completed) == (1, 0, 0)


class TestAnAnswerThatNoDecoderCanRead:
    @pytest.mark.parametrize(
        ("protocol", "body", "stumbles"),
        [
            pytest.param(tensorflow_serving_user.Rest, b'{"predictions": []}', "IndexError", id="no row"),
            pytest.param(
                tensorflow_serving_user.Grpc,
                field(1, field(1, "probabilities")),
                "IndexError",
                id="a name without its tensor",
            ),
            pytest.param(V2Json, b'{"outputs": ' + 100_000 * b"[", "RecursionError", id="a deep nest"),
            pytest.param(
                V2Json,
                b'{"outputs": [{"name": "class_id", "data": [Infinity]},'
                b' {"name": "confidence", "data": [1]}]}',
                "OverflowError",
                id="an infinite class",
            ),
            pytest.param(PredictUser, b"<html>", "JSONDecodeError", id="no JSON"),
        ],
    )
    def test_is_a_failure_with_a_name(self, protocol: Protocol, body: bytes, stumbles: str) -> None:
        class Caller(PredictUser):
            spoken = protocol
            _known_good: ClassVar[set[tuple[str, bytes]]] = set()

        image = Image("cat.jpg", "small", b"", ((281, 0.9),))
        assert Caller(Environment())._judge(image, body) == f"unreadable answer: {stumbles}"


class TestAFailedRequest:
    @pytest.mark.parametrize(
        "spawn",
        [
            pytest.param(lambda work: work(), id="in the task itself"),
            pytest.param(lambda work: gevent.spawn(work).join(), id="in a greenlet of the task"),
            pytest.param(lambda work: Pool(2).apply(work), id="in a pool of the task"),
            pytest.param(lambda work: gevent.spawn(lambda: gevent.spawn(work).join()).join(), id="deeper"),
        ],
    )
    def test_fails_the_arrival_that_it_is_part_of(
        self, spawn: Callable[[Callable[[], None]], None], pacing: Pacing
    ) -> None:
        ended = []

        class Caller(ArrivalUser):
            def outcome_key(self) -> int:
                ended.append(self.error)
                return super().outcome_key()

            @task
            def call(self) -> None:
                spawn(lambda: note_request_failure(None))
                spawn(lambda: note_request_failure("500"))

        environment = Environment(user_classes=[Caller])
        Caller.prepare(pacing, environment)
        user = Caller(environment)
        user.start(Group())
        gevent.sleep(0)
        pacing.dispatcher.offer([pacing.clock()], [0])
        until(lambda: ended, "the task ends")
        assert ended == ["500"]

    def test_elsewhere_fails_none(self) -> None:
        gevent.spawn(note_request_failure, "500").get()


class TestUserClasses:
    def test_that_the_engine_paces_are_taken(self) -> None:
        refuse_unpaced([SlowToStart])

    @pytest.mark.parametrize(
        ("classes", "sentence"),
        [
            pytest.param([Unpaced], "Unpaced does not derive from ArrivalUser", id="unpaced"),
            pytest.param([SlowToStart, Unpaced], "Unpaced does not derive from ArrivalUser", id="a mix"),
            pytest.param(
                [Nested], "Nested has a task set, Flow, .* write the whole flow as one @task", id="set"
            ),
            pytest.param([Listed], "Listed has a task set, Flow, ", id="a listed set"),
            pytest.param(
                [SlowToStart, Other],
                r"here are SlowToStart, Other: name one \(locust -f FILE SlowToStart\)",
                id="two",
            ),
        ],
    )
    def test_that_it_cannot_pace_in_one_run_are_refused(
        self, classes: list[type[User]], sentence: str
    ) -> None:
        with pytest.raises(ValueError, match=sentence):
            refuse_unpaced(classes)
