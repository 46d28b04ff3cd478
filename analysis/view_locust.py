"""The tables of what Locust's own files tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from analysis.by_name import ExceptionRow, FailureRow, Range, RequestsRow
from analysis.view import Entry, Grid, Group, text
from analysis.words import NONE, brief, counted, listed, number

TRIALS_NAMED = 3
"""So many trials are told by their numbers, more are counted."""

R = TypeVar("R", RequestsRow, FailureRow, ExceptionRow)


def requests(rows: Sequence[RequestsRow], titles: dict[str, str]) -> Grid:
    """A line per backend and request name, grouped by scenario."""

    def line(row: RequestsRow) -> list[Entry]:
        return [
            text(titles.get(row.backend, row.backend)),
            text(f"{row.method} {row.name}".strip()),
            text(f"{row.requests:,}"),
            Entry(f"{row.failures:,}", "bad" if row.failures else ""),
            _between(row.median_ms, number),
            _between(row.p95_ms, _whole),
            _between(row.p99_ms, _whole),
            text(number(row.answer_bytes_mean)),
        ]

    columns = ["Backend", "Request", "Requests", "Failures", "Median ms", "p95 ms", "p99 ms", "Answer bytes"]
    return Grid(columns, _by_scenario(rows, line), words=2)


def failures(rows: Sequence[FailureRow], titles: dict[str, str]) -> Grid:
    """A line per backend and way to fail, grouped by scenario."""

    def line(row: FailureRow) -> list[Entry]:
        return [
            text(titles.get(row.backend, row.backend)),
            text(row.error),
            text(", ".join(row.names) or NONE),
            text(f"{row.count:,}"),
            text(_trials(row.trials)),
            text(NONE if row.first_s is None else f"{row.first_s:.0f} s"),
            text(NONE if row.last_s is None else f"{row.last_s:.0f} s"),
        ]

    columns = ["Backend", "Failure", "Requests", "Count", "In trial", "First seen", "Last seen"]
    return Grid(columns, _by_scenario(rows, line), words=3)


def exceptions(rows: Sequence[ExceptionRow], titles: dict[str, str]) -> Grid:
    """A line per backend and exception, grouped by scenario; the traceback is shown on pointing."""

    def line(row: ExceptionRow) -> list[Entry]:
        places = [part.strip() for part in row.traceback.splitlines() if part.strip().startswith("File ")]
        return [
            text(titles.get(row.backend, row.backend)),
            Entry(row.message or "without a message", "", row.traceback),
            text(places[-1] if places else NONE),
            text(f"{row.count:,}"),
            text(_trials(row.trials)),
        ]

    return Grid(["Backend", "Exception", "Raised in", "Count", "In trial"], _by_scenario(rows, line), words=3)


def summed_up(failures: Sequence[FailureRow], exceptions: Sequence[ExceptionRow]) -> str:
    """What a reader finds in these tables, before opening them."""
    ways, raised = len({row.error for row in failures}), sum(row.count for row in exceptions)
    failed = f"{counted(ways, 'kind')} of failure" if ways else "no failure"
    return f"{failed}, {counted(raised, 'exception') if raised else 'no exception'} in the user class"


def _by_scenario(rows: Sequence[R], line: Callable[[R], list[Entry]]) -> list[Group]:
    groups: dict[str, list[list[Entry]]] = {}
    for row in rows:
        groups.setdefault(row.scenario, []).append(line(row))
    return [Group(scenario, lines) for scenario, lines in groups.items()]


def _between(values: Range | None, shown: Callable[[float], str]) -> Entry:
    if values is None:
        return Entry(NONE, "dim", "none of them has a response time")
    low, high = (shown(value) for value in values)
    return text(low if low == high else f"{low} to {high}")


def _whole(value_ms: float) -> str:
    """A percentile, of which Locust keeps whole milliseconds."""
    return brief(value_ms) if value_ms >= 1 else "< 1"


def _trials(numbers: Sequence[int]) -> str:
    if len(numbers) > TRIALS_NAMED:
        return f"{len(numbers)} trials"
    return listed([str(number) for number in numbers])
