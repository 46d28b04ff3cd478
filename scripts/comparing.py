"""Comparisons on the terminal, and the exit status that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from analysis.runfolder import NotARunFolder
from analysis.words import NONE, counted, ms, number, percent
from scripts.errors import MISSED, OK, UNMEASURED, UserError
from scripts.project import Project
from scripts.reporting import find_run, plain_table, tell_the_job, write_junit

if TYPE_CHECKING:
    from analysis.compare import Comparison, ComparisonRow

_COLUMNS = ("scenario", "backend", "metric", "base", "new", "change", "95 % interval", "p", "d", "verdict")
_LOOKS = {"slower": "red", "worse": "red", "faster": "green", "equivalent": "green"}


def runs_named(project: Project, text: str) -> list[Path]:
    """Return the folders of runs that are named with commas between them.

    Raises:
        UserError: one of them is not there, or none is named.

    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(
            f"{text!r} names no run: write a run's folder or `latest`, several with commas between."
        )
    return [find_run(project, name) for name in names]


def _refuse_twice(folders: Sequence[Path]) -> None:
    """See that no run counts twice on a side: its trials would pass for independent ones.

    Raises:
        UserError: one does.

    """
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"{folder} is named twice, and its trials are no new ones: name each run once.")
        seen.add(folder.resolve())


def share(text: str) -> float:
    """Return 0.05 for `5%`, `5 %` or `0.05`.

    Raises:
        UserError: it is no share between 0 and 100 %.

    """
    number_part = text.strip().removesuffix("%")
    try:
        value = float(number_part) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise UserError(f"--margin {text} is not a share: write for example --margin 5%.")
    return value


def compare_runs(
    base: Sequence[Path],
    new: Sequence[Path],
    console: Console,
    margin: float,
    sequential: bool = False,
    as_json: bool = False,
    junit: Path | None = None,
) -> int:
    """Compare two sets of runs; return 1 for a regression, 3 when there is no telling, else 0.

    There is none when no percentile could be compared, and when the new side is not complete: a server that
    crashed, or of which no trial was valid, may be where the regression is. `junit` is a file for a CI
    system; on GitHub the job's page gets a summary.

    Raises:
        UserError: one of them is no run, or is named twice on a side, or the JUnit file cannot be written.

    """
    from analysis.compare import compare
    from analysis.junit import comparison_junit

    _refuse_twice(base)
    _refuse_twice(new)
    try:
        comparison = compare(base, new, margin, sequential)
    except NotARunFolder as error:
        raise UserError(str(error)) from error
    if junit:
        write_junit(junit, comparison_junit(comparison))
    tell_the_job(lambda: _summary(comparison))
    if as_json:
        print(comparison.to_json())
    else:
        _print(comparison, console)
    return {"regression": MISSED, "no regression": OK}.get(comparison.outcome, UNMEASURED)


def _summary(comparison: Comparison) -> str:
    """What a CI job's page should show: the answer, and the table of the terminal."""
    from analysis.pages import render_markdown
    from analysis.view import Entry, Grid, Group

    *columns, verdict = _COLUMNS
    # Sizes for which a terminal has no room: trials of which the new one is slower, and what could be shown.
    sizes = ["P(new slower)", f"power for {percent(comparison.margin)}"]
    lines = []
    for row in comparison.rows:
        *cells, judged = _cells(row, comparison.margin)
        texts = [*cells, percent(row.superiority), percent(row.power), judged]
        lines.append([Entry(text) for text in texts])
    table = Grid([*columns, *sizes, verdict], [Group("", lines)], words=3)
    notes = [*comparison.differs, *comparison.problems, *_notes(comparison)]
    return render_markdown("comparison.md.j2", {"comparison": comparison, "table": table, "notes": notes})


def _print(comparison: Comparison, console: Console) -> None:
    for sentence in [*comparison.differs, *comparison.problems]:
        console.print(f"[yellow]![/] {escape(sentence)}")
    table = plain_table(*_COLUMNS)
    for row in comparison.rows:
        *cells, verdict = map(escape, _cells(row, comparison.margin))
        look = _LOOKS.get(row.verdict)
        table.add_row(*cells, f"[{look}]{verdict}[/]" if look else verdict)
    console.print(table)
    for sentence in _notes(comparison):
        console.print(escape(sentence))
    if comparison.sequential:
        console.print(
            "Every percentile has an answer: stop." if comparison.settled else "Go on: not settled yet."
        )
    for sentence in comparison.answer:
        console.print(escape(sentence))


def _notes(comparison: Comparison) -> list[str]:
    """What a reader of the table should know of its rows, each thing once."""
    told = dict.fromkeys(f"{row.backend} {row.scenario}: {row.note}" for row in comparison.rows if row.note)
    return [*told, *_unsettled(comparison)]


def _cells(row: ComparisonRow, margin: float) -> list[str]:
    show = percent if row.metric == "error_rate" else ms
    if row.difference is None:
        change, low, high = (_change(one) for one in (row.ratio, row.low, row.high))
    else:
        change, low, high = (
            _points(one) for one in (row.difference, row.difference_low, row.difference_high)
        )
    interval = NONE if NONE in (low, high) else f"{low} to {high}"
    within = f" within {percent(margin)}" if row.verdict == "equivalent" else ""
    return [
        row.scenario,
        row.backend,
        row.metric,
        show(row.base),
        show(row.new),
        change,
        interval,
        NONE if row.p is None else f"{row.p:.3f}" if row.p >= 0.001 else "< 0.001",
        number(row.cohen_d),
        row.verdict + within,
    ]


def _unsettled(comparison: Comparison) -> list[str]:
    """What the design could have shown, and what would settle it, cell by cell."""
    told = []
    for row in comparison.rows:
        if row.verdict != "not shown" or row.power is None:
            continue
        told.append(
            f"{row.backend} {row.scenario}: this design shows a change of {percent(comparison.margin)} in "
            f"{row.metric} with a probability of about {percent(row.power)}; {_what_settles(row)}."
        )
    return told


def _what_settles(row: ComparisonRow) -> str:
    if row.more_trials is None:
        return "not even 1,000 trials would settle it if the difference is what was seen"
    return f"about {counted(row.more_trials, 'more trial')} of each would probably settle it"


def _change(ratio: float | None) -> str:
    return NONE if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def _points(difference: float | None) -> str:
    """A difference of two shares in percentage points."""
    return NONE if difference is None else f"{100 * difference:+.2f} pp"
