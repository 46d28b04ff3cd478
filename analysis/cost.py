"""What a backend costs: predictions per CPU-second and GiB-hour, and money per million of them.

Judged at the highest rate at which a backend held the run's latency and error objectives in a whole scenario,
or, where there are none, kept up. Two bills are made out: for what the server *used*, and for what must be
*reserved* for it (the cores that it was given and its peak memory), which is what a cloud charges for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from analysis.energy import joules
from analysis.judging import NOT_SHOWN, ObjectiveResult
from analysis.metrics import Cell, Measures, Row, cells, measure
from analysis.ranking import IMAGE, MAX_ERROR_RATE
from analysis.runfolder import Run, RunFacts

GIB = 2**30
HOUR_S = 3600.0
MILLION = 1e6


class Prices(BaseModel):
    """What an hour of one vCPU and of one GiB of memory costs; None where it is not told."""

    model_config = ConfigDict(frozen=True)

    cpu_hour: float | None = None
    gib_hour: float | None = None


class Cost(BaseModel):
    """What one backend's predictions cost at ``answered_per_s``, in ``scenario``.

    Money is per million predictions in the currency of the prices; None where a price or a measurement lacks.
    ``joules_per_prediction`` is that of the whole processor package, idle power and load generator included.
    The intervals are Student's, at 95 % over the trials; None of fewer than two.
    A ``stand_in``, or a backend with another ``kind`` of requests, is not to be compared with the others.
    """

    model_config = ConfigDict(frozen=True)

    backend: str
    title: str
    note: str = ""
    kind: str = "image"
    stand_in: bool = False
    scenario: str
    answered_per_s: float
    cpu_cores_used: float | None
    cpu_cores_reserved: int | None
    memory_bytes_peak: float | None
    predictions_per_cpu_s: float | None
    predictions_per_cpu_s_interval: tuple[float, float] | None = None
    predictions_per_gib_hour: float | None
    million_used: float | None
    million_used_interval: tuple[float, float] | None = None
    million_reserved: float | None
    joules_per_prediction: float | None


def costs(
    measured: Sequence[Cell], objectives: Sequence[ObjectiveResult], facts: RunFacts, prices: Prices
) -> list[Cost]:
    """What each backend costs at the highest rate that held, the backends that held none left out."""
    missed = {(one.backend, one.scenario) for one in objectives if not one.passed}
    best: dict[str, Cell] = {}
    for cell in measured:
        row = cell.row
        if (row.backend, row.scenario) in missed or not _kept_up(row):
            continue
        before = best.get(row.backend)
        if before is None or (row.achieved_per_s or 0) > (before.row.achieved_per_s or 0):
            best[row.backend] = cell
    return [_cost(cell, facts, prices) for cell in best.values()]


def cost_of(run: Run, prices: Prices) -> Cost | None:
    """What the one backend of a run costs, over all trials of the scenario that has most of them."""
    cell = max(cells(run), key=lambda one: one.row.trials, default=None)
    return _cost(cell, run.facts, prices) if cell and _kept_up(cell.row) else None


def left_out(
    rows: Sequence[Row], objectives: Sequence[ObjectiveResult], found: Sequence[Cost]
) -> dict[str, str]:
    """Why backends have no cost, by backend."""
    reasons: dict[str, str] = {}
    for row in rows:
        if row.backend in {one.backend for one in found}:
            continue
        judged = [one for one in objectives if (one.backend, one.scenario) == (row.backend, row.scenario)]
        missed = {one.judgement for one in judged if not one.passed}
        if not _kept_up(row):
            reasons.setdefault(row.backend, "kept up with open load at no rate")
        elif missed == {NOT_SHOWN}:
            reasons[row.backend] = "its objectives were not shown to hold"
        elif reasons.get(row.backend) != "its objectives were not shown to hold":
            reasons[row.backend] = "held the objectives at no rate"
    return reasons


def alike(found: Sequence[Cost]) -> list[Cost]:
    """Those that may be compared: real servers that do one task, the model's own where there are several."""
    real = [one for one in found if not one.stand_in]
    several = len({one.kind for one in real}) > 1
    return [one for one in real if one.kind == IMAGE or not several]


def _kept_up(row: Row) -> bool:
    right = row.verdict != "invalid" and not row.saturated and (row.error_rate or 0) <= MAX_ERROR_RATE
    return right and row.load == "open" and bool(row.achieved_per_s)


def _cost(cell: Cell, facts: RunFacts, prices: Prices) -> Cost:
    row = cell.row
    per_s = row.achieved_per_s or 0.0
    peak, each = row.memory_bytes_peak, [measure([trial]) for trial in cell.trials]
    held = facts.fairness
    reserved = (len(held.server_cores) if held.server_cores else None) or held.threads
    spent = [joules(trial) for trial in cell.trials]
    gib = row.memory_bytes_mean / GIB if row.memory_bytes_mean else None
    return Cost(
        backend=row.backend,
        title=row.title,
        note=row.note,
        kind=row.kind,
        stand_in=row.stand_in,
        scenario=row.scenario,
        answered_per_s=per_s,
        cpu_cores_used=row.cpu_cores_mean,
        cpu_cores_reserved=reserved,
        memory_bytes_peak=peak,
        predictions_per_cpu_s=row.predictions_per_cpu_s,
        predictions_per_cpu_s_interval=interval([one.predictions_per_cpu_s for one in each]),
        predictions_per_gib_hour=per_s * HOUR_S / gib if gib else None,
        million_used=_used(row, prices),
        million_used_interval=interval([_used(one, prices) for one in each]),
        million_reserved=_million(per_s, reserved, peak, prices),
        joules_per_prediction=_per_prediction(spent, row.completed),
    )


def _per_prediction(spent: Sequence[float | None], completed: int | None) -> float | None:
    known = [one for one in spent if one is not None]
    if not known or len(known) < len(spent) or not completed:
        return None
    return float(np.sum(known)) / completed


def interval(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of the trials' values; None where one lacks or there is but one."""
    from scipy.stats import sem, t  # imported late: the command must start fast

    known = [one for one in values if one is not None]
    if len(known) < max(2, len(values)):
        return None
    reach = float(t.ppf(0.975, len(known) - 1) * sem(known))
    middle = float(np.mean(known))
    return max(0.0, middle - reach), middle + reach


def _used(row: Measures, prices: Prices) -> float | None:
    """The price of a million predictions for what the server used."""
    if not row.achieved_per_s:
        return None
    return _million(row.achieved_per_s, row.cpu_cores_mean, row.memory_bytes_mean, prices)


def _million(per_s: float, cores: float | None, memory_bytes: float | None, prices: Prices) -> float | None:
    """The price of a million predictions at so many cores and bytes; None where a part is not known."""
    if prices.cpu_hour is None and prices.gib_hour is None:
        return None
    hours = MILLION / per_s / HOUR_S
    total = 0.0
    for price, amount in ((prices.cpu_hour, cores), (prices.gib_hour, memory_bytes and memory_bytes / GIB)):
        if price is None:
            continue
        if amount is None:
            return None
        total += price * amount * hours
    return total
