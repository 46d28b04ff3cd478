"""Commands about what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.commands.options import (
    Baseline,
    Json,
    Junit,
    PriceCpu,
    PriceMemory,
    app,
    console,
    examples,
    project_of,
)

if TYPE_CHECKING:
    pass


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
        list[Path], typer.Argument(help="k6's or vegeta's CSV or JSON, Locust's PREFIX_stats.csv or PREFIX.")
    ],
    name: Annotated[list[str] | None, typer.Option(help="What to call each file's server; repeat.")] = None,
    scenario: Annotated[str, typer.Option(help="What to call the load.")] = "imported",
    out: Annotated[Path | None, typer.Option(help="Folder of runs. Default: results in the project.")] = None,
) -> None:
    """Report what another load tool measured, as far as its file tells, and say what it cannot tell."""
    from scripts.foreign import import_run
    from scripts.reporting import report_run

    terminal = console()
    run, odd = import_run(files, name or [], scenario, out or project_of(context).results)
    for sentence in odd:
        terminal.print(f"! {sentence}", highlight=False, markup=False)
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
