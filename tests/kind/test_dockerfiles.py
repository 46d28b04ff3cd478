"""Dockerfiles, as files: what they promise about the images, without building any."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.cluster.images import OFFICIAL, STAND_IN_LABEL, version
from tests.kind.kube_files import DOCKERFILES, SERVICES, facts, instructions, relative
from tests.projects import ROOT

OWN = "# own\n"
every_dockerfile = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=relative)


def the(dockerfile: Path, instruction: str) -> list[str]:
    return [argument for name, argument in instructions(dockerfile) if name == instruction]


class TestAFramework:
    @pytest.mark.parametrize("service", SERVICES)
    def test_has_an_image_and_manifests(self, service: str) -> None:
        folder = ROOT / "services" / service
        missing = [
            name
            for name in ("Dockerfile", "manifest.yaml", "kustomization.yaml")
            if not (folder / name).exists()
        ]
        assert not missing


@every_dockerfile
class TestADockerfile:
    def test_pleases_hadolint(self, dockerfile: Path) -> None:
        hadolint = Path(sys.executable).with_name("hadolint")
        command = [str(hadolint if hadolint.exists() else shutil.which("hadolint")), str(dockerfile)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_starts_from_the_same_small_python(self, dockerfile: Path) -> None:
        *others, last = [argument.split()[0] for argument in the(dockerfile, "FROM")]
        assert last == "python:3.11-slim"
        # The framework's own image is there to take its program from, in a stage of its own.
        assert {each for each in others if dockerfile.name != OFFICIAL} <= {last}

    def test_ends_as_a_user_with_a_number_who_is_not_root(self, dockerfile: Path) -> None:
        assert the(dockerfile, "USER") == ["10001:10001"]
        after = dockerfile.read_text().split("\nUSER ")[1]
        assert "\nCOPY " not in after

    def test_starts_its_program_without_a_shell(self, dockerfile: Path) -> None:
        commands = [json.loads(each) for name in ("ENTRYPOINT", "CMD") for each in the(dockerfile, name)]
        assert commands, "neither ENTRYPOINT nor CMD"
        assert not any(command[0] in ("sh", "bash", "/bin/sh", "/bin/bash") for command in commands)

    def test_says_how_to_see_its_health(self, dockerfile: Path) -> None:
        (check,) = the(dockerfile, "HEALTHCHECK")
        assert check == "NONE" or json.loads(check.split("CMD ")[1])[0] == "python"

    def test_names_version_source_and_model_in_labels(self, dockerfile: Path) -> None:
        labels = " ".join(the(dockerfile, "LABEL"))
        name = dockerfile.parent.name
        for label in (
            f'org.opencontainers.image.title="modelswarm/{name}"',
            'org.opencontainers.image.version="${VERSION}"',
            'org.opencontainers.image.source="${SOURCE}"',
            'org.opencontainers.image.licenses="Apache-2.0"',
            'modelswarm.model.digest="${MODEL_DIGEST}"',
        ):
            assert label in labels

    def test_fails_to_build_with_another_model_than_the_label_names(self, dockerfile: Path) -> None:
        checks = [each for each in the(dockerfile, "RUN") if "verify_model.py" in each]
        assert checks == ['python /app/verify_model.py /app/artifacts/model "${MODEL_DIGEST}"']

    def test_copies_code_after_everything_that_takes_long(self, dockerfile: Path) -> None:
        last_stage = dockerfile.read_text().split("\nFROM ")[-1]
        lines = last_stage.splitlines()
        installs = [at for at, line in enumerate(lines) if "pip install" in line or "apt-get install" in line]
        code = [at for at, line in enumerate(lines) if line.startswith("COPY") and ".py " in line]
        assert max(installs, default=-1) < min(code)

    def test_pins_what_it_installs(self, dockerfile: Path) -> None:
        for command in the(dockerfile, "RUN"):
            words = command.split()
            for at, word in enumerate(words):
                if word == "install" and words[at - 1] == "pip":
                    wanted = [each for each in words[at + 1 :] if not each.startswith("-")]
                    stop = next(
                        (n for n, each in enumerate(wanted) if each in ("&&", "||", "}")), len(wanted)
                    )
                    for each in wanted[:stop]:
                        assert "==" in each or each.endswith(("requirements.txt", '"${TORCH}"')), each


def imported(file: Path) -> set[Path]:
    """The project's own files that a file of services/ imports."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    files = {ROOT / f"{module.replace('.', '/')}.py" for module in modules if module.startswith("services.")}
    return {each for each in files if each.exists()}


def copied(dockerfile: Path) -> set[Path]:
    """The Python files that a Dockerfile copies."""
    files: set[Path] = set()
    for argument in the(dockerfile, "COPY"):
        *sources, _ = argument.split()
        for source in (each for each in sources if not each.startswith("--")):
            for found in ROOT.glob(source.lstrip("/")):
                files |= set(found.rglob("*.py")) if found.is_dir() else {found}
    return {each for each in files if each.suffix == ".py"}


class TestTheCodeInAnImage:
    @pytest.mark.parametrize(
        "dockerfile", [f for f in DOCKERFILES if f.parent.name in SERVICES], ids=relative
    )
    def test_has_all_that_it_imports(self, dockerfile: Path) -> None:
        there = copied(dockerfile)
        wanted = {each for file in there for each in imported(file)}
        assert wanted, "it imports nothing of the project's own"
        assert sorted(map(relative, wanted - there)) == []


class TestAStandIn:
    @pytest.mark.parametrize("service", [name for name in SERVICES if facts(name)["stand_in"]])
    def test_says_in_its_label_what_it_is_and_so_does_the_framework_itself(self, service: str) -> None:
        folder = ROOT / "services" / service
        for name, stand_in in (("Dockerfile", "true"), (OFFICIAL, "false")):
            assert f'{STAND_IN_LABEL}="{stand_in}"' in " ".join(the(folder / name, "LABEL"))


class TestTheImagesThatNeedTorch:
    def test_begin_alike_so_that_the_large_layer_exists_once(self) -> None:
        heads = {
            relative(file): file.read_text().split(OWN)[0].partition("\nFROM ")[2]
            for file in DOCKERFILES
            if "ARG TORCH" in file.read_text()
        }
        assert len(heads) >= 3
        assert len(set(heads.values())) == 1, f"these differ down to {OWN!r}: {sorted(heads)}"

    @pytest.mark.parametrize("service", SERVICES)
    def test_are_all_whose_requirements_have_torch(self, service: str) -> None:
        folder = ROOT / "services" / service
        pins = folder / "requirements.txt"
        has_torch = pins.exists() and "\ntorch==" in pins.read_text()
        dockerfile = (folder / "Dockerfile").read_text()
        if has_torch and "requirements.txt" in dockerfile:
            assert "ARG TORCH=torch==2.13.0+cpu\n" in dockerfile

    def test_ask_for_the_torch_that_is_pinned(self) -> None:
        head = (ROOT / "services" / "fastapi" / "Dockerfile").read_text().split(OWN)[0]
        for line in (ROOT / "services" / "fastapi" / "requirements.txt").read_text().splitlines():
            if line.startswith(("numpy==", "pillow==", "torch==")):
                assert line in head


class TestTheContext:
    def test_admits_nothing_but_what_images_need(self) -> None:
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        assert lines[1] == "*"
        admitted = {line for line in lines if line.startswith("!")}
        assert admitted == {
            "!requirements.txt",
            "!artifacts/model",
            "!k8s/verify_model.py",
            "!locustfiles",
            "!scripts",
            "!services",
        }

    def test_the_manifests_name_the_images_of_this_version(self) -> None:
        files = [*ROOT.glob("services/*/manifest.yaml"), *ROOT.glob("k8s/base/*.yaml")]
        images = {
            line.partition("image: ")[2]
            for file in files
            for line in file.read_text().splitlines()
            if "image: " in line
        }
        assert images
        assert {image.rpartition(":")[2] for image in images} == {version()}
