"""Locust's web UI in a cluster, behind its own login: other pods can reach it there."""

from __future__ import annotations

import base64
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from scripts.cluster.kube import Object
from scripts.cluster.load import USER_FILES
from scripts.cluster.objects import LOCUST, MASTER, WORKER, find, server_name, ui_deployments
from scripts.cluster.target import DEFAULT_NAMESPACE, ClusterTarget, Place
from scripts.cluster.web_password import USER, web_password
from scripts.errors import CannotRun
from scripts.plan import Plan, Scenario
from scripts.project import Project, Service
from scripts.server import free_port, refuse_busy_ports
from scripts.stop import Interrupted, Stop

WEB_PORT = 8089
SECRET = "locust-web"
START_PATIENCE_S = 180.0
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_NO_LOAD = (Scenario.model_validate({"name": "by-hand", "rate": 1, "run_time": "1s"}),)
"""What a plan must have; the load is the web form's."""


def serve_ui_in_cluster(
    project: Project, service: Service, place: Place, workers: int, port: int, console: Console
) -> None:
    """Deploy a backend and Locust with its web UI, say where it is, and remove both on Ctrl-C.

    Raises:
        CannotRun: a pod did not start, or ended; the sentence names it.

    """
    # kind-config.yaml leads it in, to the one namespace that has the node's ports.
    mapped = (place.kind, place.namespace, port) == ("kind", DEFAULT_NAMESPACE, WEB_PORT)
    if not mapped:
        refuse_busy_ports({port: "Locust's web UI"}, f"name another: --port {free_port()}")
    stop = Stop()
    with stop.on_signals(), tempfile.TemporaryDirectory(prefix="msw-ui-") as scratch, suppress(Interrupted):
        target = ClusterTarget(project, Plan(name="ui", scenario=_NO_LOAD), workers, place, stop)
        with target.opened(Path(scratch)):
            server = target.ui_server(service, Path(scratch))
            try:
                console.print(f"Starting {service.title} …", highlight=False)
                server.start(lambda phase: None)
                host, keys = server.load_host, server.caller_variables
                password = web_password(project)
                target.kube.apply(ui_objects(target.base, service, host, keys, target.workers, password))
                forward = (
                    "port-forward",
                    "--address",
                    "127.0.0.1",
                    f"service/{MASTER}",
                    f"{port}:{WEB_PORT}",
                )
                with nullcontext() if mapped else target.kube.kept(*forward):
                    _watch(target, service, port, password, stop, console)
            finally:
                console.print("Stopping …")
                server.stop()


def ui_objects(
    base: Sequence[Object],
    service: Service,
    host: str,
    keys: Mapping[str, str],
    workers: int,
    password: str,
) -> list[Object]:
    """Return what Locust's web UI for a server at `host` consists of; `keys` are what callers there need."""
    files = f"{USER_FILES}/{service.user_file.name},{USER_FILES}/web_login.py"
    options = {"LOCUST_LOCUSTFILE": files, "LOCUST_HOST": host, "LOCUST_WEB_LOGIN": "true"}
    namespace = find(base, "Deployment", MASTER)["metadata"]["namespace"]
    spoken = ["--protocol", name] if (name := service.user_protocol) else []
    return [
        _kept("Secret", SECRET, namespace, {"password": base64.b64encode(password.encode()).decode()}),
        _kept("ConfigMap", LOCUST, namespace, options),
        *ui_deployments(base, workers, spoken, keys),
    ]


def _kept(kind: str, name: str, namespace: str, data: Mapping[str, str]) -> Object:
    labels = {"app.kubernetes.io/part-of": "modelswarm"}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": dict(data)}


def _watch(
    target: ClusterTarget, service: Service, port: int, password: str, stop: Stop, console: Console
) -> None:
    """Say where the web UI is once it answers; return never, unless a pod fails or the user stops it."""
    began_s, told = time.monotonic(), False
    while True:
        snapshot = target.sampler.look(everything=True)
        for name in (server_name(service), MASTER, WORKER):
            if fault := snapshot.fault(name, target.kube.now_s()):
                raise CannotRun(fault)
        if not told and asks_for_login(port):
            console.print(f"http://localhost:{port} is the web UI: user {USER}, password {password}")
            console.print("Ctrl-C ends both.")
            told = True
        if not told and time.monotonic() - began_s > START_PATIENCE_S:
            raise CannotRun(f"The web UI did not answer on port {port} within {START_PATIENCE_S:.0f} s")
        stop.sleep(target.poll_s)


def asks_for_login(port: int) -> bool:
    """Tell whether the web UI answers yet, with its login page before everything else.

    Raises:
        CannotRun: it answers without a login.

    """
    try:
        with _DIRECTLY.open(f"http://127.0.0.1:{port}/", timeout=3) as page:
            found = urlsplit(page.url).path
    except OSError:
        return False
    if found != "/login":
        raise CannotRun(
            f"What answers on port {port} asks for no login. "
            "Make the images again with `modelswarm images build`, or choose another --port."
        )
    return True
