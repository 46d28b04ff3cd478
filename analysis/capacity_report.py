"""The page of a capacity search: how much each server carries, how sure that is, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from analysis import view, view_cost
from analysis.capacity import Capacity
from analysis.pages import render_page, write_whole
from analysis.plots_load import Curve, Limit, Point, against_limit, saturation
from analysis.runfolder import RunFacts
from analysis.scaling import Little
from analysis.view import Entry, Grid, Group, text
from analysis.words import NONE, PERCENT, listed, number, per_s


def write_capacity_report(
    found: Sequence[Capacity], folder: Path, command: str = "", facts: Sequence[RunFacts] = ()
) -> Path:
    """Write ``capacity.html`` into ``folder`` and return it; ``facts`` are those of a run of each search."""
    run = _together(facts)
    series = {one.backend: number for number, one in enumerate(found, 1)}
    titles = {one.backend: one.title for one in found}
    measured = [one for one in found if one.levels]
    objectives = listed(list(dict.fromkeys(text for one in found for text in one.objectives)))
    context = {
        "title": f"capacity at {objectives}",
        "command": command,
        "run": run,
        "when": view.moment(run.started),
        "fairness": view.fairness(run) if facts else Grid([], []),
        "setting": view.setting(run),
        "objectives": objectives,
        "sentences": _sentences(found),
        "table": _table(found),
        "costs": view_cost.costs([one.cost for one in found if one.cost]),
        "costs_without": view_cost.without(_without_cost(found), titles),
        "scaling": _scaling(found),
        "levels": _levels(found),
        "notes": [f"{one.title}: {note}" for one in found for note in one.notes],
        "limit": against_limit("Capacity", [_limit(one, series) for one in measured]) if measured else "",
        "saturation": saturation("Capacity", [_curve(one, series) for one in measured]) if measured else "",
    }
    path = folder / "capacity.html"
    write_whole(path, render_page("capacity.html.j2", series, titles, context))
    return path


def _together(facts: Sequence[RunFacts]) -> RunFacts:
    """What is so of all the searches, from the first one's start to the last one's end."""
    if not facts:
        return RunFacts()
    backends = {key: backend for one in facts for key, backend in one.backends.items()}
    return facts[0].model_copy(update={"backends": backends, "ended": facts[-1].ended})


def _without_cost(found: Sequence[Capacity]) -> dict[str, str]:
    reasons = {one.backend: "no rate was held in replicates" for one in found if one.shown_per_s is None}
    unknown = {one.backend: "its trials taken together do not keep up" for one in found if not one.cost}
    return unknown | reasons


def _sentences(found: Sequence[Capacity]) -> tuple[str, str]:
    """Who carries most, and how sure."""
    able = sorted((one for one in found if _best(one)), key=_best, reverse=True)
    unable = [f"{one.title} held the objectives at no rate that was tried" for one in found if not _best(one)]
    if not able:
        return "No server held the objectives at any rate that was tried.", ""
    rates = [f"{one.title} {_rate(one)}" for one in able]
    alike = [one for one in able if _overlap(able[0], one)]
    if len(alike) > 1:
        names = listed([one.title for one in alike])
        rest = ", which carry most" if len(alike) < len(found) else ""
        return f"No difference was shown between {names}{rest}.", _sentence([*rates, *unable])
    carries = "carries" if able[0].shown_per_s else "seems to carry"
    most = " most:" if len(found) > 1 else ""
    return f"{able[0].title} {carries}{most} {_rate(able[0])}.", _sentence([*rates[1:], *unable])


def _sentence(parts: Sequence[str]) -> str:
    return f"{listed(parts)}." if parts else ""


def _best(one: Capacity) -> float:
    """The rate that a server stands for among the others; 0 where it held none."""
    return one.per_s or one.at_least_per_s or 0.0


def _between(one: Capacity) -> tuple[float, float] | None:
    """The interval of the capacity; from what held in replicates on where no upper end was found."""
    if one.low_per_s is not None and one.high_per_s is not None:
        return one.low_per_s, one.high_per_s
    if one.at_least_per_s and one.shown_per_s:
        return one.shown_per_s, math.inf
    return None


def _overlap(best: Capacity, other: Capacity) -> bool:
    """Whether the intervals have a rate in common; without one, nothing tells them apart."""
    mine, others = _between(best), _between(other)
    return mine is None or others is None or others[1] >= mine[0]


def _rate(one: Capacity) -> str:
    """What a server carries, with all that is not known of it."""
    if one.at_least_per_s:
        known, doubts = f"at least {per_s(one.at_least_per_s)}", ["no upper end was found"]
    else:
        known, doubts = per_s(one.per_s), [_interval(one)]
    if one.shown_per_s is None:
        doubts.append("not confirmed by replicates")
    if suspects := sum(level.suspect for level in one.levels):
        doubts.append(f"{suspects} of {len(one.levels)} trials suspect")
    return f"{known} ({', '.join(doubts)})"


def _interval(one: Capacity) -> str:
    if one.low_per_s is None or one.high_per_s is None:
        return "without an interval"
    return f"95 % interval {number(one.low_per_s)} to {number(one.high_per_s)}"


def _table(found: Sequence[Capacity]) -> Grid:
    def line(one: Capacity) -> list[Entry]:
        between = NONE
        if one.low_per_s is not None and one.high_per_s is not None:
            between = f"{number(one.low_per_s)} to {number(one.high_per_s)}"
        rates = (one.shown_per_s, one.knee_per_s, one.ceiling_per_s)
        return [
            Entry(one.title, of=one.backend),
            text(f"≥ {number(one.at_least_per_s)}" if one.at_least_per_s else number(one.per_s)),
            text(between),
            *(text(number(rate)) for rate in rates),
            text(str(len(one.levels))),
        ]

    columns = [
        "Backend",
        "Capacity/s",
        "95 % interval",
        "Held in replicates/s",
        "Knee/s",
        "Ceiling/s",
        "Trials",
    ]
    ordered = sorted(found, key=_best, reverse=True)
    return Grid(columns, [Group("", [line(one) for one in ordered])])


def _scaling(found: Sequence[Capacity]) -> Grid:
    """The Universal Scalability Law's parameters, or why there are none."""

    def line(one: Capacity) -> list[Entry]:
        if one.usl is None:
            return [Entry(one.title, of=one.backend), text(one.usl_refused or NONE), text(NONE), text(NONE)]
        shares = [
            f"{share:.3g} ({low:.3g} to {high:.3g})"
            for share, low, high in (one.usl.contention, one.usl.coherency)
        ]
        peak = "levels off" if one.usl.peak_in_flight is None else number(one.usl.peak_in_flight)
        return [Entry(one.title, of=one.backend), *(text(share) for share in shares), text(peak)]

    columns = ["Backend", "Contention", "Coherency", "In flight at the peak"]
    return Grid(columns, [Group("", [line(one) for one in found])], words=3)


def _levels(found: Sequence[Capacity]) -> Grid:
    groups = [
        Group(
            one.title,
            [
                [
                    Entry(per_s(level.rate_per_s), of=one.backend),
                    text(per_s(level.achieved_per_s)),
                    text(f"{level.requests:,}"),
                    text(number(level.mean_ms)),
                    text(f"{math.exp(level.score):.2f}"),
                    text(number(level.in_flight)),
                    _little(level.little),
                    Entry("held", "good") if level.score <= 0 else Entry("missed", "bad"),
                    Entry("suspect", "warn", "; ".join(level.reasons))
                    if level.suspect
                    else Entry("valid", "good"),
                ]
                for level in sorted(one.levels, key=lambda level: level.rate_per_s)
            ],
        )
        for one in found
        if one.levels
    ]
    columns = [
        "Planned",
        "Answered",
        "Requests",
        "Mean ms",
        "Of what is allowed",
        "In flight",
        "Little's law",
        "Objectives",
        "Verdict",
    ]
    return Grid(columns, groups)


def _little(found: Little | None) -> Entry:
    """How far the requests in flight that were counted lie from those that the law expects."""
    if found is None or found.difference is None:
        return text(NONE, "dim")
    apart = f"{100 * found.difference:+.1f}{PERCENT}"
    if found.verdict == "not shown":
        return text(f"{apart}, not shown", "dim")
    return text(apart, "bad" if found.verdict == "suspect" else "")


def _limit(one: Capacity, series: dict[str, int]) -> Limit:
    points = [
        (
            level.rate_per_s,
            math.exp(level.score),
            f"{per_s(level.rate_per_s)}: {math.exp(level.score):.2f} of allowed",
        )
        for level in one.levels
    ]
    between = (
        (one.low_per_s, one.high_per_s) if one.low_per_s is not None and one.high_per_s is not None else None
    )
    return Limit(one.title, series[one.backend], points, between)


def _curve(one: Capacity, series: dict[str, int]) -> Curve:
    ordered = sorted(one.levels, key=lambda level: level.rate_per_s)
    return Curve(
        one.title,
        series[one.backend],
        [
            Point(
                level.rate_per_s,
                level.achieved_per_s,
                level.mean_ms,
                level.calm,
                f"{per_s(level.rate_per_s)} planned, {per_s(level.achieved_per_s)} answered",
            )
            for level in ordered
        ],
    )
