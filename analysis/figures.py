"""From cells to plots: which arrays each plot of the report is drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from analysis.histograms import Floats, together
from analysis.metrics import Cell
from analysis.plots import Bar, Track, as_locust_saw_it, distribution, over_time, side_by_side
from analysis.ranking import Ranking
from analysis.usage import last_answer_s, start_epoch_s, usage
from analysis.view import heading

COLOURS = 8  # that report.css has
MOST_BINS = 120
"""A panel over time has at most so many points: what can be told apart on a phone."""


@dataclass(frozen=True)
class Panel:
    """One backend over time."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Figures:
    """The plots of one scenario."""

    heading: str
    side_by_side: Markup
    distribution: Markup
    over_time: list[Panel]
    by_locust: list[Panel]


def by_scenario(cells: Sequence[Cell], rankings: Sequence[Ranking]) -> list[Figures]:
    """The plots of each scenario in which anything was measured; a backend has one colour in all of them."""
    backends = sorted({cell.row.backend for cell in cells})
    series = {backend: i % COLOURS + 1 for i, backend in enumerate(backends)}
    found = []
    for ranking in rankings:
        mine = [cell for cell in cells if cell.row.scenario == ranking.scenario and cell.latency.total]
        if mine:
            found.append(_figures(ranking, mine, series))
    return found


def _figures(ranking: Ranking, cells: Sequence[Cell], series: dict[str, int]) -> Figures:
    ranked = {one.backend: one.rank for one in ranking.ranked}
    ordered = sorted(
        cells, key=lambda cell: (ranked.get(cell.row.backend, len(cells) + 1), cell.row.latency_ms["p95"])
    )
    tracks = [_track(cell) for cell in ordered]
    titles = [(cell.row.title, series[cell.row.backend], cell) for cell in ordered]
    bars = [_bar(title, number, cell, cell.row.backend in ranked) for title, number, cell in titles]
    return Figures(
        heading=heading([cell.row for cell in ordered]),
        side_by_side=side_by_side(ranking.scenario, bars),
        distribution=distribution(ranking.scenario, [(t, n, cell.latency) for t, n, cell in titles]),
        over_time=[
            Panel(track.title, over_time(track, tracks, number))
            for track, (_, number, _) in zip(tracks, titles, strict=True)
        ],
        by_locust=[
            Panel(track.title, as_locust_saw_it(track, tracks, number))
            for track, (_, number, _) in zip(tracks, titles, strict=True)
            if np.any(np.isfinite(track.users))
        ],
    )


def _bar(title: str, series: int, cell: Cell, sure: bool) -> Bar:
    p50, p95, p99 = (cell.latency.quantile_ms(q) or 0.0 for q in (0.5, 0.95, 0.99))
    return Bar(title, series, p50, p95, p99, cell.row.interval_ms.get("p95"), sure)


def _track(cell: Cell) -> Track:
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
        answered_per_s=binned.totals / (width_s * trials),
        planned_per_s=_generated(cell, "planned", width_s, bins),
        dropped_per_s=_generated(cell, "dropped", width_s, bins),
        cpu_cores=_cpu(cell, width_s, bins),
        users=history[0],
        locust_per_s=history[1],
        locust_failed_per_s=history[2],
    )


def _generated(cell: Cell, column: str, width_s: int, bins: int) -> Floats:
    """A count of generator.csv per second of each bin, averaged over trials; NaN where it does not tell."""
    counted = np.zeros(bins)
    known = 0
    for trial in cell.trials:
        start = start_epoch_s(trial)
        if trial.generator is None or start is None:
            continue
        known += 1
        # A row is written at the end of the second that it counts.
        at = np.floor((trial.generator["time"] - start - 0.5) / width_s)
        inside = (at >= 0) & (at < bins)
        counted += np.bincount(at[inside].astype(np.int64), trial.generator[column][inside], bins)
    return counted / (known * width_s) if known else np.full(bins, np.nan)


def _cpu(cell: Cell, width_s: int, bins: int) -> Floats:
    """The server's CPU in cores, averaged over a bin and over the trials, NaN where there is no sample."""
    total, samples = np.zeros(bins), np.zeros(bins)
    for used in filter(None, [usage(trial, until_s=bins * width_s) for trial in cell.trials]):
        at = np.floor(used.second / width_s).astype(np.int64)
        inside = at < bins
        total += np.bincount(at[inside], used.cpu_cores[inside], bins)
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
