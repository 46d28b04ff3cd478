"""Reports and comparisons on the terminal, and the exit status that they mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.runfolder import NotARunFolder
from analysis.words import NONE, brief, number, per_s, percent
from scripts.errors import MISSED, OK, UNMEASURED, UserError
from scripts.project import Project

if TYPE_CHECKING:
    from analysis.metrics import Row
    from analysis.report import Asked, Report

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""The variable in which GitHub names a file for the job's page."""

_LOOKS = {
    "valid": "[green]valid[/]",
    "suspect": "[yellow]suspect[/]",
    "invalid": "[red]invalid[/]",
}


def find_run(project: Project, name: str) -> Path:
    """Return the folder of a run: a path, a name in results/, or `latest`.

    Raises:
        UserError: there is no such run.

    """
    runs = sorted(file.parent for file in project.results.glob("*/run.json"))
    if name == "latest":
        if not runs:
            raise UserError(f"There is no run in {project.results} yet: `modelswarm run` makes one.")
        return runs[-1]
    for folder in (Path(name), project.results / name):
        if os.path.isdir(folder):  # unlike pathlib's, False of a name that is too long
            return folder
    known = f"the latest is {runs[-1]}" if runs else f"there is none in {project.results} yet"
    raise UserError(f"There is no run folder {name}; {known}.")


def report_run(
    folder: Path,
    console: Console,
    as_json: bool = False,
    asked: Asked | None = None,
    junit: Path | None = None,
) -> int:
    """Write a run's report and print its essence; return the exit status that it means.

    `junit` is one more place for the JUnit file; on GitHub the job's page gets a summary.

    Raises:
        UserError: the folder holds no run, an objective is about nothing in it, or the JUnit file cannot be
            written.

    """
    from analysis.objectives import NothingToJudge
    from analysis.report import Asked, render_summary, write_report

    try:
        report = write_report(folder, asked or Asked())
    except (NotARunFolder, NothingToJudge) as error:
        raise UserError(str(error)) from error
    if junit and report.paths:
        write_junit(junit, report.paths.junit.read_text(encoding="utf-8"), f"; it is in {folder} too")
    tell_the_job(lambda: render_summary(report))
    if as_json:
        print(report.model_dump_json(by_alias=True, indent=1))
    else:
        _print_report(report, folder, console)
    return status_of(report)


def write_junit(junit: Path, text: str, elsewhere: str = "") -> None:
    """Write a JUnit file where the user wants it.

    Raises:
        UserError: it cannot be written; `elsewhere` says where it is besides.

    """
    from analysis.pages import write_whole

    try:
        write_whole(junit, text)
    except OSError as error:
        raise UserError(f"{junit} cannot be written: {error.strerror}{elsewhere}.") from error


def tell_the_job(render: Callable[[], str]) -> None:
    """Add to the job's page on GitHub; without one the terminal and the exit status still say everything."""
    page = os.environ.get(STEP_SUMMARY)
    if not page:
        return
    try:
        with Path(page).open("a", encoding="utf-8") as file:
            file.write(render() + "\n")
    except OSError as error:
        print(f"modelswarm: {STEP_SUMMARY}={page} cannot be written: {error.strerror}.", file=sys.stderr)


def checked_objectives(expressions: Sequence[str]) -> tuple[str, ...]:
    """Return the objectives.

    Raises:
        UserError: one of them cannot be read: what to write instead.

    """
    from analysis.objectives import parse

    try:
        return tuple(parse(expression).expression for expression in expressions)
    except ValueError as error:
        raise UserError(str(error)) from error


def require_cells(
    expressions: Sequence[str], backends: Sequence[str], scenarios: Sequence[str], baseline: bool
) -> None:
    """See that each objective is about one of the cells that are to be measured.

    Raises:
        UserError: one of them is not; said now, and not when everything was measured.

    """
    from analysis.objectives import NothingToJudge, parse, refuse_idle

    cells = [(backend, scenario) for backend in backends for scenario in scenarios]
    try:
        refuse_idle([parse(expression) for expression in expressions], cells, baseline)
    except NothingToJudge as error:
        raise UserError(str(error)) from error


def read_measured(folder: Path) -> None:
    """Look whether a folder holds a run that something can be held against.

    Raises:
        UserError: it does not.

    """
    from analysis.runfolder import read_run

    try:
        read_run(folder)
    except NotARunFolder as error:
        raise UserError(str(error)) from error


def status_of(report: Report) -> int:
    """Return 3 when something could not be measured, else 1 when an objective was missed, else 0.

    In this order: of a run that is not whole, nobody knows what its objectives would have shown.
    """
    if not report.valid:
        return UNMEASURED
    return OK if all(result.passed for result in report.objectives) else MISSED


def _print_report(report: Report, folder: Path, console: Console) -> None:
    from analysis.reading import left_out

    table = plain_table("scenario", "backend", "p50", "p95", "p99", "rate", "errors", "CPU cores", "verdict")
    for row in sorted(report.rows, key=lambda row: (row.scenario, row.backend)):
        table.add_row(*_cells(row))
    console.print(table)
    for result in report.objectives:
        mark = f"[{'green' if result.passed else 'red'}]{result.judgement}[/]"
        where = f"{result.backend} {result.scenario}: {result.expression}: {result.told}"
        console.print(f"{mark} {escape(where)}{escape(f' ({result.note})' if result.note else '')}")
    for row in report.rows:
        if row.verdict == "suspect":
            reasons = "; ".join(row.reasons)
            console.print(f"[yellow]![/] {escape(f'{row.backend} {row.scenario} is suspect: {reasons}')}")
    for told in [*left_out(report.trials), *report.problems]:
        console.print(f"[yellow]![/] {escape(told)}")
    console.print(escape(" ".join(report.recommendation.sentences)))
    console.print(escape(str(folder / "report.html")), soft_wrap=True)


def plain_table(*columns: str) -> Table:
    """Return a table without lines between the rows; its columns keep their width."""
    table = Table(box=box.SIMPLE)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _cells(row: Row) -> list[str]:
    from analysis.view import quantile

    times = [quantile(row, name).text for name in ("p50", "p95", "p99")]
    shown = [text if text == NONE else f"{text} ms" for text in times]
    look = _LOOKS[row.verdict] + (", saturated" if row.saturated else "")
    rate = (
        NONE if row.achieved_per_s is None else f"{brief(row.achieved_per_s)} of {per_s(row.planned_per_s)}"
    )
    return [
        escape(row.scenario),
        escape(row.backend),
        *shown,
        rate,
        percent(row.error_rate),
        number(row.cpu_cores_mean),
        look,
    ]
