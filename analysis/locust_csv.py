"""Locust's own CSV files of a trial: requests and failures by name, exceptions, and totals over time.

The columns are those of Locust 2.47. Its percentiles are whole milliseconds, and those of several trials
cannot be merged; what a report ranks by comes from the HDR log. These files say what the log does not: which
requests there were, which of them failed, how, and when.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from analysis.records import Count, Moment, Part
from analysis.tables import Columns, Table, name_bad_rows, read_rows, read_table
from analysis.words import counted

FILES = ("stats.csv", "stats_history.csv", "failures.csv", "exceptions.csv")
TOTAL = ("", "Aggregated")
"""Type and name of the row that sums up all others."""
DROPPED = "DROP"
"""The type under which arrivals stand that no user was free for."""

HISTORY = Columns(
    ("Timestamp", "User Count", "Total Request Count", "Total Failure Count"),
    ("Name",),
    only=("Name", TOTAL[1]),
    time="Timestamp",
)


def _digits(text: str) -> str:
    if "_" in text:  # Python takes 1_0 for 10
        raise ValueError("not a number")
    return text


def _known(text: str) -> str | None:
    return None if text in ("", "N/A") else _digits(text)


_Count = Annotated[Count, BeforeValidator(_digits)]
_Number = Annotated[float, Field(ge=0), BeforeValidator(_digits)]
_Percentile = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_known)]
_Moment = Annotated[Moment | None, BeforeValidator(_known)]


class RequestLine(Part):
    """Requests of one name in ``stats.csv``. ``max_ms`` is 0 where none of them has a response time.

    Which percentiles there are is up to whoever ran Locust (``PERCENTILES_TO_REPORT``).
    """

    method: str = Field(alias="Type")
    name: str = Field(alias="Name")
    requests: _Count = Field(alias="Request Count")
    failures: _Count = Field(alias="Failure Count")
    mean_ms: _Percentile = Field(default=None, alias="Average Response Time")
    median_ms: _Number = Field(alias="Median Response Time")
    p66_ms: _Percentile = Field(default=None, alias="66%")
    p75_ms: _Percentile = Field(default=None, alias="75%")
    p80_ms: _Percentile = Field(default=None, alias="80%")
    p90_ms: _Percentile = Field(default=None, alias="90%")
    p95_ms: _Percentile = Field(alias="95%")
    p98_ms: _Percentile = Field(default=None, alias="98%")
    p99_ms: _Percentile = Field(alias="99%")
    p99_9_ms: _Percentile = Field(default=None, alias="99.9%")
    p99_99_ms: _Percentile = Field(default=None, alias="99.99%")
    max_ms: _Number = Field(alias="Max Response Time")
    answer_bytes_mean: _Number = Field(alias="Average Content Size")
    per_s: _Percentile = Field(default=None, alias="Requests/s")

    @property
    def latency_ms(self) -> dict[str, float | None]:
        """Mean, percentiles and maximum, by the names that a report gives them; None where there is none."""
        percentiles = {
            f"p{field.alias.removesuffix('%')}": getattr(self, name)
            for name, field in type(self).model_fields.items()
            if field.alias and field.alias.endswith("%")
        }
        return {"mean": self.mean_ms, "p50": self.median_ms, **percentiles, "max": self.max_ms}

    @model_validator(mode="after")
    def _fails_no_more_than_it_asks(self) -> RequestLine:
        if self.failures > self.requests:
            raise ValueError("more failures than requests")
        return self


class FailureLine(Part):
    """Requests of one name that failed in one way, in ``failures.csv``."""

    method: str = Field(alias="Method")
    name: str = Field(alias="Name")
    error: str = Field(alias="Error")
    count: _Count = Field(alias="Occurrences")
    first_seen: _Moment = Field(alias="First Seen")
    last_seen: _Moment = Field(alias="Last Seen")


class ExceptionLine(Part):
    """An exception that left the user's code, in ``exceptions.csv``."""

    count: _Count = Field(alias="Count")
    message: str = Field(alias="Message")
    traceback: str = Field(alias="Traceback")


@dataclass(frozen=True)
class LocustFiles:
    """What Locust wrote of a trial; None is a file that could not be read.

    ``requests`` has a line per name without the sum of all, which is ``total``; ``history`` has the columns
    of ``HISTORY``, a row a second.
    """

    requests: list[RequestLine] = field(default_factory=list)
    total: RequestLine | None = None
    failures: list[FailureLine] | None = None
    exceptions: list[ExceptionLine] | None = None
    history: Table | None = None


L = TypeVar("L", RequestLine, FailureLine, ExceptionLine)


def read_locust(folder: Path, name: str, problems: list[str], lacking: bool = False) -> LocustFiles:
    """Read Locust's files in a trial's ``folder``; what is wrong with them is named in ``problems``.

    ``lacking`` says that it is no fault if there are none.
    """
    if not any((folder / file).exists() for file in FILES):
        if lacking:
            return LocustFiles()
        problems.append(f"{name}: none of Locust's own files is there ({', '.join(FILES)}).")
        return LocustFiles()

    def read(file: str, kind: type[L], *key: str) -> list[L] | None:
        return _lines(folder / file, f"{name}/{file}", kind, attrgetter(*key), problems)

    lines = read("stats.csv", RequestLine, "method", "name")
    requests = [line for line in lines or () if (line.method, line.name) != TOTAL]
    total = next((line for line in lines or () if (line.method, line.name) == TOTAL), None)
    if lines is not None and not _adds_up(requests, total, f"{name}/stats.csv", problems):
        requests, total = [], None
    return LocustFiles(
        requests,
        total,
        failures=read("failures.csv", FailureLine, "method", "name", "error"),
        exceptions=read("exceptions.csv", ExceptionLine, "message", "traceback"),
        history=_history(folder, name, total.requests if total else math.inf, problems),
    )


def _lines(
    path: Path, name: str, kind: type[L], key: Callable[[L], Any], problems: list[str]
) -> list[L] | None:
    """The rows that are whole, each key once; None if the file could not be read."""
    fields = kind.model_fields.values()
    columns: list[str] = [str(one.alias) for one in fields if one.is_required()]
    optional: list[str] = [str(one.alias) for one in fields if not one.is_required()]
    rows = read_rows(path, name, columns, problems, optional)
    if rows is None:
        return None
    found: dict[Any, L] = {}
    bad = repeated = 0
    for row in rows:
        try:
            line = kind.model_validate(dict(zip([*columns, *optional], row or (), strict=False)))
        except ValidationError:
            bad += 1
            continue
        repeated += key(line) in found
        found.setdefault(key(line), line)
    name_bad_rows(name, bad, len(rows), problems)
    if repeated:
        problems.append(f"{name}: {repeated} of {len(rows)} rows repeat an earlier one; they were left out.")
    return list(found.values())


def _adds_up(requests: list[RequestLine], total: RequestLine | None, name: str, problems: list[str]) -> bool:
    """Whether the names can be believed: a file that was cut off ends before the sum of all."""
    if total is None:
        problems.append(f"{name}: has no row {TOTAL[1]}: it is cut off, and its other rows were not used.")
        return False
    asked, failed = sum(line.requests for line in requests), sum(line.failures for line in requests)
    if (asked, failed) == (total.requests, total.failures):
        return True
    problems.append(
        f"{name}: its names add up to {asked:,} requests and {failed:,} failures, but its row {TOTAL[1]} "
        f"says {total.requests:,} and {total.failures:,}; neither was used."
    )
    return False


def _history(folder: Path, trial: str, most: float, problems: list[str]) -> Table | None:
    """The rows on all requests, without those that count fewer than an earlier one or more than ``most``."""
    name = f"{trial}/stats_history.csv"
    table = read_table(folder / "stats_history.csv", name, HISTORY, problems)
    if table is None:
        return None
    possible = table["Total Request Count"] <= most
    table, more = table.where(possible), int(np.sum(~possible))
    totals = table["Total Request Count"]
    grown = totals >= np.maximum.accumulate(totals) if len(totals) else np.empty(0, dtype=np.bool_)
    if left_out := more + int(np.sum(~grown)):
        problems.append(
            f"{name}: {counted(left_out, 'row')} with fewer requests than a row before, or more than there "
            "were in all, left out."
        )
    return table.where(grown) if np.any(grown) else None
