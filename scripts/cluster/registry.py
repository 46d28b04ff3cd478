"""Images in a registry: pushed there, and named by the digests that it gave them.

A tag may be given to another image at any time; a digest is one image for ever. So what was pushed is written
down with its digest and the model inside, and a run in a cluster takes exactly that.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from typing import TypedDict

from rich.console import Console

from scripts.cluster.images import Built, Image, model_digest, repo_digests, require_built
from scripts.environments import run_step
from scripts.errors import CannotRun, UserError
from scripts.project import Project
from scripts.shown import Say, shown

PUSHED = "pushed.json"
"""In artifacts/: what was pushed, by its name and tag in the registry."""
_HUB = "docker.io"
_HUBS = (_HUB, "index.docker.io", "registry-1.docker.io")


class Pushed(TypedDict):
    """An image in a registry."""

    reference: str
    """By digest."""
    model_digest: str
    stand_in: bool | None


def named(registry: str, reference: str) -> str:
    """Return the name, with tag, of a project's image in a registry.

    Docker Hub knows no folders below an account: there `modelswarm/x` becomes `modelswarm-x`.

    Raises:
        UserError: Docker Hub is meant, but not one account there.

    """
    host, _, path = _full(registry.strip("/")).partition("/")
    if host not in _HUBS:
        return "/".join(part for part in (host, path, reference) if part)
    if not path or "/" in path:
        raise UserError(f"--registry {registry} is not an account on Docker Hub; write docker.io/ACCOUNT.")
    return f"{_HUB}/{path}/{reference.replace('/', '-')}"


def _full(name: str) -> str:
    """Return a name with its host, which is Docker Hub's where the first part is none, as Docker reads it."""
    first = name.partition("/")[0]
    is_host = "." in first or ":" in first or first == "localhost"
    return name if is_host else f"{_HUB}/{name}"


def push(project: Project, images: Sequence[Image], registry: str, console: Console) -> dict[str, str]:
    """Push images to a registry and return, by name, the reference with the digest that it now has there.

    Raises:
        UserError: the registry cannot hold them under such names.
        CannotRun: an image is not built, or the registry refused it.

    """
    targets = {image.name: named(registry, image.reference) for image in images}
    built = require_built(images)
    references: dict[str, str] = {}
    for image in images:

        def push_one(say: Say, image: Image = image, target: str = targets[image.name]) -> str:
            run_step(["docker", "tag", image.reference, target], os.environ, say)
            run_step(["docker", "push", target], os.environ, say)
            references[image.name] = _by_digest(target)
            _write_down(project, target, references[image.name], built[image.name])
            return references[image.name]

        shown(console, image.name, push_one)
    return references


def _by_digest(target: str) -> str:
    """Return the reference by digest of what was pushed under that name; Docker leaves its Hub's host out."""
    repository = target.rpartition(":")[0]
    for each in repo_digests(target):
        name, _, digest = each.partition("@")
        if _full(name) == repository:
            return f"{repository}@{digest}"
    raise CannotRun(f"{target} was pushed, but Docker knows no digest of it: push it again.")


def _write_down(project: Project, target: str, reference: str, built: Built) -> None:
    known = pushed(project)
    known[target] = {
        "reference": reference,
        "model_digest": built.model_digest,
        "stand_in": built.stand_in,
    }
    file = project.root / "artifacts" / PUSHED
    file.write_text(json.dumps(known, indent=1) + "\n")


def pushed(project: Project) -> dict[str, Pushed]:
    """Return what was pushed from this project's folder, by name and tag in the registry."""
    known: dict[str, Pushed] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads((project.root / "artifacts" / PUSHED).read_text())
    return known


def references(project: Project, images: Sequence[Image], registry: str, console: Console) -> dict[str, str]:
    """Return, by the name in the manifests, what to pull each image by: its digest where that is known.

    Raises:
        UserError: the registry cannot hold them under such names.
        CannotRun: what was pushed holds another model than the project's export.

    """
    known, digest = pushed(project), model_digest(project)
    found, by_tag = dict[str, str](), list[str]()
    for image in images:
        target = named(registry, image.reference)
        its = known.get(target)
        if its is None:
            by_tag.append(image.name)
        elif its["model_digest"] != digest:
            model = its["model_digest"][:19] or "of an unknown digest"
            raise CannotRun(
                f"{target} was pushed with the model {model}, and the export is {digest[:19]}: run "
                f"`modelswarm images build`, then `modelswarm images push --registry {registry}`."
            )
        found[image.reference] = target if its is None else its["reference"]
    if by_tag:
        console.print(
            f"By tag, the model inside not verified: {', '.join(by_tag)}. What `modelswarm images push` "
            "pushes from here is taken by its digest.",
            highlight=False,
            markup=False,
        )
    return found
