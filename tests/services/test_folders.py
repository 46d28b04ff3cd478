"""Every code-based framework's folder is whole; images and manifests are looked at in `tests/kind`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.project import Project
from scripts.server import LocalServer, ServerSettings, fill
from tests.projects import ROOT
from tests.services.environments import SERVICES, facts_of, names

FOUND = Project(ROOT).services()
SHARED = ("numpy", "pillow", "torch")
CODE_BASED = [name for name in names() if facts_of(name)["protocol"] == "predict"]
PINNED = [name for name in CODE_BASED if (SERVICES / name / "requirements.in").exists()]
"""The others run on the load side's Python."""


def pins(name: str) -> dict[str, str]:
    lines = (SERVICES / name / "requirements.txt").read_text().split()
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("name", [*PINNED, "model"])
class TestRequirements:
    def test_are_pinned_to_versions_that_any_machine_can_install(self, name: str) -> None:
        for line in (SERVICES / name / "requirements.txt").read_text().splitlines():
            assert re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*( ; .*)?", line), line

    def test_hold_what_was_asked_for(self, name: str) -> None:
        for line in (SERVICES / name / "requirements.in").read_text().splitlines():
            if "==" in line:
                package, version = re.sub(r"\[.*?\]", "", line).split("==")
                assert pins(name)[package] == version

    def test_hold_the_version_that_is_named(self, name: str) -> None:
        assert name == "model" or facts_of(name)["version"] in pins(name).values()

    def test_share_what_the_answers_depend_on(self, name: str) -> None:
        assert {package: pins(name).get(package) for package in SHARED} == {
            package: pins("model")[package] for package in SHARED
        }


@pytest.mark.parametrize(
    "file",
    [
        *("service.toml", "requirements.in", "Dockerfile", "manifest.yaml", "kustomization.yaml"),
        *("kind-config.yaml", "k8s/overlays/kind/nodeports.yaml"),
    ],
)
def test_how_to_add_a_framework_names_each_file_that_it_needs(file: str) -> None:
    assert f"{file}`" in (SERVICES.parent / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("name", CODE_BASED)
class TestFolder:
    def test_has_every_file(self, name: str) -> None:
        present = {path.name for path in (SERVICES / name).iterdir()}
        assert {"Dockerfile", "manifest.yaml", "kustomization.yaml"} <= present

    def test_every_part_of_the_command_is_known(self, name: str, tmp_path: Path) -> None:
        settings, local = ServerSettings(Project(ROOT), 1, ()), FOUND[name].facts.local
        places = LocalServer(FOUND[name], settings, tmp_path, tmp_path / "log", name)._placeholders()
        for part in [*local.command, *local.env.values()]:
            assert fill(part, places, name)


class TestUnequalWork:
    @pytest.mark.parametrize(
        "name", [name for name, service in FOUND.items() if "batching" in service.facts.options]
    )
    def test_of_batching_names_the_size_of_its_batches(self, name: str) -> None:
        (sentence,) = FOUND[name].variant({"batching": True}).not_held
        assert re.search(r"\(batching\) inferred up to \d+ requests at once", sentence)

    @pytest.mark.parametrize(
        ("name", "file", "setting"),
        [
            ("ray_serve", "deployment.py", r"max_ongoing_requests=(\d+)"),
            ("seldon", "microservice.py", r"THREADS = (\d+)"),
        ],
    )
    def test_of_a_server_that_is_tuned_names_the_setting(self, name: str, file: str, setting: str) -> None:
        (value,) = re.findall(setting, (SERVICES / name / file).read_text())
        assert [
            sentence for sentence in FOUND[name].differs if f" {value}" in sentence and "default" in sentence
        ]

    def test_of_tensorflow_serving_is_told_and_tensors_are_another_task(self) -> None:
        plain = FOUND["tensorflow_serving"]
        tensors = plain.variant({"protocol": "tensors"})
        assert "the caller takes the top 5" in " ".join(plain.differs)
        assert "it listens on all interfaces" in " ".join(plain.differs)
        assert "before the clock starts" not in " ".join(plain.differs)
        assert "before the clock starts" in tensors.differs[-1]
        assert [plain.kind, tensors.kind] == ["image", "tensor"]
