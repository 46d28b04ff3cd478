"""The kind cluster without kind: programs of those names on PATH that keep its state in a folder."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from scripts.cluster import images, kind
from scripts.errors import CannotRun
from scripts.places import Wish, resolve
from scripts.server import HOST, free_port
from tests.scripts.docker_machine import Machine

KUBECTL = f"""#!{sys.executable}
import os, sys
from pathlib import Path
nodes = Path(os.environ["FAKE_DOCKER"]) / "nodes.json"
if not nodes.exists():
    sys.exit("no such context")
print(nodes.read_text())
"""
# What it loads gets an id of the node's own where the daemon keeps images in containerd.
KIND = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
state = Path(os.environ["FAKE_DOCKER"])
words = sys.argv[1:]
with (state / "calls").open("a") as log:
    log.write(json.dumps(["kind", *words]) + "\\n")
if words[:2] == ["load", "docker-image"]:
    at = words.index("--nodes")
    for node in words[at + 1].split(","):
        (state / "nodes" / node).mkdir(parents=True, exist_ok=True)
        for image in words[at + 2 :]:
            name = image.replace("/", "_")
            its = "" if (state / "same ids").exists() else "of the node: "
            (state / "nodes" / node / name).write_text(its + (state / name).read_text())
elif words == ["get", "clusters"] and (state / "listed").exists():
    print("modelswarm")
"""


@pytest.fixture
def cluster(machine: Machine) -> Machine:
    """A cluster with a node for servers and one for generators, and the images built."""
    machine.add("kubectl", KUBECTL)
    machine.add("kind", KIND)
    roles = {"one": "server", "two": "generator"}
    rows = [
        {"metadata": {"name": name, "labels": {kind.ROLE_LABEL: role}}, "spec": {}}
        for name, role in roles.items()
    ]
    (machine.state / "nodes.json").write_text(json.dumps({"items": rows}))
    machine.build()
    return machine


def loads(cluster: Machine) -> list[list[str]]:
    """What kind was told to load since the last time, node by node."""
    told = [call[call.index("--nodes") + 1 :] for call in cluster.calls("kind") if call[1] == "load"]
    (cluster.state / "calls").write_text("")
    return told


def load(cluster: Machine) -> list[list[str]]:
    kind.load(cluster.project, images.find_images(cluster.project), cluster.console)
    return loads(cluster)


class TestLoading:
    def test_takes_each_image_to_the_nodes_of_its_role(self, cluster: Machine) -> None:
        tag = images.version()
        assert load(cluster) == [
            ["two", f"modelswarm/locust:{tag}"],
            ["one", f"team/a:{tag}", f"team/b:{tag}"],
        ]

    @pytest.mark.parametrize("same_ids", [True, False], ids=["as docker's", "of their own"])
    def test_leaves_out_what_is_there_whatever_ids_nodes_give(self, cluster: Machine, same_ids: bool) -> None:
        if same_ids:
            (cluster.state / "same ids").touch()
        load(cluster)
        assert load(cluster) == []

    def test_knows_an_image_on_a_node_that_it_knows_from_another_cluster(self, cluster: Machine) -> None:
        load(cluster)
        (cluster.state / "nodes" / "one").rename(cluster.state / "nodes" / "new")
        rows = (cluster.state / "nodes.json").read_text().replace('"one"', '"new"')
        (cluster.state / "nodes.json").write_text(rows)
        assert load(cluster) == []

    def test_takes_what_was_built_anew(self, cluster: Machine) -> None:
        load(cluster)
        (cluster.project.root / "services" / "a" / "Dockerfile").write_text("FROM x\nCMD new\n")
        cluster.build()
        assert load(cluster) == [["one", f"team/a:{images.version()}"]]

    def test_of_what_is_not_built_says_what_builds_it(self, cluster: Machine) -> None:
        (cluster.state / f"team_a:{images.version()}").unlink()
        with pytest.raises(CannotRun, match=r"team/a:.* is not built: run `modelswarm images build` first"):
            load(cluster)


class TestRemovingTheCluster:
    @pytest.mark.parametrize(("cache", "told"), [("3.2GB", True), ("0B", False)])
    def test_tells_of_the_build_cache_that_it_leaves(self, cluster: Machine, cache: str, told: bool) -> None:
        (cluster.state / "build cache").write_text(cache)
        kind.remove(cluster.project, cluster.console)
        sentence = "Docker's build cache is left: `docker builder prune` empties it."
        assert (sentence in cluster.output.getvalue()) is told


@pytest.fixture
def busy(machine: Machine) -> Iterator[int]:
    """A port that the cluster is to have and somebody listens on; there is no cluster yet."""
    machine.add("kind", KIND)
    with socket.create_server((HOST, 0)) as listener:
        port = int(listener.getsockname()[1])
        config = {"nodes": [{"extraPortMappings": [{"hostPort": free_port()}, {"hostPort": port}]}, {}]}
        (machine.project.root / kind.CONFIG).write_text(yaml.safe_dump(config))
        yield port


class TestAClusterWhosePortsAreTaken:
    def test_is_not_made_and_the_port_is_named_before_anything_is_built(
        self, machine: Machine, busy: int
    ) -> None:
        sentence = f"cannot be made: port {busy} of this machine is in use, and kind-config.yaml leads from"
        with pytest.raises(CannotRun, match=sentence):
            kind.make_ready(machine.project, ["a"], machine.console)
        assert not machine.calls("build")

    def test_is_there_already_where_it_is_listed(self, machine: Machine, busy: int) -> None:
        (machine.state / "listed").touch()
        assert kind.unmakeable(machine.project) is None

    def test_is_not_what_auto_chooses(self, machine: Machine, busy: int) -> None:
        machine.add("kubectl", KUBECTL)
        assert resolve(machine.project, Wish("auto"), machine.console) == "local"
        assert f"Target: local (kind cannot be used: port {busy} of" in machine.output.getvalue()


class TestAClusterThatDoesNotAnswer:
    def test_is_not_called_missing_where_it_is_listed(self, machine: Machine) -> None:
        machine.add("kubectl", KUBECTL)
        machine.add("kind", KIND)
        with pytest.raises(CannotRun, match="There is no kind cluster 'modelswarm'"):
            kind.kind_nodes(kind.CLUSTER)
        (machine.state / "listed").touch()
        with pytest.raises(CannotRun, match="does not answer: `kind export kubeconfig --name modelswarm`"):
            kind.kind_nodes(kind.CLUSTER)


class TestTheNodesThatRunPods:
    @staticmethod
    def node(name: str, role: str | None = None, *taints: str) -> dict[str, Any]:
        labels = {} if role is None else {kind.ROLE_LABEL: role}
        given = [{"key": key, "effect": "NoSchedule"} for key in taints]
        return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": given}}

    def test_are_all_but_the_control_plane_with_their_roles(self) -> None:
        nodes = [self.node("plane", None, "node-role.kubernetes.io/control-plane"), self.node("a", "server")]
        assert kind.pod_nodes(nodes) == {"a": "server"}

    def test_are_known_before_they_are_ready(self) -> None:
        # Otherwise the images of a cluster made a moment ago would go to its every node.
        assert kind.pod_nodes([self.node("new", "server", "node.kubernetes.io/not-ready")]) == {
            "new": "server"
        }
