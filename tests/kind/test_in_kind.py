"""Every framework in kind: from its own image, by its own manifest, every answer right."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.environments import Environment, find_uv, make, pip_settings, uv_environment
from tests.kind.kind_cluster import Cluster, in_namespace, rendered, run
from tests.kind.kube_files import (
    DOCKERFILES,
    MANIFESTS,
    SERVICES,
    Object,
    facts,
    instructions,
    k8s_name,
    manifest,
    relative,
)
from tests.projects import ROOT
from tests.waiting import until

pytestmark = pytest.mark.kind
FOLDERS = [ROOT / "services" / name for name in SERVICES] + [
    ROOT / "k8s" / "metrics-server",
    ROOT / "k8s" / "overlays" / "kind",
    ROOT / "k8s" / "overlays" / "cluster",
]


@pytest.fixture(params=SERVICES, scope="class")
def service(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """A framework, deployed and ready; gone afterwards, so that the next has the room."""
    name: str = request.param
    objects = in_namespace(rendered(ROOT / "services" / name))
    cluster.apply(objects)
    try:
        cluster.wait(k8s_name(name))
        yield name
    finally:
        cluster.kubectl("delete", "--wait", "-f", "-", text=yaml.safe_dump_all(objects))
        label = f"app.kubernetes.io/name={k8s_name(name)}"
        cluster.attempt("wait", "--for=delete", "pod", "-l", label, "--timeout=90s")


def ports(name: str) -> dict[str, int]:
    """The ports that its Service opens, by name."""
    return {port["name"]: port["port"] for port in manifest(name)["Service"]["spec"]["ports"]}


def probe(cluster: Cluster, generator: str, name: str, protocol: str) -> list[dict[str, Any]]:
    """What scripts/probe.py says of a framework's every answer, in a pod of the load side."""
    told, host = facts(name), k8s_name(name)
    spoken = told.get("protocols", {}).get(protocol, {})
    scheme = "grpc" if (protocol or told["protocol"]).startswith("grpc") else "http"
    ready = ports(name)[told["ready_port"]] if "ready_port" in told else told["port"]
    keys = []
    if file := told["local"].get("key_file"):
        keys = [f"MODELSWARM_KEYS={cluster.kubectl('exec', f'deployment/{host}', '--', 'cat', file)}"]
    done = cluster.attempt(
        *("exec", generator, "--", "env", *keys, "python", "-m", "scripts.probe"),
        f"/app/locustfiles/{name}_user.py",
        f"{scheme}://{host}:{spoken.get('port', told['port'])}",
        protocol,
        f"http://{host}:{ready}{told['ready_path']}",
        "0",
        timeout_s=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestAFramework:
    def test_answers_every_test_image_right_in_every_protocol(
        self, service: str, cluster: Cluster, generator: str
    ) -> None:
        images = json.loads((ROOT / "artifacts" / "model" / "images.json").read_text())
        for protocol in ["", *facts(service).get("protocols", {})]:
            events = probe(cluster, generator, service, protocol)
            (checked,) = [each for each in events if "checked" in each]
            assert checked["wrong"] == [], f"protocol {protocol or 'of its own'}"
            assert checked["checked"] >= (len(images) if facts(service).get("kind") != "text" else 1)

    def test_tells_its_metrics_where_its_annotations_say(
        self, service: str, cluster: Cluster, generator: str
    ) -> None:
        pod_metadata = manifest(service)["Deployment"]["spec"]["template"]["metadata"]
        notes = pod_metadata.get("annotations", {})
        if "prometheus.io/scrape" not in notes:
            pytest.skip(f"{service} has no metrics")
        label = f"app.kubernetes.io/name={k8s_name(service)}"
        address = cluster.kubectl("get", "pods", "-l", label, "-o", "jsonpath={.items[0].status.podIP}")
        url = f"http://{address}:{notes['prometheus.io/port']}{notes['prometheus.io/path']}"
        code = "import sys; from urllib.request import urlopen; urlopen(sys.argv[1], timeout=10)"
        done = cluster.attempt("exec", generator, "--", "python", "-c", code, url)
        assert done.returncode == 0, done.stderr

    def test_is_healthy_by_its_images_own_check(self, service: str, cluster: Cluster) -> None:
        lines = instructions(ROOT / "services" / service / "Dockerfile")
        (check,) = [argument for name, argument in lines if name == "HEALTHCHECK"]
        command = json.loads(check.partition("CMD ")[2])
        where = f"deployment/{k8s_name(service)}"
        done = cluster.attempt("exec", where, "-c", "server", "--", *command)
        assert done.returncode == 0, done.stderr

    def test_runs_as_nobody_and_cannot_write_its_image(self, service: str, cluster: Cluster) -> None:
        where = f"deployment/{k8s_name(service)}"
        code = "import os; print(os.getuid()); open('/app/x', 'w')"
        done = cluster.attempt("exec", where, "-c", "server", "--", "python", "-c", code)
        assert done.stdout.strip() == "10001"
        assert "Read-only file system" in done.stderr

    def test_stands_on_the_servers_node_and_was_never_restarted(
        self, service: str, cluster: Cluster, generator: str
    ) -> None:
        label = f"app.kubernetes.io/name={k8s_name(service)}"
        (pod,) = json.loads(cluster.kubectl("get", "pods", "-l", label, "-o", "json"))["items"]
        node = json.loads(cluster.kubectl("get", "node", pod["spec"]["nodeName"], "-o", "json"))
        assert node["metadata"]["labels"]["modelswarm/role"] == "server"
        assert [each["restartCount"] for each in pod["status"]["containerStatuses"]] == [0] * len(
            pod["spec"]["containers"]
        )
        assert pod["status"]["qosClass"] == "Guaranteed"


class TestTheManifests:
    @pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
    def test_please_the_api_server(self, folder: Path, cluster: Cluster) -> None:
        # In the namespace that they name: ports of nodes are given once.
        cluster.apply([each for each in rendered(ROOT / "k8s" / "base") if each["kind"] == "Namespace"])
        said = Cluster(namespace="").attempt(
            *("apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", "-"),
            text=yaml.safe_dump_all(rendered(folder)),
        )
        assert said.returncode == 0, said.stderr
        assert "would violate" not in said.stderr, said.stderr  # the level of the namespace

    @pytest.mark.parametrize("file", MANIFESTS, ids=relative)
    def test_please_it_as_they_are_without_kustomize(self, file: Path, cluster: Cluster) -> None:
        cluster.apply([each for each in rendered(ROOT / "k8s" / "base") if each["kind"] == "Namespace"])
        said = Cluster(namespace="").attempt(
            "apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", str(file)
        )
        assert said.returncode == 0, said.stderr

    def test_please_checkov(self, tmp_path: Path) -> None:
        made, written = (
            tmp_path / "made",
            tmp_path / "written",
        )  # each whole: policies and pods belong together
        for place in (made, written):
            place.mkdir()
        for folder in FOLDERS:
            (made / f"{folder.name}.yaml").write_text(yaml.safe_dump_all(rendered(folder)))
        for file in MANIFESTS:
            shutil.copy(file, written / relative(file).replace("/", "-"))
        files = [word for file in DOCKERFILES for word in ("-f", str(file))]
        common = [str(checkov()), "--config-file", str(ROOT / ".checkov.yaml"), "--quiet", "--compact"]
        common += ["--skip-download"]
        for options in (
            ["--framework", "kubernetes", "-d", str(made)],
            ["--framework", "kubernetes", "-d", str(written)],
            ["--framework", "dockerfile", *files],
        ):
            done = run(*common, *options)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Passed checks: 0" not in done.stdout


def checkov() -> Path:
    """The program, in an environment of its own: its pins are older than ours."""
    requirements = ROOT / "tests" / "kind" / "checkov.txt"
    environment = Environment("checkov", ROOT / ".venvs" / "checkov", (requirements,))
    uv = find_uv(ROOT)
    assert uv
    make(environment, uv, uv_environment(os.environ, pip_settings(os.environ)), print)
    return environment.path / "bin" / "checkov"


class TestTheRoom:
    def test_gives_its_accounts_no_more_rights_than_every_account_has(self, cluster: Cluster) -> None:
        def rights(account: str) -> str:
            return cluster.kubectl(
                "auth", "can-i", "--list", f"--as=system:serviceaccount:{cluster.namespace}:{account}"
            )

        nobody = rights("nobody-ever-made-this-one")
        assert "selfsubjectaccessreviews" in nobody
        assert rights("server") == nobody
        assert rights("generator") == nobody

    def test_turns_away_a_pod_with_rights(self, cluster: Cluster) -> None:
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "greedy"},
            "spec": {"containers": [{"name": "x", "image": "x", "securityContext": {"privileged": True}}]},
        }
        done = cluster.attempt("apply", "--dry-run=server", "-f", "-", text=yaml.safe_dump(pod))
        assert done.returncode != 0
        assert "restricted" in done.stderr

    def test_mounts_no_token(self, cluster: Cluster, generator: str) -> None:
        done = cluster.attempt("exec", generator, "--", "ls", "/var/run/secrets/kubernetes.io")
        assert "No such file" in done.stderr

    def test_keeps_results_when_the_pod_that_wrote_them_is_gone(self, cluster: Cluster) -> None:
        write = "open('/results/kept', 'w').write('still here')"
        cluster.kubectl("exec", "deployment/results", "--", "python", "-c", write)
        cluster.kubectl("delete", "pod", "-l", "app.kubernetes.io/name=results", "--wait")
        cluster.wait("results")
        assert cluster.kubectl("exec", "deployment/results", "--", "cat", "/results/kept") == "still here"


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
        return bool(answer.status == 200)
    return False


class TestFromTheHost:
    def test_a_framework_answers_on_its_own_port_of_this_machine(self, cluster: Cluster) -> None:
        ends = [
            each
            for each in in_namespace(rendered(ROOT / "k8s" / "overlays" / "kind"))
            if each["metadata"]["name"] in ("fastapi-host", "from-the-host")
        ]
        taken = cluster.attempt("apply", "-f", "-", text=yaml.safe_dump_all(ends))
        if "already allocated" in taken.stderr:
            pytest.skip("the namespace modelswarm has the ports of this machine")
        server = in_namespace(rendered(ROOT / "services" / "fastapi"))
        cluster.apply(server)
        try:
            cluster.wait("fastapi")
            # nodes hear of a ready pod a little later than its Deployment does
            until(lambda: answers("http://127.0.0.1:8000/health"), "the port leads to the server", 60)
        finally:
            cluster.kubectl("delete", "-f", "-", text=yaml.safe_dump_all([*server, *ends]))
