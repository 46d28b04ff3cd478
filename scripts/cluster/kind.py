"""The kind cluster of the project: made when it is missing, with the images that a run needs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console

from scripts.cluster import images
from scripts.cluster.images import Image
from scripts.cluster.kube import Kube
from scripts.environments import run_step
from scripts.errors import CannotRun
from scripts.project import Project
from scripts.server import port_is_free
from scripts.shown import Say, shown

CLUSTER = "modelswarm"
"""The name that kind-config.yaml gives the cluster."""
ROLE_LABEL = "modelswarm/role"

NODE_IMAGE = "KIND_NODE_IMAGE"
"""Variable that names the node image; without it, kind's default is taken."""
CONTEXT = f"kind-{CLUSTER}"
CONFIG = "kind-config.yaml"
LOADED = "kind-loaded.json"
"""In artifacts/: by Docker's id of an image, the id that nodes gave it."""


def unusable(project: Project) -> str | None:
    """Return why a run cannot be made in kind here, None if it can."""
    if not (project.root / CONFIG).exists():
        return f"the project has no {CONFIG}"
    for program in ("kind", "kubectl"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return images.docker_fault()


def exists(cluster: str = CLUSTER) -> bool:
    """Tell whether the cluster is there."""
    done = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=False)
    return cluster in done.stdout.split()


def unmakeable(project: Project) -> str | None:
    """Return why the cluster cannot be made here, None if it can or is there already."""
    config = yaml.safe_load((project.root / CONFIG).read_text())
    mapped = [
        each["hostPort"] for node in config.get("nodes", []) for each in node.get("extraPortMappings", [])
    ]
    busy = [str(port) for port in mapped if not port_is_free(port)]
    if not busy or exists():  # then the ports are its own
        return None
    ports, are = ("port", "is") if len(busy) == 1 else ("ports", "are")
    return f"{ports} {', '.join(busy)} of this machine {are} in use, and {CONFIG} leads from there into it"


def make_ready(project: Project, backends: Sequence[str], console: Console) -> None:
    """Build what has changed, make the cluster when there is none, and bring it the images.

    Raises:
        CannotRun: Docker or kind cannot do it; the message has their last lines.

    """
    images.require_docker()
    if reason := unmakeable(project):  # before the images, which take long
        raise CannotRun(
            f"The kind cluster cannot be made: {reason}. `ss -ltnp` shows by whom; end that process, or give "
            f"another hostPort in {CONFIG}."
        )
    wanted = images.find_images(project, [images.LOAD_SIDE, *backends])
    images.build(project, wanted, console)
    if not exists():
        console.print(f"Making the kind cluster {CLUSTER} …", highlight=False)
        make(project)
    load(project, wanted, console)
    install_metrics_server(project)


def make(project: Project) -> None:
    """Make the cluster and wait until its nodes are ready."""
    command = ["kind", "create", "cluster", "--config", str(project.root / CONFIG), "--wait", "240s"]
    if image := os.environ.get(NODE_IMAGE):
        command += ["--image", image]
    run_step(command, os.environ, lambda line: None)


def load(project: Project, wanted: Sequence[Image], console: Console, cluster: str = CLUSTER) -> None:
    """Load images into a kind cluster: each on the nodes where its pods may go, those not of the other role.

    What a node has already is left out, because kind packs all that it is told to load if any is missing;
    images that go together share their layers on the way.

    Raises:
        CannotRun: there is no kind or no such cluster, an image is not built, or loading failed.

    """
    built = images.require_built(wanted)
    if not shutil.which("kind"):
        raise CannotRun("kind is not installed: get it from its own site, or from your system's packages.")
    nodes, loaded = kind_nodes(cluster), _Loaded(project)

    for role in dict.fromkeys(image.role for image in wanted):
        chosen = [name for name, its in nodes.items() if its in (role, "")] or list(nodes)
        missing = {
            image.reference: built[image.name].id
            for image in wanted
            if image.role == role
            and not all(loaded.has(node, image.reference, built[image.name].id) for node in chosen)
        }
        command = ["kind", "load", "docker-image", "--name", cluster, "--nodes", ",".join(chosen), *missing]

        def load_role(say: Say, command: list[str] = command) -> str:
            run_step(command, os.environ, say)
            return "loaded"

        if missing:
            shown(console, f"{len(missing)} of {role} role to {', '.join(chosen)}", load_role)
            loaded.remember(chosen[0], missing)


class _Loaded:
    """What nodes call the images that Docker has.

    An image's id is the digest of its configuration; but Docker's own is that of a manifest or an index where
    containerd keeps its images, as in Docker 29. Both are digests, so that a pair holds for every node and
    cluster once it was seen.
    """

    def __init__(self, project: Project) -> None:
        self._file = project.root / "artifacts" / LOADED
        self._pairs: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            self._pairs = json.loads(self._file.read_text())

    def has(self, node: str, reference: str, docker_id: str) -> bool:
        """Tell whether a node has the image that Docker knows by that id."""
        return id_on(node, reference) in (docker_id, self._pairs.get(docker_id, docker_id))

    def remember(self, node: str, loaded: Mapping[str, str]) -> None:
        """Write down what a node calls images that it was just given, by reference Docker's id."""
        its_own = {docker_id: id_on(node, reference) for reference, docker_id in loaded.items()}
        new = {docker_id: its for docker_id, its in its_own.items() if its and its != docker_id}
        if new:
            self._pairs |= new
            self._file.write_text(json.dumps(self._pairs, indent=1) + "\n")


def id_on(node: str, reference: str) -> str | None:
    """Return the id of the image that a node of kind has by that name; None if it has none."""
    command = ["docker", "exec", node, "crictl", "inspecti", f"docker.io/{reference}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["status"]["id"] if done.returncode == 0 else None


def kind_nodes(cluster: str) -> dict[str, str]:
    """Return the nodes of a kind cluster that run pods, by `pod_nodes`.

    Raises:
        CannotRun: there is no such cluster, or it does not answer.

    """
    command = ["kubectl", "--context", f"kind-{cluster}", "get", "nodes", "-o", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(f"The kind cluster {cluster!r} cannot be asked for its nodes: {error}.") from error
    if done.returncode:
        fault = (
            f"The kind cluster {cluster!r} does not answer: `kind export kubeconfig --name {cluster}` where "
            "kubectl does not know it, else `modelswarm clean --target kind`, and the next run makes it anew."
            if exists(cluster)
            else f"There is no kind cluster {cluster!r}: `kind create cluster --config {CONFIG}` makes it."
        )
        raise CannotRun(f"{fault} kubectl said: {done.stderr.strip()[-300:]}")
    return pod_nodes(json.loads(done.stdout)["items"])


def pod_nodes(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return those of the API's nodes that run pods, or soon will, with their role (empty if they have none).

    A new node is tainted until it is ready: taints of node.kubernetes.io/ come and go.
    """
    return {
        node["metadata"]["name"]: node["metadata"]["labels"].get(ROLE_LABEL, "")
        for node in nodes
        if all(
            taint["effect"] != "NoSchedule" or taint["key"].startswith("node.kubernetes.io/")
            for taint in node["spec"].get("taints", [])
        )
    }


def install_metrics_server(project: Project) -> None:
    """Install metrics-server where it is missing: `kubectl top` and the autoscaler want it."""
    system = Kube(CONTEXT, "kube-system")
    if system.read("deployment", "metrics-server") is None:
        system.kubectl("apply", "-k", str(project.root / "k8s" / "metrics-server"))


def remove(project: Project, console: Console) -> None:
    """Remove the cluster and the project's images."""
    if shutil.which("kind") and exists():
        console.print(f"Removing the kind cluster {CLUSTER} …", highlight=False)
        run_step(["kind", "delete", "cluster", "--name", CLUSTER], os.environ, lambda line: None)
    if shutil.which("docker") and images.docker_fault() is None:
        images.remove(images.find_images(project))
        for label in (images.DIGEST_LABEL, images.PART_LABEL):  # what has no name: older builds, their parts
            prune = ["docker", "image", "prune", "--force", "--filter", f"label={label}"]
            subprocess.run(prune, capture_output=True, check=False)
        if images.has_build_cache():  # other projects' too, so that it is not ours to empty
            console.print("Docker's build cache is left: `docker builder prune` empties it.", highlight=False)
