"""What a person sees around a run: the question before a long one, the report after it, the exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.words import counted
from scripts.errors import UNMEASURED, CannotRun
from scripts.plan import Plan, steps
from scripts.progress import Progress, spoken
from scripts.project import Service
from scripts.reporting import report_run
from scripts.run import Lineup, RunRecord, begin_run, estimate_s, make_run
from scripts.stop import Stop
from scripts.target import Target

LONG_S = 30 * 60.0


def show_order(plan: Plan, services: Sequence[Service], console: Console) -> None:
    """Print which trials would be made, in which order, and how long they take."""
    order = steps(plan, [service.key for service in services])
    table = Table("order", "backend", "scenario", "trial", "seed", "about")
    for step in order:
        span = spoken(estimate_s(plan, step))
        table.add_row(
            str(step.order), step.backend, step.scenario.name, str(step.trial), str(step.seed), span
        )
    console.print(table)
    at_most = "at most " if plan.sequential else ""
    console.print(
        f"{at_most}{counted(len(order), 'trial')}, {at_most}about "
        f"{spoken(sum(estimate_s(plan, step) for step in order))}.".capitalize()
    )


def measure(
    lineup: Lineup,
    open_target: Callable[[Stop], Target],
    out: Path,
    console: Console,
    ask: bool,
    junit: Path | None = None,
) -> int:
    """Run a plan, write its report, print what came out; return the exit status."""
    plan, measured = lineup.plan, [service.key for service in lineup.measurable]
    total_s = sum(estimate_s(plan, step) for step in steps(plan, measured))
    if (
        ask
        and total_s > LONG_S
        and sys.stdin.isatty()
        and not typer.confirm(f"This takes {'at most ' if plan.sequential else ''}{spoken(total_s)}. Go on?")
    ):
        return UNMEASURED
    stop = Stop()
    with stop.on_signals():
        target = open_target(stop)
        record = begin_run(lineup, target, out)
        with reported_anyway(record, console, junit):
            make_run(lineup, target, record, stop, Progress(console))
    return conclude(record.folder, stop, console, junit)


@contextmanager
def reported_anyway(record: RunRecord, console: Console, junit: Path | None = None) -> Iterator[None]:
    """Report what was measured also when the run cannot be brought to its end."""
    try:
        yield
    except CannotRun:
        if any(trial.ended for trial in record.trials):
            report_run(record.folder, console, junit=junit)
        raise


def conclude(folder: Path, stop: Stop, console: Console, junit: Path | None = None) -> int:
    """Write the report of a run and print its essence; return the exit status that it means."""
    status = report_run(folder, console, junit=junit)
    if stop.asked:
        console.print(f"Stopped. What was measured until then is in {escape(str(folder))}.", soft_wrap=True)
        return UNMEASURED
    return status
