"""What is TensorFlow Serving's own: its configuration files, versions and labels, and nginx in front."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.server import free_port
from tests.services.backends import Backend, running
from tests.services.environments import SERVICES, run_in

pytestmark = pytest.mark.server

CONFIG = SERVICES / "tensorflow_serving" / "config"
MODEL = "/v1/models/mobilenet"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with running("tensorflow_serving", tmp_path_factory.mktemp("tfs")) as backend:
        yield backend


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body or None)
        answer = connection.getresponse()
        text = answer.read().decode()
        parsed = json.loads(text) if "json" in (answer.getheader("Content-Type") or "") else text
        return answer.status, dict(answer.getheaders()), parsed
    finally:
        connection.close()


def row(model_dir: Path, file: str = "images/chelsea.jpg") -> bytes:
    instance = {"b64": base64.b64encode((model_dir / file).read_bytes()).decode()}
    return json.dumps({"signature_name": "serving_jpeg", "instances": [instance]}).encode()


class TestConfiguration:
    def test_is_what_the_real_messages_of_tensorflow_serving_take(self) -> None:
        code = """
import sys
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2 as config
models = text_format.Parse(open(sys.argv[1]).read(), config.ModelServerConfig())
(model,) = models.model_config_list.config
versions = list(model.model_version_policy.specific.versions)
print(model.name, model.base_path, versions, dict(model.version_labels))
"""
        done = run_in("tensorflow_serving", code, CONFIG / "models.config")
        expected = "mobilenet /models/mobilenet [1, 2] {'stable': 1, 'canary': 2}"
        found = done.stdout.strip().replace("{'canary': 2, 'stable': 1}", "{'stable': 1, 'canary': 2}")
        assert found == expected, done.stderr

    def test_of_batching_names_only_what_batching_parameters_have(self) -> None:
        names = {
            line.split()[0]
            for line in (CONFIG / "batching.config").read_text().splitlines()
            if line[0] != "#"
        }
        assert names == {
            "max_batch_size",
            "batch_timeout_micros",
            "max_enqueued_batches",
            "num_batch_threads",
        }


class TestVersions:
    def test_are_both_available(self, backend: Backend) -> None:
        status, _, answer = ask(backend.server.port, "GET", MODEL)
        states = {each["version"]: each["state"] for each in answer["model_version_status"]}
        assert (status, states) == (200, {"1": "AVAILABLE", "2": "AVAILABLE"})

    @pytest.mark.parametrize(("label", "version"), [("stable", "1"), ("canary", "2")])
    def test_have_labels(self, backend: Backend, label: str, version: str) -> None:
        _, _, answer = ask(backend.server.port, "GET", f"{MODEL}/labels/{label}")
        assert [each["version"] for each in answer["model_version_status"]] == [version]

    @pytest.mark.parametrize("path", ["/labels/beta", "/versions/3", "x/labels/stable"])
    def test_that_are_not_there_are_not_found(self, backend: Backend, path: str, model_dir: Path) -> None:
        status, _, answer = ask(backend.server.port, "POST", f"{MODEL}{path}:predict", row(model_dir))
        assert (status, list(answer)) == (404, ["error"])

    def test_move_when_the_configuration_is_loaded_again(self, backend: Backend) -> None:
        code = """
import sys, grpc
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc
request = model_management_pb2.ReloadConfigRequest()
text_format.Parse(open(sys.argv[2]).read(), request.config)
labels = request.config.model_config_list.config[0].version_labels
labels["stable"] = int(sys.argv[3])
stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(sys.argv[1]))
try:
    stub.HandleReloadConfigRequest(request, 60)
    print("taken")
except grpc.RpcError as error:
    print(error.code().name)
"""
        config = self.config_of(backend)
        address = backend.server.speaking("grpc").removeprefix("grpc://")

        def move(version: int) -> str:
            return run_in("tensorflow_serving", code, address, config, version).stdout.strip()

        def stable() -> str:
            answer = ask(backend.server.port, "GET", f"{MODEL}/labels/stable")[2]
            return str(answer["model_version_status"][0]["version"])

        assert (move(2), stable()) == ("taken", "2")
        assert (move(7), stable()) == ("FAILED_PRECONDITION", "2")
        assert (move(1), stable()) == ("taken", "1")

    def test_stay_when_the_configuration_to_load_names_no_list(self, backend: Backend) -> None:
        code = """
import sys, grpc
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc
stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(sys.argv[1]))
try:
    stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), 60)
    print("taken")
except grpc.RpcError as error:
    print(error.code().name)
"""
        address = backend.server.speaking("grpc").removeprefix("grpc://")
        assert run_in("tensorflow_serving", code, address).stdout.strip() == "INVALID_ARGUMENT"
        assert ask(backend.server.port, "GET", f"{MODEL}/labels/stable")[0] == 200

    def config_of(self, backend: Backend) -> Path:
        """The models.config that the server was started with."""
        for process in backend.server.family.members():
            for argument in process.cmdline():
                if argument.startswith("--model_config_file="):
                    return Path(argument.partition("=")[2])
        raise AssertionError("no process was given a models.config")


class TestStandIn:
    def test_says_that_it_is_one(self, backend: Backend) -> None:
        if shutil.which("tensorflow_model_server"):
            pytest.skip("the real server is here")
        assert backend.service.is_stand_in()
        _, headers, _ = ask(backend.server.port, "GET", MODEL)
        assert "stand-in" in headers["Server"]
        _, _, metrics = ask(backend.server.port, "GET", "/monitoring/prometheus/metrics")
        assert "stand-in" in metrics
        assert "# TYPE :tensorflow:serving:request_count counter" in metrics

    def test_is_not_what_runs_where_the_real_server_is_on_path(self, tmp_path: Path, model_dir: Path) -> None:
        program = tmp_path / "tensorflow_model_server"
        program.write_text('#!/bin/sh\necho "$@"\n')
        program.chmod(0o755)
        done = self.start(
            tmp_path, model_dir, PATH=f"{tmp_path}:{os.environ['PATH']}", MODELSWARM_BATCHING="true"
        )
        flags = done.stdout.split()
        assert "--rest_api_port=8501" in flags
        assert f"--batching_parameters_file={CONFIG / 'batching.config'}" in flags
        assert "--tensorflow_intra_op_parallelism=3" in flags
        config = next(each for each in flags if each.startswith("--model_config_file=")).partition("=")[2]
        assert str(tmp_path / "models" / "mobilenet") in Path(config).read_text()
        assert (tmp_path / "models" / "mobilenet" / "2" / "saved_model.pb").exists()

    def test_refuses_to_batch(self, tmp_path: Path, model_dir: Path) -> None:
        if shutil.which("tensorflow_model_server"):
            pytest.skip("the real server is here")
        done = self.start(tmp_path, model_dir, MODELSWARM_BATCHING="true")
        assert done.returncode == 1
        assert "its stand-in has no batching: leave it off" in done.stderr

    def start(self, cwd: Path, model_dir: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        variables = {"PYTHONPATH": str(SERVICES.parent), "MODELSWARM_MODEL_DIR": str(model_dir)}
        return subprocess.run(
            [sys.executable, SERVICES / "tensorflow_serving" / "server.py"],
            cwd=cwd,
            env=os.environ | variables | {"MODELSWARM_THREADS": "3"} | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


class TestNginx:
    """config/nginx.conf, with the addresses and the folder of this test in place of a container's."""

    @pytest.fixture
    def proxy(self, backend: Backend, tmp_path: Path) -> Iterator[int]:
        nginx = shutil.which("nginx")
        if nginx is None:
            pytest.skip("nginx is not installed (apt-get install nginx-light)")
        port = free_port()
        text = (CONFIG / "nginx.conf").read_text().replace("/tmp/nginx", f"{tmp_path}/nginx")
        text = text.replace("tensorflow-serving:8501", f"127.0.0.1:{backend.server.port}")
        text = text.replace("listen 8080", f"listen 127.0.0.1:{port}")
        if os.geteuid() == 0:
            text = f"user root;\n{text}"  # of this test's folder
        conf = tmp_path / "nginx.conf"
        conf.write_text(text)
        checked = subprocess.run([nginx, "-t", "-c", conf], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        process = subprocess.Popen([nginx, "-c", conf, "-g", "daemon off;"], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(10)

    def test_offers_predict_in_front(self, proxy: int, model_dir: Path) -> None:
        status, _, answer = ask(proxy, "POST", "/predict", row(model_dir))
        assert status == 200
        assert len(answer["predictions"][0]) == 1000
        assert ask(proxy, "GET", "/health")[0] == 200

    def test_passes_refusals_on_and_takes_nothing_else(self, proxy: int) -> None:
        assert ask(proxy, "POST", "/predict", b"hello")[0] == 400
        assert ask(proxy, "GET", "/predict")[0] in (403, 405)
        assert ask(proxy, "GET", MODEL)[0] == 404

    def test_sends_a_tenth_to_the_canary(self, proxy: int) -> None:
        labels = Counter(ask(proxy, "POST", "/predict", b"{}")[1]["X-Model-Label"] for _ in range(400))
        assert set(labels) == {"stable", "canary"}
        assert 15 <= labels["canary"] <= 75  # 40 expected; six standard deviations


def test_the_facts_name_what_the_proxy_and_the_user_speak_to() -> None:
    facts = tomllib.loads((SERVICES / "tensorflow_serving" / "service.toml").read_text())
    assert facts["predict_path"] == f"{MODEL}/labels/stable:predict"
    assert (facts["port"], facts["protocols"]["grpc"]["port"]) == (8501, 8500)
