"""Is this machine ready to measure? A line for each thing looked at, with what to do about it."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from scripts.cluster.images import agreement, docker_fault, find_images, inspect, model_digest
from scripts.cores import split_cores, usable_cores
from scripts.environments import find_uv
from scripts.errors import UserError
from scripts.load_side import load_side
from scripts.project import Project
from scripts.server import port_is_free
from scripts.setup import export_is_fresh

WEB_UI_PORT = 8089
NEEDED_FILES = 4096
NEEDED_GB = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `wrong` stops a measurement, `note` does not."""

    state: Literal["ok", "note", "wrong"]
    what: str
    found: str
    advice: str = ""


def examine(project: Project) -> Iterator[Finding]:
    """Look at everything a run needs, the cheap things first."""
    yield _python(project)
    yield _uv(project)
    yield _cores()
    yield _open_files()
    yield _disk(project)
    yield _web_ui()
    yield _model(project)
    yield from _environments(project)
    for tool, use in [("git", "development"), ("kind", "a cluster"), ("kubectl", "a cluster")]:
        yield _tool(tool, use)
    yield from _images(project)


def _python(project: Project) -> Finding:
    found = f"{platform.python_version()} in {sys.prefix}"
    if load_side(project.root).state() != "fresh":
        return Finding("note", "Python", found, "the load side's .venv is not up to date: run `make setup`")
    return Finding("ok", "Python", found)


def _uv(project: Project) -> Finding:
    uv = find_uv(project.root)
    if uv is None:
        return Finding("wrong", "uv", "not found", "run `make setup`, which brings its own")
    version = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return Finding("ok", "uv", f"{version or 'unknown version'} ({uv})")


def _cores() -> Finding:
    usable = usable_cores()
    cores = split_cores(usable, 1)
    if cores.not_held:
        advice = "measure on a machine with two cores or more, or read latencies as upper bounds"
        return Finding("note", "cores", " ".join(cores.not_held), advice)
    server, generator = (", ".join(map(str, part)) for part in (cores.server, cores.generator))
    return Finding("ok", "cores", f"{len(usable or ())}: the server gets {server}, the generator {generator}")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"limit {soft} (at most {hard})"
    if 0 <= soft < NEEDED_FILES:
        return Finding("note", "open files", found, f"for many in flight: `ulimit -n {NEEDED_FILES}`")
    return Finding("ok", "open files", found)


def _disk(project: Project) -> Finding:
    free_gb = shutil.disk_usage(project.root).free / 1e9
    found = f"{free_gb:.1f} GB free in {project.root}"
    if free_gb < NEEDED_GB:
        advice = "free some: `modelswarm clean` removes what can be made again, `--results` old runs"
        return Finding("wrong" if free_gb < 0.2 else "note", "disk", found, advice)
    return Finding("ok", "disk", found)


def _web_ui() -> Finding:
    if port_is_free(WEB_UI_PORT):
        return Finding("ok", "web UI port", f"{WEB_UI_PORT} is free")
    return Finding(
        "note", "web UI port", f"{WEB_UI_PORT} is in use", "name another: `modelswarm ui --port 8090`"
    )


def _model(project: Project) -> Finding:
    try:
        manifest = json.loads((project.model_dir / "manifest.json").read_text())
        found = f"{manifest['digest'][:19]}…, {manifest['weights']['source']} weights"
    except (OSError, ValueError, KeyError, TypeError):
        return Finding("wrong", "model", "there is no export", "run `modelswarm setup`")
    if project.model_environment() is not None and not export_is_fresh(project):
        return Finding("note", "model", found, "services/model has changed since: run `modelswarm setup`")
    return Finding("ok", "model", found)


def _environments(project: Project) -> Iterator[Finding]:
    try:
        services = project.services()
    except UserError as error:
        yield Finding("wrong", "services", str(error), "correct that file")
        return
    installed = [name for name, service in services.items() if service.missing() is None]
    for name, service in services.items():
        reason = service.missing()
        if reason is None:
            where = f".venvs/{name}" if service.environment else "the load side's .venv"
            yield Finding("ok", name, f"{service.facts.title} {service.facts.version} in {where}")
        else:
            yield Finding("note" if installed else "wrong", name, "cannot be measured", reason)
    if not services:
        yield Finding("wrong", "services", "there is none", "add a folder services/NAME with a service.toml")


def _images(project: Project) -> Iterator[Finding]:
    """Look whether the images, where there are any, hold the export that is here."""
    if fault := docker_fault():
        yield Finding("note", "docker", fault, "needed only for a cluster")
        return
    yield Finding("ok", "docker", shutil.which("docker") or "")
    try:
        images, digest = find_images(project), model_digest(project)
    except UserError:  # told already, by the findings on services and model
        return
    built = inspect(images)
    for image in images:
        if image.name in built:
            same, words = agreement(built[image.name], digest)
            found = f"{built[image.name].size_bytes / 1e6:,.0f} MB, model {words}"
            advice = "" if same else "run `modelswarm images build`"
            yield Finding("ok" if same else "note", image.reference, found, advice)


def _tool(name: str, use: str) -> Finding:
    path = shutil.which(name)
    return Finding("ok", name, path) if path else Finding("note", name, "not found", f"needed only for {use}")
