"""What is special to MLServer: inference in a worker process, outputs by request."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from scripts.family import living
from tests.services.backends import Backend, running
from tests.services.servers import until

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with running("mlserver", tmp_path_factory.mktemp("mlserver")) as backend:
        yield backend


def infer(backend: Backend, image: bytes, outputs: list[str]) -> tuple[int, Any]:
    data = [base64.b64encode(image).decode()]
    body = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}],
        "outputs": [{"name": name} for name in outputs],
    }
    url = f"{backend.server.url}/v2/models/mobilenet/infer"
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


class TestOutputs:
    @pytest.fixture
    def image(self, model_dir: Path) -> bytes:
        return (model_dir / "images" / "chelsea.jpg").read_bytes()

    def test_are_those_that_are_asked_for(self, mlserver: Backend, image: bytes) -> None:
        for asked in (["class_name"], ["class_id", "confidence"]):
            status, body = infer(mlserver, image, asked)
            assert (status, [output["name"] for output in body["outputs"]]) == (200, asked)

    def test_are_all_when_none_is_asked_for(self, mlserver: Backend, image: bytes) -> None:
        outputs = infer(mlserver, image, [])[1]["outputs"]
        assert [output["datatype"] for output in outputs] == ["INT64", "BYTES", "FP32"]
        assert {tuple(output["shape"]) for output in outputs} == {(1, 5)}

    def test_that_do_not_exist_are_4xx(self, mlserver: Backend, image: bytes) -> None:
        status, body = infer(mlserver, image, ["logits"])
        assert status == 400
        assert "there is no output 'logits'" in body["error"]


class TestWorker:
    def test_ends_with_a_server_that_is_killed(self, tmp_path: Path) -> None:
        with running("mlserver", tmp_path) as backend:
            members = living(backend.server.family.members())
            assert any("spawn_main" in str(each.cmdline()) for each in members)
            [server] = [each for each in members if "services.mlserver.server" in each.cmdline()]
            server.send_signal(signal.SIGKILL)
            assert until(lambda: not living(backend.server.family.members()), 10)
