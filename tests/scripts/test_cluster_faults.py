"""Each way in which a pod can fail, as the API tells of it, and the sentence that a person reads."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.cluster.faults import is_ready, pod_fault, waiting_for

SCHEDULED_AT = "2026-11-21T18:00:00Z"
AT_S = 1795284000.0  # the same


def pod(**status: Any) -> dict[str, Any]:
    limits = {"resources": {"limits": {"memory": "1Gi"}}}
    return {
        "metadata": {"name": "fastapi-7d9f-x2k", "uid": "u1", "labels": {}},
        "spec": {"nodeName": "worker-1", "containers": [{"name": "server", **limits}]},
        "status": {"phase": "Pending", **status},
    }


def container(state: dict[str, Any], last: dict[str, Any] | None = None, restarts: int = 0) -> dict[str, Any]:
    status = {
        "name": "server",
        "image": "modelswarm/fastapi:0.1.0",
        "state": state,
        "lastState": last or {},
        "restartCount": restarts,
    }
    return {"containerStatuses": [status]}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return container({"waiting": {"reason": reason, "message": message}})


def unschedulable() -> dict[str, Any]:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient cpu.",
        "lastTransitionTime": SCHEDULED_AT,
    }
    return {"conditions": [condition]}


RUNNING = {"running": {"startedAt": SCHEDULED_AT}}
OOM = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}

FAULTS = {
    "an image that is nowhere": (
        waiting("ImagePullBackOff", 'Back-off pulling image "modelswarm/fastapi:0.1.0"'),
        "does not start: its image modelswarm/fastapi:0.1.0 cannot be pulled (ImagePullBackOff): "
        'Back-off pulling image "modelswarm/fastapi:0.1.0"',
    ),
    "an image that kind was not given": (
        waiting("ErrImageNeverPull"),
        "does not start: its image modelswarm/fastapi:0.1.0 is not on the node (ErrImageNeverPull)",
    ),
    "a container that cannot be made": (
        waiting("CreateContainerConfigError", 'secret "x" not found'),
        "does not start: its container server cannot be made (CreateContainerConfigError): "
        'secret "x" not found',
    ),
    "too little memory": (
        container(RUNNING, OOM, 1),
        "was killed for its memory (OOMKilled, limit 1Gi) and was restarted",
    ),
    "a crash": (
        container(RUNNING, {"terminated": {"exitCode": 3, "reason": "Error"}}, 1),
        "exited with status 3 and was restarted",
    ),
    "a signal": (
        container({"terminated": {"exitCode": 139, "reason": "Error"}}),
        "exited with signal 11",
    ),
    "an eviction": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        "was given up by its node (Evicted): The node was low on resource: memory.",
    ),
}


class TestAPodThatFails:
    @pytest.mark.parametrize(("status", "clause"), FAULTS.values(), ids=FAULTS)
    def test_is_named_with_the_reason(self, status: dict[str, Any], clause: str) -> None:
        assert pod_fault(pod(**status)) == f"pod fastapi-7d9f-x2k {clause}"

    def test_for_want_of_a_node_is_given_time_for_the_one_before_it_to_end(self) -> None:
        assert pod_fault(pod(**unschedulable()), now_s=AT_S + 10) is None
        assert pod_fault(pod(**unschedulable()), now_s=AT_S + 60) == (
            "pod fastapi-7d9f-x2k finds no node: 0/3 nodes are available: 3 Insufficient cpu."
        )

    def test_with_its_node_names_the_node(self) -> None:
        condition = {
            "type": "Ready",
            "status": "Unknown",
            "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
        }
        node = {"metadata": {"name": "worker-1"}, "status": {"conditions": [condition]}}
        assert pod_fault(pod(phase="Running", **container(RUNNING)), [node]) == (
            "pod fastapi-7d9f-x2k is on the node worker-1, which is not ready (NodeStatusUnknown): "
            "Kubelet stopped posting node status."
        )

    @pytest.mark.parametrize(("count", "told"), [(1, False), (3, True)])
    def test_for_its_volume_is_told_when_it_happens_again_and_again(self, count: int, told: bool) -> None:
        event = {
            "involvedObject": {"uid": "u1"},
            "reason": "FailedMount",
            "message": "no such claim",
            "count": count,
        }
        expected = "pod fastapi-7d9f-x2k waits for a volume (FailedMount): no such claim"
        assert pod_fault(pod(), (), [event]) == (expected if told else None)


class TestAPodThatIsWell:
    @pytest.mark.parametrize(
        "status",
        [
            {},
            waiting("ContainerCreating"),
            waiting("ErrImagePull"),  # tried again; ImagePullBackOff follows when it fails again
            {"phase": "Running", **container(RUNNING)},
        ],
    )
    def test_has_no_fault(self, status: dict[str, Any]) -> None:
        assert pod_fault(pod(**status)) is None

    def test_on_another_node_than_a_broken_one_has_no_fault(self) -> None:
        node = {
            "metadata": {"name": "worker-2"},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]},
        }
        assert pod_fault(pod(), [node]) is None

    def test_is_ready_by_its_probe_until_it_is_deleted(self) -> None:
        ready = pod(phase="Running", conditions=[{"type": "Ready", "status": "True"}])
        assert is_ready(ready)
        ready["metadata"]["deletionTimestamp"] = SCHEDULED_AT
        assert not is_ready(ready)
        assert not is_ready(pod())


class TestWhatAPodWaitsFor:
    def test_is_said_in_a_few_words(self) -> None:
        scheduled = {"conditions": [{"type": "PodScheduled", "status": "True"}]}
        creating = waiting("ContainerCreating")
        assert waiting_for(pod()) == "waiting for a node"
        assert waiting_for(pod(**scheduled, **creating)) == "waiting for its container (ContainerCreating)"
        assert waiting_for(pod(**scheduled, **container(RUNNING))) == "waiting until it is ready"
