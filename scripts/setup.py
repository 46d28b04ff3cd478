"""Set-up: an environment per framework, and the one export that all of them serve."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from scripts.environments import Environment, find_uv, make, pip_settings, run_step, uv_environment
from scripts.errors import CannotRun
from scripts.project import Project, Service
from scripts.shown import Say, shown

EXPORT_STAMP = ".model-stamp"


def set_up(
    project: Project,
    names: Sequence[str],
    export_options: Sequence[str],
    console: Console,
    environments: bool = True,
    go_on: bool = False,
) -> None:
    """Make what is missing for the named frameworks (all of them if none is named), and the export.

    Without `environments` only the export: in a cluster, images take their place. With `go_on`, for where
    nobody asked for just these, one that cannot be made does not keep the others from being made.

    What is there and up to date costs a look at its stamp. `export_options` go to `services/model/export.py`,
    which is always asked when there are any; an export that was made with some stays without them.

    Raises:
        UserError: there is no such framework.
        CannotRun: something could not be made; the message says what to do.

    """
    services = project.select(names or project.services())
    if go_on:  # all that can be had here, as `run` measures all that is installed
        absent = [service for service in services if environment_needs_python(service)]
        for service in absent:
            told = f"{service.name} is left out: {service.facts.python} is not here"
            console.print(told, highlight=False, markup=False)
        services = [service for service in services if service not in absent]
    theirs = [service.environment for service in services if service.environment and environments]
    model = project.model_environment()
    wanted = [each for each in dict.fromkeys([model, *theirs]) if each and each.state() != "fresh"]
    export_needed = model is not None and (bool(export_options) or not export_is_fresh(project))
    if not wanted and not export_needed:
        return
    uv = find_uv(project.root)
    if uv is None:
        raise CannotRun("uv is not installed: run `make setup`, or `pip install uv`.")
    variables = uv_environment(os.environ, pip_settings(os.environ))
    steps = [Step(each.name, f"{each.name}: installing", _installer(each, uv, variables)) for each in wanted]
    if export_needed and model is not None:  # before the others: all that work serve it
        export = _exporter(project, model, export_options)
        after_model = int(model in wanted)
        steps.insert(after_model, Step("the export", "artifacts/model: exporting and checking", export))
    _take(steps, console, go_on)


class Step(NamedTuple):
    """Something that set-up makes."""

    name: str
    title: str
    work: Callable[[Say], None]


def _take(steps: Sequence[Step], console: Console, go_on: bool) -> None:
    """Take the steps in their order; with `go_on` those that fail are told at the end, after the others.

    Raises:
        CannotRun: something could not be made.

    """
    failed: dict[str, CannotRun] = {}
    for number, step in enumerate(steps, 1):
        try:
            shown(console, f"[{number}/{len(steps)}] {step.title}", step.work)
        except CannotRun as error:
            if not go_on or len(steps) == 1:
                raise
            failed[step.name] = error
            console.print(f"{step.name} could not be made", highlight=False, markup=False)
    if failed:
        reasons = "\n\n".join(f"{name}: {error}" for name, error in failed.items())
        raise CannotRun(
            f"Could not be made: {', '.join(failed)}. What else was missing is made.\n\n{reasons}"
        )


def environment_needs_python(service: Service) -> bool:
    """Tell whether the framework insists on an interpreter that is not on this machine."""
    python = service.facts.python
    return python is not None and Path(python).is_absolute() and not Path(python).exists()


def export_is_fresh(project: Project) -> bool:
    """Tell whether `artifacts/model` was made, wholly, by the code that is there now."""
    stamp = project.model_dir.parent / EXPORT_STAMP
    manifest = project.model_dir / "manifest.json"
    return manifest.exists() and stamp.exists() and stamp.read_text() == _export_digest(project)


def _export_digest(project: Project) -> str:
    digest = hashlib.sha256()
    folder = project.root / "services" / "model"
    for file in sorted([*folder.rglob("*.py"), folder / "requirements.txt"]):
        if file.exists():
            digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _installer(environment: Environment, uv: str, variables: Mapping[str, str]) -> Callable[[Say], None]:
    return lambda say: make(environment, uv, variables, say)


def _exporter(project: Project, model: Environment, options: Sequence[str]) -> Callable[[Say], None]:
    def export(say: Say) -> None:
        digest = _export_digest(project)
        command = [str(model.interpreter), "-m", "services.model.export", "--out", str(project.model_dir)]
        variables = {**os.environ, "PYTHONPATH": str(project.root), "PYTHONUNBUFFERED": "1"}
        run_step([*command, *options], variables, say, cwd=project.root)
        Path(project.model_dir.parent / EXPORT_STAMP).write_text(digest)

    return export
