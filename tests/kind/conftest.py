"""A kind cluster with every image, and a namespace in it that is not a run's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from rich.console import Console

from scripts.bench.pod import idle_worker
from scripts.cluster import images, kind
from scripts.project import Project
from tests.kind.kind_cluster import NAMESPACE, Cluster, in_namespace, rendered, run
from tests.kind.kube_files import SERVICES, pod_of
from tests.projects import ROOT


@pytest.fixture(scope="session")
def project() -> Project:
    return Project(ROOT)


@pytest.fixture(scope="session")
def built(project: Project) -> dict[str, images.Built]:
    """Every image, built or up to date."""
    if reason := images.docker_fault():
        pytest.skip(f"{reason}: the images cannot be built")
    return images.build(project, images.find_images(project), Console(width=200))


@pytest.fixture(scope="session")
def nodes(project: Project, built: dict[str, images.Built]) -> Iterator[None]:
    """The kind cluster with the images; removed at the end if it was made here."""
    if reason := kind.unusable(project):
        pytest.skip(f"kind cannot be used: {reason}")
    there = kind.exists()
    try:
        kind.make_ready(project, SERVICES, Console(width=200))
        yield
    finally:
        if not there and not os.environ.get("KEEP_CLUSTER"):
            run("kind", "delete", "cluster", "--name", kind.CLUSTER)


@pytest.fixture(scope="session")
def cluster(nodes: None) -> Iterator[Cluster]:
    """The room of k8s/base in a namespace of the tests' own."""
    cluster = Cluster()
    cluster.attempt("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait", timeout_s=180)
    cluster.apply(in_namespace(rendered(ROOT / "k8s" / "base")))
    try:
        cluster.wait("results")
        yield cluster
    finally:
        cluster.attempt("delete", "namespace", NAMESPACE, "--wait", timeout_s=180)


@pytest.fixture(scope="session")
def generator(cluster: Cluster) -> str:
    """The name of a pod of the load side that does nothing until somebody executes something in it."""
    worker = idle_worker(in_namespace(rendered(ROOT / "k8s" / "base")))
    container = pod_of(worker)["containers"][0]
    container["resources"]["requests"]["cpu"] = "50m"  # beside a run's own workers
    cluster.apply([worker])
    cluster.wait("locust-worker")
    return "deployment/locust-worker"
