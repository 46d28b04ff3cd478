"""Commands about this machine: what is there, setting up, images, whether it is ready, cleaning up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.commands.options import (
    Json,
    KubeContext,
    Namespace,
    app,
    console,
    examples,
    names_in,
    project_of,
)
from scripts.errors import OK, UNMEASURED, UserError, nearest

if TYPE_CHECKING:
    pass


WEIGHTS = ("auto", "imagenet", "synthetic")
IMAGE_ACTIONS = ("list", "build", "load", "push")


@app.command("list", epilog=examples("modelswarm list", "modelswarm list --json"))
def list_backends(context: typer.Context, as_json: Json = False) -> None:
    """Show every backend of the project: version, protocol, port, and whether it is installed."""
    services = project_of(context).services().values()
    if as_json:
        print(json.dumps([service.listing() for service in services], indent=1))
        return
    from rich.table import Table

    table = Table("backend", "framework", "version", "protocol", "port", "options", "installed")
    for row in [service.listing() for service in services]:
        title = f"{row['title']} (stand-in)" if row["stand_in"] else row["title"]
        protocols = "\n".join(row["protocols"])
        ports = "\n".join(str(port) for port in row["protocols"].values())
        options = "\n".join(f"{name}={option['default']}" for name, option in row["options"].items())
        table.add_row(row["name"], title, row["version"], protocols, ports, options, row["missing"] or "yes")
    console().print(
        table if services else "There is no backend: add a folder services/NAME with a service.toml."
    )


@app.command(
    epilog=examples(
        "modelswarm setup", "modelswarm setup fastapi bentoml", "modelswarm setup --images ~/pictures"
    )
)
def setup(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Backends; none means all.")] = None,
    plan: Annotated[
        str | None, typer.Option(help="Without names: the backends of this plan, if it names any.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Export again with auto, imagenet or synthetic weights.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Export again with your own test images.", exists=True, file_okay=False),
    ] = None,
    target: Annotated[
        str, typer.Option(help="In kind or a cluster, images take the place of the environments.")
    ] = "local",
) -> None:
    """Make the backends' environments and the one export that they all serve; quick when they are there."""
    from scripts.setup import set_up

    if weights not in (None, *WEIGHTS):
        raise UserError(f"There are no weights {weights!r}; {nearest(weights, WEIGHTS)}")
    options = ["--weights", weights] if weights else []
    options += ["--images", str(images.resolve())] if images else []
    project, wanted = project_of(context), names_in(names)
    go_on = not wanted
    if plan and not wanted:
        from scripts.plan import read_plan
        from scripts.run import planned

        # Without its objectives: `run` may be given others, or the baseline that they need.
        wanted = planned(project, plan, read_plan(plan, {"objectives": ()}).backends)
    if target == "local":
        set_up(project, wanted, options, console(), go_on=go_on)
        return
    from scripts.cluster.web_password import web_password
    from scripts.places import Wish, resolve

    where = resolve(project, Wish(target), console())
    set_up(project, wanted, options, console(), environments=where == "local", go_on=go_on)
    web_password(project)


@app.command(
    epilog=examples(
        "modelswarm images",
        "modelswarm images build --backends fastapi,bentoml",
        "modelswarm images build --build-arg TORCH=torch==2.13.0",
        "modelswarm images load",
        "modelswarm images push --registry registry.example.com/team",
    )
)
def images(
    context: typer.Context,
    action: Annotated[str, typer.Argument(help="list, build, load (into kind) or push.")] = "list",
    backends: Annotated[
        list[str] | None, typer.Option(help="Whose images, beside Locust's; default: all that have one.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(envvar="MODELSWARM_REGISTRY", help="Where `push` pushes to.")
    ] = None,
    cluster: Annotated[str, typer.Option(help="The kind cluster that `load` loads into.")] = "modelswarm",
    jobs: Annotated[int, typer.Option(help="How many are built at once.", min=1)] = 2,
    build_arg: Annotated[
        list[str] | None, typer.Option("--build-arg", help="NAME=VALUE for the Dockerfiles; repeat.")
    ] = None,
    official: Annotated[
        bool | None,
        typer.Option(help="The framework itself or its stand-in, where it has one; default: as before."),
    ] = None,
) -> None:
    """Build the container images, load them into kind, push them to a registry, or show them."""
    from scripts.cluster.images import build, find_images, require_docker, table
    from scripts.cluster.kind import load
    from scripts.cluster.registry import push

    if action not in IMAGE_ACTIONS:
        raise UserError(f"There is no action {action!r}; {nearest(action, IMAGE_ACTIONS)}")
    if action == "push" and not registry:
        raise UserError("Write where to push: --registry registry.example.com/team, or MODELSWARM_REGISTRY.")
    arguments = dict(named(text) for text in build_arg or [])
    project, terminal = project_of(context), console()
    require_docker()
    chosen = find_images(project, names_in(backends))
    if action == "build":
        build(project, chosen, terminal, arguments, jobs, official)
    if action == "load":
        load(project, chosen, terminal, cluster)
    if action == "push" and registry:
        push(project, chosen, registry, terminal)
    if action in ("list", "build"):
        terminal.print(table(project, chosen))


def named(text: str) -> tuple[str, str]:
    """Split NAME=VALUE.

    Raises:
        UserError: it is not of that form.

    """
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise UserError(f"--build-arg {text!r} is not NAME=VALUE; write TORCH=torch==2.13.0, for example.")
    return name, value


@app.command(epilog=examples("modelswarm doctor"))
def doctor(context: typer.Context) -> None:
    """Look whether this machine is ready to measure, and say what to do where it is not."""
    from rich.markup import escape

    from scripts.doctor import examine

    marks = {"ok": "[green]ok[/]    ", "note": "[yellow]note[/]  ", "wrong": "[red]wrong[/] "}
    terminal, wrong = console(), False
    for finding in examine(project_of(context)):
        wrong = wrong or finding.state == "wrong"
        text = f"{finding.what}: {finding.found}" + (f" -> {finding.advice}" if finding.advice else "")
        terminal.print(marks[finding.state] + escape(text), highlight=False)
    raise typer.Exit(UNMEASURED if wrong else OK)


@app.command(
    epilog=examples(
        "modelswarm clean",
        "modelswarm clean --results --yes",
        "modelswarm clean --all",
        "modelswarm clean --target kind",
    )
)
def clean(
    context: typer.Context,
    results: Annotated[bool, typer.Option("--results", help="Also the runs in results/.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also the runs and .venv.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    target: Annotated[
        str, typer.Option(help="local, kind (its cluster and the images), or cluster (the namespace).")
    ] = "local",
    kube_context: KubeContext = None,
    namespace: Namespace = "modelswarm",
) -> None:
    """Remove what can be made again: framework environments, the export, caches; or what is in a cluster."""
    from scripts.clean import removable, remove, size_bytes

    project = project_of(context)
    if target not in ("local", "auto"):
        from scripts.places import Wish, clear

        for option, given in (("--results", results), ("--all", everything)):
            if given:
                raise UserError(
                    f"{option} is about this machine, not about {target}: leave one of the two out."
                )
        clear(project, Wish(target, kube_context, None, namespace), console(), ask=not yes)
        return
    paths = removable(project, results, everything)
    if not paths:
        print("There is nothing to remove.")
        return
    for path in paths:
        print(f"{size_bytes(path) / 1e6:10.1f} MB  {path.relative_to(project.root)}")
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Remove these from {project.root}?")):
        raise UserError("Nothing was removed: say --yes to remove what is listed.")
    for path in paths:
        remove(path)
