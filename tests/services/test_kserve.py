"""What is special to KServe: two processes, explanations, CloudEvents, InferenceServices."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

from scripts.family import living
from tests.services.backends import PROJECT, Backend, protocols_of, running
from tests.services.environments import run_in
from tests.services.servers import until

MANIFESTS = PROJECT.root / "services" / "kserve" / "inferenceservice"
EVENT = {"specversion": "1.0", "id": "7", "source": "tests", "type": "image", "time": "2026-01-01T00:00:00Z"}
Headers = Mapping[str, str]


@pytest.fixture(scope="module")
def kserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with running("kserve", tmp_path_factory.mktemp("kserve")) as backend:
        yield backend


@pytest.fixture(scope="module")
def image(model_dir: Path) -> bytes:
    return (model_dir / "images" / "chelsea.jpg").read_bytes()


def v1(image: bytes) -> dict[str, Any]:
    return {"instances": [{"image_bytes": {"b64": base64.b64encode(image).decode()}}]}


def post(url: str, body: object, headers: Headers | None = None) -> tuple[int, Headers, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, json.loads(answer.read())
    except HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def process_of(backend: Backend, module: str) -> psutil.Process:
    found = [each for each in living(backend.server.family.members()) if module in each.cmdline()]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.server
class TestAProxy:
    def test_for_the_world_is_not_asked_by_the_transformer_for_its_predictor(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nobody = "http://127.0.0.1:9"
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        with running("kserve", tmp_path, https_proxy=nobody, http_proxy=nobody) as backend:
            assert backend.wrong() == []


@pytest.mark.server
class TestExplanation:
    def test_says_what_hiding_each_part_takes_from_the_top_class(self, kserve: Backend, image: bytes) -> None:
        url = f"{kserve.server.url}/v1/models/mobilenet"
        _, _, predicted = post(f"{url}:predict", v1(image))
        status, _, explained = post(f"{url}:explain", v1(image))
        assert status == 200
        [explanation] = explained["explanations"]
        saliency = explanation.pop("saliency")
        assert explanation == predicted["predictions"][0][0] | {"method": "occlusion"}
        assert [len(row) for row in saliency] == [7] * 7
        values = [value for row in saliency for value in row]
        assert all(-1 <= value <= explanation["confidence"] for value in values)
        assert len(set(values)) > 40

    def test_of_what_is_no_image_is_4xx(self, kserve: Backend) -> None:
        status, _, body = post(f"{kserve.server.url}/v1/models/mobilenet:explain", v1(b"hello"))
        assert (status, body) == (400, {"error": "the bytes that were sent are not a JPEG or PNG image"})


@pytest.mark.server
class TestCloudEvents:
    @pytest.fixture
    def url(self, kserve: Backend) -> str:
        return f"{kserve.server.url}/v1/models/mobilenet:predict"

    @pytest.fixture
    def plain(self, url: str, image: bytes) -> Any:
        return post(url, v1(image))[2]

    def test_in_structured_mode_are_answered_with_one(self, url: str, image: bytes, plain: Any) -> None:
        sent = EVENT | {"data": v1(image)}
        status, headers, event = post(url, sent, {"Content-Type": "application/cloudevents+json"})
        assert (status, headers["Content-Type"]) == (200, "application/cloudevents+json")
        assert (event["specversion"], event["type"]) == ("1.0", "io.kserve.inference.response")
        assert event["data"] == plain

    def test_in_binary_mode_are_answered_with_one(self, url: str, image: bytes, plain: Any) -> None:
        status, headers, body = post(url, v1(image), {f"ce-{name}": value for name, value in EVENT.items()})
        assert (status, body) == (200, plain)
        assert (headers["ce-specversion"], headers["ce-type"]) == ("1.0", "io.kserve.inference.response")

    @pytest.mark.parametrize("body", [b"hello", b"", b"{}", b'{"data": 1}'])
    def test_that_are_broken_are_4xx(self, url: str, body: bytes) -> None:
        binary = {f"ce-{name}": value for name, value in EVENT.items()}
        for headers in (binary, {"Content-Type": "application/cloudevents+json"}):
            assert post(url, body, headers)[0] == 400
        assert post(url, body, binary | {"ce-specversion": "9"})[0] == 400


@pytest.mark.server
class TestPredictor:
    def test_is_a_process_of_its_own_behind_the_transformer(self, kserve: Backend, image: bytes) -> None:
        transformer = process_of(kserve, "services.kserve.transformer")
        predictor = process_of(kserve, "services.kserve.predictor")
        both = (transformer, predictor)
        before_s = [each.cpu_times().user for each in both]
        for _ in range(20):
            assert post(f"{kserve.server.url}/v1/models/mobilenet:predict", v1(image))[0] == 200
        used_s = [
            each.cpu_times().user - b for each, b in zip((transformer, predictor), before_s, strict=True)
        ]
        assert all(seconds > 0.01 for seconds in used_s), used_s

    def test_takes_tensors_and_no_images(self, kserve: Backend, image: bytes) -> None:
        url = kserve.server.speaking("predictor")
        status, _, body = post(f"{url}/v1/models/mobilenet:predict", v1(image))
        assert (status, "send images to the transformer" in body["error"]) == (400, True)
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, 224, 224], "data": [0.0] * 5}
        status, _, body = post(f"{url}/v2/models/mobilenet/infer", {"inputs": [tensor]})
        assert (status, "what its shape says" in body["error"]) == (400, True)
        tensor["data"] = [0.0] * (3 * 224 * 224)
        status, _, body = post(f"{url}/v2/models/mobilenet/infer", {"inputs": [tensor]})
        assert status == 200
        assert sum(body["outputs"][0]["data"]) == pytest.approx(1, abs=1e-4)

    def test_takes_the_server_with_it_when_it_dies(self, tmp_path: Path) -> None:
        with running("kserve", tmp_path) as backend:
            process_of(backend, "services.kserve.predictor").kill()
            assert until(lambda: backend.server.ended() is not None, 10)
            assert backend.server.ended() == "exited with status 9"
            assert living(backend.server.family.members()) == []


@pytest.mark.server
class TestTwoWorkers:
    def test_answer_alike_in_every_protocol(self, tmp_path: Path) -> None:
        with running("kserve", tmp_path, MODELSWARM_WORKERS="2") as backend:
            spawned = [
                each for each in backend.server.family.members() if "spawn_main" in str(each.cmdline())
            ]
            assert len(spawned) == 4
            for protocol in protocols_of(backend.service):
                assert backend.wrong(protocol) == [], protocol


CHECK = """if True:
    import sys
    import kserve, yaml
    from kubernetes.client import models as kubernetes

    def type_of(name):
        return getattr(kserve, name, None) or getattr(kserve.models, name, None) or getattr(kubernetes, name)

    def check(value, kind, where):
        if kind.startswith(("list[", "List[")):
            for at, each in enumerate(value):
                check(each, kind[5:-1], f"{where}[{at}]")
        elif kind.startswith(("dict(", "Dict[")) or kind == "object":
            assert isinstance(value, dict) or kind == "object", where
        elif kind in ("str", "int", "bool", "float"):
            assert type(value).__name__ == kind, f"{where}: {value!r} is no {kind}"
        else:
            known = type_of(kind)
            fields = {json: python for python, json in known.attribute_map.items()}
            for key, each in value.items():
                assert key in fields, f"{where}: {kind} has no {key}"
                check(each, known.openapi_types[fields[key]], f"{where}.{key}")

    check(yaml.safe_load(sys.argv[1]), "V1beta1InferenceService", "InferenceService")
"""


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
class TestInferenceServices:
    @pytest.fixture(scope="class")
    @staticmethod
    def built() -> dict[str, Any]:
        folders = [each.parent for each in sorted(MANIFESTS.glob("*/kustomization.yaml"))]
        texts = {
            each.name: subprocess.run(
                ["kubectl", "kustomize", str(each)], capture_output=True, text=True, check=True
            ).stdout
            for each in folders
        }
        return {name: yaml.safe_load(text) for name, text in texts.items()}

    def test_are_what_kserves_own_types_hold(self, built: dict[str, Any]) -> None:
        assert set(built) == {"base", "serverless", "serverless-canary", "raw", "raw-canary"}
        for name, service in built.items():
            done = run_in("kserve", CHECK, yaml.safe_dump(service))
            assert done.returncode == 0, f"{name}: {done.stderr[-500:]}"

    def test_are_told_apart_by_the_check(self, built: dict[str, Any]) -> None:
        for change in ({"canaryTrafficPercents": 10}, {"canaryTrafficPercent": "10"}):
            service = json.loads(json.dumps(built["serverless"]))
            service["spec"]["predictor"] |= change
            assert "canaryTrafficPercent" in run_in("kserve", CHECK, yaml.safe_dump(service)).stderr

    def test_say_how_they_are_deployed(self, built: dict[str, Any]) -> None:
        modes = {
            name: service["metadata"].get("annotations", {}).get("serving.kserve.io/deploymentMode")
            for name, service in built.items()
        }
        assert modes == {
            "base": None,
            "serverless": "Knative",
            "serverless-canary": "Knative",
            "raw": "Standard",
            "raw-canary": "Standard",
        }

    def test_give_a_canary_a_tenth_of_the_requests(self, built: dict[str, Any]) -> None:
        assert built["serverless-canary"]["spec"]["predictor"]["canaryTrafficPercent"] == 10
        [canary] = built["raw-canary"]["spec"]["canary"]
        assert canary["trafficPercent"] == 10
        [container] = canary["predictor"]["containers"]
        [stable] = built["raw-canary"]["spec"]["predictor"]["containers"]
        assert container == stable | {"image": "modelswarm/kserve:canary"}

    def test_say_what_a_container_may_do_where_knative_takes_it(self, built: dict[str, Any]) -> None:
        """Knative refuses a securityContext of the pod, unless a feature of it that is off is switched on."""
        for name, service in built.items():
            spec = service["spec"]
            canaries = [each["predictor"] for each in spec.get("canary", [])]
            for pod in [spec["predictor"], spec["transformer"], spec["explainer"], *canaries]:
                assert "securityContext" not in pod, name
                [container] = pod["containers"]
                assert container["securityContext"] == {
                    "runAsNonRoot": True,
                    "runAsUser": 10001,
                    "runAsGroup": 10001,
                    "seccompProfile": {"type": "RuntimeDefault"},
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }, name

    def test_start_modules_that_there_are(self, built: dict[str, Any]) -> None:
        for part in ("predictor", "transformer", "explainer"):
            [container] = built["base"]["spec"][part]["containers"]
            assert container["command"][:2] == ["python", "-m"]
            assert (PROJECT.root / f"{container['command'][2].replace('.', '/')}.py").exists()
            assert "--host=0.0.0.0" in container["args"]
