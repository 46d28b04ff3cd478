"""Images as Docker has them."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from scripts.cluster import images
from scripts.project import Project
from tests.kind.kind_cluster import run
from tests.kind.kube_files import DOCKERFILES, SERVICES
from tests.projects import ROOT

pytestmark = pytest.mark.kind
NAMES = [images.LOAD_SIDE, *SERVICES]
# The libraries and torch's compiler; nvidia-ml-py and nvidia-pytriton hold no CUDA.
CUDA = re.compile(r"nvidia-(cu|nccl|nv)|cuda|(pytorch-)?triton$")


def layers(reference: str) -> list[str]:
    done = run("docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", reference)
    found: list[str] = json.loads(done.stdout)
    return found


def test_every_image_carries_the_export(built: dict[str, images.Built], project: Project) -> None:
    digest = images.model_digest(project)
    assert {name: each.model_digest for name, each in built.items()} == dict.fromkeys(NAMES, digest)


def test_images_that_need_torch_share_the_layer_that_holds_it(
    built: dict[str, images.Built], project: Project
) -> None:
    references = {image.name: image.reference for image in images.find_images(project)}
    torch = [file.parent.name for file in DOCKERFILES if "ARG TORCH" in file.read_text()]
    base = len(layers("python:3.11-slim"))
    shared = {tuple(layers(references[name])[: base + 1]) for name in torch}
    assert len(torch) >= 3
    assert len(shared) == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_no_cuda(name: str, built: dict[str, images.Built], project: Project) -> None:
    (image,) = [each for each in images.find_images(project) if each.name == name]
    listing = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    done = run("docker", "run", "--rm", "--entrypoint", "python", image.reference, "-c", listing)
    assert done.returncode == 0, done.stderr
    packages = done.stdout.split()
    assert "pip" in packages  # the listing works
    assert [each for each in packages if CUDA.match(each)] == []


def test_a_change_of_code_rebuilds_in_seconds(
    built: dict[str, images.Built], project: Project, tmp_path: Path
) -> None:
    admitted = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    for name in admitted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name)
    server = tmp_path / "services" / "fastapi" / "server.py"
    server.write_text(server.read_text() + "\nCHANGED = True\n")
    (image,) = [each for each in images.find_images(project, ["fastapi"]) if each.name == "fastapi"]
    changed = f"{image.reference}-changed"
    flags = ["--build-arg", f"MODEL_DIGEST={images.model_digest(project)}"]
    began_s = time.monotonic()
    done = run("docker", "build", "-f", str(image.dockerfile), *flags, "-t", changed, str(tmp_path))
    took_s = time.monotonic() - began_s
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        old, new = layers(image.reference), layers(changed)
        assert old != new
        assert old[: len(old) - 3] == new[: len(new) - 3]  # all but code
        assert took_s < 20
    finally:
        run("docker", "image", "rm", changed)


def test_another_model_than_the_label_names_is_not_built(built: dict[str, images.Built]) -> None:
    flags = ["--build-arg", "MODEL_DIGEST=sha256:other", "-t", "modelswarm/fastapi:other"]
    # Docker without buildx keeps the container of a step that failed, unless it is told.
    done = run("docker", "build", "--force-rm", "-f", "services/fastapi/Dockerfile", *flags, ".")
    assert done.returncode != 0
    assert "the build was told sha256:other" in done.stdout + done.stderr
