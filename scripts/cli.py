"""The `modelswarm` command. Commands only: what they do is in the modules that they import when they run.

Imports are inside the commands, so that each starts with no more than it needs.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripts.errors import OK, UNMEASURED, CannotRun, UserError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from scripts.plan import Plan
    from scripts.project import Project
    from scripts.stop import Stop
    from scripts.target import Target

WEIGHTS = ("auto", "imagenet", "synthetic")
IMAGE_ACTIONS = ("list", "build", "load", "push")


def examples(*lines: str) -> str:
    """Format a command's examples for the end of its help."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    help="Which model server should I run for this model, on this hardware, at this load?",
    epilog="Exit status: 0 all held; 1 an objective was missed or a regression shown; "
    "2 wrong usage or input; 3 the measurement is not valid, or a trial could not be made.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Where = Annotated[str, typer.Option(help="Where: auto, local, kind or cluster.")]
KubeContext = Annotated[
    str | None, typer.Option("--context", help="Context of your kubeconfig; default: the current one.")
]
Namespace = Annotated[str, typer.Option(help="Namespace in the cluster, made where it is missing.")]
Registry = Annotated[
    str | None,
    typer.Option(envvar="MODELSWARM_REGISTRY", help="Where a cluster gets the images from."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Baseline = Annotated[
    str | None, typer.Option(help='The run that "p99 < 1.2 * baseline" holds this one against.')
]


def price(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """Let a price through that is one: not negative, and neither infinite nor `nan`."""
    if value is not None and not 0 <= value < math.inf:
        option = parameter.opts[0]
        raise UserError(f"{option} {value:g} is not a price: write a number such as {option} 0.04.")
    return value


PriceCpu = Annotated[
    float | None, typer.Option(help="Price of a vCPU-hour, for the cost table.", callback=price)
]
PriceMemory = Annotated[float | None, typer.Option(help="Price of a GiB-hour of memory.", callback=price)]
Junit = Annotated[Path | None, typer.Option(help="Also write junit.xml here.", dir_okay=False)]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    root: Annotated[
        Path | None,
        typer.Option(envvar="MODELSWARM_ROOT", help="The project; default: the nearest parent that is one."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Which model server should I run for this model, on this hardware, at this load?"""
    if version:
        from importlib import metadata

        print(f"modelswarm {metadata.version('modelswarm')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit
    context.obj = root


def project_of(context: typer.Context) -> Project:
    """Return the project that the command is about."""
    from scripts.project import Project, find_root

    return Project(find_root(context.obj, os.environ, Path.cwd()))


def console() -> Console:
    """Return the terminal, or whatever stands in its place."""
    from rich.console import Console

    # A log has no edge to wrap at, and a table needs one.
    return Console() if sys.stdout.isatty() else Console(width=shutil.get_terminal_size((140, 24)).columns)


def names_in(values: list[str] | None) -> list[str]:
    """Split what may be given several times, or as one text with commas or spaces."""
    return [name for value in values or [] for name in value.replace(",", " ").split()]


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
    if plan and not wanted:
        from scripts.plan import read_plan

        known = project.services()  # a name that is not is told by `run`
        wanted = [name for name in read_plan(plan).backends if name.partition("+")[0] in known]
    if target == "local":
        set_up(project, wanted, options, console())
        return
    from scripts.places import Wish, resolve
    from scripts.web_password import web_password

    where = resolve(project, Wish(target), console())
    set_up(project, wanted, options, console(), environments=where == "local")
    web_password(project)


@app.command(
    epilog=examples(
        "modelswarm run",
        "modelswarm run shapes --backends fastapi,bentoml --trials 3",
        "modelswarm run --backends bentoml,bentoml+batching,fastapi+workers=2",
        'modelswarm run ci --objective "p95 < 200ms" --objective "error_rate < 1%"',
        "modelswarm run shapes --backends fastapi,bentoml --scenarios constant --sequential --trials 15",
        "modelswarm run my-plan.toml --dry-run",
    )
)
def run(
    context: typer.Context,
    plan: Annotated[str, typer.Argument(help="A shipped plan's name, or a .toml file.")] = "quick",
    backends: Annotated[
        list[str] | None,
        typer.Option(help="Which backends, with options after a plus; repeat, or separate by commas."),
    ] = None,
    scenarios: Annotated[list[str] | None, typer.Option(help="Which of the plan's scenarios.")] = None,
    trials: Annotated[int | None, typer.Option(help="How often each is measured.")] = None,
    sequential: Annotated[
        bool | None,
        typer.Option(
            "--sequential/--no-sequential",
            help="Stop once each pair is settled, one slower or both equivalent; --trials (20) is the most.",
        ),
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="With --sequential: a difference that does not matter. Default: 5%.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the order and the random arrivals.")] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help='What must hold, such as "p95 < 500ms"; repeat.')
    ] = None,
    baseline: Baseline = None,
    price_cpu: PriceCpu = None,
    price_memory: PriceMemory = None,
    junit: Junit = None,
    target: Where = "auto",
    kube_context: KubeContext = None,
    registry: Registry = None,
    namespace: Namespace = "modelswarm",
    detach: Annotated[
        bool, typer.Option("--detach", help="Let the run in the cluster go on by itself; see attach.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of runs. Default: results in the project.")] = None,
    threads: Annotated[int | None, typer.Option(help="Intra-op threads and cores of the server.")] = None,
    workers: Annotated[int, typer.Option(help="Locust workers.", min=1)] = 2,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a long run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the trials and their time.")] = False,
) -> None:
    """Measure backends by a plan, one at a time, and write the report.

    Ctrl-C once finishes the folder, stops every process and reports what is there (exit status 3).
    """
    from scripts.comparing import share
    from scripts.looks import first_facts
    from scripts.places import Wish, furnish, lacking, resolve
    from scripts.plan import read_plan, shipped_plans
    from scripts.project import Service
    from scripts.reporting import require_cells
    from scripts.run import choose_services
    from scripts.session import measure, show_order

    project, terminal = project_of(context), console()
    changes: dict[str, Any] = {"trials": trials, "seed": seed, "threads": threads}
    changes |= {"baseline": baseline, "price_cpu": price_cpu, "price_memory": price_memory}
    changes |= {"sequential": sequential, "margin": share(margin) if margin else None}
    changes |= {"objectives": objective or None, "backends": names_in(backends) or None}
    chosen = with_baseline(project, read_plan(plan, changes).with_scenarios(names_in(scenarios)))
    wish = Wish(target, kube_context, registry, namespace, detach)
    where = resolve(project, wish, terminal)
    given = bool(names_in(backends)) or plan not in shipped_plans()
    services, left_out = choose_services(
        project,
        chosen.backends if given else (),
        Service.missing if where == "local" else lacking,
        proposed=chosen.backends,
    )
    for sentence in left_out:
        terminal.print(sentence, highlight=False, markup=False)
    if margin and not chosen.sequential:
        raise UserError(f"--margin {margin} is for a run that stops when it is settled: add --sequential.")
    require_cells(
        chosen.objectives,
        [service.key for service in services],
        [scenario.name for scenario in chosen.scenario],
        bool(chosen.baseline),
    )
    first_facts(chosen, services, where)  # before anything is built or started
    if dry_run:
        show_order(chosen, services, terminal)
        return
    runs = out or project.results

    def open_target(stop: Stop) -> Target:
        if where == "local":
            from scripts.local import LocalTarget

            return LocalTarget(project, chosen, services, workers)
        from scripts.cluster import ClusterTarget

        place = furnish(project, where, wish, services, terminal)
        cluster = ClusterTarget(project, chosen, workers, place, stop)
        cluster.refuse_taken()
        return cluster

    if detach:
        if junit:
            raise UserError("--junit does not go with --detach: the run's folder gets its junit.xml.")
        from scripts.attach import start_detached

        raise typer.Exit(start_detached(project, chosen, services, open_target, runs, terminal))
    raise typer.Exit(
        measure(project, chosen, services, open_target, runs, terminal, ask=not yes, junit=junit)
    )


@app.command(
    epilog=examples(
        "modelswarm ab out --control blue --weights blue=90,green=10",
        "modelswarm ab latest --control v1 --margin 2% --json",
    )
)
def ab(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run or record made with --variant-by, or `latest`.")],
    control: Annotated[str, typer.Option(help="The variant that is in use now.")],
    weights: Annotated[
        str, typer.Option(help="How requests were to be split: blue=90,green=10. Default: evenly.")
    ] = "",
    margin: Annotated[str, typer.Option(help="A difference that does not matter.")] = "5%",
    as_json: Json = False,
) -> None:
    """Compare two variants behind one address: exit status 1 if the new one is worse.

    It is 3 where nothing can be concluded: for a wrong split, a saturated server, or no valid trial.

    Record first: locust -f locustfiles/NAME_user.py --headless --host URL --variant-by header:X-Variant
    --run-time 60s --record out
    """
    from scripts.ab import compare_arms
    from scripts.comparing import share
    from scripts.reporting import find_run

    folder = find_run(project_of(context), run)
    raise typer.Exit(compare_arms(folder, weights, control, share(margin), console(), as_json=as_json))


@app.command(
    epilog=examples(
        'modelswarm capacity --slo "p95 < 200ms" --backends fastapi,bentoml',
        'modelswarm capacity --slo "p99 < 1s, error_rate < 1%" --trial-time 60',
    )
)
def capacity(
    context: typer.Context,
    slo: Annotated[list[str], typer.Option(help='What must hold, such as "p95 < 200ms"; repeat.')],
    backends: Annotated[
        list[str] | None, typer.Option(help="Which backends, with options after a plus; repeat.")
    ] = None,
    trial_time: Annotated[int, typer.Option(help="Seconds of load of each trial.", min=5)] = 30,
    callers: Annotated[
        int, typer.Option(help="Callers in a loop that find the rate to begin below.", min=1)
    ] = 8,
    seed: Annotated[int, typer.Option(help="Decides the random arrivals.")] = 1,
    threads: Annotated[
        int, typer.Option(help="Intra-op threads and cores of the server.", min=1, max=1024)
    ] = 1,
    workers: Annotated[int, typer.Option(help="Locust workers.", min=1)] = 2,
    target: Where = "auto",
    kube_context: KubeContext = None,
    registry: Registry = None,
    namespace: Namespace = "modelswarm",
    out: Annotated[Path | None, typer.Option(help="Folder of runs. Default: results in the project.")] = None,
) -> None:
    """Find the highest arrival rate at which each backend holds an objective, and how sure that is.

    About fifteen trials of each backend: a ladder of rates, more around the answer, replicates at it.
    """
    from scripts.capacity import find_capacities, show, status_of, wanted
    from scripts.places import Wish, furnish, lacking, resolve
    from scripts.project import Service
    from scripts.run import choose_services, new_folder
    from scripts.stop import Stop
    from scripts.trial import utc_now

    project, terminal = project_of(context), console()
    search = wanted(slo, trial_time, seed, threads, callers)
    wish = Wish(target, kube_context, registry, namespace)
    where = resolve(project, wish, terminal)
    services, left_out = choose_services(
        project, names_in(backends), Service.missing if where == "local" else lacking
    )
    for sentence in left_out:
        terminal.print(sentence, highlight=False, markup=False)
    stop = Stop()
    place = None if where == "local" else furnish(project, where, wish, services, terminal)

    def open_target(plan: Plan, service: Service) -> Target:
        if place is None:
            from scripts.local import LocalTarget

            return LocalTarget(project, plan, [service], workers)
        from scripts.cluster import ClusterTarget

        return ClusterTarget(project, plan, workers, place, stop)

    folder = new_folder(out or project.results, utc_now(), "capacity")
    with stop.on_signals():
        found = find_capacities(project, services, search, open_target, folder, stop, terminal)
    show(found, folder, terminal)
    raise typer.Exit(UNMEASURED if stop.asked else status_of(found, len(services)))


def with_baseline(project: Project, plan: Plan) -> Plan:
    """Return the plan with the folder of its baseline, which is looked at before anything is measured.

    Raises:
        UserError: it is no run.

    """
    from scripts.reporting import find_run, read_measured

    if not plan.baseline:
        return plan
    folder = find_run(project, plan.baseline)
    read_measured(folder)
    return plan.model_copy(update={"baseline": str(folder)})


@app.command(
    epilog=examples("modelswarm attach", "modelswarm attach 20261121T143100Z-quick --context my-cluster")
)
def attach(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(help="The run; default: the one that the namespace holds.")
    ] = None,
    kube_context: KubeContext = None,
    namespace: Namespace = "modelswarm",
) -> None:
    """Follow a run in a cluster, and finish it if its command is gone; then report as `run` does.

    Ctrl-C leaves a run that another process drives to it.
    """
    from scripts.attach import attach as go_on
    from scripts.places import cluster_at_hand

    project = project_of(context)
    raise typer.Exit(go_on(project, run, cluster_at_hand(kube_context, namespace), console()))


@app.command(
    epilog=examples("modelswarm report latest", "modelswarm report results/20261121T143100Z-quick --json")
)
def report(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run's folder, or `latest`.")] = "latest",
    objective: Annotated[
        list[str] | None, typer.Option(help="What must hold, in place of the run's own objectives; repeat.")
    ] = None,
    baseline: Baseline = None,
    price_cpu: PriceCpu = None,
    price_memory: PriceMemory = None,
    junit: Junit = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run again, from its folder alone; exit status as `run` gave it."""
    from analysis.report import Asked
    from scripts.reporting import checked_objectives, find_run, report_run

    project = project_of(context)
    asked = Asked(
        objectives=checked_objectives(objective or []),
        baseline=find_run(project, baseline) if baseline else None,
        price_cpu=price_cpu,
        price_memory=price_memory,
    )
    folder = find_run(project, run)
    raise typer.Exit(report_run(folder, console(), as_json=as_json, asked=asked, junit=junit))


@app.command(
    epilog=examples(
        "modelswarm compare results/20261121T143100Z-quick latest",
        "modelswarm compare BASE1,BASE2 NEW1,NEW2 --margin 3%",
        "modelswarm compare BASE NEW --sequential --json",
        "modelswarm compare BASE latest --junit compare.xml",
    )
)
def compare(
    context: typer.Context,
    base: Annotated[str, typer.Argument(help="The runs to compare with: folders, with commas between.")],
    new: Annotated[str, typer.Argument(help="The runs in question: folders, or `latest`.")],
    margin: Annotated[str, typer.Option(help="A difference that does not matter.")] = "5%",
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Looked at after every trial: always-valid intervals.")
    ] = False,
    as_json: Json = False,
    junit: Junit = None,
) -> None:
    """Tell whether a run is slower than another: exit status 1 for a regression, 3 if there is no telling."""
    from scripts.comparing import compare_runs, runs_named, share

    project = project_of(context)
    sides = runs_named(project, base), runs_named(project, new)
    raise typer.Exit(compare_runs(*sides, console(), share(margin), sequential, as_json=as_json, junit=junit))


@app.command(
    epilog=examples(
        "modelswarm ui", "modelswarm ui --backend fastapi --port 8090", "modelswarm ui --target kind"
    )
)
def ui(
    context: typer.Context,
    backend: Annotated[str | None, typer.Option(help="Which backend; default: the first installed.")] = None,
    port: Annotated[int, typer.Option(help="Port of Locust's web UI.", min=1, max=65535)] = 8089,
    workers: Annotated[int, typer.Option(help="Locust workers.", min=1)] = 2,
    target: Where = "local",
    kube_context: KubeContext = None,
    registry: Registry = None,
    namespace: Namespace = "modelswarm",
) -> None:
    """Start one backend and Locust's web UI for it, until Ctrl-C."""
    from scripts.places import Wish, furnish, lacking, resolve
    from scripts.project import Service
    from scripts.run import choose_services

    project, terminal = project_of(context), console()
    wish = Wish(target, kube_context, registry, namespace)
    where = resolve(project, wish, terminal)
    names = names_in([backend] if backend else None)
    services, _ = choose_services(project, names, Service.missing if where == "local" else lacking)
    if where == "local":
        from scripts.ui import serve_ui

        serve_ui(project, services[0], port, workers, terminal)
    else:
        from scripts.cluster_ui import serve_ui_in_cluster

        place = furnish(project, where, wish, services[:1], terminal)
        serve_ui_in_cluster(project, services[0], place, workers, port, terminal)


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
) -> None:
    """Build the container images, load them into kind, push them to a registry, or show them."""
    from scripts.images import build, find_images, load, push, require_docker, table

    if action not in IMAGE_ACTIONS:
        raise UserError(f"There is no action {action!r}; {nearest(action, IMAGE_ACTIONS)}")
    if action == "push" and not registry:
        raise UserError("Write where to push: --registry registry.example.com/team, or MODELSWARM_REGISTRY.")
    arguments = dict(named(text) for text in build_arg or [])
    project, terminal = project_of(context), console()
    require_docker()
    chosen = find_images(project, names_in(backends))
    if action == "build":
        build(project, chosen, terminal, arguments, jobs)
    if action == "load":
        load(chosen, terminal, cluster)
    if action == "push" and registry:
        push(chosen, registry, terminal)
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


@app.command(
    "import",
    epilog=examples(
        "modelswarm import k6.csv",
        "modelswarm import vegeta.json --name my-server",
        "modelswarm import before_stats.csv after_stats.csv --scenario checkout",
    ),
)
def import_results(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(help="k6's or vegeta's CSV or JSON, Locust's PREFIX_stats.csv.")
    ],
    name: Annotated[list[str] | None, typer.Option(help="What to call each file's server; repeat.")] = None,
    scenario: Annotated[str, typer.Option(help="What to call the load.")] = "imported",
    out: Annotated[Path | None, typer.Option(help="Folder of runs. Default: results in the project.")] = None,
) -> None:
    """Report what another load tool measured, as far as its file tells, and say what it cannot tell."""
    from scripts.foreign import import_run
    from scripts.reporting import report_run

    terminal = console()
    run = import_run(files, name or [], scenario, out or project_of(context).results)
    raise typer.Exit(report_run(run, terminal))


@app.command(
    epilog=examples("modelswarm export latest", "modelswarm export latest --format parquet --out numbers")
)
def export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run's folder, or `latest`.")] = "latest",
    form: Annotated[str, typer.Option("--format", help="csv, json, parquet or hgrm.")] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files. Default: export in the run's.")
    ] = None,
) -> None:
    """Write a run's numbers for other programs: per cell, trial and second, or HdrHistogram's plots."""
    from scripts.foreign import export_run
    from scripts.reporting import find_run

    folder = find_run(project_of(context), run)
    for path in export_run(folder, form, out or folder / "export"):
        print(path)


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


def main() -> None:
    """Run the command; turn what a person can do something about into a sentence and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that cannot be shown must not end it
    try:
        app()
    except UserError as error:
        print(f"modelswarm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        failed = cannot_run(error)
        print(f"modelswarm: {failed}", file=sys.stderr)
        sys.exit(failed.exit_code)


def cannot_run(error: OSError) -> CannotRun:
    """Say what this machine refused; a traceback would end with 1, as if an objective were missed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "while writing"
        return CannotRun(f"The disk is full ({where}): free some space and try again.")
    where = error.filename2 or error.filename  # the second is what was to be replaced
    return CannotRun(f"{where}: {error.strerror}." if where else f"{error}")
