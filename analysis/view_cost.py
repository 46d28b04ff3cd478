"""The tables of costs, of arrival rates and of what happened under load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.cost import Cost, Prices, alike
from analysis.happenings import Happening
from analysis.levels import Level
from analysis.view import Entry, Grid, Group, between, named, text
from analysis.words import NONE, counted, listed, mebibytes, number, per_s

SHOWN_AT_MOST = 200
"""A table has at most so many events; report.json has them all."""
SAME_RATE = 1.1
"""Rates that differ by less are one rate: what chance makes of random arrivals."""


def costs(found: Sequence[Cost]) -> Grid:
    """A line per backend, the cheapest first, those last that are not to be compared with the others."""
    compared = {one.backend for one in alike(found)}

    def line(one: Cost) -> list[Entry]:
        cores = f"{number(one.cpu_cores_used)} of {one.cpu_cores_reserved}" if one.cpu_cores_reserved else ""
        return [
            named(one, full=True),
            Entry(per_s(one.answered_per_s), sub=one.scenario),
            text(cores or number(one.cpu_cores_used)),
            text(mebibytes(one.memory_bytes_peak)),
            Entry(number(one.predictions_per_cpu_s), sub=_interval(one.predictions_per_cpu_s_interval)),
            text(number(one.predictions_per_gib_hour)),
            _money(one.million_used, one.million_used_interval),
            _money(one.million_reserved),
            text(number(one.joules_per_prediction)),
        ]

    def by_price(one: Cost) -> tuple[bool, float, float]:
        dearest = float("inf")
        price = one.million_reserved if one.million_reserved is not None else dearest
        return one.backend not in compared, price, -(one.predictions_per_cpu_s or 0.0)

    columns = ["Backend", "Answered", "CPU cores", "Memory peak", "Per CPU-second", "Per GiB-hour",
               "Million, used", "Million, reserved", "Joules each"]  # fmt: skip
    lines = [line(one) for one in sorted(found, key=by_price)]
    if not any(one.joules_per_prediction for one in found):
        columns, lines = columns[:-1], [cells[:-1] for cells in lines]
    return Grid(columns, [Group("", lines)] if lines else [])


def carried(found: Sequence[Cost], measured: Sequence[Level], by_objectives: bool) -> str:
    """At which of the measured rates the backends held; nothing where all of several held at the same."""
    compared = alike(found)
    if (
        len({one.scenario for one in compared}) < 2
        or len({round(one.answered_per_s) for one in compared}) < 2
    ):
        return _one_rate(compared, measured)
    ordered = sorted(compared, key=lambda one: -one.answered_per_s)
    rates = listed([f"{one.title} {per_s(one.answered_per_s)} ({one.scenario})" for one in ordered])
    what = "the objectives held" if by_objectives else "each kept up"
    return f"Highest measured rate at which {what}: {rates}."


def _one_rate(compared: Sequence[Cost], measured: Sequence[Level]) -> str:
    """That no other rate was tried, where that is so."""
    rates: dict[str, list[float]] = {one.backend: [] for one in compared}
    for level in measured:
        if level.backend in rates and level.offered_per_s:
            rates[level.backend].append(level.offered_per_s)
    known = [mine for mine in rates.values() if mine]
    if not known or any(max(mine) > SAME_RATE * min(mine) for mine in known):
        return ""
    middle = float(np.median([rate for mine in known for rate in mine]))
    return f"No arrival rate but {per_s(middle)} was tried: how much more they carry is not known."


def without(reasons: dict[str, str], titles: dict[str, str]) -> str:
    """Who is not in the table of costs, and why; a sentence, or nothing."""
    told = listed([f"{titles.get(backend, backend)} ({why})" for backend, why in reasons.items()])
    return f"Not in the table: {told}." if told else ""


def _money(value: float | None, interval: tuple[float, float] | None = None) -> Entry:
    if value is None:
        return Entry(NONE, "dim", "needs prices, --price-cpu and --price-memory, and what was used")
    told = f"{value:,.2f}" if value >= 1 else number(value)
    return Entry(told, sub=_interval(interval))


def _interval(pair: tuple[float, float] | None) -> str:
    return between(pair).text if pair else ""


def prices(given: Prices) -> str:
    """The prices in words."""
    told = [
        f"{price:g} per {unit}-hour"
        for price, unit in ((given.cpu_hour, "vCPU"), (given.gib_hour, "GiB"))
        if price is not None
    ]
    return " and ".join(told)


def levels(found: Sequence[Level]) -> Grid:
    """A line per backend and rate, grouped by scenario."""
    groups: dict[str, list[list[Entry]]] = {}
    for one in found:
        bound = "≥ " if one.lower_bound else ""
        asked = counted(one.users, "caller") if one.users else per_s(one.offered_per_s)
        p95 = (
            text(f"{bound}{number(one.p95_ms)}") if one.carried else Entry(NONE, "dim", "needs 200 requests")
        )
        groups.setdefault(one.scenario, []).append(
            [
                Entry(one.title, of=one.backend),
                text(asked),
                text(per_s(one.answered_per_s)),
                text(f"{one.requests:,}"),
                text(f"{bound}{number(one.p50_ms)}"),
                p95,
            ]
        )
    columns = ["Backend", "Planned", "Answered", "Requests", "p50 ms", "p95 ms"]
    return Grid(columns, [Group(scenario, lines) for scenario, lines in groups.items()])


def events(found: Sequence[Happening], titles: dict[str, str], of_note: bool) -> Grid:
    """A line per event of note, or per other one, in the order of trials and time."""
    chosen = [one for one in found if one.of_note == of_note][:SHOWN_AT_MOST]
    lines = [
        [
            Entry(titles.get(one.backend, one.backend), of=one.backend),
            text(f"{one.scenario}, trial {one.trial}"),
            text(one.what),
            Entry(one.reason, "warn" if one.warning else ""),
            text(one.message or NONE),
            text("throughout" if one.at_s is None else f"{one.at_s:.0f} s"),
        ]
        for one in chosen
    ]
    columns = ["Backend", "Trial", "What", "Event", "Message", "At"]
    return Grid(columns, [Group("", lines)] if lines else [], words=5)
