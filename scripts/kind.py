"""The kind cluster of the project: made when it is missing, with the images that a run needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from rich.console import Console

from scripts import images
from scripts.environments import run_step
from scripts.kube import Kube
from scripts.project import Project

NODE_IMAGE = "KIND_NODE_IMAGE"
"""Variable that names the node image; without it, kind's default is taken."""
CONTEXT = f"kind-{images.CLUSTER}"
CONFIG = "kind-config.yaml"


def unusable(project: Project) -> str | None:
    """Return why a run cannot be made in kind here, None if it can."""
    if not (project.root / CONFIG).exists():
        return f"the project has no {CONFIG}"
    for program in ("kind", "kubectl"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return images.docker_fault()


def exists() -> bool:
    """Tell whether the cluster is there."""
    done = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=False)
    return images.CLUSTER in done.stdout.split()


def make_ready(project: Project, backends: Sequence[str], console: Console) -> None:
    """Build what has changed, make the cluster when there is none, and bring it the images.

    Raises:
        CannotRun: Docker or kind cannot do it; the message has their last lines.

    """
    images.require_docker()
    wanted = images.find_images(project, [images.LOAD_SIDE, *backends])
    images.build(project, wanted, console)
    if not exists():
        console.print(f"Making the kind cluster {images.CLUSTER} …", highlight=False)
        make(project)
    images.load(wanted, console)
    install_metrics_server(project)


def make(project: Project) -> None:
    """Make the cluster and wait until its nodes are ready."""
    command = ["kind", "create", "cluster", "--config", str(project.root / CONFIG), "--wait", "240s"]
    if image := os.environ.get(NODE_IMAGE):
        command += ["--image", image]
    run_step(command, os.environ, lambda line: None)


def install_metrics_server(project: Project) -> None:
    """Install metrics-server where it is missing: `kubectl top` and the autoscaler want it."""
    system = Kube(CONTEXT, "kube-system")
    if system.read("deployment", "metrics-server") is None:
        system.kubectl("apply", "-k", str(project.root / "k8s" / "metrics-server"))


def remove(project: Project, console: Console) -> None:
    """Remove the cluster and the project's images."""
    if shutil.which("kind") and exists():
        console.print(f"Removing the kind cluster {images.CLUSTER} …", highlight=False)
        run_step(["kind", "delete", "cluster", "--name", images.CLUSTER], os.environ, lambda line: None)
    if shutil.which("docker") and images.docker_fault() is None:
        images.remove(images.find_images(project))
        for label in (images.DIGEST_LABEL, images.PART_LABEL):  # what has no name: older builds, their parts
            prune = ["docker", "image", "prune", "--force", "--filter", f"label={label}"]
            subprocess.run(prune, capture_output=True, check=False)
