"""What a trial makes of the project's manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.cluster.objects import (
    container_port,
    find,
    master_job,
    placed,
    server_name,
    server_objects,
    service_port,
    worker_deployment,
)
from scripts.errors import UserError
from scripts.project import Project, Service
from tests.projects import ROOT

Objects = list[dict[str, Any]]


def read(*files: Path) -> Objects:
    return [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]


@pytest.fixture
def fastapi() -> Service:
    return Project(ROOT).select(["fastapi"])[0]


@pytest.fixture
def manifest(fastapi: Service) -> Objects:
    return read(fastapi.folder / "manifest.yaml")


@pytest.fixture
def base() -> Objects:
    return placed(read(*sorted((ROOT / "k8s" / "base").glob("[!k]*.yaml"))), "room", {})


def server(objects: Objects) -> dict[str, Any]:
    found: dict[str, Any] = find(objects, "Deployment", "fastapi")["spec"]["template"]["spec"]["containers"][
        0
    ]
    return found


class TestObjectsInAnotherPlace:
    def test_are_in_its_namespace(self, base: Objects) -> None:
        assert {each["metadata"]["namespace"] for each in base if each["kind"] != "Namespace"} == {"room"}
        assert [each["metadata"]["name"] for each in base if each["kind"] == "Namespace"] == ["room"]

    def test_take_images_from_a_registry(self, manifest: Objects) -> None:
        name = server(manifest)["image"]
        moved = placed(manifest, "room", {name: f"registry.example.com/{name}"})
        assert server(moved)["image"] == f"registry.example.com/{name}"
        assert server(moved)["imagePullPolicy"] == "Always"  # the tag may have a newer build by now
        assert server(manifest)["image"] == name
        assert server(placed(manifest, "room", {}))["imagePullPolicy"] == "IfNotPresent"


class TestAServersObjects:
    def test_have_the_plans_threads_as_cores_and_setting(self, fastapi: Service, manifest: Objects) -> None:
        container = server(server_objects(manifest, fastapi, threads=2))
        assert container["resources"]["requests"]["cpu"] == container["resources"]["limits"]["cpu"] == "2"
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert variables["MODELSWARM_THREADS"] == variables["OMP_NUM_THREADS"] == "2"

    def test_have_a_variants_options_once(self, fastapi: Service, manifest: Objects) -> None:
        ((name, _),) = fastapi.variables.items()
        server(manifest)["env"].append({"name": name, "value": "1"})
        made = server(server_objects(manifest, fastapi.variant({"workers": 2}), threads=1))
        assert [each["value"] for each in made["env"] if each["name"] == name] == ["2"]

    def test_have_memory_for_each_further_process(self, fastapi: Service, manifest: Objects) -> None:
        for workers, memory in ((1, "1Gi"), (3, "2048Mi")):
            made = server_objects(manifest, fastapi.variant({"workers": workers}), threads=1)
            resources = server(made)["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"] == memory
        assert server(manifest)["resources"]["limits"]["memory"] == "1Gi"

    @pytest.mark.parametrize("name", ["fastapi+workers=2", "ray_serve+num_replicas=2"])
    def test_of_a_framework_with_more_processes_have_more_memory(self, name: str) -> None:
        [service] = Project(ROOT).select([name])
        found = read(service.folder / "manifest.yaml")
        containers = [
            find(made, "Deployment", server_name(service))["spec"]["template"]["spec"]["containers"][0]
            for made in (server_objects(found, each, 1) for each in (service.variant({}), service))
        ]
        usual, more = (each["resources"]["limits"]["memory"] for each in containers)
        assert more.endswith("Mi")
        assert int(more.removesuffix("Mi")) > 1024 * int(usual.removesuffix("Gi"))

    def test_without_a_container_called_server_are_refused(self, fastapi: Service, manifest: Objects) -> None:
        server(manifest)["name"] = "web"
        with pytest.raises(UserError, match="has no container `server`"):
            server_objects(manifest, fastapi, 1)

    def test_lead_from_the_container_port_to_the_services(self, fastapi: Service, manifest: Objects) -> None:
        port = container_port(manifest, fastapi, fastapi.protocol)
        find(manifest, "Service", "fastapi")["spec"]["ports"][0]["port"] = 80
        assert service_port(manifest, fastapi, port) == 80

    def test_whose_service_leads_nowhere_are_refused(self, fastapi: Service, manifest: Objects) -> None:
        with pytest.raises(UserError, match="does not lead to 9999"):
            service_port(manifest, fastapi, 9999)


class TestLocustsObjects:
    def test_the_master_is_a_job_that_is_never_tried_twice(self, base: Objects) -> None:
        job = master_job(base, "run-1/fastapi/steady/1", ["--master"], {"KEYS": "k"})
        template = job["spec"]["template"]
        assert job["spec"]["backoffLimit"] == 0
        assert template["spec"]["restartPolicy"] == "Never"
        assert template["spec"]["containers"][0]["args"] == ["--master"]
        assert {"name": "KEYS", "value": "k"} in template["spec"]["containers"][0]["env"]
        assert job["metadata"]["annotations"] == {"modelswarm/trial": "run-1/fastapi/steady/1"}
        assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "locust-master"

    def test_workers_are_a_deployment_that_can_be_scaled_by_hand(self, base: Objects) -> None:
        deployment = worker_deployment(base, 7, ["--worker"], {"KEYS": "k"})
        assert deployment["kind"] == "Deployment"
        assert deployment["spec"]["replicas"] == 7
        assert find(base, "Deployment", "locust-worker")["spec"]["replicas"] == 0

    def test_what_the_manifests_lack_is_named(self, base: Objects) -> None:
        with pytest.raises(UserError, match="The manifests hold no Deployment nobody"):
            find(base, "Deployment", "nobody")
