"""Does a server really predict? A process of its own, since importing Locust patches the one it is in.

`python -m scripts.probe LOCUSTFILE HOST READY_PATH WARMUP_REQUESTS` waits until the ready path answers 200
and one prediction comes back, compares the answer for every test image with the stored one, sends the warm-up
requests, and prints a line of JSON for each step. The protocol is the Locust user's: what it encodes is sent,
what it decodes is compared.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from locust.util.load_locustfile import load_locustfile

from locustfiles.engine.payloads import Image, load_images, model_dir
from locustfiles.engine.users import ModelUser

READY_TIMEOUT_S = 5.0
PREDICT_TIMEOUT_S = 30.0
PERIOD_S = 0.1


class Probe:
    """Calls one server, one request at a time."""

    def __init__(self, user: type[ModelUser], host: str) -> None:
        """Speak `user`'s protocol to `host`."""
        self._user, self._host = user, urlsplit(host).netloc
        self._path = str(user.facts()["predict_path"])

    def not_ready(self, path: str, image: Image) -> str | None:
        """Return why it does not predict yet: asked on its ready path, then with a real request."""
        try:
            status, _ = self._call("GET", path, b"", "", READY_TIMEOUT_S)
            if status != 200:
                return f"GET {path} answers {status}"
            status, body = self._send(image)
            if status >= 500:
                return f"a prediction is answered with {status} {_start(body)}"
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        return None

    def wrong(self, image: Image) -> str | None:
        """Return what is wrong with the answer for an image, None if it is the stored one."""
        try:
            status, body = self._send(image)
            if not 200 <= status < 300:
                return f"{image.name}: HTTP {status} {_start(body)}"
            answer = self._user.decode(body)
        except (OSError, http.client.HTTPException) as error:
            return f"{image.name}: {type(error).__name__}: {error}"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{image.name}: unreadable answer ({type(error).__name__}: {error})"
        if image.agrees(answer):
            return None
        return (
            f"{image.name}: answered {[int(c) for c, _ in answer]}, stored are {[c for c, _ in image.top5]}"
        )

    def _send(self, image: Image) -> tuple[int, bytes]:
        user = self._user
        return self._call(user.method, self._path, user.encode(image), user.content_type, PREDICT_TIMEOUT_S)

    def _call(self, method: str, path: str, body: bytes, kind: str, timeout_s: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, timeout=timeout_s)
        try:
            connection.request(method, path, body or None, {"Content-Type": kind} if kind else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _start(body: bytes) -> str:
    return body[:200].decode(errors="replace")


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


def main() -> int:
    """Probe as the arguments say; the caller ends this process when it has waited long enough."""
    locustfile, host, ready_path, warmup_requests = sys.argv[1:]
    try:
        probe = Probe(model_user(Path(locustfile)), host)
        images = load_images("mix", model_dir())
    except ValueError as error:
        say(error=str(error))
        return 2
    before = None
    while reason := probe.not_ready(ready_path, images[0]):
        if reason != before:
            say(waiting=reason)
        before = reason
        time.sleep(PERIOD_S)
    say(ready=True)
    wrong = [sentence for image in images if (sentence := probe.wrong(image))]
    say(checked=len(images), wrong=wrong)
    for image in itertools.islice(itertools.cycle(images), int(warmup_requests)):
        probe.wrong(image)
    say(warm=int(warmup_requests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
