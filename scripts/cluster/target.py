"""Trials in a Kubernetes cluster: one framework's pod at a time, loaded by pods of Locust.

A trial needs this command only to begin and to be fetched: between the two the pods go on without it, and
what they record stays on a volume. So another command can take over, after this one was killed, from
`run.json`, which the cluster keeps too.
"""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.cluster.faults import CLOCKS_APART_S, PULL_PATIENCE_S, UNSCHEDULABLE_GRACE_S, is_ready, not_made
from scripts.cluster.kube import Away, Kube, Object, rendered
from scripts.cluster.lease import NAME, Lease
from scripts.cluster.load import ClusterLoad
from scripts.cluster.objects import RESULTS, find, placed, server_objects
from scripts.cluster.sampler import PodSampler, Snapshot
from scripts.cluster.server import ClusterServer
from scripts.cluster.volume import Volume
from scripts.errors import CannotRun
from scripts.guard import guarded
from scripts.plan import Plan, Step
from scripts.project import Project, Service
from scripts.stop import Stop
from scripts.target import Unfetched

DEFAULT_NAMESPACE = "modelswarm"
PART_OF = "app.kubernetes.io/part-of"
OURS = f"{PART_OF}=modelswarm"
KINDS = "job,deployment,service,poddisruptionbudget,secret,configmap"
"""What trials make and leave to be removed."""
RECORD = "modelswarm-run"
"""The ConfigMap with the newest `run.json`."""


@dataclass(frozen=True)
class Place:
    """Where in which cluster a run is made, and with which images."""

    kind: str
    """`kind` or `cluster`."""
    context: str
    namespace: str
    images: Mapping[str, str]
    """By the name in the manifests, the name to use; none for kind, which has the manifests' own."""
    detached: bool = False


class ClusterTarget:
    """A namespace of a cluster."""

    poll_s = 1.0
    load_grace_s = 60.0 + PULL_PATIENCE_S  # the first trial's workers may have to pull their image

    def __init__(self, project: Project, plan: Plan, workers: int, place: Place, stop: Stop) -> None:
        """Prepare; `workers` is the number of Locust's worker pods.

        Raises:
            UserError: the kubeconfig has no such context, or kubectl is missing.
            CannotRun: the manifests cannot be rendered, or the cluster does not answer.

        """
        self.name, self.mark = place.kind, uuid.uuid4().hex
        self._plan, self.workers, self._place, self._stop = plan, workers, place, stop
        self.kube = Kube(place.context, place.namespace, self.mark)
        self.base = self._placed(project.root / "k8s" / "overlays" / place.kind)
        self.sampler, self.volume = PodSampler(self.kube), Volume(self.kube)
        self._run = ""

    def _placed(self, folder: Path) -> list[Object]:
        return placed(rendered(folder), self._place.namespace, self._place.images)

    @property
    def facts(self) -> dict[str, Any]:
        """Threads and nodes; which cores a pod gets, the cluster decides."""
        nodes = [_describe(node) for node in self.kube.nodes()]
        not_held = [
            "Cores are not pinned in a cluster: limits hold for CPU time, not for a core of one's own."
        ]
        if self.name == "kind":
            not_held.append("All nodes of kind are this machine: server and generators share its cores.")
        return {
            "fairness": {
                "server_cores": [],
                "generator_cores": [],
                "threads": self._plan.threads,
                "workers": 1,
                "not_held": not_held,
            },
            "cluster": {
                "context": self._place.context,
                "namespace": self._place.namespace,
                "workers": self.workers,
                "detached": self._place.detached,
                "images": dict(self._place.images),
                "nodes": nodes,
            },
        }

    def refuse_taken(self) -> None:
        """Look whether the namespace is free, before a folder is begun.

        Raises:
            Taken: another run uses it.

        """
        Lease(self.kube, Path(), self._place.detached).refuse_taken()

    @contextmanager
    def opened(self, folder: Path) -> Iterator[None]:
        """Take the namespace, have the volume, and remove everything afterwards that is not owed."""
        self._run = folder.name
        have_namespace(self.kube, find(self.base, "Namespace", self._place.namespace))
        lease = Lease(self.kube, folder, self._place.detached)
        with (
            tempfile.TemporaryDirectory(prefix="msw-") as scratch,
            guarded(self.mark, Path(scratch)),
            lease.held(),
        ):
            kept = kept_record(self.kube)
            ours = kept is not None and kept[0] == self._run
            self.volume.owed |= owed(folder) if ours else {}
            try:
                if not ours:
                    self.clear()  # what a command that was killed left
                self._furnish()
                with suppress(CannotRun):  # it is tried again at the end
                    self.volume.fetch_owed()
                yield
            finally:
                self._close(lease)

    def _close(self, lease: Lease) -> None:
        """Leave nothing in the namespace but what cannot be fetched."""
        try:
            self.volume.fetch_owed()
        except CannotRun as error:
            lease.leave()
            with suppress(CannotRun):  # it may be for the same reason, and whoever fetches clears up too
                self.clear(all_but_results=True)
            raise Unfetched(
                f"{', '.join(self.volume.owed)} could not be fetched: {error}. "
                f"The cluster keeps it, and `modelswarm attach {self._run}` fetches it."
            ) from error
        self._run = ""  # what is noted from now on stays on this machine
        self.clear()

    def _furnish(self) -> None:
        """Make what all trials share, and wait for the pod that keeps the volume readable."""
        wanted = [each for each in self.base if each["kind"] not in ("Deployment", "Namespace")]
        if self._place.namespace != DEFAULT_NAMESPACE:  # a node's ports are given once
            wanted = [each for each in wanted if each.get("spec", {}).get("type") != "NodePort"]
        self.kube.apply(wanted)
        self.kube.apply([find(self.base, "Deployment", RESULTS)])
        made_s, began_s = self.kube.now_s(), time.monotonic()
        while True:
            pods = self.kube.pods(f"app.kubernetes.io/name={RESULTS}")
            if any(is_ready(pod) for pod in pods):
                return
            snapshot = Snapshot(pods, self.kube.nodes(), self.kube.events())
            waited_s = time.monotonic() - began_s
            fault = snapshot.fault(RESULTS, self.kube.now_s())
            if not pods and waited_s > UNSCHEDULABLE_GRACE_S:
                fault = not_made(RESULTS, snapshot.events, made_s - CLOCKS_APART_S)
            if fault:
                raise CannotRun(f"The volume for results cannot be had: {fault}")
            if waited_s > PULL_PATIENCE_S:
                raise CannotRun(f"The volume for results was not there within {PULL_PATIENCE_S:.0f} s")
            self._stop.sleep(self.poll_s)

    def clear(self, all_but_results: bool = False) -> None:
        """Remove everything of a run from the namespace but the Lease; the namespace stays.

        `all_but_results` keeps the volume, the pod beside it, and `run.json`, too.
        """
        labels = f"{OURS},app.kubernetes.io/name!={RESULTS}" if all_but_results else OURS
        self.kube.delete(KINDS, labels=labels)
        services = [each["metadata"]["name"] for each in self.base if each["kind"] == "Service"]
        self.kube.delete("service", *services)
        if not all_but_results:
            self.kube.delete("configmap", RECORD)
            self.kube.delete("persistentvolumeclaim", RESULTS)

    def note(self, text: str) -> None:
        """Keep `run.json` in the cluster too, so that it outlives this machine."""
        if not self._run or self.kube.refusal is not None:
            return  # the namespace is not taken yet, or not any more
        record = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": RECORD, "namespace": self._place.namespace},
            "data": {"run": self._run, "run.json": text},
        }
        with suppress(Away):  # the next one says more
            self.kube.apply([record])

    def ready_timeout_s(self, service: Service) -> float:
        """Return what its `service.toml` says; the pod is ready by its own probe before."""
        return service.facts.local.ready_timeout_s

    def manifest(self, service: Service) -> list[Object]:
        """Return the objects of a framework."""
        return server_objects(self._placed(service.folder), service, self._plan.threads)

    def ui_server(self, service: Service, folder: Path) -> ClusterServer:
        """Prepare a server that is looked at by hand, outside any trial."""
        return ClusterServer(self.kube, self.sampler, service, self.manifest(service), folder, self._stop)

    def server(self, service: Service, step: Step, folder: Path) -> ClusterServer:
        """Prepare the server of one trial."""
        return self.ui_server(service, folder)

    def load(self, service: Service, step: Step, folder: Path) -> ClusterLoad:
        """Prepare the load of one trial."""
        trial = f"{self._run}/{step.path}"
        name = service.user_file.name
        return ClusterLoad(self.kube, self.volume, self.sampler, self.base, name, folder, trial, self.workers)


def _describe(node: Object) -> dict[str, str]:
    status = node["status"]
    return {
        "name": node["metadata"]["name"],
        "role": node["metadata"]["labels"].get("modelswarm/role", ""),
        "cpu": status["capacity"]["cpu"],
        "memory": status["capacity"]["memory"],
        "kubelet": status["nodeInfo"]["kubeletVersion"],
    }


def kept_record(kube: Kube) -> tuple[str, str] | None:
    """Return the name and the `run.json` of the run that the namespace holds; None where there is none."""
    kept = kube.read("configmap", RECORD)
    return (kept["data"]["run"], kept["data"]["run.json"]) if kept else None


def have_namespace(kube: Kube, wanted: Object) -> None:
    """Make the namespace where it is missing; one that is there may be other people's and stays as it is."""
    try:
        known = kube.read("namespace", wanted["metadata"]["name"])
    except Away:
        raise
    except CannotRun:
        return  # the account has rights in the namespace only, so it is there
    if known is None:
        kube.apply([wanted])


def owed(folder: Path) -> dict[str, Path]:
    """Return which trials a run's `run.json` says were measured while their record is not here.

    It could not be fetched, or a command on another machine fetched it.
    """
    trials = json.loads((folder / "run.json").read_text())["trials"]
    return {
        f"{folder.name}/{trial['path']}": folder / trial["path"]
        for trial in trials
        if (trial["status"] == "ok" or trial.get("unfetched"))
        and not (folder / trial["path"] / "summary.json").exists()
    }


def remove_all(kube: Kube) -> None:
    """Remove everything that runs ever made in a namespace, which stays."""
    kube.delete(f"{KINDS},networkpolicy,persistentvolumeclaim,serviceaccount", labels=OURS)
    kube.delete("configmap", RECORD)
    kube.delete("lease", NAME)
