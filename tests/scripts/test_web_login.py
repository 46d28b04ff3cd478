"""The login before Locust's web UI, as it stands in a cluster."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import build_opener

import pytest
import yaml

from scripts.cluster.objects import MASTER, WORKER, find, placed
from scripts.cluster.ui import SECRET, asks_for_login, ui_objects
from scripts.errors import CannotRun
from scripts.project import Project
from scripts.server import free_port
from tests.logins import answer, log_in, sees
from tests.projects import ROOT
from tests.waiting import until

pytestmark = pytest.mark.e2e
FILES = f"{ROOT}/locustfiles/fastapi_user.py,{ROOT}/locustfiles/web_login.py"


def locust(
    port: int, words: Sequence[str] = ("-f", FILES, "--web-login"), **variables: str
) -> subprocess.Popen[str]:
    web = ["--web-host", "127.0.0.1", "--web-port", str(port)]
    return subprocess.Popen(
        [sys.executable, "-m", "locust", *words, *web],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def answering(process: subprocess.Popen[str], port: int) -> Iterator[str]:
    """Where the web UI is, once it answers."""
    where = f"http://127.0.0.1:{port}"

    def there() -> bool:
        assert process.poll() is None
        with suppress(OSError):
            build_opener().open(f"{where}/login", timeout=5).close()
            return True
        return False

    try:
        until(there, "the web UI answers", 60)
        yield where
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A web UI with the password `right`."""
    port = free_port()
    with answering(locust(port, MODELSWARM_WEB_PASSWORD="right"), port) as where:
        yield where


class TestTheLogin:
    def test_lets_in_who_has_the_password(self, url: str) -> None:
        assert sees(log_in(url, "locust", "right"), url)

    @pytest.mark.parametrize(("name", "password"), [("locust", "wrong"), ("root", "right"), ("locust", "")])
    def test_keeps_out_everybody_else(self, url: str, name: str, password: str) -> None:
        assert not sees(log_in(url, name, password), url)
        assert not sees(build_opener(), url)

    def test_without_a_password_does_not_start(self) -> None:
        process = locust(free_port(), MODELSWARM_WEB_PASSWORD="")
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "set the variable MODELSWARM_WEB_PASSWORD" in output

    def test_without_the_file_of_the_password_does_not_start(self, tmp_path: Path) -> None:
        process = locust(free_port(), MODELSWARM_WEB_PASSWORD_FILE=str(tmp_path / "password"))
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "MODELSWARM_WEB_PASSWORD_FILE names a file that is not read" in output


def pods(backend: str, **keys: str) -> list[dict[str, Any]]:
    """What `ui` deploys for a backend, whose server stands at http://there:8000."""
    files = sorted((ROOT / "k8s" / "base").glob("[!k]*.yaml"))
    base = placed([each for f in files for each in yaml.safe_load_all(f.read_text()) if each], "room", {})
    (service,) = Project(ROOT).select([backend])
    return ui_objects(base, service, "http://there:8000", keys, 3, "right")


def container(objects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found: dict[str, Any] = find(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]
    return found


def start_pod(objects: list[dict[str, Any]], name: str, port: int, secrets: Path) -> subprocess.Popen[str]:
    """Start Locust as one of the pods would: its arguments, its environment, and the Secret as files."""
    made = container(objects, name)
    variables = {each["name"]: each["value"] for each in made["env"]}
    for source in made["envFrom"]:
        variables |= find(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    (mount,) = [each["mountPath"] for each in made["volumeMounts"] if each["name"] == "login"]
    for key, value in find(objects, "Secret", SECRET)["data"].items():
        (secrets / key).write_bytes(base64.b64decode(value))
    moves = {"/app": str(ROOT), mount: str(secrets)}
    for there, here in moves.items():
        variables = {key: value.replace(there, here) for key, value in variables.items()}
    bus = ["--master-bind-host", "127.0.0.1", "--master-bind-port", str(free_port())]
    return locust(port, [*made["args"], *bus], **variables)


@pytest.fixture(scope="module")
def in_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The web UI of the master that `ui --target kind` deploys."""
    port, secrets = free_port(), tmp_path_factory.mktemp("secret")
    with answering(start_pod(pods("fastapi"), MASTER, port, secrets), port) as where:
        yield where


class TestTheMasterInACluster:
    def test_sends_everybody_to_the_login_first(self, in_cluster: str) -> None:
        assert answer(in_cluster, "GET", "/") == (302, "/login")
        assert answer(in_cluster, "POST", "/swarm") == (302, "/login")
        assert not sees(build_opener(), in_cluster)
        assert not sees(log_in(in_cluster, "locust", "wrong"), in_cluster)

    def test_lets_in_who_has_the_password_of_the_secret(self, in_cluster: str) -> None:
        assert sees(log_in(in_cluster, "locust", "right"), in_cluster)

    def test_counts_as_there_when_it_asks_for_the_login(self, in_cluster: str) -> None:
        assert asks_for_login(urlsplit(in_cluster).port or 0)

    def test_is_asked_through_no_proxy(self, in_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")  # where nothing listens
        monkeypatch.delenv("no_proxy", raising=False)
        assert asks_for_login(urlsplit(in_cluster).port or 0)

    def test_that_is_not_there_yet_is_waited_for(self) -> None:
        assert not asks_for_login(free_port())

    def test_that_stands_open_is_refused(self) -> None:
        class Open(BaseHTTPRequestHandler):
            """As Locust without --web-login: /login leads back to the page itself."""

            def do_GET(self) -> None:
                self.send_response(302 if self.path == "/login" else 200)
                self.send_header("Location", "/")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Open)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            with pytest.raises(CannotRun, match="asks for no login"):
                asks_for_login(server.server_port)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class TestThePodsOfTheWebUi:
    def test_have_no_password_in_their_environment(self) -> None:
        objects = pods("fastapi")
        assert [each["kind"] for each in objects] == ["Secret", "ConfigMap", "Deployment", "Deployment"]
        assert "right" not in str([each for each in objects if each["kind"] != "Secret"])
        assert find(objects, "Deployment", WORKER)["spec"]["replicas"] == 3

    @pytest.mark.parametrize("name", [MASTER, WORKER])
    def test_speak_the_protocol_that_was_chosen_and_have_the_servers_keys(self, name: str) -> None:
        made = container(pods("kserve+protocol=grpc", MODELSWARM_KEYS="k"), name)
        assert made["args"][-2:] == ["--protocol", "grpc"]
        assert {"name": "MODELSWARM_KEYS", "value": "k"} in made["env"]

    def test_keep_what_makes_them_master_and_workers(self) -> None:
        objects = pods("fastapi")
        assert container(objects, MASTER)["args"] == ["--master"]
        assert container(objects, WORKER)["args"] == ["--worker", "--master-host", MASTER]
