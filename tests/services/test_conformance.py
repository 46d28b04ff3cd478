"""Every backend in every protocol, run for real: the same cases for all, and a matrix of them at the end.

A backend is started once and asked everything; a second one beside it is killed from outside. Who adds a
framework adds nothing here; its official client, where it has one, is `clients/NAME.py`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from gevent.pool import Pool

from locustfiles.engine.grpc import CODES
from locustfiles.engine.protocols import GrpcProtocol
from scripts.family import Family, living
from scripts.probe import Probe
from services.model.contract import MAX_IMAGE_BYTES
from tests.projects import ROOT
from tests.services.backends import PROJECT, Backend, protocols_of
from tests.services.bad_input import MAY_BE_OVERLOOKED, bad_requests

pytestmark = pytest.mark.server

SERVICES = PROJECT.services()
NAMES = list(SERVICES)
SPOKEN = [(name, protocol) for name, service in SERVICES.items() for protocol in protocols_of(service)]
CLIENTS = Path(__file__).parent / "clients"
CLIENT_MISTAKES = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
}
PATIENCE_S = 15.0
# Servers without an option for the address, which their service.toml names; a stand-in of theirs has one.
ADDRESS_IS_FIXED = ("tensorflow_serving",)

each_backend = pytest.mark.parametrize("name", NAMES)
each_protocol = pytest.mark.parametrize(("name", "protocol"), SPOKEN)


class Stage:
    """The one backend that runs; tests are ordered by backend, so each is started once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._refused: dict[str, str] = {}
        self.backend: Backend | None = None

    def get(self, name: str) -> Backend:
        if reason := SERVICES[name].missing():
            pytest.skip(reason)
        if name in self._refused:
            pytest.fail(f"{name} did not start: {self._refused[name]}")
        if self.backend is None or self.backend.key != name:
            self.clear()
            self.backend = Backend(name, self._folder)
            try:
                self.backend.start()
            except AssertionError as error:
                self._refused[name] = str(error)
                self.clear()
                raise
        return self.backend

    def clear(self) -> None:
        if self.backend is not None:
            self.backend.stop()
        self.backend = None


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("backends"))
    yield stage
    stage.clear()


@pytest.fixture
def backend(name: str, stage: Stage) -> Backend:
    return stage.get(name)


@each_backend
class TestReady:
    def test_it_is_not_before_it_is_started_up(self, backend: Backend) -> None:
        assert backend.first_refusal is not None

    def test_it_is_only_when_it_predicts(self, backend: Backend) -> None:
        assert backend.first_answer is None, backend.last_words()

    def test_it_listens_on_loopback_alone(self, backend: Backend) -> None:
        if backend.service.name in ADDRESS_IS_FIXED and not backend.service.is_stand_in():
            pytest.skip("its address cannot be chosen")
        assert backend.listening() <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert backend.listening()


@each_protocol
class TestParity:
    def test_every_input_is_answered_with_the_stored_answer(self, backend: Backend, protocol: str) -> None:
        assert backend.wrong(protocol) == []

    def test_every_payload_class_is_among_them(self, backend: Backend, protocol: str) -> None:
        assert {image.payload for image in backend.probe(protocol).images} == {"small", "medium", "large"}


@each_protocol
class TestConcurrent:
    def test_callers_each_get_the_answer_to_their_own_input(self, backend: Backend, protocol: str) -> None:
        assert backend.wrong(protocol, callers=8) == []
        backend.look()


def filled(jpeg: bytes, size_bytes: int) -> bytes:
    """The same picture in a file of at most that size: comments come after its first marker."""
    room = size_bytes - len(jpeg)
    lengths = [length for start in range(0, room, 65_000) if (length := min(65_000, room - start)) >= 4]
    comments = [b"\xff\xfe" + struct.pack(">H", length - 2) + bytes(length - 4) for length in lengths]
    return jpeg[:2] + b"".join(comments) + jpeg[2:]


@each_protocol
class TestSize:
    def test_of_an_image_may_be_as_large_as_the_set_up_allows(self, backend: Backend, protocol: str) -> None:
        if backend.service.facts.kind != "image":
            pytest.skip("its requests are no images")
        probe = backend.probe(protocol)
        user, image = probe.user, probe.images[0]
        large = replace(image, jpeg=filled(image.jpeg, MAX_IMAGE_BYTES))
        facts = type(user).facts()
        spoken, special = user.choose(protocol, facts)
        path = special.get("path", facts["predict_path"])
        with backend.with_key():
            asked = spoken.compose(user.target, path, large)
        assert user.client.request(asked) in user.client.ok
        assert spoken.is_right(image, user.client.body)


@each_protocol
class TestClient:
    def test_of_the_framework_itself_gets_the_stored_answers(self, backend: Backend, protocol: str) -> None:
        script = CLIENTS / f"{backend.service.name}.py"
        if not script.exists():
            pytest.skip(f"no official client: there is no clients/{script.name}")
        told = self.ask(script, backend, protocol)
        if "skip" in told:
            pytest.skip(told["skip"])
        if "wrong" in told:
            assert told["checked"]
            assert told["wrong"] == []
            return
        images = json.loads((PROJECT.model_dir / "images.json").read_text())
        for image in images:
            stored = [(entry["class_id"], entry["confidence"]) for entry in image["top5"]]
            given = told["answers"][image["file"]]
            assert [class_id for class_id, _ in given] == [class_id for class_id, _ in stored], image["file"]
            assert [p for _, p in given] == pytest.approx([p for _, p in stored], abs=1e-3), image["file"]

    def ask(self, script: Path, backend: Backend, protocol: str) -> dict[str, Any]:
        named = [line for line in script.read_text().splitlines()[:5] if line.startswith("# venv:")]
        environment = named[0].partition(":")[2].strip() if named else backend.service.name
        python = ROOT / ".venvs" / environment / "bin" / "python"
        if not python.exists():
            pytest.skip(f"the environment .venvs/{environment} is not installed")
        arguments = ["--host", backend.server.speaking(protocol), "--protocol", protocol]
        done = subprocess.run(
            [python, "-P", script, *arguments, "--model-dir", PROJECT.model_dir],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | backend.server.caller_variables,
            cwd=backend.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return told


# What a framework's own front answers before any code of ours is asked, and which its service.toml names.
FRAMEWORKS_OWN = {
    # Triton's HTTP front parses JSON and answers 500 to all that has not the form of a request.
    ("triton", "v2_binary"): {
        "a body that is no request": 500,
        "a body that is not UTF-8": 500,
        "an empty object": 500,
        "an empty list": 500,
        "a number": 500,
        "a truth": 500,
        "a body nested too deeply": 500,
    },
    # Every field of Seldon's Feedback may be left out, and protobuf takes an empty list for an empty object.
    ("seldon", "feedback"): {"an empty object": 200, "an empty list": 200},
}


@each_protocol
class TestBadInput:
    def test_is_the_callers_mistake_and_never_the_servers(self, backend: Backend, protocol: str) -> None:
        probe = backend.probe(protocol)
        grpc = issubclass(probe.user.spoken, GrpcProtocol)
        requests = bad_requests(backend, probe, protocol)
        answered = {case: probe.user.client.request(data) for case, data in requests.items()}
        good = (lambda status: CODES[status] in CLIENT_MISTAKES) if grpc else (lambda s: 400 <= s < 500)
        assert answered
        taken = {case for case in MAY_BE_OVERLOOKED if answered.get(case) in probe.user.client.ok}
        bad = {case: status for case, status in answered.items() if not good(status) and case not in taken}
        assert bad == FRAMEWORKS_OWN.get((backend.service.name, protocol), {})
        assert probe.wrong(0) is None

    def test_of_a_caller_that_goes_away_does_no_harm(self, backend: Backend, protocol: str) -> None:
        address = urlsplit(backend.server.speaking(protocol))
        for _ in range(3):
            with socket.create_connection((address.hostname, address.port)) as caller:
                caller.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{")
        assert backend.probe(protocol).wrong(1) is None


@each_backend
class TestSideBySide:
    def test_a_second_one_answers_too_and_kill_9_of_its_command_leaves_nothing(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        holder = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("held_backend.py"), backend.key, tmp_path],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        try:
            mark, scratch = holder.stdout.readline().split()
            wrong, touched = holder.stdout.readline().strip(), holder.stdout.readline().strip()
        finally:
            holder.kill()
            holder.wait()
        assert wrong == ""
        family = Family(mark)
        deadline = time.monotonic() + PATIENCE_S
        while (left := living(family.members())) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
        while Path(scratch).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not Path(scratch).exists()
        assert [path for path in touched.split("|") if path and Path(path).exists()] == []
        assert backend.wrong() == []


@each_backend
class TestEnd:
    """Last: it ends the backend."""

    def test_in_the_middle_of_requests_is_quick_and_leaves_nothing(
        self, backend: Backend, stage: Stage
    ) -> None:
        answered: list[str | None] = []

        def ask(probe: Probe) -> None:
            for index in range(40):
                answered.append(probe.wrong(index))

        callers = Pool(4)
        busy = [callers.spawn(ask, backend.probe()) for _ in range(4)]
        while not answered:
            time.sleep(0.01)
        backend.look()
        began_s = time.monotonic()
        stage.backend, family = None, backend.server.family
        killed = backend.stop()
        took_s = time.monotonic() - began_s
        callers.join(timeout=40)
        assert all(each.ready() for each in busy)  # cut off or answered, but ended
        assert answered[0] is None
        assert killed == []
        assert backend.server.ended() in (
            "exited with status 0",
            f"exited with signal {signal.SIGTERM.value}",
        )
        assert took_s < backend.service.facts.local.stop_timeout_s
        assert living(family.members()) == []
        assert [path for path in backend.touched if path.exists()] == []
