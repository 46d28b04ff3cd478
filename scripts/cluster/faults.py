"""What is wrong with a pod, as a sentence that names it and the reason; from the API's own JSON alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

Object = Mapping[str, Any]

UNSCHEDULABLE_GRACE_S = 45.0
"""So long a pod may find no place: the one before it may still hold it."""
PULL_PATIENCE_S = 900.0
"""From a pod's making to its container's start: an image of gigabytes may have to be pulled."""
CLOCKS_APART_S = 5.0
"""So far may what is known of the cluster's clock be off: it tells whole seconds, and answers take time."""
_NO_VOLUME = ("FailedMount", "FailedAttachVolume")
_KILLED = range(129, 160)
"""Exit statuses by which a shell or runtime tells of a signal."""
_AT_ONCE = {
    "ErrImageNeverPull": "its image {image} is not on the node",
    "ImageInspectError": "its image {image} cannot be read",
    "InvalidImageName": "{image} is no image's name",
    "ImagePullBackOff": "its image {image} cannot be pulled",
    "CreateContainerConfigError": "its container {container} cannot be made",
    "CreateContainerError": "its container {container} cannot be made",
    "RunContainerError": "its container {container} cannot be started",
}


def pod_fault(
    pod: Object, nodes: Sequence[Object] = (), events: Iterable[Object] = (), now_s: float = 0.0
) -> str | None:
    """Return what has befallen a pod that ought to run, as `pod NAME …`, or None.

    Every restart counts: what was measured on both sides of one was not one server. `now_s` is the time by
    the cluster's clock, in seconds since the epoch.
    """
    clause = (
        _failed(pod)
        or _not_scheduled(pod, now_s)
        or next(filter(None, map(_container, _containers(pod))), None)
        or _node(pod, nodes)
        or (_volume(pod, events) if _waits(pod) else None)
    )
    return f"pod {pod['metadata']['name']} {clause}" if clause else None


def not_made(name: str, events: Iterable[Object], since_s: float) -> str | None:
    """Return why the cluster makes no pod of a Deployment or Job (a quota, an admission rule), or None."""
    for event in events:
        mine = event["involvedObject"].get("name", "")
        if event.get("reason") != "FailedCreate" or when_s(event) < since_s:
            continue
        if mine == name or mine.startswith(f"{name}-"):
            return _joined(f"no pod of {name} can be made", event.get("message"))
    return None


def when_s(event: Object) -> float:
    """Return when an event happened last, in seconds since the epoch."""
    series = event.get("series") or {}
    return _epoch_s(
        event.get("lastTimestamp")
        or series.get("lastObservedTime")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )


def made_s(each: Object) -> float:
    """Return when an object was made, in seconds since the epoch."""
    return _epoch_s(each["metadata"]["creationTimestamp"])


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    specified = {each["name"]: each for each in pod["spec"]["containers"]}
    return [
        {**each, "limits": specified.get(each["name"], {}).get("resources", {}).get("limits", {})}
        for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    ]


def _failed(pod: Object) -> str | None:
    """A pod that its node gave up: evicted, preempted, or lost with the node."""
    status = pod.get("status", {})
    if status.get("phase") == "Failed" and status.get("reason"):
        return _joined(f"was given up by its node ({status['reason']})", status.get("message"))
    return None


def _not_scheduled(pod: Object, now_s: float) -> str | None:
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            if now_s - _epoch_s(condition["lastTransitionTime"]) < UNSCHEDULABLE_GRACE_S:
                return None
            return _joined("finds no node", condition.get("message"))
    return None


def _container(status: Object) -> str | None:
    waiting = status.get("state", {}).get("waiting", {})
    reason = waiting.get("reason", "")
    if reason in _AT_ONCE:
        sentence = _AT_ONCE[reason].format(image=status["image"], container=status["name"])
        return _joined(f"does not start: {sentence} ({reason})", waiting.get("message"))
    if status.get("restartCount", 0) > 0:
        return _ended(status, status.get("lastState", {}).get("terminated", {})) + " and was restarted"
    ended = status.get("state", {}).get("terminated")
    return _ended(status, ended) if ended else None


def _ended(status: Object, ended: Object) -> str:
    if ended.get("reason") == "OOMKilled":
        limit = status.get("limits", {}).get("memory", "none")
        return f"was killed for its memory (OOMKilled, limit {limit})"
    code = ended.get("exitCode", "unknown")
    if signal := ended.get("signal") or (code - 128 if code in _KILLED else 0):
        return f"exited with signal {signal}"
    return f"exited with status {code}"


def _node(pod: Object, nodes: Sequence[Object]) -> str | None:
    """The cluster notices a silent node after 40 s, and gives up its pods minutes later."""
    for node in nodes:
        if node["metadata"]["name"] != pod["spec"].get("nodeName"):
            continue
        for condition in node.get("status", {}).get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] != "True":
                where = f"is on the node {node['metadata']['name']}, which is not ready"
                return _joined(f"{where} ({condition.get('reason', 'unknown')})", condition.get("message"))
    return None


def _waits(pod: Object) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Pending")


def _volume(pod: Object, events: Iterable[Object]) -> str | None:
    for event in events:
        mine = event["involvedObject"].get("uid") == pod["metadata"]["uid"]
        # Once or twice happens on the way: a volume is made while its pod waits.
        if mine and event["reason"] in _NO_VOLUME and (event.get("count") or 1) > 2:
            return _joined(f"waits for a volume ({event['reason']})", event.get("message"))
    return None


def is_ready(pod: Object) -> bool:
    """Tell whether the pod's readiness probe holds, and it is not on its way out."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def waiting_for(pod: Object) -> str:
    """Say what a pod that is not ready yet is doing, in a few words."""
    conditions = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", [])}
    if conditions.get("PodScheduled") != "True":
        return "waiting for a node"
    for status in pod.get("status", {}).get("containerStatuses", []):
        if waiting := status.get("state", {}).get("waiting"):
            return f"waiting for its container ({waiting.get('reason', 'unknown')})"
    return "waiting until it is ready"


def _joined(clause: str, message: str | None) -> str:
    return f"{clause}: {' '.join(message.split())}"[:600] if message else clause


def _epoch_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
