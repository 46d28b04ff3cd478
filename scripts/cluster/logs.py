"""What a pod's containers have said."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from scripts.cluster.kube import Kube, Object
from scripts.errors import CannotRun


class Logs:
    """The logs of one kind of pods; a pod that is deleted takes its own along, so that is read before."""

    def __init__(self, kube: Kube) -> None:
        """Begin with nothing heard."""
        self._kube = kube
        self._said: dict[str, bytes] = {}

    def hear(self, pods: Iterable[Object]) -> None:
        """Read what pods have said by now."""
        for pod in pods:
            name, containers = pod["metadata"]["name"], pod["spec"]["containers"]
            text = b"".join(logs_of(self._kube, pod, each["name"]) for each in containers)
            self._said[name] = max(self._said.get(name, b""), text, key=len)  # it may be gone by now

    def hear_leaving(self, pods: Iterable[Object]) -> None:
        """Read, once, what pods have said that are being deleted."""
        with suppress(CannotRun):  # it is tried again
            self.hear(
                pod
                for pod in pods
                if "deletionTimestamp" in pod["metadata"] and pod["metadata"]["name"] not in self._said
            )

    def of(self, pod: str) -> str:
        """Return what a pod has said, without titles; nothing where nobody heard it."""
        lines = self._said.get(pod, b"").decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith(f"==> pod {pod} "))

    def everything(self) -> bytes:
        """Return what all have said."""
        return b"".join(self._said.values())


def logs_of(kube: Kube, pod: Object, container: str) -> bytes:
    """Return a container's log under the pod's name, after that of the one before if it was restarted."""
    name = pod["metadata"]["name"]
    parts = []
    for title, previous in (("before its restart", True), ("", False)):
        text = kube.log(name, container, previous=previous)
        if text or not previous:
            parts.append(f"==> pod {name} {container} {title}".rstrip().encode() + b" <==\n" + text)
    return b"\n".join(parts).rstrip() + b"\n"
