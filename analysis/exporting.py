"""A run's numbers in forms that other programs read: CSV, JSON, Parquet, and HdrHistogram's plotter.

Three tables: ``cells`` (a row per backend and scenario), ``trials`` and ``seconds`` (a row per second of each
trial). A percentile that a sample is too small for is empty. The plotter's files (``.hgrm``) have a cell's
whole latency distribution, as https://hdrhistogram.github.io/HdrHistogram/plotFiles.html draws it.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from pydantic import BaseModel

from analysis.importing import histogram_of
from analysis.metrics import Cell, Measures, cells, trial_row
from analysis.runfolder import Trial, read_run
from analysis.usage import start_epoch_s, usage

FORMS = ("csv", "json", "parquet", "hgrm")
US_PER_MS = 1000.0
Rows = list[dict[str, Any]]

TEXTS = ("started",)
"""Columns without a value in some runs that hold texts; all others hold numbers."""


class NoParquet(RuntimeError):
    """pyarrow is not installed."""


class NothingToExport(RuntimeError):
    """The run holds nothing that the form could have."""


def export(run_dir: Path, form: str, out: Path) -> list[Path]:
    """Write the run's numbers into the folder ``out`` in one of ``FORMS`` and return the files.

    Raises
    ------
    analysis.runfolder.NotARunFolder
        A ``ValueError`` with a sentence for the user, if there is no run at ``run_dir``.
    NoParquet
        If Parquet is asked for and pyarrow is not installed.
    NothingToExport
        If the plotter's files are asked for and no cell has a latency distribution.
    """
    run = read_run(run_dir)
    found = cells(run)
    if form == "hgrm" and not any(cell.latency.total for cell in found):
        raise NothingToExport(
            "This run holds no latency distribution, which hgrm needs (stock Locust's files have none, nor "
            "do trials without an answer): --format csv has what there is."
        )
    out.mkdir(parents=True, exist_ok=True)
    if form == "hgrm":
        return _plotter(found, out)
    tables = {
        "cells": [flat(_carried(cell.row)) for cell in found],
        "trials": [flat(_carried(trial_row(trial))) for trial in run.trials],
        "seconds": [row for trial in run.trials for row in _seconds(trial)],
    }
    return [_write(out / f"{name}.{form}", form, rows) for name, rows in tables.items()]


def _carried(row: Measures) -> Measures:
    """The row without the percentiles that its sample is too small for."""
    kinds = ("latency_ms", "service_ms", "lag_ms")
    return row.model_copy(
        update={kind: getattr(row, kind) | dict.fromkeys(row.not_carried) for kind in kinds}
    )


def flat(row: BaseModel) -> dict[str, Any]:
    """A row without nesting: ``latency_ms.p95`` becomes ``latency_ms_p95``; lists of texts are joined."""
    found: dict[str, Any] = {}
    for name, value in row.model_dump(mode="json").items():
        if isinstance(value, Mapping):
            for key, one in value.items():
                found.update(_parts(f"{name}_{key}", one))
        else:
            found.update(_parts(name, value))
    return found


def _parts(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, list):
        return {name: value}
    if len(value) == 2 and all(isinstance(one, float) for one in value):
        return {f"{name}_low": value[0], f"{name}_high": value[1]}
    return {name: "; ".join(str(one) for one in value)}


def _seconds(trial: Trial) -> Rows:
    """A row per second to the trial's last answer; counts by generator.csv are in its own seconds."""
    latency = trial.log.tag("latency").binned()
    p50, p95, p99 = (latency.carried_ms(q) for q in (0.5, 0.95, 0.99))
    used = usage(trial, float(len(latency.start_s)) or 1.0)
    at = {math.floor(second): i for i, second in enumerate(used.second)} if used else {}
    start, entry, totals = start_epoch_s(trial), trial.entry, latency.totals
    answered = np.flatnonzero(totals)
    planned, dropped = _sums(trial, start, "planned"), _sums(trial, start, "dropped")
    return [
        {
            "backend": entry.backend,
            "scenario": entry.scenario,
            "trial": entry.trial,
            "second": second,
            "epoch_s": None if start is None else start + second,
            "planned": planned.get(second),
            "dropped": dropped.get(second),
            "answered": int(totals[second]),
            "latency_ms_p50": _finite(p50[second]),
            "latency_ms_p95": _finite(p95[second]),
            "latency_ms_p99": _finite(p99[second]),
            "latency_ms_max": float(latency.largest_ms[second]) if totals[second] else None,
            "cpu_cores": float(used.cpu_cores[at[second]]) if used and second in at else None,
            "memory_bytes": float(used.memory_bytes[at[second]]) if used and second in at else None,
        }
        for second in range(answered[-1] + 1 if len(answered) else 0)
    ]


def _sums(trial: Trial, start: float | None, column: str) -> dict[int, int]:
    found: dict[int, int] = {}
    if trial.generator is None or start is None:
        return found
    for time, value in zip(trial.generator["time"], trial.generator[column], strict=True):
        second = math.floor(time - start - 0.5)
        found[second] = found.get(second, 0) + int(value)
    return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _write(path: Path, form: str, rows: Rows) -> Path:
    if form == "parquet":
        _write_parquet(path, rows)
    elif form == "json":
        path.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _columns(rows))
            writer.writeheader()
            writer.writerows(rows)
    return path


def _columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _write_parquet(path: Path, rows: Rows) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise NoParquet(
            "Parquet needs pyarrow, which is not installed: `uv pip install pyarrow` (50 MB) or --format csv."
        ) from error
    columns = {name: [row.get(name) for row in rows] for name in _columns(rows)}
    table = pyarrow.table(columns)
    for at, field in enumerate(table.schema):
        if pyarrow.types.is_null(field.type):  # nothing was measured; the column has its type all the same
            empty = pyarrow.string() if field.name in TEXTS else pyarrow.float64()
            table = table.set_column(at, field.name, table.column(at).cast(empty))
    parquet.write_table(table, path)


def _plotter(found: Sequence[Cell], out: Path) -> list[Path]:
    """A file per cell that has any latency, in milliseconds."""
    measured = [cell for cell in found if cell.latency.total]
    paths = [out / f"{name}.hgrm" for name in _names(measured)]
    for path, cell in zip(paths, measured, strict=True):
        path.write_bytes(_distribution(histogram_of(cell.latency.counts)))
    return paths


def _distribution(histogram: HdrHistogram) -> bytes:
    """A histogram of µs as the plotter reads it, in ms."""
    text = io.BytesIO()
    histogram.output_percentile_distribution(text, US_PER_MS)
    deviation_us = histogram.get_stddev()  # the one value that the package does not scale
    wrong, right = (f"StdDeviation   = {value:12.3f}" for value in (deviation_us, deviation_us / US_PER_MS))
    return text.getvalue().replace(wrong.encode(), right.encode())


def _names(found: Sequence[Cell]) -> list[str]:
    """A file's name for each cell, none twice: cells that are spelled alike get `--` between."""
    joined = {mark: [_joined(cell, mark) for cell in found] for mark in ("-", "--")}
    often = Counter(name.casefold() for name in joined["-"])  # some file systems do not tell cases apart
    names: list[str] = []
    taken: set[str] = set()
    for short, long in zip(joined["-"], joined["--"], strict=True):
        wanted = short if often[short.casefold()] == 1 else long
        numbered = (f"{wanted}-{number}" for number in count(2))
        names.append(next(name for name in chain([wanted], numbered) if name.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def _joined(cell: Cell, mark: str) -> str:
    return f"{cell.row.backend}{mark}{cell.row.scenario}".replace("/", "-")
