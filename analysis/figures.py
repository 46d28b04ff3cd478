"""From cells to plots: which arrays each plot of the report is drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from analysis.happenings import LATENCY, Happening
from analysis.histograms import Floats, carries, together
from analysis.levels import Level, families
from analysis.metrics import QUANTILES, Cell
from analysis.plots import Bar, Mark, Track, as_locust_saw_it, distribution, over_time, side_by_side
from analysis.plots_load import Curve, Point, Trials, apart, saturation, throughput
from analysis.ranking import Ranking
from analysis.runfolder import GENERATOR, SERVER
from analysis.usage import last_answer_s, start_epoch_s, usage
from analysis.view import heading
from analysis.words import counted, ms, per_s

MOST_BINS = 120
"""A panel over time has at most so many points: what can be told apart on a phone."""
LONGEST_MESSAGE = 120
MOST_MARKS = 25
"""A panel over time has at most so many marks; the table of events has them all."""


@dataclass(frozen=True)
class Panel:
    """One backend over time."""

    title: str
    series: int
    svg: Markup


@dataclass(frozen=True)
class Figures:
    """The plots of one scenario."""

    heading: str
    side_by_side: Markup
    distribution: Markup
    over_time: list[Panel]
    by_locust: list[Panel]
    apart: Markup | None


@dataclass(frozen=True)
class RateFigures:
    """The plots over arrival rates of one kind of load."""

    heading: str
    throughput: Markup
    saturation: Markup | None


def series_of(cells: Sequence[Cell]) -> dict[str, int]:
    """A number for each backend, which is its colour and mark in every plot."""
    return {backend: i for i, backend in enumerate(sorted({cell.row.backend for cell in cells}), 1)}


def by_scenario(
    cells: Sequence[Cell], rankings: Sequence[Ranking], events: Sequence[Happening] = ()
) -> list[Figures]:
    """The plots of each scenario in which anything was measured; ``events`` are marked in those over time."""
    series = series_of(cells)
    found = []
    for ranking in rankings:
        mine = [cell for cell in cells if cell.row.scenario == ranking.scenario and cell.latency.total]
        if mine:
            found.append(_figures(ranking, mine, series, events))
    return found


def over_rates(found: Sequence[Level], series: dict[str, int]) -> list[RateFigures]:
    """Throughput against latency, and of open load saturation, for each kind of load with several rates."""
    figures = []
    for family in families(found):
        curves = _curves(family.levels, series)
        full = saturation(family.heading, curves) if family.open_load else None
        figures.append(RateFigures(family.heading, throughput(family.heading, curves), full))
    return figures


def _curves(found: Sequence[Level], series: dict[str, int]) -> list[Curve]:
    curves = []
    for backend in dict.fromkeys(level.backend for level in found):
        mine = [level for level in found if level.backend == backend]
        ordered = sorted(
            mine, key=lambda level: (level.offered_per_s or level.users or 0, level.answered_per_s)
        )
        curves.append(Curve(mine[0].title, series[backend], [_point(level) for level in ordered]))
    return curves


def _point(level: Level) -> Point:
    offered = level.answered_per_s if level.offered_per_s is None else level.offered_per_s
    asked = counted(level.users, "caller") if level.users else f"{per_s(offered)} planned"
    bound = "at least " if level.lower_bound else ""
    answered, latency = per_s(level.answered_per_s), ms(level.p95_ms)
    few = _few(level.requests, 0.95)
    told = f"{level.scenario}, {asked}, {answered} answered, p95 {bound}{latency}{few}"
    return Point(offered, level.answered_per_s, level.p95_ms, not level.lower_bound, told)


def _figures(
    ranking: Ranking, cells: Sequence[Cell], series: dict[str, int], events: Sequence[Happening]
) -> Figures:
    ranked = {one.backend: one.rank for one in ranking.ranked}
    ordered = sorted(
        cells, key=lambda cell: (ranked.get(cell.row.backend, len(cells) + 1), cell.row.latency_ms["p95"])
    )
    tracks = [_track(cell, events) for cell in ordered]
    titles = [(cell.row.title, series[cell.row.backend], cell) for cell in ordered]
    bars = [_bar(title, number, cell, cell.row.backend in ranked) for title, number, cell in titles]
    return Figures(
        heading=heading([cell.row for cell in ordered]),
        side_by_side=side_by_side(ranking.scenario, bars),
        distribution=distribution(ranking.scenario, [(t, n, cell.latency) for t, n, cell in titles]),
        over_time=[
            Panel(track.title, number, over_time(track, tracks, number))
            for track, (_, number, _) in zip(tracks, titles, strict=True)
        ],
        by_locust=[
            Panel(track.title, number, as_locust_saw_it(track, tracks, number))
            for track, (_, number, _) in zip(tracks, titles, strict=True)
            if np.any(np.isfinite(track.users))
        ],
        apart=_apart(ranking, ordered, series),
    )


def _apart(ranking: Ranking, cells: Sequence[Cell], series: dict[str, int]) -> Markup | None:
    """The trials' own percentiles, where any backend has several."""
    q = QUANTILES[ranking.metric]
    rows = [
        Trials(
            cell.row.title,
            series[cell.row.backend],
            [
                (trial.entry.trial, trial.entry.order or trial.entry.trial, value, _few(own.total, q))
                for trial in cell.trials
                if (own := trial.log.tag("latency").merged()) and (value := own.quantile_ms(q))
            ],
        )
        for cell in cells
    ]
    rows = [row for row in rows if row.values_ms]
    if not any(len(row.values_ms) > 1 for row in rows):
        return None
    return apart(ranking.scenario, ranking.metric, rows)


def _bar(title: str, series: int, cell: Cell, sure: bool) -> Bar:
    p50, p95, p99 = (cell.latency.carried_ms(q) for q in (0.5, 0.95, 0.99))
    row = cell.row
    return Bar(
        title, series, p50, p95, p99, row.interval_ms.get("p95"), sure, cell.latency.total, row.lower_bound
    )


def _few(requests: int, q: float) -> str:
    """What to say behind a percentile that rests on too few requests."""
    return "" if carries(requests, q) else f" of only {counted(requests, 'request')}"


def _track(cell: Cell, events: Sequence[Happening]) -> Track:
    """The cell over time, its trials laid over each other: answers merged, rates and CPU averaged."""
    all_trials = together(cell.intervals)
    seconds = int(all_trials.start_s.max()) + 1
    width_s = math.ceil(seconds / MOST_BINS)
    binned = all_trials.binned(width_s)
    bins, trials = len(binned.start_s), len(cell.trials)
    history = _history(cell, width_s, bins)
    return Track(
        title=cell.row.title,
        width_s=width_s,
        at_s=binned.start_s,
        p50_ms=binned.quantiles_ms(0.5),
        p95_ms=binned.quantiles_ms(0.95),
        answers=binned.totals,
        answered_per_s=binned.totals / (width_s * trials),
        planned_per_s=_generated(cell, "planned", width_s, bins),
        dropped_per_s=_generated(cell, "dropped", width_s, bins),
        cpu_cores=_used(cell, width_s, bins, SERVER, "cpu_cores"),
        memory_bytes=_used(cell, width_s, bins, SERVER, "memory_bytes"),
        generator_cores=_generated(cell, "cpu_cores", width_s, bins, np.nan),
        generator_bytes=_used(cell, width_s, bins, GENERATOR, "memory_bytes"),
        users=history[0],
        locust_per_s=history[1],
        locust_failed_per_s=history[2],
        marks=_marks(cell, events),
    )


def _marks(cell: Cell, events: Sequence[Happening]) -> list[Mark]:
    """What happened in any of the cell's trials."""
    trials = {trial.entry.trial for trial in cell.trials}
    mine = [
        one
        for one in events
        if (one.backend, one.scenario) == (cell.row.backend, cell.row.scenario) and one.trial in trials
    ]
    return [
        Mark(one.at_s, _told(one, several=len(trials) > 1), _look(one))
        for one in mine
        if one.at_s is not None and one.at_s >= 0
    ][:MOST_MARKS]


def _told(one: Happening, several: bool) -> str:
    words = " ".join(filter(None, [one.what, one.reason, one.message[:LONGEST_MESSAGE]]))
    return f"{words} (trial {one.trial})" if several else words


def _look(one: Happening) -> str:
    if one.what == LATENCY:
        return "change"
    return "bad" if one.warning else "event"


def _generated(cell: Cell, column: str, width_s: int, bins: int, lacking: float = 0.0) -> Floats:
    """A column of generator.csv per second of each bin, averaged over trials; NaN where it does not tell.

    ``lacking`` stands in bins without any row: nothing was planned there, but what was used is not known.
    """
    counted, rows = np.zeros(bins), np.zeros(bins, dtype=np.int64)
    known = 0
    for trial in cell.trials:
        start = start_epoch_s(trial)
        if trial.generator is None or start is None:
            continue
        known += 1
        # A row is written at the end of the second that it counts.
        at = np.floor((trial.generator["time"] - start - 0.5) / width_s)
        inside = (at >= 0) & (at < bins)
        bin_of = at[inside].astype(np.int64)
        counted += np.bincount(bin_of, trial.generator[column][inside], bins)
        rows += np.bincount(bin_of, minlength=bins)
    if not known:
        return np.full(bins, np.nan)
    return np.asarray(np.where(rows > 0, counted / (known * width_s), lacking))


def _used(cell: Cell, width_s: int, bins: int, component: str, column: str) -> Floats:
    """CPU in cores or memory in bytes, averaged over a bin and the trials, NaN where there is no sample."""
    total, samples = np.zeros(bins), np.zeros(bins)
    found = [usage(trial, bins * width_s, component) for trial in cell.trials]
    for used in filter(None, found):
        at = np.floor(used.second / width_s).astype(np.int64)
        inside = at < bins
        values: Floats = getattr(used, column)
        total += np.bincount(at[inside], values[inside], bins)
        samples += np.bincount(at[inside], minlength=bins)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / samples)


def _history(cell: Cell, width_s: int, bins: int) -> Floats:
    """Users, requests/s and failures/s by Locust in each bin, shape (3, bins), NaN where they are not known.

    Users are the most of any trial, rates the mean over the trials. Rates are differences of Locust's totals:
    those that it writes itself are means of ten seconds. Its whole timestamps are taken for the middle of
    their second.
    """
    edges = np.arange(bins + 1.0) * width_s
    users, found = np.full(bins, -1.0), []
    for trial in cell.trials:
        start, table = start_epoch_s(trial), trial.locust.history
        if table is None or start is None:
            continue
        at_s = table["Timestamp"] + 0.5 - start
        totals = [table["Total Request Count"], table["Total Failure Count"]]
        rates = np.array([np.diff(np.interp(edges, at_s, total)) / width_s for total in totals])
        lost = (edges[:-1] >= at_s[-1]) & (edges[:-1] < last_answer_s(trial))  # later nothing came any more
        rates[:, (edges[1:] <= at_s[0]) | lost] = np.nan
        found.append(rates)
        bin_of = np.floor(at_s / width_s).astype(np.int64)
        inside = (bin_of >= 0) & (bin_of < bins)
        np.maximum.at(users, bin_of[inside], table["User Count"][inside])
    known = np.array(found).reshape(len(found), 2, bins)
    counted = np.isfinite(known).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(known, axis=0) / counted
    return np.vstack([np.where(users < 0, np.nan, users), mean])
