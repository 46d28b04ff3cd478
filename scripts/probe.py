"""Does a server really predict? A process of its own, since importing Locust patches the one it is in.

`python -m scripts.probe LOCUSTFILE HOST PROTOCOL READY_URL WARMUP_REQUESTS` waits until the ready URL answers
200 and one prediction comes back, compares the answer for every test image with the stored one, sends the
warm-up requests, and prints a line of JSON for each step. A Locust user asks: what loads a server later, in
whichever protocol, is what tells whether it predicts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locust.env import Environment
from locust.util.load_locustfile import load_locustfile

from locustfiles.engine.options import LoadPlan
from locustfiles.engine.pacing import Dispatcher
from locustfiles.engine.payloads import Image
from locustfiles.engine.recorder import Recorder
from locustfiles.engine.users import ModelUser, Pacing
from scripts.ready import unwell

PERIOD_S = 0.1
_OPTIONS = {"payload": "mix", "check": "parity", "check_share": "1", "request_timeout": "30s"}


class Probe:
    """Calls one server with one user, one request at a time."""

    def __init__(self, user: type[ModelUser], host: str, protocol: str) -> None:
        """Speak `protocol` of `user` to `host`.

        Raises:
            ValueError: the user cannot make its requests; the sentence says why.

        """
        plan, recorder = LoadPlan.from_options(_OPTIONS | {"protocol": protocol}, None), Recorder()
        listening = _listening(user)
        listening.host = host
        pacing = Pacing(plan, Dispatcher(recorder.drop, recorder.drop_late), recorder)
        listening.prepare(pacing, Environment())
        self.user = listening(Environment())
        self.user.on_start()
        self.images: list[Image] = [request.image for request in listening.requests]

    def not_ready(self) -> str | None:
        """Return why it does not predict yet, None when it answers a real request."""
        self._ask(0)
        return None if self.user.heard is not None else f"a prediction ends with {self.user.error}"

    def wrong(self, index: int) -> str | None:
        """Return what is wrong with the answer for an image, None if it is the stored one."""
        image = self.images[index % len(self.images)]
        self._ask(index)
        if self.user.error is None:
            return None
        if self.user.heard is None:
            return f"{image.name}: {self.user.error}"
        return f"{image.name}: {_difference(self.user, image)}"

    def _ask(self, index: int) -> None:
        user = self.user
        user.arrival, user.error, user.heard = (time.monotonic(), index), None, None
        user.predict()


def _listening(user: type[ModelUser]) -> type[Any]:
    """Derive a user that keeps the last answer that was judged, in `heard`."""

    class Listening(user):  # type: ignore[valid-type,misc]
        heard: bytes | None = None

        def _judge(self, image: Image, body: bytes) -> str | None:
            self.heard = body
            reason: str | None = super()._judge(image, body)
            return reason

    return Listening


def _difference(user: Any, image: Image) -> str:
    try:
        answered = [int(c) for c, _ in user.spoken.decode(user.heard)]
    except Exception as error:  # whatever a decoder stumbles over: it was made for right answers
        return f"unreadable answer ({type(error).__name__}: {error})"
    return f"answered {answered}, stored are {[c for c, _ in image.top5]}"


def model_user(locustfile: Path) -> type[ModelUser]:
    """Return the one user class of a locustfile that calls a model server.

    Raises:
        ValueError: there is none.

    """
    classes = load_locustfile(str(locustfile))[0].values()
    found = [each for each in classes if issubclass(each, ModelUser)]
    if not found:
        raise ValueError(f"{locustfile.name} has no user class derived from ModelUser or PredictUser")
    return found[0]


def say(**event: object) -> None:
    """Tell the command, which reads standard output line by line."""
    print(json.dumps(event), flush=True)


def await_none(ask: Callable[[], str | None]) -> None:
    """Ask again and again until nothing is in the way any more, and say what is."""
    before = None
    while reason := ask():
        if reason != before:
            say(waiting=reason)
        before = reason
        time.sleep(PERIOD_S)


def main() -> int:
    """Probe as the arguments say; the caller ends this process when it has waited long enough."""
    locustfile, host, protocol, ready_url, warmup_requests = sys.argv[1:]
    try:
        user = model_user(Path(locustfile))
        await_none(lambda: unwell(ready_url))
        probe = Probe(user, host, protocol)  # not before: what it must send may be made at the server's start
    except (ValueError, OSError) as error:
        say(error=str(error))
        return 2
    await_none(probe.not_ready)
    say(ready=True)
    wrong = [sentence for index in range(len(probe.images)) if (sentence := probe.wrong(index))]
    say(checked=len(probe.images), wrong=wrong)
    for index in range(int(warmup_requests)):
        probe.wrong(index)
    say(warm=int(warmup_requests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
