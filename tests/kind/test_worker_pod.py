"""The measurement of one worker's pod, briefly."""

from __future__ import annotations

import pytest

from scripts.bench.pod import NAMESPACE, pod, row
from tests.kind.kind_cluster import Cluster

pytestmark = pytest.mark.kind


@pytest.mark.usefixtures("nodes")
def test_makes_the_load_under_the_limits_of_a_worker_and_leaves_nothing() -> None:
    with pod(seconds=3) as worker:
        (limits,) = worker.kube.kubectl(
            *("get", "deployment", "locust-worker"),
            *("-o", "jsonpath={.spec.template.spec.containers[*].resources.limits.cpu}"),
        ).split()
        assert limits == b"1"
        summary = worker.run("--shape", "constant", "--rate", "200")
    assert summary["counts"]["completed"] == summary["counts"]["planned"] == 600
    assert 0 <= summary["throttled"] <= 1
    assert row("200", [summary]).startswith("| 200 | 200 | 100.00% |")
    assert not Cluster("").kubectl("get", "namespace", NAMESPACE, "--ignore-not-found")
