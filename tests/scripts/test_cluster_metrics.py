"""`pods.csv` and `events.csv` from what kubelets, metrics-server and the API tell."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from typing import Any

import pytest

from scripts.cluster.kube import Away, Kube, Refused
from scripts.cluster.sampler import (
    COLUMNS,
    COMPONENT,
    CpuRates,
    Events,
    PodSampler,
    Usage,
    quantity,
    read_averages,
    read_counters,
)
from scripts.errors import CannotRun
from tests.waiting import until

KUBELET = """
# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="locust",namespace="modelswarm",pod="locust-master-abc"} 3.5 1795284000500
container_cpu_usage_seconds_total{container="server",namespace="modelswarm",pod="fastapi-1"} 12.25 1795284001000
container_cpu_usage_seconds_total{container="server",namespace="other",pod="fastapi-1"} 99 1795284001000
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="server",namespace="modelswarm",pod="fastapi-1"} 4.03e+08 1795284001000
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="server",namespace="modelswarm",pod="fastapi-1"} 1.7952839e+09
node_cpu_usage_seconds_total 1234.5 1795284001000
"""  # noqa: E501  # as a kubelet writes it


class TestTheKubeletsCounters:
    def test_are_read_for_one_namespace_with_their_own_timestamps(self) -> None:
        found = read_counters(KUBELET, "modelswarm")
        assert found == {
            ("locust-master-abc", "locust"): Usage(1795284000.5, 3.5, 0),
            ("fastapi-1", "server"): Usage(1795284001.0, 12.25, 403_000_000),
        }

    def test_become_cores_over_the_time_between_two_of_their_timestamps(self) -> None:
        rates, key = CpuRates(), ("fastapi-1", "server")
        assert rates.cores(key, Usage(100.0, 12.0, 1)) is None
        assert rates.cores(key, Usage(100.0, 12.0, 1)) is None  # read again before the kubelet counted again
        assert rates.cores(key, Usage(110.0, 17.0, 1)) == pytest.approx(0.5)

    def test_of_a_restarted_container_begin_again(self) -> None:
        rates, key = CpuRates(), ("fastapi-1", "server")
        rates.cores(key, Usage(100.0, 12.0, 1))
        assert rates.cores(key, Usage(110.0, 0.5, 1)) is None
        assert rates.cores(key, Usage(111.0, 1.5, 1)) == pytest.approx(1.0)


class TestMetricsServersAverages:
    def test_are_read_with_their_units(self) -> None:
        usage = {"cpu": "250334129n", "memory": "403144Ki"}
        item = {
            "metadata": {"name": "fastapi-1"},
            "timestamp": "2026-11-21T18:00:00Z",
            "containers": [{"name": "server", "usage": usage}],
        }
        ((key, at_s, cores, memory_bytes),) = read_averages([item])
        assert (key, at_s, memory_bytes) == (("fastapi-1", "server"), 1795284000.0, 403144 * 1024)
        assert cores == pytest.approx(0.250334129)

    @pytest.mark.parametrize(
        ("text", "value"), [("1", 1), ("250m", 0.25), ("2Gi", 2 * 2**30), ("1.5", 1.5), ("100u", 1e-4)]
    )
    def test_quantities(self, text: str, value: float) -> None:
        assert quantity(text) == pytest.approx(value)

    def test_what_is_no_quantity_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'1Qx' is no quantity"):
            quantity("1Qx")


def event(uid: str, reason: str, at: str, **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"uid": uid, "creationTimestamp": at},
        "involvedObject": {"name": "fastapi-1"},
        "reason": reason,
        "message": f"{reason}\nhappened",
        "type": "Warning",
        **more,
    }


class TestEvents:
    def test_are_told_once_in_order_of_time_and_again_when_they_happened_again(self) -> None:
        events = Events(since_s=1795284000.0)
        first = event("a", "Unhealthy", "2026-11-21T18:00:05Z", count=1, lastTimestamp="2026-11-21T18:00:05Z")
        oom = event("b", "OOMKilling", "2026-11-21T18:00:01Z")
        assert events.news([first, oom]) == [
            ["1795284001", "fastapi-1", "OOMKilling", "OOMKilling happened", "Warning"],
            ["1795284005", "fastapi-1", "Unhealthy", "Unhealthy happened", "Warning"],
        ]
        assert events.news([first, oom]) == []
        again = first | {"count": 2, "lastTimestamp": "2026-11-21T18:00:09Z"}
        assert [row[0] for row in events.news([again, oom])] == ["1795284009"]

    def test_from_before_the_trial_are_left_out(self) -> None:
        assert Events(since_s=1795284000.0).news([event("a", "Killing", "2026-11-21T17:59:59Z")]) == []

    def test_in_series_carry_their_count_there(self) -> None:
        events = Events(since_s=0.0)
        one = event("a", "Failed", "2026-11-21T18:00:00Z", eventTime="2026-11-21T18:00:00.000001Z")
        assert len(events.news([one])) == 1
        two = one | {"series": {"count": 2, "lastObservedTime": "2026-11-21T18:00:07.000000Z"}}
        assert [row[0] for row in events.news([two])] == ["1795284007"]


class StandIn(Kube):
    """A cluster that answers from memory."""

    def __init__(self) -> None:
        self.namespace, self.text, self.refused = "modelswarm", KUBELET, False
        self._ahead_s = 0.0
        self.fault: CannotRun | None = None
        self.averages: list[dict[str, Any]] = []
        self.last_exit = 137
        self.silent_node = self.slow_node = self.refusing_node = ""
        self.answers = threading.Event()
        self.others: list[dict[str, Any]] = []

    def pods(self, labels: str) -> list[dict[str, Any]]:
        if self.fault:
            raise self.fault
        return [
            *self.others,
            {
                "metadata": {"name": "fastapi-1", "labels": {COMPONENT: "server"}},
                "spec": {"nodeName": "worker-1", "containers": [{"name": "server"}]},
                "status": {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [
                        {
                            "name": "server",
                            "restartCount": 2,
                            "lastState": {"terminated": {"exitCode": self.last_exit}},
                        },
                        {"name": "beside", "restartCount": 3},
                    ],
                },
            },
        ]

    def nodes(self) -> list[dict[str, Any]]:
        return []

    def events(self) -> list[dict[str, Any]]:
        return [event("a", "BackOff", "2026-11-21T18:00:00Z")]

    def node_metrics(self, node: str) -> str:
        if self.refused:
            raise Refused(403, "it may not")
        if node == self.silent_node:
            raise Refused(503, "it does not answer")
        if node == self.slow_node:
            self.answers.wait()
        if node == self.refusing_node:
            raise Refused(404, "it has no such page")
        assert node == "worker-1"
        return self.text

    def pod_metrics(self) -> list[dict[str, Any]]:
        return self.averages


@pytest.fixture
def cluster() -> StandIn:
    return StandIn()


class TestSampling:
    def later(self, cluster: StandIn) -> None:
        cluster.text = KUBELET.replace("12.25 1795284001000", "13.00 1795284002000")

    def test_a_row_has_the_rate_and_the_state_of_the_pod(self, cluster: StandIn) -> None:
        sampler = PodSampler(cluster)
        sampler.look()
        assert sampler.rows() == []
        self.later(cluster)
        (row,) = sampler.rows()
        assert dict(zip(COLUMNS, row, strict=True)) == {
            "time": "1795284002.000",
            "pod": "fastapi-1",
            "container": "server",
            "cpu_cores": "0.7500",
            "memory_bytes": 403_000_000,
            "restarts": 2,
            "ready": 1,
            "phase": "Running",
            "component": "server",
        }

    def test_a_silent_node_costs_only_its_own_rows(self, cluster: StandIn) -> None:
        cluster.silent_node = "worker-0"
        cluster.others = [{"metadata": {"name": "other", "labels": {}}, "spec": {"nodeName": "worker-0"}}]
        sampler = PodSampler(cluster)
        sampler.look()
        assert sampler.rows() == []
        self.later(cluster)
        assert [row[1] for row in sampler.rows()] == ["fastapi-1"]

    def test_a_node_that_takes_its_time_holds_up_no_other(
        self, cluster: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scripts.cluster.sampler.PERIOD_S", 0.05)
        cluster.slow_node = "worker-0"
        cluster.others = [{"metadata": {"name": "other", "labels": {}}, "spec": {"nodeName": "worker-0"}}]
        sampler = PodSampler(cluster)
        sampler.look()
        found: list[list[object]] = []
        try:
            until(lambda: found.extend(sampler.rows()) or sampler._rates._last, "the other was heard")
            self.later(cluster)
            until(lambda: found.extend(sampler.rows()) or found, "a row was there")
            assert {row[1] for row in found} == {"fastapi-1"}
            assert list(sampler._asking) == ["worker-0"]
        finally:
            cluster.answers.set()

    def test_a_node_that_has_no_counters_ends_those_of_no_other(self, cluster: StandIn) -> None:
        cluster.refusing_node = "worker-0"
        other = {"metadata": {"name": "other", "labels": {COMPONENT: "generator"}}}
        other |= {"spec": {"nodeName": "worker-0", "containers": [{"name": "locust"}]}}
        cluster.others = [other | {"status": {"phase": "Running"}}]
        usage = {"cpu": "500m", "memory": "1Mi"}
        cluster.averages = [
            {
                "metadata": {"name": name},
                "timestamp": "2026-11-21T18:00:00Z",
                "containers": [{"name": container, "usage": usage}],
            }
            for name, container in (("fastapi-1", "server"), ("other", "locust"))
        ]
        sampler = PodSampler(cluster)
        sampler.look()
        first = sampler.rows()
        self.later(cluster)
        assert {(row[1], row[3]) for row in [*first, *sampler.rows()]} == {
            ("fastapi-1", "0.7500"),
            ("other", "0.5000"),
        }

    def test_a_container_that_ended_in_order_is_not_called_restarted(self, cluster: StandIn) -> None:
        cluster.last_exit = 0
        sampler = PodSampler(cluster)
        sampler.look()
        sampler.rows()
        self.later(cluster)
        assert [row[5] for row in sampler.rows()] == [0]

    def test_where_the_kubelets_may_not_be_asked_takes_metrics_servers_averages_once_each(
        self, cluster: StandIn
    ) -> None:
        cluster.refused = True
        usage = {"cpu": "500m", "memory": "1Mi"}
        cluster.averages = [
            {
                "metadata": {"name": "fastapi-1"},
                "timestamp": "2026-11-21T18:00:00Z",
                "containers": [{"name": "server", "usage": usage}],
            }
        ]
        sampler = PodSampler(cluster)
        sampler.look()
        rows = [*sampler.rows(), *sampler.rows(), *sampler.rows()]
        assert [row[3] for row in rows] == ["0.5000"]

    def test_writes_both_files_to_the_end_and_goes_on_where_another_command_stopped(
        self, cluster: StandIn, tmp_path: Path
    ) -> None:
        for _ in range(2):
            sampler = PodSampler(cluster)
            sampler.begin(0.0)
            with sampler.running(tmp_path):
                self.later(cluster)
            cluster.text = KUBELET
        rows = list(csv.DictReader((tmp_path / "pods.csv").open()))
        assert {row["cpu_cores"] for row in rows} <= {"0.7500"}
        (happened,) = csv.DictReader((tmp_path / "events.csv").open())
        assert happened["reason"] == "BackOff"
        assert (tmp_path / "pods.csv").read_text().count("cpu_cores") == 1

    @pytest.mark.parametrize("fault", [Away("it has been away for 90 s"), Refused(401, "it refused")])
    def test_while_the_api_server_tells_nothing_says_so_and_ends_in_order(
        self, cluster: StandIn, tmp_path: Path, fault: CannotRun
    ) -> None:
        sampler = PodSampler(cluster)
        with sampler.running(tmp_path):
            cluster.fault = fault
        assert sampler.trouble == str(fault)
