"""Commands that put servers under load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripts.commands.options import (
    Baseline,
    Junit,
    KubeContext,
    Namespace,
    PriceCpu,
    PriceMemory,
    Registry,
    Where,
    app,
    console,
    examples,
    names_in,
    project_of,
    tell_left_out,
)
from scripts.errors import UNMEASURED, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.cluster.target import Place
    from scripts.plan import Plan
    from scripts.project import Project
    from scripts.stop import Stop
    from scripts.target import Target


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
        list[str] | None,
        typer.Option(help='What must hold, in place of the plan\'s objectives: "p95 < 500ms"; repeat.'),
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
    from scripts.places import Wish, furnish, labelled, lacking, resolve
    from scripts.plan import read_plan
    from scripts.project import Service
    from scripts.reporting import require_cells
    from scripts.run import Lineup, choose_services, planned
    from scripts.session import measure, show_order

    project, terminal = project_of(context), console()
    changes: dict[str, Any] = {"trials": trials, "seed": seed, "threads": threads}
    changes |= {"baseline": baseline, "price_cpu": price_cpu, "price_memory": price_memory}
    changes |= {"sequential": sequential, "margin": share(margin) if margin else None}
    changes |= {"objectives": objective or None, "backends": names_in(backends) or None}
    chosen = with_baseline(project, read_plan(plan, changes).with_scenarios(names_in(scenarios)))
    wish = Wish(target, kube_context, registry, namespace, detach)
    where = resolve(project, wish, terminal)
    named = names_in(backends)
    services, reasons = choose_services(
        project,
        named,
        Service.missing if where == "local" else lacking,
        proposed=() if named else planned(project, plan, chosen.backends),
    )
    tell_left_out(reasons, terminal)
    services = labelled(project, where, wish, services)
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
    lineup = Lineup(project, chosen, services, reasons)

    def open_target(stop: Stop) -> Target:
        if where == "local":
            from scripts.local import LocalTarget

            return LocalTarget(project, chosen, lineup.measurable, workers)
        place = furnish(project, where, wish, lineup.measurable, terminal)
        return in_cluster(project, chosen, workers, place, stop)

    if detach:
        if junit:
            raise UserError("--junit does not go with --detach: the run's folder gets its junit.xml.")
        from scripts.cluster.attach import start_detached

        raise typer.Exit(start_detached(lineup, open_target, runs, terminal))
    raise typer.Exit(measure(lineup, open_target, runs, terminal, ask=not yes, junit=junit))


@app.command(
    epilog=examples(
        'modelswarm capacity --slo "p95 < 200ms" --backends fastapi,bentoml',
        'modelswarm capacity --slo "p99 < 1s, error_rate < 1%" --trial-time 60s',
    )
)
def capacity(
    context: typer.Context,
    slo: Annotated[list[str], typer.Option(help='What must hold, such as "p95 < 200ms"; repeat.')],
    backends: Annotated[
        list[str] | None, typer.Option(help="Which backends, with options after a plus; repeat.")
    ] = None,
    trial_time: Annotated[
        str, typer.Option(help="How long the load of each trial lasts: 5s or more.")
    ] = "30s",
    callers: Annotated[
        int, typer.Option(help="Callers in a loop that find the rate to begin below.", min=1)
    ] = 8,
    seed: Annotated[int, typer.Option(help="Decides the random arrivals.")] = 1,
    threads: Annotated[
        int, typer.Option(help="Intra-op threads and cores of the server.", min=1, max=1024)
    ] = 1,
    workers: Annotated[int, typer.Option(help="Locust workers.", min=1)] = 2,
    price_cpu: PriceCpu = None,
    price_memory: PriceMemory = None,
    target: Where = "auto",
    kube_context: KubeContext = None,
    registry: Registry = None,
    namespace: Namespace = "modelswarm",
    out: Annotated[Path | None, typer.Option(help="Folder of runs. Default: results in the project.")] = None,
) -> None:
    """Find the highest arrival rate at which each backend holds an objective, and how sure that is.

    Fifteen to 25 trials of each backend: a ladder of rates, then replicates around the answer until its
    interval is narrow.
    """
    from analysis.cost import Prices
    from scripts.capacity import find_capacities, show, status_of, trial_seconds, wanted
    from scripts.places import Wish, furnish, labelled, lacking, resolve
    from scripts.project import Service
    from scripts.run import choose_services, new_folder, read_model
    from scripts.stop import Stop
    from scripts.trial import utc_now

    project, terminal = project_of(context), console()
    prices = Prices(cpu_hour=price_cpu, gib_hour=price_memory)
    search = replace(wanted(slo, trial_seconds(trial_time), seed, threads, callers), prices=prices)
    wish = Wish(target, kube_context, registry, namespace)
    where = resolve(project, wish, terminal)
    services, reasons = choose_services(
        project, names_in(backends), Service.missing if where == "local" else lacking
    )
    tell_left_out(reasons, terminal)
    services = labelled(project, where, wish, services)
    stop = Stop()
    place = None if where == "local" else furnish(project, where, wish, services, terminal)

    def open_target(plan: Plan, services: Sequence[Service]) -> Target:
        if place is None:
            from scripts.local import LocalTarget

            return LocalTarget(project, plan, services, workers)
        return in_cluster(project, plan, workers, place, stop)

    read_model(project)
    open_target(search.ceiling(), services)  # what refuses the search does so before it has a folder
    folder = new_folder(out or project.results, utc_now(), "capacity")
    with stop.on_signals():
        found = find_capacities(project, services, search, open_target, folder, stop, terminal)
    show(found, folder, terminal)
    raise typer.Exit(UNMEASURED if stop.asked else status_of(found, len(services)))


def in_cluster(project: Project, plan: Plan, workers: int, place: Place, stop: Stop) -> Target:
    """Return a cluster for the trials of a plan.

    Raises:
        Taken: another run uses the namespace.

    """
    from scripts.cluster.target import ClusterTarget

    cluster = ClusterTarget(project, plan, workers, place, stop)
    cluster.refuse_taken()
    return cluster


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
        str | None, typer.Argument(help="The run; default: the one in the cluster where one was left open.")
    ] = None,
    kube_context: KubeContext = None,
    namespace: Namespace = "modelswarm",
) -> None:
    """Follow a run in a cluster, and finish it if its command is gone; then report as `run` does.

    Ctrl-C while it is followed stops following: the run goes on.
    """
    from scripts.cluster.attach import attach as go_on
    from scripts.cluster.attach import left_open
    from scripts.places import cluster_at_hand

    project = project_of(context)
    begun = [] if run else left_open(project)
    raise typer.Exit(go_on(project, run, cluster_at_hand(kube_context, namespace, begun), console()))


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
    if len(names) > 1:
        raise UserError(f"--backend {backend} names several: the web UI is for one, such as {names[0]}.")
    services, _ = choose_services(project, names, Service.missing if where == "local" else lacking)
    if where == "local":
        from scripts.ui import serve_ui

        serve_ui(project, services[0], port, workers, terminal)
    else:
        from scripts.cluster.ui import serve_ui_in_cluster

        place = furnish(project, where, wish, services[:1], terminal)
        serve_ui_in_cluster(project, services[0], place, workers, port, terminal)
