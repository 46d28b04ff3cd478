"""What a pod's containers have said."""

from __future__ import annotations

from scripts.cluster.kube import Kube, Object


def logs_of(kube: Kube, pod: Object, container: str) -> bytes:
    """Return a container's log under the pod's name, after that of the one before if it was restarted."""
    name = pod["metadata"]["name"]
    parts = []
    for title, previous in (("before its restart", True), ("", False)):
        text = kube.log(name, container, previous=previous)
        if text or not previous:
            parts.append(f"==> pod {name} {container} {title}".rstrip().encode() + b" <==\n" + text)
    return b"\n".join(parts).rstrip() + b"\n"
