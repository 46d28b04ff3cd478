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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from analysis.importing import histogram_of
from analysis.metrics import Cell, Measures, cells, trial_row
from analysis.runfolder import Trial, read_run
from analysis.usage import start_epoch_s, usage

FORMS = ("csv", "json", "parquet", "hgrm")
US_PER_MS = 1000.0
Rows = list[dict[str, Any]]


class NoParquet(RuntimeError):
    """pyarrow is not installed."""


def export(run_dir: Path, form: str, out: Path) -> list[Path]:
    """Write the run's numbers into the folder ``out`` in one of ``FORMS`` and return the files.

    Raises
    ------
    analysis.runfolder.NotARunFolder
        A ``ValueError`` with a sentence for the user, if there is no run at ``run_dir``.
    NoParquet
        If Parquet is asked for and pyarrow is not installed.
    """
    run = read_run(run_dir)
    out.mkdir(parents=True, exist_ok=True)
    if form == "hgrm":
        return _plotter(cells(run), out)
    tables = {
        "cells": [flat(_carried(cell.row)) for cell in cells(run)],
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
    """A row per second of the trial's latency log; counts by generator.csv are in its own seconds."""
    latency = trial.log.tag("latency").binned()
    p50, p95, p99 = (latency.carried_ms(q) for q in (0.5, 0.95, 0.99))
    used = usage(trial, float(len(latency.start_s)) or 1.0)
    at = {math.floor(second): i for i, second in enumerate(used.second)} if used else {}
    start, entry, totals = start_epoch_s(trial), trial.entry, latency.totals
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
        for second in range(len(latency.start_s))
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
    parquet.write_table(pyarrow.table(columns), path)


def _plotter(found: Sequence[Cell], out: Path) -> list[Path]:
    """A file per cell that has any latency, in milliseconds."""
    paths = []
    for cell in found:
        if not cell.latency.total:
            continue
        text = io.BytesIO()
        histogram_of(cell.latency.counts).output_percentile_distribution(text, US_PER_MS)
        name = f"{cell.row.backend}-{cell.row.scenario}".replace("/", "-")
        paths.append(out / f"{name}.hgrm")
        paths[-1].write_bytes(text.getvalue())
    return paths
