"""What is special to Seldon: feedback, the transformer, the A/B router, SeldonDeployments."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml

from locustfiles.seldon_user import Feedback, SeldonUser
from scripts.server import free_ports
from tests.services.backends import PROJECT, Backend, running
from tests.services.environments import interpreter_of, run_in

DEPLOYMENTS = PROJECT.root / "services" / "seldon" / "deployment"
READY_S = 60
FEEDBACK = """if True:
    import sys
    from seldon_core.seldon_client import SeldonClient

    client = SeldonClient(microservice_endpoint=sys.argv[1], transport="rest")
    answer = client.microservice(method="predict", bin_data=open(sys.argv[2], "rb").read())
    assert answer.success, answer.msg
    done = client.microservice_feedback(answer.request, answer.response, reward=float(sys.argv[3]))
    assert done.success, done.msg
"""


def post(url: str, body: object) -> Any:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def metric(url: str, name: str) -> float:
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        found = re.findall(rf"^{name}\{{.*\}} (\S+)$", answer.read().decode(), re.M)
    return sum(map(float, found))


@contextmanager
def component(name: str, *options: str) -> Iterator[tuple[str, str]]:
    """A component of a graph as a microservice of its own: its address, and that of its metrics."""
    http, metrics = free_ports(2)
    module = [interpreter_of("seldon"), "-m", "services.seldon.server", f"services.seldon.components.{name}"]
    process = subprocess.Popen(
        [*module, f"--http-port={http}", f"--metrics-port={metrics}", *options],
        env=os.environ | {"PYTHONPATH": str(PROJECT.root), "MODELSWARM_MODEL_DIR": str(PROJECT.model_dir)},
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{http}"
        deadline = time.monotonic() + READY_S
        while not answers(f"{address}/health/ping"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield address, f"http://127.0.0.1:{metrics}"
    finally:
        process.terminate()
        assert process.wait(20) == 0


def answers(url: str) -> bool:
    with suppress(OSError), urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@pytest.fixture(scope="module")
def seldon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with running("seldon", tmp_path_factory.mktemp("seldon")) as backend:
        yield backend


@pytest.mark.server
class TestFeedback:
    def test_of_seldons_own_client_is_counted(self, seldon: Backend, model_dir: Path) -> None:
        address = seldon.server.url.removeprefix("http://")
        for reward in (1, 0.5):
            done = run_in("seldon", FEEDBACK, address, model_dir / "images" / "chelsea.jpg", reward)
            assert done.returncode == 0, done.stderr[-2000:]
        metrics = seldon.server.speaking("metrics")
        assert metric(metrics, "seldon_api_model_feedback_total") == 2
        assert metric(metrics, "seldon_api_model_feedback_reward_total") == 1.5

    def test_of_our_user_is_counted_once_each(self, seldon: Backend) -> None:
        metrics = seldon.server.speaking("metrics")
        before = metric(metrics, "seldon_api_model_feedback_total")
        probe = seldon.probe("feedback")
        assert [probe.wrong(index) for index in range(3)] == [None] * 3
        assert metric(metrics, "seldon_api_model_feedback_total") == before + 3

    @pytest.mark.parametrize(
        "data",
        [
            {"tensor": {"shape": [2, 2], "values": [1]}},
            {"tensor": {"shape": [-1], "values": [1]}},
            {"ndarray": [[1], [1, 2]]},
            {"tftensor": {"dtype": "DT_FLOAT"}},
        ],
    )
    def test_that_cannot_be_read_is_the_callers_mistake(self, seldon: Backend, data: dict[str, Any]) -> None:
        for part in ("request", "truth"):
            with pytest.raises(HTTPError, match="400") as caught:
                post(f"{seldon.server.url}/api/v1.0/feedback", {part: {"data": data}})
            assert "the feedback cannot be read" in json.loads(caught.value.read())["status"]["info"]

    def test_is_not_ranked_with_predictions(self) -> None:
        plain, feedback = PROJECT.select(["seldon", "seldon+protocol=feedback"])
        assert [plain.describe()["kind"], feedback.describe()["kind"]] == ["image", "feedback"]
        assert feedback.describe()["differs"][:-1] == plain.describe()["differs"]
        assert "nothing is inferred" in feedback.describe()["differs"][-1]


class TestFeedbackOfOurUser:
    def test_tells_request_answer_truth_and_reward(self, model_dir: Path) -> None:
        image = SeldonUser.payloads("small")[0]
        told = json.loads(Feedback.encode(image))
        assert told["request"] == json.loads(SeldonUser.encode(image))
        assert image.agrees(SeldonUser.decode(json.dumps(told["response"]).encode()))
        assert (told["truth"], told["reward"]) == ({"data": {"ndarray": [image.top5[0][0]]}}, 1.0)

    @pytest.mark.parametrize(
        ("answer", "right"),
        [
            (b'{"data":{"tensor":{"shape":[0]}},"meta":{}}', True),
            (b'{"data":{"tensor":{"shape":[1]}},"meta":{}}', False),
            (b'{"data":{"tensor":{"shape":[0]}},"status":{"code":-1}}', False),
        ],
    )
    def test_is_right_when_seldon_took_it(self, answer: bytes, right: bool, model_dir: Path) -> None:
        assert Feedback.is_right(SeldonUser.payloads("small")[0], answer) is right


@pytest.mark.server
class TestTransformer:
    def test_makes_tensors_that_the_model_answers_like_the_images(self, seldon: Backend) -> None:
        predict = f"{seldon.server.url}/api/v1.0/predictions"
        with component("Preparation") as (preparation, _):
            for image in SeldonUser.payloads("small"):
                asked = {"binData": base64.b64encode(image.jpeg).decode()}
                tensor = post(f"{preparation}/transform-input", asked)
                assert tensor["data"]["tensor"]["shape"] == [1, 3, 224, 224]
                assert image.agrees(SeldonUser.decode(json.dumps(post(predict, tensor)).encode())), image.name


@pytest.mark.server
class TestRouter:
    def test_splits_requests_as_told_and_credits_the_branch_that_answered(self) -> None:
        parameters = [
            {"name": "share_of_first", "type": "FLOAT", "value": "0.9"},
            {"name": "seed", "type": "INT", "value": "1"},
        ]
        with component("AbRouter", f"--parameters={json.dumps(parameters)}") as (router, metrics):
            routes = [self.route(router) for _ in range(300)]
            assert set(routes) == {0, 1}
            assert 0.85 < routes.count(0) / 300 < 0.95
            for branch, reward in ((0, 1.0), (1, 0.25), (1, 0.5)):
                answered = {"jsonData": {}, "meta": {"routing": {"0": branch}}}
                asked = {"data": {"ndarray": [[1]]}}
                feedback = {"request": asked, "response": answered, "reward": reward}
                post(f"{router}/api/v1.0/feedback", feedback)
            assert metric(metrics, "reward_branch_0") == 1
            assert metric(metrics, "reward_branch_1") == 0.75

    def route(self, router: str) -> int:
        [[branch]] = post(f"{router}/route", {"data": {"ndarray": [[1]]}})["data"]["ndarray"]
        return int(branch)


def units(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield graph
    for child in graph.get("children", []):
        yield from units(child)


class TestDeployments:
    @pytest.fixture(params=["canary", "ab-test"])
    def deployment(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        made: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / f"{request.param}.yaml").read_text())
        return made

    def test_have_a_container_of_the_right_kind_for_each_unit_of_the_graph(
        self, deployment: dict[str, Any]
    ) -> None:
        kinds = {"MODEL": "MobileNet", "TRANSFORMER": "Preparation", "ROUTER": "AbRouter"}
        for predictor in deployment["spec"]["predictors"]:
            [pod] = [each["spec"] for each in predictor["componentSpecs"]]
            started = {each["name"]: each["args"] for each in pod["containers"]}
            wanted = {unit["name"]: kinds[unit["type"]] for unit in units(predictor["graph"])}
            assert started == {name: [f"services.seldon.components.{kind}"] for name, kind in wanted.items()}

    def test_give_a_canary_a_tenth_of_the_requests(self) -> None:
        predictors = yaml.safe_load((DEPLOYMENTS / "canary.yaml").read_text())["spec"]["predictors"]
        assert {each["name"]: each["traffic"] for each in predictors} == {"stable": 90, "canary": 10}
        images = [each["componentSpecs"][0]["spec"]["containers"][0]["image"] for each in predictors]
        assert images == ["modelswarm/seldon:0.1.0", "modelswarm/seldon:canary"]

    def test_split_a_from_b_by_a_router_of_two_models(self) -> None:
        [predictor] = yaml.safe_load((DEPLOYMENTS / "ab-test.yaml").read_text())["spec"]["predictors"]
        [router] = [unit for unit in units(predictor["graph"]) if unit["type"] == "ROUTER"]
        assert [child["type"] for child in router["children"]] == ["MODEL", "MODEL"]
        assert router["parameters"] == [{"name": "share_of_first", "type": "FLOAT", "value": "0.5"}]
