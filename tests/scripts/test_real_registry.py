"""Pushing to a real registry: Debian's docker-registry, on a port of this machine."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from scripts.cluster import images, registry
from scripts.errors import CannotRun
from scripts.project import Project
from scripts.server import HOST, free_port
from tests.waiting import until

PROGRAM = shutil.which("docker-registry")
DIGEST = "sha256:123"
TINY = f"FROM scratch\nCOPY Dockerfile /\nLABEL {images.DIGEST_LABEL}={DIGEST}\n"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="docker-registry is not installed")


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def serving(folder: Path, auth: str = "{}") -> Iterator[str]:
    """A registry with its files in a folder, by its host and port."""
    port, config = free_port(), folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}\n"
        f"http: {{addr: '{HOST}:{port}'}}\nauth: {auth}\n"
    )

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
            return True
        return False

    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen([str(PROGRAM), "serve", str(config)], stdout=log, stderr=log)
    try:
        until(listens, "the registry listens")
        yield f"{HOST}:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.model_dir.mkdir(parents=True)
    (project.model_dir / "manifest.json").write_text(json.dumps({"digest": DIGEST}))
    return project


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[images.Image]:
    """An image of one small file, built; gone afterwards under its every name."""
    if fault := images.docker_fault():
        pytest.skip(f"{fault}: nothing can be pushed")
    (tmp_path / "context").mkdir()
    dockerfile = tmp_path / "context" / "Dockerfile"
    dockerfile.write_text(TINY + f"LABEL test={tmp_path}\n")  # an id of its own: it is removed by that
    reference = "team/tiny:test"
    docker("build", "--tag", reference, str(dockerfile.parent))
    try:
        yield images.Image("tiny", dockerfile, reference, "server")
    finally:
        left = docker("images", "--quiet", "--no-trunc", "--filter", f"label=test={tmp_path}").split()
        subprocess.run(["docker", "image", "rm", "--force", *set(left)], capture_output=True, check=False)


@pytest.fixture
def console() -> Console:
    return Console(width=200)


def test_what_was_pushed_is_pulled_by_its_digest(
    tiny: images.Image, project: Project, console: Console, tmp_path: Path
) -> None:
    with serving(tmp_path) as address:
        where = f"{address}/lab"
        pushed = registry.push(project, [tiny], where, console)["tiny"]
        assert registry.references(project, [tiny], where, console) == {tiny.reference: pushed}
        docker("image", "rm", tiny.reference, registry.named(where, tiny.reference))
        docker("pull", pushed)
        labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", pushed))
    assert labels[images.DIGEST_LABEL] == DIGEST


def test_a_registry_that_wants_a_login_says_so(
    tiny: images.Image, project: Project, console: Console, tmp_path: Path
) -> None:
    (tmp_path / "users").write_text(f"nobody:$2y$05${'x' * 53}\n")  # nobody knows a password for that
    auth = f"{{htpasswd: {{realm: test, path: {tmp_path / 'users'}}}}}"
    with serving(tmp_path, auth) as address, pytest.raises(CannotRun, match="docker login"):
        registry.push(project, [tiny], address, console)
    assert registry.pushed(project) == {}


def test_a_registry_that_is_not_there_is_told_as_that(
    tiny: images.Image, project: Project, console: Console
) -> None:
    with pytest.raises(CannotRun, match="The registry cannot be reached"):
        registry.push(project, [tiny], f"{HOST}:{free_port()}", console)
