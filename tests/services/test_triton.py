"""What is Triton's own: its model repository, dynamic batching, several images at once, and its remains."""

from __future__ import annotations

import http.client
import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.pool import Pool

from scripts.family import living
from tests.services.backends import Backend, running
from tests.services.environments import SERVICES, interpreter_of
from tests.services.servers import until

pytestmark = pytest.mark.server

MODEL = "/v2/models/mobilenet"
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with running("triton", tmp_path_factory.mktemp("triton")) as backend:
        yield backend


@pytest.fixture(scope="module")
def batching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with running("triton+batching", tmp_path_factory.mktemp("triton")) as backend:
        yield backend


def ask(backend: Backend, path: str, body: bytes = b"", header: int = 0) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", backend.server.port, timeout=30)
    try:
        headers = {"Inference-Header-Content-Length": str(header)} if header else {}
        connection.request("POST" if body else "GET", path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def several(backend: Backend, images: list[bytes]) -> tuple[int, Any]:
    """Ask for images in one request; the answer in JSON."""
    data = b"".join(struct.pack("<I", len(image)) + image for image in images)
    tensor = {"name": "image", "shape": [len(images), 1], "datatype": "BYTES"}
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(data)}}]}).encode()
    return ask(backend, f"{MODEL}/infer", header + data, len(header))


def executions(backend: Backend) -> tuple[int, int]:
    """How many images were asked for, and how often the model was run."""
    (stats,) = ask(backend, f"{MODEL}/stats")[1]["model_stats"]
    return int(stats["inference_count"]), int(stats["execution_count"])


def crowd(backend: Backend) -> tuple[int, int]:
    """Let 8 callers ask at once; returns what that added to `executions`."""
    before = executions(backend)
    assert backend.wrong(callers=8) == []
    after = executions(backend)
    return after[0] - before[0], after[1] - before[1]


class TestRepository:
    def test_has_the_layout_that_tritons_image_takes(self) -> None:
        repository = SERVICES / "triton" / "repository"
        files = {
            str(path.relative_to(repository)) for path in repository.rglob("*.p*") if path.suffix != ".pyc"
        }
        assert files == {"mobilenet/config.pbtxt", "mobilenet/1/model.py"}

    def test_is_served_as_it_is_written(self, plain: Backend) -> None:
        status, config = ask(plain, f"{MODEL}/config")
        assert (status, config["backend"], config["max_batch_size"]) == (200, "python", 16)
        assert "dynamic_batching" not in config
        assert [group["count"] for group in config["instance_group"]] == [1]

    def test_has_as_many_instances_as_workers_are_asked_for(self, tmp_path: Path) -> None:
        code = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])
import server; server.lay_out_repository(Path(sys.argv[2]), 3, True)
"""
        command = [interpreter_of("triton"), "-c", code, SERVICES / "triton", tmp_path / "repository"]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": str(SERVICES.parent)}, check=True)
        config = (tmp_path / "repository" / "mobilenet" / "config.pbtxt").read_text()
        assert "count: 3\n" in config
        assert "dynamic_batching {" in config


class TestSeveralImages:
    def test_in_a_request_are_answered_in_their_order(self, plain: Backend) -> None:
        images = plain.probe().images[:5]
        status, answer = several(plain, [image.jpeg for image in images])
        assert status == 200
        outputs = {each["name"]: each["data"] for each in answer["outputs"]}
        for i, image in enumerate(images):
            row = slice(5 * i, 5 * i + 5)
            assert image.agrees(list(zip(outputs["class_id"][row], outputs["confidence"][row], strict=True)))

    def test_fail_together_when_one_is_none(self, plain: Backend) -> None:
        status, answer = several(plain, [plain.probe().images[0].jpeg, b"hello"])
        assert (status, "not a JPEG or PNG image" in answer["error"]) == (400, True)

    def test_are_at_most_sixteen(self, plain: Backend) -> None:
        assert several(plain, [plain.probe().images[0].jpeg] * 17)[0] == 400


class TestATensorThatIsWrong:
    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"datatype": "X"}, "invalid datatype"),
            ({"name": "other"}, "unexpected inference input"),
            ({"data": []}, "expected 1 string elements"),
            ({"data": ["aGVsbG8="]}, "not a JPEG or PNG image"),
            ({"parameters": {"binary_data_size": 10**9}}, "must set only one"),
        ],
    )
    def test_is_the_callers_mistake(self, plain: Backend, changes: dict[str, Any], sentence: str) -> None:
        tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]} | changes
        status, answer = ask(plain, f"{MODEL}/infer", json.dumps({"inputs": [tensor]}).encode())
        assert (status, sentence in answer["error"]) == (400, True), answer

    def test_of_another_length_than_it_says_is_so_too(self, plain: Backend) -> None:
        status, answer = ask(plain, f"{MODEL}/infer", b"{}", header=3)
        assert (status, "inference header size should be in range" in answer["error"]) == (400, True)


class TestBatching:
    def test_is_off_by_default(self, plain: Backend) -> None:
        images, runs = crowd(plain)
        assert images == runs > 0

    def test_joins_waiting_requests_where_it_is_asked_for(self, batching: Backend) -> None:
        assert "dynamic_batching" in ask(batching, f"{MODEL}/config")[1]
        images, runs = crowd(batching)
        assert images > runs > 0

    def test_fails_the_request_with_a_bad_image_and_no_other(self, batching: Backend) -> None:
        image = batching.probe().images[0]
        asked = Pool(8).map(lambda jpeg: several(batching, [jpeg])[0], [image.jpeg, b"hello"] * 8)
        assert asked == [200, 400] * 8


class TestEnd:
    def test_by_sigkill_leaves_no_process_and_no_shared_memory(self, tmp_path: Path) -> None:
        with running("triton", tmp_path) as backend:
            family = backend.server.family.members()
            supervisor = next(each for each in family if "server.py" in " ".join(each.cmdline()))
            prefix = f"modelswarm-{supervisor.pid}-*"
            assert "tritonserver" in {each.name() for each in family}
            assert list(SHARED_MEMORY.glob(prefix))
            os.killpg(supervisor.pid, signal.SIGKILL)
            assert until(lambda: not list(SHARED_MEMORY.glob(prefix)), 10)
            assert until(lambda: not living(family), 10)

    def test_comes_at_once_when_there_is_no_export(self, tmp_path: Path) -> None:
        began_s = time.monotonic()
        done = subprocess.run(
            [interpreter_of("triton"), SERVICES / "triton" / "server.py"],
            cwd=tmp_path,
            env=os.environ
            | {"PYTHONPATH": str(SERVICES.parent), "MODELSWARM_MODEL_DIR": str(tmp_path / "nowhere")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert "nowhere holds no export; `modelswarm setup` makes one" in done.stderr
        assert time.monotonic() - began_s < 30
