"""Container images: one per framework and one for the load side, all with the same export inside.

What is up to date, Docker's own cache decides; nothing is rebuilt that would come out the same. The model's
digest is a label of each image, and the build fails if the model inside is another.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from scripts.environments import pip_settings, run_step
from scripts.errors import CannotRun, UserError, nearest
from scripts.project import Project
from scripts.shown import Say, shown

LOAD_SIDE = "locust"
DIGEST_LABEL = "modelswarm.model.digest"
STAND_IN_LABEL = "modelswarm.stand_in"
OFFICIAL = "Dockerfile.official"
"""Beside the Dockerfile of a stand-in: the same image of the framework itself."""
PART_LABEL = "modelswarm.part"
"""On a stage of a build that the image itself does not contain."""
_OWN_STEPS = "# own\n"
"""The line in a Dockerfile after which its steps are no longer those of the others."""
_PIP_ARGUMENTS = ("index-url", "extra-index-url", "find-links", "trusted-host")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class Image:
    """An image that the project can build."""

    name: str
    dockerfile: Path
    reference: str
    role: str
    """`server` or `generator`: the nodes it is for."""


@dataclass(frozen=True)
class Built:
    """An image as Docker has it."""

    id: str
    size_bytes: int
    model_digest: str
    """Empty when it was not built by `modelswarm images build`."""
    stand_in: bool | None = None
    """Whether a stand-in plays the framework's part in it; None of frameworks that need none."""


def version() -> str:
    """Return the tag of this version's images, which the manifests name."""
    return metadata.version("modelswarm")


def find_images(project: Project, names: Sequence[str] = ()) -> list[Image]:
    """Return the images of the named backends, of all that have a Dockerfile if none is named, and Locust's.

    Raises:
        UserError: there is no such backend, or it has no Dockerfile.

    """
    services = {
        name: service
        for name, service in project.services().items()
        if (service.folder / "Dockerfile").exists()
    }
    chosen = [name for name in dict.fromkeys(names) if name != LOAD_SIDE]
    for name in chosen:
        if name not in services:
            raise UserError(f"There is no image {name!r}; {nearest(name, [*services, LOAD_SIDE])}")
    if not names:
        chosen = list(services)
    found = [
        Image(
            name=name,
            dockerfile=services[name].folder / "Dockerfile",
            reference=f"{services[name].facts.image.get('name', f'modelswarm/{name}')}:{version()}",
            role="server",
        )
        for name in chosen
    ]
    file = project.root / "k8s" / LOAD_SIDE / "Dockerfile"
    return [Image(LOAD_SIDE, file, f"modelswarm/{LOAD_SIDE}:{version()}", "generator"), *found]


def model_digest(project: Project) -> str:
    """Return the digest of the export that images are built from.

    Raises:
        CannotRun: there is none.

    """
    try:
        return str(json.loads((project.model_dir / "manifest.json").read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotRun("There is no export to put into images: run `modelswarm setup`.") from error


def build(
    project: Project,
    images: Sequence[Image],
    console: Console,
    arguments: Mapping[str, str] | None = None,
    jobs: int = 2,
    official: bool | None = None,
) -> dict[str, Built]:
    """Build images, a few at a time, and return them by name; `arguments` are further build arguments.

    Where a framework has a stand-in, `official` chooses between the two; None keeps what Docker has.
    The first of those that begin with the same steps goes ahead: the others find them in Docker's cache.

    Raises:
        CannotRun: Docker is not there, or a build failed; the message has its last lines.

    """
    require_docker()
    images = _chosen(images, official)
    given = {
        **_pip_arguments(pip_settings(os.environ)),
        **{name: os.environ[name] for name in _PROXIES if os.environ.get(name)},
        "MODEL_DIGEST": model_digest(project),
        "VERSION": version(),
        "SOURCE": _source(project.root),
        **(arguments or {}),
    }
    flags = [part for key, value in given.items() for part in ("--build-arg", f"{key}={value}")]
    # The switch makes BuildKit, where there is one, give the same image for the same files.
    environ = {**os.environ, "BUILDKIT_PROGRESS": "plain", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}

    def build_one(image: Image, say: Say) -> str:
        file = str(image.dockerfile.relative_to(project.root))
        before = inspect([image])
        command = ["docker", "build", "-f", file, "-t", image.reference, *flags, "."]
        run_step(command, environ, say, project.root)
        after = inspect([image])[image.name]
        new = image.name not in before or before[image.name].id != after.id
        return f"{'built' if new else 'up to date'}, {after.size_bytes / 1e6:,.0f} MB"

    for wave in _waves(images):
        _each(wave, build_one, console, jobs)
    return inspect(images)


def _chosen(images: Sequence[Image], official: bool | None) -> list[Image]:
    """Return the images, each with the Dockerfile asked for, else with the one that it was built from."""
    built = inspect(images) if official is None else {}
    found = []
    for image in images:
        other = image.dockerfile.with_name(OFFICIAL)
        was_real = image.name in built and built[image.name].stand_in is False
        found.append(replace(image, dockerfile=other) if (official or was_real) and other.exists() else image)
    return found


def _waves(images: Iterable[Image]) -> list[list[Image]]:
    first: dict[str, Image] = {}
    rest: list[Image] = []
    for image in images:
        head = image.dockerfile.read_text().split(_OWN_STEPS)[0]
        head = head[head.find("\nFROM ") :]
        if first.setdefault(head, image) is not image:
            rest.append(image)
    return [list(first.values()), rest]


def inspect(images: Iterable[Image]) -> dict[str, Built]:
    """Return, by name, those of the images that Docker has."""
    images = list(images)
    found = _inspect([image.reference for image in images])
    return {image.name: found[image.reference] for image in images if image.reference in found}


def require_built(images: Sequence[Image]) -> dict[str, Built]:
    """Return, by name, the images as Docker has them.

    Raises:
        CannotRun: one is not built.

    """
    require_docker()
    built = inspect(images)
    for image in images:
        if image.name not in built:
            raise CannotRun(f"{image.reference} is not built: run `modelswarm images build` first.")
    return built


def _inspect(references: Sequence[str]) -> dict[str, Built]:
    found: dict[str, Built] = {}
    for row in _rows(references):
        labels = row["Config"].get("Labels") or {}
        stand_in = {"true": True, "false": False}.get(labels.get(STAND_IN_LABEL, ""))
        built = Built(row["Id"], row["Size"], labels.get(DIGEST_LABEL, ""), stand_in)
        found |= {tag: built for tag in row.get("RepoTags") or () if tag in references}
    return found


def repo_digests(reference: str) -> list[str]:
    """Return an image's names by digest in the registries that it was pushed to or pulled from."""
    return [each for row in _rows([reference]) for each in row.get("RepoDigests") or ()]


def _rows(references: Sequence[str]) -> list[dict[str, Any]]:
    """Return what Docker says of those of the images that it has."""
    if not references:
        return []
    command = ["docker", "image", "inspect", *references]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return rows


def table(project: Project, images: Sequence[Image]) -> Table:
    """Return what is built: reference, size, and whether the model inside is the project's export."""
    built, digest = inspect(images), model_digest(project)
    rows = Table("image", "reference", "size", "model")
    for image in images:
        if its := built.get(image.name):
            size = f"{its.size_bytes / 1e6:,.0f} MB"
            rows.add_row(image.name, image.reference, size, agreement(its, digest)[1])
        else:
            rows.add_row(image.name, image.reference, "", "not built")
    return rows


def agreement(built: Built, digest: str) -> tuple[bool, str]:
    """Return whether an image holds the export of that digest, and the words for it."""
    if not built.model_digest:
        return False, "unknown: not built by `modelswarm images build`"
    short = f"{built.model_digest[:19]}…"
    return (True, short) if built.model_digest == digest else (False, f"{short}, not the export")


def remove(images: Iterable[Image]) -> None:
    """Remove images from Docker; layers that others use stay."""
    names = [image.reference for image in images]
    present = list(_inspect(names))
    if present:
        subprocess.run(["docker", "image", "rm", *present], capture_output=True, check=False)


def has_build_cache() -> bool:
    """Tell whether Docker keeps a build cache apart from the images, as BuildKit does."""
    command = ["docker", "system", "df", "--format", "{{.Type}}={{.Size}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return found.get("Build Cache", "0B") != "0B"


def docker_fault() -> str | None:
    """Return why Docker cannot be used here, None if it can."""
    if not shutil.which("docker"):
        return "Docker is not installed"
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return "Docker's daemon has not answered for 20 s"
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        return f"Docker's daemon does not answer ({''.join(last)})"
    return None


def require_docker() -> None:
    """Look whether Docker can be used.

    Raises:
        CannotRun: it cannot; the sentence says what to do.

    """
    if fault := docker_fault():
        raise CannotRun(
            f"{fault}: install it, start its daemon, or put your user into the group `docker`. "
            "`--target local` needs none."
        )


def _pip_arguments(settings: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings as build arguments, less folders of this machine, which a build does not see."""
    arguments = {}
    for key in _PIP_ARGUMENTS:
        words = settings.get(key, "").split()
        seen = [word for word in words if key == "trusted-host" or word.startswith(("http:", "https:"))]
        if seen:
            arguments[f"PIP_{key.upper().replace('-', '_')}"] = " ".join(seen)
    return arguments


def _source(root: Path) -> str:
    """Return where the project's code comes from, without a password that the address may have."""
    command = ["git", "-C", str(root), "config", "--get", "remote.origin.url"]
    try:
        url = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        url = ""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https", "ssh", "git"):
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return "local"


def _each(images: Sequence[Image], work: Callable[[Image, Say], str], console: Console, jobs: int) -> None:
    """Do the work for each image, at most `jobs` at once, with a line that lives for each."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    progress = Progress(*columns, console=console, transient=True)

    def one(image: Image) -> None:
        shown(console, image.name, lambda say: work(image, say), progress)

    with progress if console.is_terminal else nullcontext(), ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, image) for image in images]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
