"""The user classes: any Locust user paced by the engine, and the shipped user of a model server."""

from __future__ import annotations

import base64
import json
import math
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import greenlet
from gevent import GreenletExit, socket
from locust import User, task
from locust.env import Environment
from locust.exception import InterruptTaskSet, RescheduleTask, RescheduleTaskImmediately, StopTest, StopUser
from locust.user.task import (
    LOCUST_STATE_RUNNING,
    LOCUST_STATE_STOPPING,
    LOCUST_STATE_WAITING,
    DefaultTaskSet,
)

from locustfiles.engine.client import Client, RequestFailed, Target, Watchdog, name_of, tcp_address
from locustfiles.engine.options import LoadPlan
from locustfiles.engine.pacing import Dispatcher
from locustfiles.engine.payloads import ROOT, Answer, Image, load_images, model_dir
from locustfiles.engine.protocols import HttpProtocol, Protocol, address
from locustfiles.engine.recorder import UNFINISHED, Outcome, Recorder
from locustfiles.engine.variants import UNKNOWN, Reader, reader

_FULL_CHECK_UP_TO_PER_S = 200.0
_OPEN_AHEAD_S, _OPEN_AHEAD_AT_MOST = 0.02, 256
"""Connections opened before the clock starts: the arrivals of so many seconds, and no more than so many.

Opening one costs several requests' time: at 20,000/s a cold start falls behind, which asks for more
connections, until all users have one.
"""


@dataclass
class Pacing:
    """What the users of one process share: plan, dispatcher, recorder, and what a user class prepared."""

    plan: LoadPlan
    dispatcher: Dispatcher
    recorder: Recorder
    clock: Callable[[], float] = time.monotonic


class ArrivalTaskSet(DefaultTaskSet):
    """Runs one task of the user for each arrival, in place of Locust's task, wait, task, wait."""

    def run(self) -> None:  # type: ignore[misc]  # Locust marks it final; its loop starts with a task
        """Wait for an arrival, run a task, record how it ended, again."""
        user = self.user
        assert isinstance(user, ArrivalUser)
        pacing = user.pacing
        dispatcher, clock = pacing.dispatcher, pacing.clock
        task = user.tasks[0] if len(set(user.tasks)) == 1 else None
        me = greenlet.getcurrent()
        me.arrival_user = user  # type: ignore[attr-defined]  # lets the request event find the arrival that it belongs to
        dispatcher.users += 1
        try:
            while True:
                if user._state == LOCUST_STATE_STOPPING:  # told so in its task, or before it came here
                    raise StopUser
                user._state = LOCUST_STATE_WAITING
                user.arrival = planned, _ = dispatcher.wait()
                user._state = LOCUST_STATE_RUNNING
                user.sent_at, user.error = clock(), None
                try:
                    self.execute_task(task or self.get_next_task())  # type: ignore[no-untyped-call]
                except (RescheduleTask, RescheduleTaskImmediately, InterruptTaskSet):
                    pass
                except (GreenletExit, StopUser, StopTest):
                    user.error = UNFINISHED
                    raise
                except Exception as error:
                    user.error = name_of(error)
                    user.environment.events.user_error.fire(
                        user_instance=user, exception=error, tb=error.__traceback__
                    )
                finally:
                    pacing.recorder.record(
                        planned, user.sent_at, clock(), user.outcome_key(), user.answer_bytes
                    )
        finally:
            dispatcher.users -= 1


class ArrivalUser(User):
    """Mix into any Locust user: its tasks then run at the engine's planned arrivals.

        class MyUser(ArrivalUser, FastHttpUser):
            @task
            def index(self):
                self.client.get("/")

    One arrival is one task, whatever it requests.  The task fails when it raises or when a request in it
    fails.  `wait_time` has no meaning here: the plan says when to go.
    """

    abstract = True
    pacing: ClassVar[Pacing]
    arrival: tuple[float, int] = (0.0, 0)
    sent_at: float = 0.0
    answer_bytes: int = 0
    error: str | None = None

    @classmethod
    def prepare(cls, pacing: Pacing, environment: Environment) -> None:
        """Called in each worker before its users are made.

        Raises ValueError or OSError with a sentence when the load cannot be made.
        """
        cls.pacing = pacing

    @classmethod
    def try_host(cls, timeout_s: float) -> None:
        """Connect once, before there is load; raises OSError when that fails.

        What speaks TCP can be told; any other host is left to the user's own client.
        """
        if (found := tcp_address(cls.host or "")) is not None:
            socket.create_connection(found, timeout_s).close()

    def outcome_key(self) -> int:
        """The recorder's number for how the arrival ended."""
        outcome = Outcome("task", type(self).__name__, self.error, in_locust=False)
        return self.pacing.recorder.key(outcome)

    def run(self) -> None:  # type: ignore[misc]  # Locust marks it final and builds its own task set
        """As Locust's, with a task set that waits for arrivals."""
        self._state = LOCUST_STATE_RUNNING
        self._taskset_instance = ArrivalTaskSet(self)
        try:
            try:
                self.on_start()
            except (StopUser, StopTest):
                raise
            except Exception as error:
                self.environment.events.user_error.fire(
                    user_instance=self, exception=error, tb=error.__traceback__
                )
                raise
            self._taskset_instance.run()
        except (GreenletExit, StopUser, StopTest):
            self.on_stop()  # type: ignore[no-untyped-call]

    def stop(self, force: bool = False) -> bool:
        """As Locust's: whoever works on an arrival ends it first, and whoever waits gets none any more."""
        if self._greenlet is not None:
            self.pacing.dispatcher.dismiss(self._greenlet)
        return bool(super().stop(force))


def refuse_unpaced(user_classes: Sequence[type[User]]) -> None:
    """Raise ValueError with a sentence when one run cannot pace all of these classes."""
    for user_class in user_classes:
        name = user_class.__name__
        if not issubclass(user_class, ArrivalUser):
            raise ValueError(f"{name} does not derive from ArrivalUser: nothing would pace it")
        nested = next((entry for entry in user_class.tasks if isinstance(entry, type)), None)
        if nested is not None:
            raise ValueError(
                f"{name} has a task set, {nested.__name__}, which would run at its own pace: "
                "write the whole flow as one @task, since one arrival is one task"
            )
    if len(user_classes) > 1:
        names = ", ".join(user_class.__name__ for user_class in user_classes)
        raise ValueError(
            f"a run has one user class, and here are {names}: name one (locust -f FILE "
            f"{user_classes[0].__name__}), run each as a scenario of its own, or mix tasks by @task(WEIGHT)"
        )


def note_request_failure(exception: BaseException | str | None = None, **_: Any) -> None:
    """Listener of Locust's request event: a failed request fails the arrival that it was part of."""
    if exception is None:
        return
    here: Any = greenlet.getcurrent()
    while here is not None and not hasattr(here, "arrival_user"):  # in a greenlet that a task spawned
        spawner = getattr(here, "spawning_greenlet", None)
        here = spawner() if spawner is not None else None
    if here is not None and (user := here.arrival_user).error is None:
        user.error = exception if isinstance(exception, str) else name_of(exception)


@dataclass(frozen=True)
class Request:
    """A request ready to be sent: what the client sends, its image, and the recorder's key of its success."""

    data: Any
    image: Image
    success: int


class ModelUser(ArrivalUser, HttpProtocol):
    """A caller of a model server; a protocol says how an image is put and an answer read.

    `service` names the folder under services/ with the facts (port, path).  The user itself is the protocol
    that the service speaks by default; `protocols` are further ones, by the names that service.toml and
    `--protocol` have for them.
    """

    abstract = True
    service: ClassVar[str]
    protocols: ClassVar[Mapping[str, Protocol]] = {}
    opens_ahead: ClassVar[bool] = True
    """Whether connections are opened before the clock starts; not to a server that reads one at a time."""
    spoken: ClassVar[Protocol]
    requests: ClassVar[list[Request]]
    target: ClassVar[Target]
    watchdog: ClassVar[Watchdog | None] = None
    _known_good: ClassVar[set[tuple[str, bytes]]]
    _listeners: ClassVar[list[Callable[..., None]]]
    _check_every: ClassVar[float]
    _open_ahead: ClassVar[int]
    _client_class: ClassVar[type[Client[Any]]]
    _variant_of: ClassVar[Reader | None]
    variant: str = UNKNOWN

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """services/NAME/service.toml; raises ValueError with a sentence when it cannot be read."""
        path = ROOT / "services" / cls.service / "service.toml"
        try:
            return tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error

    @classmethod
    def payloads(cls, payload: str) -> Sequence[Image]:
        """What is sent: the shared images of that class, or of all for `mix`; a user of texts has its own.

        Raises ValueError with a sentence when there is none.
        """
        return load_images(payload, model_dir())

    @classmethod
    def choose(cls, name: str, facts: Mapping[str, Any]) -> tuple[Protocol, Mapping[str, Any]]:
        """The protocol of that name, and its facts in service.toml; ValueError when there is none."""
        own = str(facts.get("protocol", ""))
        if name in ("", own):
            return cls, {}
        if name not in cls.protocols:
            known = ", ".join([*filter(None, [own]), *cls.protocols])
            raise ValueError(f"--protocol: {cls.__name__} does not speak {name!r}: choose one of {known}")
        return cls.protocols[name], facts.get("protocols", {}).get(name, {})

    @classmethod
    def prepare(cls, pacing: Pacing, environment: Environment) -> None:
        """Encode every request once."""
        super().prepare(pacing, environment)
        facts = cls.facts()
        plan, recorder = pacing.plan, pacing.recorder
        cls.spoken, special = cls.choose(plan.protocol, facts)
        path = special.get("path", facts["predict_path"])
        cls._variant_of, cls._client_class = reader(plan.variant_by, cls.spoken.client_class)
        cls.host = address(cls.host, cls.spoken, special.get("port", facts["port"]))
        cls.target = Target.parse(cls.host)
        images = cls.payloads(plan.payload)
        cls.requests = [
            Request(
                cls.spoken.compose(cls.target, path, image),
                image,
                recorder.key(Outcome(cls.spoken.method, image.payload, None)),
            )
            for image in images
        ]
        cls._known_good = set()
        cls._listeners = [
            listener
            for listener in environment.events.request._handlers
            if listener is not note_request_failure and listener.__module__ != "locust.runners"
        ]
        peak = 0.0 if plan.closed else plan.arrivals().shape.peak_per_s
        automatic = min(1.0, _FULL_CHECK_UP_TO_PER_S / peak) if peak else 1.0
        ahead = min(_OPEN_AHEAD_AT_MOST, math.ceil(peak * _OPEN_AHEAD_S))
        cls._open_ahead = ahead if cls.opens_ahead else 0
        share = plan.check_share if plan.check_share == plan.check_share else automatic
        cls._check_every = 0.0 if plan.check == "status" else share
        if cls.watchdog is not None:
            cls.watchdog.close()
        cls.watchdog = Watchdog(pacing.clock)

    @classmethod
    def try_host(cls, timeout_s: float) -> None:
        """As our client connects, TLS included."""
        cls.target.connect(timeout_s).close()

    def on_start(self) -> None:
        """A connection of its own; most are opened at their first arrival."""
        if self.watchdog is None:  # what was to be prepared failed, and the trial is ending for it
            raise StopUser
        self.client = self._client_class(
            self.target, self.pacing.plan.request_timeout_s, self.watchdog, self.pacing.clock
        )

        cls = type(self)
        if cls._open_ahead > 0:
            cls._open_ahead -= 1
            self.client.open_ahead()

    def on_stop(self) -> None:
        """Close the connection, if there ever was one."""
        if self.watchdog is not None:
            self.client.close()

    @task
    def predict(self) -> None:
        """Send the arrival's image and judge the answer."""
        index = self.arrival[1]
        self.request = request = self.requests[index % len(self.requests)]
        client = self.client
        self.answer_bytes = 0
        self.variant = UNKNOWN
        try:
            status = client.request(request.data)
        except RequestFailed as failure:
            self.error = str(failure)
            return
        finally:
            self.sent_at = client.sent_at
        body = client.body
        self.answer_bytes = len(body)
        if (variant_of := type(self)._variant_of) is not None:
            self.variant = variant_of(client)
        if status not in client.ok:
            self.error = client.describe(status)
        elif index * 0.6180339887498949 % 1 < self._check_every:  # golden ratio: an even sample of any stride
            self.error = self._judge(request.image, body)

    def outcome_key(self) -> int:
        """Named after the payload class, or the variant; tells whoever listens to Locust's request event."""
        request = self.request
        name = request.image.payload if self._variant_of is None else self.variant
        if self._listeners:
            self._tell_listeners(name)
        if self.error is None and self._variant_of is None:
            return request.success
        return self.pacing.recorder.key(Outcome(self.spoken.method, name, self.error))

    def _tell_listeners(self, name: str) -> None:
        """Locust's request event for everybody but Locust itself, whose statistics come from the recorder."""
        now, planned = self.pacing.clock(), self.arrival[0]
        for listener in self._listeners:
            listener(
                request_type=self.spoken.method,
                name=name,
                response_time=(now - planned) * 1000,
                response_length=self.answer_bytes,
                exception=None if self.error is None else RequestFailed(self.error),
                context=self.context(),
                start_time=time.time() - (now - planned),
                url=self.target.url,
                response=None,
            )

    def _judge(self, image: Image, body: bytes) -> str | None:
        """None for the stored top-5, otherwise the failure's name.

        Answers already found right are remembered byte by byte, since most servers repeat themselves.
        """
        if (image.name, body) in self._known_good:
            return None
        try:
            right = self.spoken.is_right(image, body)
        except Exception as error:  # whatever a decoder stumbles over: it was made for right answers
            return f"unreadable answer: {type(error).__name__}"
        if not right:
            return self.spoken.wrong
        if len(self._known_good) < 1000:
            self._known_good.add((image.name, body))
        return None


class PredictUser(ModelUser):
    """The contract of the code-based frameworks: base64 in JSON in, five predictions out."""

    abstract = True

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """`{"image_base64": "…"}`."""
        return json.dumps({"image_base64": base64.b64encode(image.jpeg).decode()}).encode()

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """`{"predictions": [{"class_id", "confidence"}, …]}`."""
        return [(p["class_id"], p["confidence"]) for p in json.loads(body)["predictions"]]
