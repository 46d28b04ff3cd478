"""What Locust's own files tell: requests, failures and exceptions by name, and whether they fit the rest.

A cell's requests are those of the trials that its row merges. Its failures and exceptions are those of all
its trials: what a broken trial died of is worth most. Nothing is counted twice: the failures of a trial are
those of ``summary.json``, with names and times from ``failures.csv``, and only without a summary those of
``failures.csv`` alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from analysis.hlog import LONGEST_S
from analysis.locust_csv import DROPPED, RequestLine
from analysis.metrics import Cell
from analysis.runfolder import Run, Trial
from analysis.usage import start_epoch_s
from analysis.words import counted, listed

Range = tuple[float, float]

NAMED_AT_MOST = 3
"""A sentence names so many failures and counts the others."""


class _Named(BaseModel):
    """Something that Locust counted in a cell."""

    model_config = ConfigDict(frozen=True)

    backend: str
    scenario: str


class RequestsRow(_Named):
    """Requests of one name. Times in ms are the lowest and highest of the trials' own; None: none answered.

    The percentiles are whole milliseconds: 0 is anything below 1 ms.
    """

    method: str
    name: str
    trials: int
    requests: int
    failures: int
    median_ms: Range | None
    p95_ms: Range | None
    p99_ms: Range | None
    answer_bytes_mean: float | None


class FailureRow(_Named):
    """One way to fail. Seconds are those of its trial's plan, to about one second; None: not known."""

    error: str
    names: list[str]
    count: int
    trials: list[int]
    first_s: float | None
    last_s: float | None


class ExceptionRow(_Named):
    """An exception that left the user class."""

    message: str
    traceback: str
    count: int
    trials: list[int]


def requests_by_name(cells: Sequence[Cell]) -> list[RequestsRow]:
    """A row per cell and request name, in the order in which Locust names them."""
    found: list[RequestsRow] = []
    for cell in cells:
        held: dict[tuple[str, str], list[RequestLine]] = {}
        for line in (line for trial in cell.trials for line in trial.locust.requests):
            held.setdefault((line.method, line.name), []).append(line)
        found.extend(_requests(cell, lines) for lines in held.values())
    return found


def _requests(cell: Cell, lines: Sequence[RequestLine]) -> RequestsRow:
    answered = [line for line in lines if line.max_ms > 0]
    requests = sum(line.requests for line in lines)
    answer_bytes = sum(line.requests * line.answer_bytes_mean for line in lines)
    return RequestsRow(
        backend=cell.row.backend,
        scenario=cell.row.scenario,
        method=lines[0].method,
        name=lines[0].name,
        trials=len(lines),
        requests=requests,
        failures=sum(line.failures for line in lines),
        median_ms=_range(line.median_ms for line in answered),
        p95_ms=_range(line.p95_ms for line in answered),
        p99_ms=_range(line.p99_ms for line in answered),
        answer_bytes_mean=answer_bytes / requests if requests and answered else None,
    )


def _range(values: Iterable[float | None]) -> Range | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def failures_by_name(run: Run) -> list[FailureRow]:
    """A row per cell and failure, the most frequent first."""
    held: dict[tuple[str, str, str], list[FailureRow]] = {}
    for trial in run.trials:
        for row in _failures(trial):
            held.setdefault((row.scenario, row.backend, row.error), []).append(row)
    rows = [_merged(rows) for rows in held.values()]
    return sorted(rows, key=lambda row: (row.scenario, row.backend, -row.count, row.error))


def _failures(trial: Trial) -> list[FailureRow]:
    start = start_epoch_s(trial)
    rows = []
    for error, count in (_told(trial) or _booked(trial)).items():
        mine = [line for line in trial.locust.failures or () if _shown(line.error) == error]
        seen = [_second(when, start) for line in mine for when in (line.first_seen, line.last_seen)]
        known = [second for second in seen if second is not None]
        rows.append(
            FailureRow(
                backend=trial.entry.backend,
                scenario=trial.entry.scenario,
                error=error,
                names=sorted({line.name for line in mine}),
                count=count,
                trials=[trial.entry.trial],
                first_s=min(known, default=None),
                last_s=max(known, default=None),
            )
        )
    return rows


def _told(trial: Trial) -> Counter[str]:
    """Failures by the summary; none if they do not add up. Why arrivals were dropped only Locust tells."""
    summary = trial.summary
    if summary is None or sum(summary.failures.values()) != summary.counts.failed:
        return Counter()
    tally = _tally(summary.failures.items())
    dropped = _booked(trial, only=DROPPED)
    if len(dropped) > 1:
        return tally + dropped
    return tally + Counter({next(iter(dropped), "dropped"): summary.counts.dropped})


def _booked(trial: Trial, only: str = "") -> Counter[str]:
    """Failures by Locust's failures.csv, of one type or of all."""
    lines = trial.locust.failures or ()
    return _tally((line.error, line.count) for line in lines if only in ("", line.method))


def _tally(counts: Iterable[tuple[str, int]]) -> Counter[str]:
    tally: Counter[str] = Counter()
    for error, count in counts:
        tally[_shown(error)] += count
    return tally


def _shown(error: str) -> str:
    """An error as Locust writes it: addresses of objects differ each time."""
    return re.sub(r"(?<=object at )0x[0-9a-fA-F]+", "0x....", error)


def _second(when: datetime | None, start_epoch_s: float | None) -> float | None:
    """Seconds after plan time 0; Locust writes whole seconds, so the first may lie before it."""
    if when is None or start_epoch_s is None:
        return None
    after_s = math.floor(when.timestamp() - start_epoch_s + 1)
    return float(after_s) if 0 <= after_s < LONGEST_S else None


def _merged(rows: Sequence[FailureRow]) -> FailureRow:
    first = [row.first_s for row in rows if row.first_s is not None]
    last = [row.last_s for row in rows if row.last_s is not None]
    return rows[0].model_copy(
        update={
            "names": sorted({name for row in rows for name in row.names}),
            "count": sum(row.count for row in rows),
            "trials": sorted({number for row in rows for number in row.trials}),
            "first_s": min(first, default=None),
            "last_s": max(last, default=None),
        }
    )


def exceptions_of_users(run: Run) -> list[ExceptionRow]:
    """A row per cell and exception, the most frequent first."""
    held: dict[tuple[str, str, str, str], ExceptionRow] = {}
    for trial in run.trials:
        for line in trial.locust.exceptions or ():
            key = (trial.entry.scenario, trial.entry.backend, line.message, line.traceback)
            before = held.get(key)
            held[key] = ExceptionRow(
                backend=trial.entry.backend,
                scenario=trial.entry.scenario,
                message=line.message,
                traceback=line.traceback,
                count=line.count + (before.count if before else 0),
                trials=[*(before.trials if before else ()), trial.entry.trial],
            )
    return sorted(held.values(), key=lambda row: (row.scenario, row.backend, -row.count, row.message))


def disagreements(trial: Trial) -> tuple[list[str], list[str]]:
    """Sentences on where Locust's files and the others differ: those that are odd, and those that are not.

    A trial that broke off leaves files of different moments, which is as it must be.
    """
    found = [sentence for sentence in (_requests_differ(trial), _failures_differ(trial)) if sentence]
    sentences = [f"{trial.name}: {sentence}" for sentence in found]
    broke_off = trial.entry.status != "ok" or trial.summary is None
    return ([], sentences) if broke_off else (sentences, [])


def _requests_differ(trial: Trial) -> str:
    total, summary = trial.locust.total, trial.summary
    if total is None:
        return ""
    if summary is None:  # then the log is all there is to hold it against, and that has no dropped arrivals
        sent = sum(line.requests for line in trial.locust.requests if line.method != DROPPED)
        logged = int(trial.log.tag("latency").count.sum())
        if sent == logged:
            return ""
        return f"broke off: stats.csv holds {counted(sent, 'request')}, latency.hlog {logged:,}."
    counts = summary.counts
    ended, failed = counts.completed + counts.failed + counts.dropped, counts.failed + counts.dropped
    if (total.requests, total.failures) == (ended, failed):
        return ""
    return (
        f"stats.csv counts {counted(total.requests, 'request')} and {counted(total.failures, 'failure')}, "
        f"summary.json {ended:,} (completed, failed and dropped) and {failed:,}."
    )


def _failures_differ(trial: Trial) -> str:
    summary = trial.summary
    if summary is None:
        return ""
    told, added = _tally(summary.failures.items()), sum(summary.failures.values())
    if added != summary.counts.failed:
        return f"the failures in summary.json add up to {added:,}, its count is {summary.counts.failed:,}."
    if trial.locust.failures is None:
        return ""
    dropped = _booked(trial, only=DROPPED)
    booked = _booked(trial) - dropped
    pairs = [(f"'{error}'", booked[error], told[error]) for error in sorted({*told, *booked})]
    pairs.append(("dropped arrivals", dropped.total(), summary.counts.dropped))
    differ = [f"{what} {mine:,} against {other:,}" for what, mine, other in pairs if mine != other]
    if not differ:
        return ""
    more = [f"{len(differ) - NAMED_AT_MOST} more"] if len(differ) > NAMED_AT_MOST else []
    return f"failures.csv and summary.json differ: {listed([*differ[:NAMED_AT_MOST], *more])}."
