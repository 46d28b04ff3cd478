"""What one worker pod makes of its core: our user in kind, under the limits that the manifests give a worker.

    python -m scripts.bench.pod [--runs 3] [--seconds 20]

An nginx in a pod of its own, on the node for servers, answers a 12 KB POST; in the worker's container Locust
sends to it, at planned rates and flat out. The pod's limit is a quota of CPU time in each tenth of a second:
who has used it up stands still until the next, so the share of those periods is printed, too (Locust's own
start, flat out for a second, is in it). Docker and kind must be there; the cluster is made when it is
missing, and left.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.bench.generators import ANSWER, CONNECTIONS, NGINX, OURS, make_payload, options_of
from scripts.cluster import kind
from scripts.cluster.kube import Kube, Object, rendered
from scripts.cluster.objects import LOCUST, WORKER, find, placed
from scripts.environments import run_step
from scripts.project import Project

NAMESPACE = "modelswarm-bench"
IMAGE = "modelswarm/bench-nginx:1"
RATES = (500, 2_000, 5_000, 8_000)
FLAT_OUT = "flat out"
HERE = "/tmp/bench"  # in the worker's container, which has no other folder that can be written
PORT = 8080
DOCKERFILE = """
FROM debian:bookworm-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends nginx-light
COPY nginx.conf /etc/nginx/bench.conf
USER 10001:10001
CMD ["nginx", "-c", "/etc/nginx/bench.conf"]
"""
MEASURE = """
import json, pathlib, subprocess, sys

def throttled():
    for name in ("/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat"):
        if (path := pathlib.Path(name)).exists():
            facts = dict(line.split() for line in path.read_text().splitlines())
            return int(facts["nr_periods"]), int(facts["nr_throttled"])

before = throttled()
command = ["locust", "-f", "user.py", "--headless", "--only-summary", "--record", "record", *sys.argv[1:]]
done = subprocess.run(command, capture_output=True, text=True)
if done.returncode not in (0, 1):
    sys.exit(done.stdout + done.stderr)
periods, stood_still = (now - then for now, then in zip(throttled(), before))
summary = json.load(open("record/summary.json"))
print(json.dumps(summary | {"throttled": stood_still / periods}))
"""


@dataclass(frozen=True)
class Pod:
    """The worker's container, and how long a run is, in seconds."""

    kube: Kube
    seconds: int

    def run(self, *options: str) -> dict[str, Any]:
        """Make load; return the summary with the share of `throttled` periods."""
        locust = [*options, "--run-time", f"{self.seconds}s", "--host", f"http://nginx:{PORT}"]
        where = f"cd {HERE} && rm -rf record && export MODELSWARM_MODEL_DIR=model"
        script = ("sh", "-c", f'{where} && exec python measure.py "$@"', "measure")
        said = self.kube.kubectl("exec", f"deployment/{WORKER}", "--", *script, *locust)
        found: dict[str, Any] = json.loads(said)
        return found


def server() -> list[Object]:
    """The Deployment of nginx, of one core, and its Service."""
    labels = {"app.kubernetes.io/name": "nginx", "app.kubernetes.io/component": "server"}
    container = {
        "name": "nginx",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": {part: {"cpu": "1", "memory": "128Mi"} for part in ("requests", "limits")},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "nodeSelector": {kind.ROLE_LABEL: "server"},
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    meta = {"name": "nginx", "namespace": NAMESPACE, "labels": labels}
    template = {"metadata": {"labels": labels}, "spec": pod}
    deployment = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": labels, "ports": [{"port": PORT}]},
        },
    ]


def idle_worker(base: Sequence[Object]) -> Object:
    """The worker's Deployment as the manifests have it, but its container waits for commands."""
    deployment = find(base, "Deployment", WORKER)
    deployment["spec"]["replicas"] = 1
    template = deployment["spec"]["template"]
    template["spec"]["terminationGracePeriodSeconds"] = 1
    container = next(each for each in template["spec"]["containers"] if each["name"] == LOCUST)
    container |= {"command": ["sleep", "infinity"], "args": []}
    return deployment


def build_server() -> None:
    """Build nginx's image and load it into the cluster; Docker need not keep it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "Dockerfile").write_text(DOCKERFILE)
        (folder / "nginx.conf").write_text(
            NGINX.format(folder="/tmp", address="0.0.0.0", port=PORT, answer=ANSWER)
        )
        for command in (
            ["docker", "build", "-t", IMAGE, name],
            ["kind", "load", "docker-image", "--name", kind.CLUSTER, IMAGE],
            ["docker", "image", "rm", IMAGE],
        ):
            run_step(command, os.environ, lambda line: None)


def files() -> bytes:
    """What the worker's container needs, as a tar."""
    with tempfile.TemporaryDirectory() as name, io.BytesIO() as packed:
        make_payload(Path(name))
        (Path(name) / "user.py").write_text(OURS)
        (Path(name) / "measure.py").write_text(MEASURE)
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(name, arcname=".")
        return packed.getvalue()


@contextmanager
def pod(seconds: int) -> Iterator[Pod]:
    """A worker's pod and a server's, in a namespace that is removed afterwards."""
    project = Project(Path(__file__).resolve().parents[2])
    kind.make_ready(project, [], Console(stderr=True))
    build_server()
    kube = Kube(kind.CONTEXT, NAMESPACE)
    base = placed(rendered(project.root / "k8s" / "base"), NAMESPACE, {})
    try:
        kube.apply(base)
        kube.apply([*server(), idle_worker(base)])
        for name in ("nginx", WORKER):
            kube.kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s")
        unpack = ("sh", "-c", f"mkdir -p {HERE} && tar x -C {HERE}")
        kube.kubectl("exec", "-i", f"deployment/{WORKER}", "--", *unpack, data=files())
        yield Pod(kube, seconds)
    finally:
        kube.delete("namespace", NAMESPACE)


def row(title: str, summaries: Sequence[dict[str, Any]]) -> str:
    """A line of the table: the middle of some runs; closed load has no lag that would mean anything."""
    middle = statistics.median
    per_s = middle(each["rate"]["achieved"] for each in summaries)
    share = middle(each["counts"]["completed"] / each["counts"]["planned"] for each in summaries)
    lag = "-" if title == FLAT_OUT else f"{middle(each['lag_ms']['p99'] for each in summaries):.2f} ms"
    cpu = middle(each["generator"]["cpu_cores_mean"] for each in summaries)
    throttled = middle(each["throttled"] for each in summaries)
    return f"| {title} | {per_s:,.0f} | {share:.2%} | {lag} | {cpu:.0%} | {throttled:.0%} |"


def main() -> None:
    """Print the table."""
    options = options_of(__doc__, seconds=20)
    loads = {f"{rate:,}": ("--shape", "constant", "--rate", str(rate)) for rate in RATES}
    loads[FLAT_OUT] = ("--shape", "closed", "--users", str(CONNECTIONS))
    with pod(options.seconds) as worker:
        print("| arrivals/s | requests/s | completed | lag p99 | CPU of its core | periods throttled |")
        print("|---:|---:|---:|---:|---:|---:|")
        for title, load in loads.items():
            print(row(title, [worker.run(*load) for _ in range(options.runs)]), flush=True)


if __name__ == "__main__":
    main()
