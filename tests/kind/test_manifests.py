"""Manifests, as files: what every framework gets alike, and what nobody gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from scripts.cluster.kind import ROLE_LABEL
from tests.kind.kube_files import (
    MANIFESTS,
    SERVICES,
    Object,
    facts,
    k8s_name,
    manifest,
    objects,
    pod_of,
    relative,
    tracked,
)
from tests.projects import ROOT

every_service = pytest.mark.parametrize("service", SERVICES)
LINT = YamlLintConfig("""
extends: default
rules:
  document-start: disable
  line-length: {max: 120}
  truthy: {check-keys: false}
  comments: {min-spaces-from-content: 1}
  braces: {max-spaces-inside: 0}
""")
YAML_FILES = sorted(
    [
        *ROOT.glob("services/*/*.yaml"),
        *ROOT.glob("k8s/**/*.yaml"),
        ROOT / "kind-config.yaml",
        ROOT / ".checkov.yaml",
    ]
)
WORKLOADS = {
    f"{relative(file)}: {each['metadata']['name']}": each
    for file in MANIFESTS
    for each in objects(file)
    if each["kind"] in ("Deployment", "Job", "StatefulSet")
}

CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "APIService"}


@pytest.mark.parametrize("file", MANIFESTS, ids=relative)
def test_a_manifest_says_by_itself_where_it_goes(file: Path) -> None:
    """Without kustomize too: `kubectl apply -f` would take the namespace that somebody happens to be in."""
    homeless = [
        f"{each['kind']} {each['metadata']['name']}"
        for each in objects(file)
        if each["kind"] not in CLUSTER_WIDE and "namespace" not in each["metadata"]
    ]
    assert homeless == []


@pytest.mark.parametrize("file", YAML_FILES, ids=relative)
def test_a_yaml_file_pleases_yamllint(file: Path) -> None:
    assert [str(problem) for problem in linter.run(file.read_text(), LINT)] == []


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS.keys())
class TestAPod:
    def test_is_one_that_its_workload_selects(self, workload: Object) -> None:
        spec = workload["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()

    def test_has_no_rights_on_its_node(self, workload: Object) -> None:
        pod = pod_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"] + pod.get("initContainers", []):
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}

    def test_has_no_rights_in_the_cluster(self, workload: Object) -> None:
        if workload["metadata"]["name"] == "metrics-server":
            pytest.skip("reading the nodes' metrics is its job")
        pod = pod_of(workload)
        assert pod["automountServiceAccountToken"] is False
        assert pod["serviceAccountName"] in ("server", "generator")

    def test_is_told_nothing_of_other_services(self, workload: Object) -> None:
        assert pod_of(workload)["enableServiceLinks"] is False

    def test_has_limits_and_writes_to_volumes_of_limited_size(self, workload: Object) -> None:
        pod = pod_of(workload)
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        for volume in pod.get("volumes", []):
            if "emptyDir" in volume:
                assert volume["emptyDir"].get("sizeLimit"), volume["name"]


@every_service
class TestAFrameworksManifest:
    def test_has_the_three_objects_and_names_them_alike(self, service: str) -> None:
        found = manifest(service)
        assert {"Deployment", "Service", "PodDisruptionBudget"} <= set(found)
        name = k8s_name(service)
        for each in found.values():
            labels = each["metadata"]["labels"]
            assert each["metadata"]["name"] == labels["app.kubernetes.io/name"] == name
            assert labels["app.kubernetes.io/component"] == "server"
            assert labels["app.kubernetes.io/part-of"] == "modelswarm"
        assert found["Service"]["spec"]["selector"] == {"app.kubernetes.io/name": name}

    def test_gives_a_server_what_it_asks_for_and_no_more(self, service: str) -> None:
        containers = pod_of(manifest(service)["Deployment"])["containers"]
        assert "server" in [container["name"] for container in containers]
        for container in containers:
            assert container["resources"]["requests"] == container["resources"]["limits"]

    def test_gives_every_server_the_same_cpu(self, service: str) -> None:
        containers = pod_of(manifest(service)["Deployment"])["containers"]
        assert sum(cores(container["resources"]["limits"]["cpu"]) for container in containers) == 1

    def test_asks_on_the_path_that_tells_whether_it_predicts(self, service: str) -> None:
        told = facts(service)
        pod = pod_of(manifest(service)["Deployment"])
        server = next(each for each in pod["containers"] if each["name"] == "server")
        assert server["startupProbe"]["httpGet"]["path"] == told["ready_path"]
        assert server["readinessProbe"]["httpGet"]["path"] == told["ready_path"]
        assert "livenessProbe" in server

    def test_opens_the_ports_that_service_toml_names(self, service: str) -> None:
        told, found = facts(service), manifest(service)
        wanted = {told["port"]} | {
            each["port"] for each in told.get("protocols", {}).values() if "port" in each
        }
        containers = pod_of(found["Deployment"])["containers"]
        opened = {port["containerPort"] for each in containers for port in each.get("ports", [])}
        assert wanted <= opened
        assert wanted <= {port["port"] for port in found["Service"]["spec"]["ports"]}
        named = {port["name"]: port["port"] for port in found["Service"]["spec"]["ports"]}
        assert named["http"] == told["port"]

    def test_runs_its_own_image(self, service: str) -> None:
        pod = pod_of(manifest(service)["Deployment"])
        server = next(each for each in pod["containers"] if each["name"] == "server")
        assert server["image"].rpartition(":")[0] == facts(service)["image"]["name"]

    def test_keeps_off_the_generators_nodes(self, service: str) -> None:
        affinity = pod_of(manifest(service)["Deployment"])["affinity"]
        must = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert [term["matchExpressions"] for term in must["nodeSelectorTerms"]] == [
            [{"key": ROLE_LABEL, "operator": "NotIn", "values": ["generator"]}]
        ]
        (wish,) = affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        (rule,) = wish["preference"]["matchExpressions"]
        assert rule == {"key": ROLE_LABEL, "operator": "In", "values": ["server"]}
        (wish,) = affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        (rule,) = wish["podAffinityTerm"]["labelSelector"]["matchExpressions"]
        # Locust's master is put on the node of `results`, and is not there yet when the server comes.
        values = ["generator", "results"]
        assert rule == {"key": "app.kubernetes.io/component", "operator": "In", "values": values}

    def test_tells_prometheus_of_metrics_if_there_are_any(self, service: str) -> None:
        deployment, told = manifest(service)["Deployment"], facts(service)
        notes = deployment["spec"]["template"]["metadata"].get("annotations", {})
        apart = "metrics" in told["local"].get("inner_ports", [])  # at a port of their own
        path = told.get("metrics_path")
        assert path or not apart, "service.toml names a port for metrics, but no metrics_path"
        if path:
            containers = pod_of(deployment)["containers"]
            opened = {port["name"]: port["containerPort"] for each in containers for port in each["ports"]}
            assert notes["prometheus.io/scrape"] == "true"
            assert notes["prometheus.io/path"] == path
            assert notes["prometheus.io/port"] == str(opened["metrics" if apart else "http"])
        else:
            assert "prometheus.io/scrape" not in notes

    def test_is_reached_from_this_machine_in_kind(self, service: str) -> None:
        services = {
            each["metadata"]["name"]: each for each in objects(ROOT / "k8s/overlays/kind/nodeports.yaml")
        }
        host = services.get(f"{k8s_name(service)}-host")
        assert host, "give it a NodePort in k8s/overlays/kind/nodeports.yaml and in kind-config.yaml"
        (port,) = host["spec"]["ports"]
        assert {"containerPort": port["nodePort"], "hostPort": port["port"]} in host_ports()


def cores(text: str) -> float:
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def kind_config() -> Object:
    return yaml.safe_load((ROOT / "kind-config.yaml").read_text())


def host_ports() -> list[Object]:
    mappings = kind_config()["nodes"][0]["extraPortMappings"]
    return [{key: each[key] for key in ("containerPort", "hostPort")} for each in mappings]


class TestTheKindCluster:
    def test_has_a_node_for_servers_and_one_for_generators(self) -> None:
        roles = [node.get("labels", {}).get(ROLE_LABEL) for node in kind_config()["nodes"]]
        assert roles == [None, "server", "generator"]

    def test_opens_ports_to_this_machine_only_and_each_once(self) -> None:
        mappings = kind_config()["nodes"][0]["extraPortMappings"]
        assert {each["listenAddress"] for each in mappings} == {"127.0.0.1"}
        for end in ("hostPort", "containerPort"):
            ports = [each[end] for each in mappings]
            assert len(set(ports)) == len(ports)

    def test_leads_every_port_to_a_service(self) -> None:
        services = objects(ROOT / "k8s/overlays/kind/nodeports.yaml")
        ends = [
            {"containerPort": port["nodePort"], "hostPort": port["port"]}
            for each in services
            for port in each["spec"]["ports"]
        ]
        assert sorted(ends, key=str) == sorted(host_ports(), key=str)

    @pytest.mark.parametrize(("name", "port"), [("bentoml", 3000), ("fastapi", 8000), ("ray-serve", 31800)])
    def test_answers_where_the_frameworks_are_known_to_answer(self, name: str, port: int) -> None:
        services = {
            each["metadata"]["name"]: each for each in objects(ROOT / "k8s/overlays/kind/nodeports.yaml")
        }
        assert services[f"{name}-host"]["spec"]["ports"][0]["port"] == port

    def test_leaves_the_node_image_to_kind(self) -> None:
        assert not any("image" in node for node in kind_config()["nodes"])


class TestTheRoom:
    def test_admits_only_pods_without_rights(self) -> None:
        (namespace,) = objects(ROOT / "k8s/base/namespace.yaml")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"

    def test_grants_its_accounts_nothing(self) -> None:
        files = [*ROOT.glob("k8s/base/*.yaml"), *ROOT.glob("k8s/overlays/**/*.yaml")]
        everything = [each for file in files for each in objects(file)]
        bound = {
            subject["name"]
            for each in everything
            if each["kind"].endswith("Binding")
            for subject in each["subjects"]
        }
        assert not bound & {"server", "generator"}
        accounts = [each for each in everything if each["kind"] == "ServiceAccount"]
        assert {"server", "generator"} <= {each["metadata"]["name"] for each in accounts}
        assert all(each["automountServiceAccountToken"] is False for each in accounts)

    def test_forbids_what_is_not_allowed(self) -> None:
        policies = {
            each["metadata"]["name"]: each["spec"] for each in objects(ROOT / "k8s/base/network.yaml")
        }
        default = policies["nothing-but-dns"]
        (ours,) = default["podSelector"]["matchExpressions"]
        assert ours["operator"] == "In"
        assert set(ours["values"]) == {"server", "generator", "results"}
        assert default["policyTypes"] == ["Ingress", "Egress"]
        assert "ingress" not in default

    def test_lets_names_be_asked_for_wherever_a_cluster_has_its_dns(self) -> None:
        policies = {
            each["metadata"]["name"]: each["spec"] for each in objects(ROOT / "k8s/base/network.yaml")
        }
        (rule,) = policies["nothing-but-dns"]["egress"]
        # The address of NodeLocal DNSCache is the node's, which no selector of namespaces or pods matches.
        assert "to" not in rule
        asked = {(port["protocol"], port["port"]) for port in rule["ports"]}
        assert asked == {(protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)}

    def test_opens_the_web_ui_and_the_workers_port(self) -> None:
        service = next(each for each in objects(ROOT / "k8s/base/locust.yaml") if each["kind"] == "Service")
        assert {port["port"] for port in service["spec"]["ports"]} == {8089, 5557}


def test_no_file_names_a_particular_node_image_or_a_path_of_one_machine() -> None:
    # Written in two parts, so that this file does not name them either.
    forbidden = ["kindest" + "/node:v", "../" + "shared", "/work" + "/shared"]
    found = [
        f"{relative(file)} names {word}"
        for file in tracked()
        if file.parent.name != ".ci"  # knows the machines that CI runs on
        and file.suffix in (".yaml", ".yml", ".py", ".toml", ".md", ".sh", "")
        and file.stat().st_size < 10**6
        for word in forbidden
        if word in file.read_text(errors="ignore")
    ]
    assert found == []
