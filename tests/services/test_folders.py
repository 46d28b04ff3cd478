"""Every code-based framework's folder is whole, and says the same thing in each of its files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SERVICES, facts_of, names

SHARED = ("numpy", "pillow", "torch")
CODE_BASED = [name for name in names() if facts_of(name)["protocol"] == "predict"]


def pins(name: str) -> dict[str, str]:
    lines = (SERVICES / name / "requirements.txt").read_text().split()
    return dict(line.split("==") for line in lines)


def manifest(name: str, kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((SERVICES / name / "manifest.yaml").read_text())
    found: dict[str, Any] = next(document for document in documents if document["kind"] == kind)
    return found


@pytest.mark.parametrize("name", [*CODE_BASED, "model"])
class TestRequirements:
    def test_are_pinned_to_versions_that_any_machine_can_install(self, name: str) -> None:
        for line in (SERVICES / name / "requirements.txt").read_text().splitlines():
            assert re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*( ; .*)?", line), line

    def test_hold_what_was_asked_for(self, name: str) -> None:
        for line in (SERVICES / name / "requirements.in").read_text().splitlines():
            if "==" in line:
                package, version = re.sub(r"\[.*?\]", "", line).split("==")
                assert pins(name)[package] == version

    def test_share_what_the_answers_depend_on(self, name: str) -> None:
        assert {package: pins(name).get(package) for package in SHARED} == {
            package: pins("model")[package] for package in SHARED
        }


@pytest.mark.parametrize("name", CODE_BASED)
class TestFolder:
    def test_has_every_file(self, name: str) -> None:
        present = {path.name for path in (SERVICES / name).iterdir()}
        assert {"Dockerfile", "manifest.yaml", "kustomization.yaml", "requirements.in"} <= present

    def test_names_the_version_that_is_pinned(self, name: str) -> None:
        assert facts_of(name)["version"] in pins(name).values()

    def test_the_image_runs_as_a_number_and_without_a_shell(self, name: str) -> None:
        dockerfile = (SERVICES / name / "Dockerfile").read_text()
        assert re.search(r"^USER \d+", dockerfile, re.MULTILINE)
        assert re.search(r"^CMD \[", dockerfile, re.MULTILINE)
        shared = " ".join(f"{package}=={pins(name)[package]}" for package in SHARED)
        assert f"RUN pip install {shared}\n" in dockerfile

    def test_the_pod_is_guaranteed_its_resources_and_restricted(self, name: str) -> None:
        pod = manifest(name, "Deployment")["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}

    def test_kubernetes_and_service_toml_agree(self, name: str) -> None:
        facts = facts_of(name)
        container = manifest(name, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == facts["image"]["name"]
        assert container["ports"] == [{"name": "http", "containerPort": facts["port"]}]
        assert container["readinessProbe"]["httpGet"]["path"] == facts["ready_path"]
        service = manifest(name, "Service")
        assert service["spec"]["ports"][0]["port"] == facts["port"]
        labels = manifest(name, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()

    def test_every_part_of_the_command_is_known(self, name: str, tmp_path: Path) -> None:
        places = ("venv", "python", "host", "port", "root", "model_dir", "threads", "workers", "dir")
        local = facts_of(name)["local"]
        for part in [*local["command"], *local.get("env", {}).values()]:
            part.format(**dict.fromkeys(places, tmp_path))
