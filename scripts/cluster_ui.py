"""Locust's web UI in a cluster, behind its own login: other pods can reach it there."""

from __future__ import annotations

import base64
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import nullcontext, suppress
from pathlib import Path

from rich.console import Console

from scripts.cluster import ClusterTarget, Place
from scripts.cluster_load import USER_FILES
from scripts.cluster_objects import LOCUST, MASTER, WORKER, find
from scripts.errors import CannotRun
from scripts.kube import Object
from scripts.plan import Plan, Scenario
from scripts.pod_faults import pod_fault
from scripts.project import Project, Service
from scripts.server import refuse_busy_ports
from scripts.stop import Interrupted, Stop
from scripts.web_password import USER, web_password

WEB_PORT = 8089
SECRET = "locust-web"
START_PATIENCE_S = 180.0
_NO_LOAD = (Scenario.model_validate({"name": "by-hand", "rate": 1, "run_time": "1s"}),)
"""What a plan must have; the load is the web form's."""


def serve_ui_in_cluster(
    project: Project, service: Service, place: Place, workers: int, port: int, console: Console
) -> None:
    """Deploy a backend and Locust with its web UI, say where it is, and remove both on Ctrl-C.

    Raises:
        CannotRun: a pod did not start, or ended; the sentence names it.

    """
    mapped = place.kind == "kind" and port == WEB_PORT  # kind-config.yaml leads it in
    if not mapped:
        refuse_busy_ports({port: "Locust's web UI"})
    stop = Stop()
    with stop.on_signals(), tempfile.TemporaryDirectory(prefix="msw-ui-") as scratch, suppress(Interrupted):
        target = ClusterTarget(project, Plan(name="ui", scenario=_NO_LOAD), workers, place, stop)
        with target.opened(Path(scratch)):
            server = target.ui_server(service, Path(scratch))
            try:
                console.print(f"Starting {service.title} …", highlight=False)
                server.start(lambda phase: None)
                _start(project, service, target, server.load_host)
                forward = (
                    "port-forward",
                    "--address",
                    "127.0.0.1",
                    f"service/{MASTER}",
                    f"{port}:{WEB_PORT}",
                )
                with nullcontext() if mapped else target.kube.kept(*forward):
                    _watch(target, port, web_password(project), stop, console)
            finally:
                console.print("Stopping …")
                server.stop()


def _start(project: Project, service: Service, target: ClusterTarget, host: str) -> None:
    target.kube.apply([_secret(target, web_password(project)), _options(target, service, host)])
    target.kube.apply([_started(target, MASTER, 1), _started(target, WORKER, target.workers)])


def _watch(target: ClusterTarget, port: int, password: str, stop: Stop, console: Console) -> None:
    """Say where the web UI is once it answers; return never, unless a pod fails or the user stops it."""
    began_s, told = time.monotonic(), False
    while True:
        snapshot = target.sampler.look(everything=True)
        for pod in snapshot.pods:
            if "deletionTimestamp" not in pod["metadata"] and (
                fault := pod_fault(pod, snapshot.nodes, snapshot.events, time.time())
            ):
                raise CannotRun(fault)
        if not told and _answers(port):
            console.print(f"http://localhost:{port} is the web UI: user {USER}, password {password}")
            console.print("Ctrl-C ends both.")
            told = True
        if not told and time.monotonic() - began_s > START_PATIENCE_S:
            raise CannotRun(f"The web UI did not answer on port {port} within {START_PATIENCE_S:.0f} s")
        stop.sleep(target.poll_s)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/login", timeout=3) as page:
            return bool(page.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _secret(target: ClusterTarget, password: str) -> Object:
    values = {"MODELSWARM_WEB_PASSWORD": password, "LOCUST_WEB_LOGIN": "true"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(target, SECRET),
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()},
    }


def _options(target: ClusterTarget, service: Service, host: str) -> Object:
    files = f"{USER_FILES}/{service.user_file.name},{USER_FILES}/web_login.py"
    data = {"LOCUST_LOCUSTFILE": files, "LOCUST_HOST": host}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(target, LOCUST), "data": data}


def _metadata(target: ClusterTarget, name: str) -> Object:
    labels = {"app.kubernetes.io/part-of": "modelswarm"}
    return {"name": name, "namespace": target.kube.namespace, "labels": labels}


def _started(target: ClusterTarget, name: str, replicas: int) -> Object:
    deployment = find(target.base, "Deployment", name)
    return {**deployment, "spec": {**deployment["spec"], "replicas": replicas}}
