"""One framework's server as a pod of a cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from scripts.cluster.faults import (
    CLOCKS_APART_S,
    PULL_PATIENCE_S,
    UNSCHEDULABLE_GRACE_S,
    is_ready,
    made_s,
    not_made,
    waiting_for,
)
from scripts.cluster.kube import Kube, Object
from scripts.cluster.logs import Logs
from scripts.cluster.objects import SERVER, container_port, server_name, service_port
from scripts.cluster.sampler import PodSampler
from scripts.errors import afterwards
from scripts.project import Service
from scripts.server import free_ports
from scripts.stop import Stop
from scripts.target import NeverReady, Tell, ending

POLL_S = 1.0
ONE_CORE_S = 60.0
"""How much longer than on this machine a server may take in a pod."""
STOP_PATIENCE_S = 45.0


class ClusterServer:
    """One framework's Deployment and Service."""

    def __init__(
        self,
        kube: Kube,
        sampler: PodSampler,
        service: Service,
        manifest: Sequence[Object],
        folder: Path,
        stop: Stop,
    ) -> None:
        """Prepare the server that `manifest` describes; its logs go to the trial's `folder`."""
        self._kube, self._sampler, self._service, self._manifest = kube, sampler, service, manifest
        self._folder, self._stop = folder, stop
        self._name = server_name(service)
        self._forwarded = ExitStack()
        self._began: set[str] = set()
        self._logs = Logs(kube)
        facts = service.facts
        self._port = container_port(self._manifest, service, service.protocol)
        self._ready_port = container_port(self._manifest, service, facts.ready_port or "")
        self._here = dict(zip({self._port, self._ready_port}, free_ports(2), strict=False))

    @property
    def _scheme(self) -> str:
        return "grpc" if self._service.protocol.startswith("grpc") else "http"

    @property
    def host(self) -> str:
        """The near end of a port that leads to the pod."""
        return f"{self._scheme}://127.0.0.1:{self._here[self._port]}"

    @property
    def load_host(self) -> str:
        """The Service, as pods of the namespace call it."""
        return f"{self._scheme}://{self._name}:{service_port(self._manifest, self._service, self._port)}"

    @property
    def ready_url(self) -> str:
        """What answers 200 once it is ready."""
        return f"http://127.0.0.1:{self._here[self._ready_port]}{self._service.facts.ready_path}"

    @property
    def caller_variables(self) -> dict[str, str]:
        """The keys that it made up when it started, where callers must send one; else it makes no file."""
        file = self._service.facts.local.key_file
        if not file:
            return {}
        inside = ("exec", f"deployment/{self._name}", "-c", SERVER, "--")
        keys = self._kube.kubectl(*inside, "sh", "-c", '[ ! -e "$0" ] || cat "$0"', file).decode()
        return {"MODELSWARM_KEYS": keys} if keys else {}

    def start(self, tell: Tell) -> None:
        """Deploy it and wait until its own probe holds."""
        self._sampler.begin(self._kube.now_s())
        self._kube.apply(self._manifest)
        began_s, made_s, running_s = self._kube.now_s() - CLOCKS_APART_S, time.monotonic(), None
        while True:
            pods = self._sampler.look().of(self._name)
            if ended := self.ended():
                raise NeverReady(f"server {ended}; {self.last_words()}")
            if pods and all(is_ready(pod) for pod in pods):
                self._began = {pod["metadata"]["name"] for pod in pods}
                break
            now_s = time.monotonic()
            if running_s is None and any(_runs(pod) for pod in pods):
                running_s = now_s
            self._refuse_to_wait(pods, now_s - made_s, running_s and now_s - running_s)
            self._refuse_without_pods(pods, began_s, now_s - made_s)
            tell(waiting_for(pods[0]) if pods else "waiting for its pod")
            self._stop.sleep(POLL_S)
        pairs = [f"{here}:{there}" for there, here in self._here.items()]
        forward = ("port-forward", "--address", "127.0.0.1", f"deployment/{self._name}", *pairs)
        self._forwarded.enter_context(self._kube.kept(*forward))

    def _refuse_to_wait(self, pods: Sequence[Object], waited_s: float, ran_s: float | None) -> None:
        """Give up on a pod whose container does not start, or whose probe never holds."""
        patience_s = self._service.facts.local.ready_timeout_s + ONE_CORE_S
        if ran_s is not None and ran_s > patience_s:
            (name,) = {pod["metadata"]["name"] for pod in pods[:1]}
            reason = self._probe_says(name) or "its probe said nothing"
            raise NeverReady(
                f"pod {name} was not ready within {patience_s:g} s ({reason}); {self.last_words()}"
            )
        if ran_s is None and waited_s > PULL_PATIENCE_S:
            what = waiting_for(pods[0]) if pods else "no pod was made"
            raise NeverReady(f"server pod did not start within {PULL_PATIENCE_S:.0f} s: {what}")

    def _refuse_without_pods(self, pods: Sequence[Object], began_s: float, waited_s: float) -> None:
        """Give up on a Deployment of which the cluster makes no pod."""
        if not pods and waited_s > UNSCHEDULABLE_GRACE_S:
            reason = not_made(self._name, self._sampler.snapshot.events, began_s)
            if reason:
                raise NeverReady(reason)

    def _probe_says(self, pod: str) -> str | None:
        said = [
            event["message"]
            for event in self._sampler.snapshot.events
            if event["involvedObject"].get("name") == pod and event["reason"] == "Unhealthy"
        ]
        return " ".join(said[-1].split()) if said else None

    def sampled(self) -> AbstractContextManager[None]:
        """Sample its pods, and Locust's, while the block lasts."""
        if not self._began:
            self._take_over()
        return self._sampler.running(self._folder)

    def _take_over(self) -> None:
        """Go on with the server that a command which is gone has deployed; older events are not its own."""
        there = self._kube.read("deployment", self._name)
        self._sampler.begin(made_s(there) if there else self._kube.now_s())
        self._began = {pod["metadata"]["name"] for pod in self._sampler.look().of(self._name)}

    def others_cores(self, since_s: float) -> float | None:
        """Nobody here knows what others do on its node."""
        return None

    def ended(self) -> str | None:
        """Return what befell its pods."""
        snapshot = self._sampler.snapshot
        self._logs.hear_leaving(snapshot.ever_of(self._name))
        if fault := snapshot.fault(self._name, self._kube.now_s()):
            return fault
        left = self._deleted()
        return f"pod {left} was deleted" if left else None

    def _deleted(self) -> str | None:
        """Return a pod that was ready and is gone."""
        left = self._began - {pod["metadata"]["name"] for pod in self._sampler.snapshot.of(self._name)}
        return min(left, default=None)

    def last_words(self) -> str:
        """Return how the log of the pod that is gone ends, else its newest's: before its restart, if any."""
        if deleted := self._deleted():
            return ending(self._logs.of(deleted))
        for pod in reversed(self._sampler.snapshot.of(self._name)):
            name = pod["metadata"]["name"]
            text = self._kube.log(name, SERVER, previous=True) or self._kube.log(name, SERVER)
            if text.strip():
                return ending(text.decode(errors="replace"))
        return ending("")

    def stop(self) -> list[str]:
        """Keep its logs and the events, and remove it."""
        self._forwarded.close()
        with afterwards(self._remove):
            self._keep_logs()
            self._sampler.keep_events(self._folder)
        return []

    def _remove(self) -> None:
        for each in self._manifest:
            self._kube.delete(each["kind"].lower(), each["metadata"]["name"])
        self._gone()

    def _gone(self) -> None:
        """Wait until its pods have ended: the next server wants their cores."""
        deadline = time.monotonic() + STOP_PATIENCE_S
        while self._kube.pods(f"app.kubernetes.io/name={self._name}") and time.monotonic() < deadline:
            time.sleep(0.5)

    def _keep_logs(self) -> None:
        with (self._folder / "server.log").open("ab") as file:
            self._logs.hear(self._kube.pods(f"app.kubernetes.io/name={self._name}"))
            file.write(self._logs.everything())


def _runs(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return any("running" in each.get("state", {}) for each in statuses)
