"""The Kubernetes objects of one trial, made from the project's manifests."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scripts.cluster.kube import Object
from scripts.errors import UserError
from scripts.facts import MEMORY
from scripts.project import Service

SERVER, LOCUST = "server", "locust"
"""Names of the containers."""
MASTER, WORKER, RESULTS = "locust-master", "locust-worker", "results"
TRIAL_NOTE = "modelswarm/trial"
"""The annotation of the master's Job that names run and trial."""


def placed(objects: Iterable[Object], namespace: str, images: Mapping[str, str]) -> list[Object]:
    """Return the objects in another namespace, with other images (by the name without tag, or with it)."""
    found = []
    for each in copy.deepcopy(list(objects)):
        if each["kind"] == "Namespace":
            each["metadata"]["name"] = namespace
        else:
            each["metadata"]["namespace"] = namespace
        for container in _containers(each):
            image = container["image"]
            container["image"] = images.get(image, images.get(image.partition(":")[0], image))
            if container["image"] != image:
                container["imagePullPolicy"] = "Always"  # a push may have given the tag to a newer build
        found.append(each)
    return found


def find(objects: Iterable[Object], kind: str, name: str) -> Object:
    """Return one object of the manifests.

    Raises:
        UserError: it is not there.

    """
    for each in objects:
        if each["kind"] == kind and each["metadata"]["name"] == name:
            return each
    raise UserError(f"The manifests hold no {kind} {name}.")


def server_name(service: Service) -> str:
    """Return the name of a framework's Deployment and Service: no underscores there."""
    return service.name.replace("_", "-")


def server_objects(manifest: Sequence[Object], service: Service, threads: int) -> list[Object]:
    """Return a framework's objects for a plan's threads and a variant's options.

    Raises:
        UserError: the manifest has no Deployment of the framework's name with a container `server`, or one
            whose memory is not in Mi or Gi, where options add to it.

    """
    objects = copy.deepcopy(list(manifest))
    deployment = find(objects, "Deployment", server_name(service))
    container = next((each for each in _containers(deployment) if each["name"] == SERVER), None)
    if container is None:
        raise UserError(f"services/{service.name}/manifest.yaml has no container `{SERVER}`.")
    variables = {"MODELSWARM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), **service.variables}
    kept = [each for each in container.get("env", []) if each["name"] not in variables]
    container["env"] = kept + [{"name": name, "value": value} for name, value in variables.items()]
    more = _further_memory(service)
    for kind in ("requests", "limits"):
        given = dict(container["resources"][kind])  # one object for both, where the manifest has an alias
        memory = {"memory": f"{_mebibytes(given['memory']) + more}Mi"} if more else {}
        container["resources"][kind] = given | {"cpu": str(threads)} | memory
    return objects


def _further_memory(service: Service) -> int:
    """Return the mebibytes that a variant's processes need beyond those that the manifest counts with."""
    options = service.facts.options
    return sum(
        _mebibytes(option.memory_each) * (int(value) - int(option.default))
        for name, value in service.options.items()
        if (option := options.get(name)) and option.memory_each
    )


def _mebibytes(memory: str) -> int:
    found = MEMORY.fullmatch(memory)
    if found is None:
        raise UserError(f"{memory!r} in a manifest must be such as 512Mi or 1Gi.")
    return int(found[1]) * (1024 if found[2] == "Gi" else 1)


def container_port(manifest: Iterable[Object], service: Service, name: str) -> int:
    """Return the number of the container port that a protocol or an inner port of a framework has."""
    protocol = service.facts.protocols.get(name)
    if protocol is not None and protocol.port is not None:
        return protocol.port
    for container in _containers(find(manifest, "Deployment", server_name(service))):
        for port in container.get("ports", []):
            if port.get("name") == name and name:
                return int(port["containerPort"])
    return service.facts.port


def service_port(manifest: Sequence[Object], service: Service, number: int) -> int:
    """Return the port of the framework's Service that leads to a container port.

    Raises:
        UserError: none does.

    """
    name = server_name(service)
    containers = _containers(find(manifest, "Deployment", name))
    numbers = {
        port.get("name"): port["containerPort"] for each in containers for port in each.get("ports", [])
    }
    for port in find(manifest, "Service", name)["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        if numbers.get(target, target) == number:
            return int(port["port"])
    raise UserError(f"The Service {name} in services/{service.name}/manifest.yaml does not lead to {number}.")


def master_job(
    base: Sequence[Object], trial: str, arguments: Sequence[str], variables: Mapping[str, str]
) -> Object:
    """Return the Job that is Locust's master for one trial: it ends with it, and keeps its exit status."""
    deployment = copy.deepcopy(find(base, "Deployment", MASTER))
    template = deployment["spec"]["template"]
    template["spec"]["restartPolicy"] = "Never"
    _tell(template, arguments, variables)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": MASTER,
            "namespace": deployment["metadata"]["namespace"],
            "labels": deployment["metadata"]["labels"],
            "annotations": {TRIAL_NOTE: trial},
        },
        "spec": {"backoffLimit": 0, "template": template},
    }


def worker_deployment(
    base: Sequence[Object], workers: int, arguments: Sequence[str], variables: Mapping[str, str]
) -> Object:
    """Return the Deployment of Locust's workers for one trial."""
    return _deployment(base, WORKER, workers, arguments, variables)


def ui_deployments(
    base: Sequence[Object], workers: int, arguments: Sequence[str], variables: Mapping[str, str]
) -> list[Object]:
    """Return the Deployments of a master with its web UI and of its workers: both get the same arguments."""
    counts = {MASTER: 1, WORKER: workers}
    return [
        _deployment(base, name, count, [*_own_arguments(base, name), *arguments], variables)
        for name, count in counts.items()
    ]


def _deployment(
    base: Sequence[Object],
    name: str,
    replicas: int,
    arguments: Sequence[str],
    variables: Mapping[str, str],
) -> Object:
    deployment = copy.deepcopy(find(base, "Deployment", name))
    deployment["spec"]["replicas"] = replicas
    _tell(deployment["spec"]["template"], arguments, variables)
    return deployment


def _own_arguments(base: Sequence[Object], name: str) -> list[str]:
    found: list[str] = _locust(find(base, "Deployment", name)["spec"]["template"])["args"]
    return found


def _tell(template: Object, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """Give Locust its arguments, and the environment that callers of the server need."""
    container = _locust(template)
    container["args"] = list(arguments)
    container["env"] = [
        *container.get("env", []),
        *({"name": name, "value": value} for name, value in variables.items()),
    ]


def _locust(template: Object) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in template["spec"]["containers"] if each["name"] == LOCUST)
    return found


def _containers(each: Object) -> list[dict[str, Any]]:
    if each["kind"] not in ("Deployment", "Job"):
        return []
    spec = each["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]
