"""The first thing a reader sees: two sentences that say which server to run, or why none can be named.

The first quotes the numbers it rests on, the second what they rest on and who is left out. A server is
named only if none is shown to be faster than it in any scenario, and every other ranked one is shown to be
slower in at least one, or failed by its own fault (saturated, errors) where this one did not. A server that
missed an objective is passed over for those that missed none, however fast it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.judging import NOT_SHOWN, ObjectiveResult
from analysis.levels import STEADY
from analysis.metrics import Cell, Row
from analysis.ranking import Excluded, Pair, Part, Ranking
from analysis.uncertainty import SINGLE_TRIAL, SINGLE_TRIAL_MARGIN
from analysis.words import PERCENT, counted, listed, ms, number, per_s, percent

TELL_WHY = 2
"""Up to so many unranked backends are explained in the sentence; of more it only has the names."""

TELL_EACH = 2
"""Up to so many scenarios are told one by one; of more the sentence has the range."""

FAR_APART = 2.0
"""Trials whose slowest is over so many times the fastest are named: they alone can hide a difference."""


class Recommendation(Part):
    """Two sentences; ``backend`` is the one to run, or None where none can be named."""

    backend: str | None
    sentences: tuple[str, str]


@dataclass(frozen=True)
class _Known:
    """The cells by scenario and backend, and what sentences quote of them.

    ``passed_over`` has the objectives that those missed which others are preferred to for it.
    """

    cells: Mapping[tuple[str, str], Cell]
    passed_over: Mapping[str, Sequence[str]]

    def title(self, backend: str) -> str:
        """The backend's name."""
        return next(cell.row.title for (_, name), cell in self.cells.items() if name == backend)

    def interval(self, ranking: Ranking, backend: str) -> str:
        """The interval of what the backend is ranked by: ``39.1 to 44.0``; empty where there is none."""
        found = self.cells[ranking.scenario, backend].row.interval_ms.get(ranking.metric)
        return f"{number(found[0])} to {number(found[1])}" if found else ""

    def load(self, ranking: Ranking) -> str:
        """The scenario and, where arrivals are planned, how many: ``at 20/s (poisson)``, ``(callers)``."""
        cell = self.cells[ranking.scenario, ranking.ranked[0].backend]
        name, rate = f"({ranking.scenario})", cell.row.planned_per_s
        if ranking.load != "open" or rate is None:
            return name
        shapes = {trial.summary.shape.name for trial in cell.trials if trial.summary}
        return f"at {per_s(rate)}{'' if shapes <= {*STEADY} else ' on average'} {name}"


def recommend(
    rankings: Sequence[Ranking], cells: Sequence[Cell], objectives: Sequence[ObjectiveResult]
) -> Recommendation:
    """Say which server to run.

    Open load decides; closed load is looked at only where there is nothing else, and never mixed with it.
    """
    usable = [one for one in rankings if one.ranked and one.load == "open"]
    usable = usable or [one for one in rankings if one.ranked]
    missed = _missed(objectives)
    eligible = [_without(ranking, missed) for ranking in usable]
    if not all(ranking.ranked for ranking in eligible):  # where all missed one, the fastest is still that
        eligible = usable
    left = {one.backend for ranking in eligible for one in ranking.ranked}
    over = {b: missed[b] for ranking in usable for one in ranking.ranked if (b := one.backend) not in left}
    known = _Known({(cell.row.scenario, cell.row.backend): cell for cell in cells}, over)
    backend, first = _first(eligible, known)
    if told := _told_missed(backend, usable, missed, known):
        first = f"{first.removesuffix('.')}{told}."
    rest = [
        *_rests_on(usable, cells, known),
        *_left_out(rankings, known),
        *_objectives(objectives),
    ]
    second = "; ".join(rest) or "nothing was measured"
    return Recommendation(backend=backend, sentences=(first, f"{second[:1].upper()}{second[1:]}."))


def _missed(objectives: Sequence[ObjectiveResult]) -> dict[str, list[str]]:
    """The objectives that each backend was shown to miss, each once."""
    found: dict[str, dict[str, None]] = {}
    for one in objectives:
        if one.judgement == "missed":
            found.setdefault(one.backend, {})[one.expression] = None
    return {backend: list(expressions) for backend, expressions in found.items()}


def _without(ranking: Ranking, missed: Mapping[str, Sequence[str]]) -> Ranking:
    """The ranking of those that missed nothing; the others are out of it by their own fault."""
    pairs = [pair for pair in ranking.pairs if not {pair.faster, pair.slower} & missed.keys()]
    ranked = [
        one.model_copy(update={"rank": 1 + sum(pair.shown and pair.slower == one.backend for pair in pairs)})
        for one in ranking.ranked
        if one.backend not in missed
    ]
    out = {
        one.backend: Excluded(reason=f"missed {listed(missed[one.backend])}", own_fault=True)
        for one in ranking.ranked
        if one.backend in missed
    }
    return ranking.model_copy(
        update={"ranked": ranked, "pairs": pairs, "excluded": {**ranking.excluded, **out}}
    )


def _told_missed(
    backend: str | None, usable: Sequence[Ranking], missed: Mapping[str, Sequence[str]], known: _Known
) -> str:
    """Who was passed over, or what the named one missed itself; empty where neither is so."""
    if backend is not None and backend in missed:
        return (
            f", but it missed {listed(missed[backend])}, and no other is known to have held every objective"
        )
    if len(known.passed_over) > TELL_WHY:
        return f"; {listed([known.title(b) for b in known.passed_over])} missed objectives"
    told = []
    for other, expressions in known.passed_over.items():
        faster = backend is not None and any(_shown_faster(ranking, other, backend) for ranking in usable)
        told.append(f"{known.title(other)} {'is faster but ' if faster else ''}missed {listed(expressions)}")
    return f"; {listed(told)}" if told else ""


def _first(usable: Sequence[Ranking], known: _Known) -> tuple[str | None, str]:
    if not usable:
        return None, "No server can be recommended from this run."
    ranked = sorted({one.backend for ranking in usable for one in ranking.ranked})
    ahead = [b for b in ranked if all(b in ranking.leaders for ranking in usable)]
    if not ahead:
        return None, _split(usable, known)
    if len(ahead) > 1:
        return None, _tie(ahead, usable, known)
    (best,) = ahead
    others = {b for ranking in usable for b in (*ranked, *_at_fault(ranking)) if b != best}
    if not others:
        return (
            None,
            f"{known.title(best)} has nothing to be ranked against: its {_values(usable, best, known)}.",
        )
    unbeaten = sorted(b for b in others if not any(_beats(ranking, best, b) for ranking in usable))
    if len(unbeaten) > 1:
        return None, _unsettled(best, unbeaten, usable, known)
    if unbeaten:
        return None, _tie([best, *unbeaten], usable, known)
    return best, _winner(best, usable, known)


def _at_fault(ranking: Ranking) -> list[str]:
    return [backend for backend, why in ranking.excluded.items() if why.own_fault]


def _beats(ranking: Ranking, best: str, other: str) -> bool:
    return other in _at_fault(ranking) or _shown_faster(ranking, best, other)


def _shown_faster(ranking: Ranking, one: str, other: str) -> bool:
    pair = ranking.pair(one, other)
    return bool(pair and pair.shown and pair.faster == one)


def _values(rankings: Sequence[Ranking], backend: str, known: _Known) -> str:
    """``p95 latency was 41.2 ms (95 % interval 39.1 to 44.0) at 20/s (constant)``, and so on."""
    mine = [ranking for ranking in rankings if any(one.backend == backend for one in ranking.ranked)]
    values = [f"{_value(ranking, backend, known)} {known.load(ranking)}" for ranking in mine]
    return f"{listed(sorted({ranking.metric for ranking in mine}))} latency was {listed(values)}"


def _value(ranking: Ranking, backend: str, known: _Known) -> str:
    interval = known.interval(ranking, backend)
    return f"{ms(ranking.value(backend))}{f' (95{PERCENT} interval {interval})' if interval else ''}"


def _winner(best: str, rankings: Sequence[Ranking], known: _Known) -> str:
    if len(rankings) > TELL_EACH:
        return _winner_of_many(best, rankings, known)
    against = [_against(best, ranking, known) for ranking in rankings]
    return f"Run {known.title(best)}: its {_values(rankings, best, known)}, against {listed(against)}."


def _winner_of_many(best: str, rankings: Sequence[Ranking], known: _Known) -> str:
    """The same over so many scenarios that only the range of each number is told."""
    mine = [ranking for ranking in rankings if any(one.backend == best for one in ranking.ranked)]
    values = [ranking.value(best) for ranking in mine]
    metric = listed(sorted({ranking.metric for ranking in mine}))
    told = f"its {metric} latency was {number(min(values))} to {ms(max(values))} over {len(mine)} scenarios"
    pairs = [
        pair
        for ranking in mine
        if (nearest := next((one for one in ranking.ranked if one.backend != best), None))
        and (pair := ranking.pair(best, nearest.backend))
    ]
    shown = [pair for pair in pairs if pair.shown]
    if not shown:
        return f"Run {known.title(best)}: {told}."
    high = [pair.high for pair in shown if pair.high is not None]
    span = f"{min(pair.low for pair in shown):.2f}{f' to {max(high):.2f}' if high else ' or more'}"
    alike = len(pairs) - len(shown)
    rest = f", and not shown to differ in {counted(alike, 'other')}" if alike else ""
    where = f"in {len(shown)} of them" if len(shown) < len(mine) else "in each"
    return f"Run {known.title(best)}: {told}; the nearest other was {span} times as slow {where}{rest}."


def _against(best: str, ranking: Ranking, known: _Known) -> str:
    """The nearest other in a scenario: ``BentoML's 60.3 ms (constant; 1.42 to 1.51 times as slow)``."""
    nearest = next((one for one in ranking.ranked if one.backend != best), None)
    if nearest is None:
        at_fault = [b for b in _at_fault(ranking) if b not in known.passed_over]
        faults = [f"{known.title(b)}, {ranking.excluded[b].reason}" for b in at_fault]
        none = "no other that held its objectives" if known.passed_over else "no other valid measurement"
        return f"{listed(faults) or none} ({ranking.scenario})"
    pair = ranking.pair(best, nearest.backend)
    how = f"{_times(pair)} as slow" if pair and pair.shown else "no difference shown"
    return f"{known.title(nearest.backend)}'s {ms(nearest.value_ms)} ({ranking.scenario}; {how})"


def _times(pair: Pair) -> str:
    high = "" if pair.high is None else f" to {pair.high:.2f}"
    return f"{pair.low:.2f}{high} times"


def _tie(backends: Sequence[str], rankings: Sequence[Ranking], known: _Known) -> str:
    names, parts = listed([known.title(backend) for backend in backends]), _each(backends, rankings, known)
    pairs = [
        pair for ranking in rankings for pair in ranking.pairs if {pair.faster, pair.slower} <= {*backends}
    ]
    if pairs and all(pair.equivalent_within is not None for pair in pairs):
        within = percent(pairs[0].equivalent_within)
        return f"{names} are equivalent within {within}: {parts}."
    return f"No difference was shown between {names}: {parts}."


def _unsettled(best: str, unbeaten: Sequence[str], rankings: Sequence[Ranking], known: _Known) -> str:
    """None is shown to be faster than the best; but it is not shown to be faster than these."""
    names = listed([known.title(backend) for backend in unbeaten])
    parts = _each([best, *unbeaten], rankings, known)
    return f"{known.title(best)} leads, and no difference was shown between it and {names}: {parts}."


def _each(backends: Sequence[str], rankings: Sequence[Ranking], known: _Known) -> str:
    """By scenario, the fastest first: ``p95 latency at 20/s (poisson), with 95 % intervals: A 41 ms (…)``."""
    told = []
    for ranking in rankings:
        mine = [one.backend for one in ranking.ranked if one.backend in backends]
        intervals = {backend: known.interval(ranking, backend) for backend in mine}
        values = [
            f"{known.title(backend)} {ms(ranking.value(backend))}{f' ({interval})' if interval else ''}"
            for backend, interval in intervals.items()
        ]
        what = f", with 95{PERCENT} intervals" if any(intervals.values()) else ""
        told += [f"{ranking.metric} latency {known.load(ranking)}{what}: {listed(values)}"] if mine else []
    return "; ".join(told)


def _split(rankings: Sequence[Ranking], known: _Known) -> str:
    parts = []
    for ranking in rankings:
        leaders = [
            f"{known.title(b)}, whose {ranking.metric} latency was {_value(ranking, b, known)}"
            for b in ranking.leaders
        ]
        parts.append(f"{known.load(ranking)} {listed(leaders)}")
    return f"No server leads in every scenario: {'; '.join(parts)}."


def _rests_on(usable: Sequence[Ranking], cells: Sequence[Cell], known: _Known) -> list[str]:
    in_use = {(ranking.scenario, one.backend) for ranking in usable for one in ranking.ranked}
    rows = [cell.row for cell in cells if (cell.row.scenario, cell.row.backend) in in_use]
    if not rows:
        return []
    fewest, most = min(row.trials for row in rows), max(row.trials for row in rows)
    trials = counted(most, "trial") if fewest == most else f"{fewest} to {counted(most, 'trial')}"
    parts = [f"this rests on {trials} of each backend per scenario"]
    if any(SINGLE_TRIAL in pair.rests_on for ranking in usable for pair in ranking.pairs):
        parts.append(f"on a single trial less than {SINGLE_TRIAL_MARGIN - 1:.0%} is not called a difference")
    parts += _together(usable)
    parts += _far_apart(usable, rows, known)
    suspect = sorted({known.title(row.backend) for row in rows if row.verdict == "suspect"})
    return [*parts, f"measurements of {listed(suspect)} are suspect"] if suspect else parts


def _together(usable: Sequence[Ranking]) -> list[str]:
    """Why two intervals that do not meet may still show no difference."""
    pairs = sum(len(ranking.pairs) for ranking in usable)
    if pairs < 2 or all(pair.shown for ranking in usable for pair in ranking.pairs):
        return []
    return [
        f"a difference is called where it holds over all {pairs} pairs at once, which takes more than "
        "two intervals that do not meet"
    ]


def _far_apart(usable: Sequence[Ranking], rows: Sequence[Row], known: _Known) -> list[str]:
    """Whose trials differ so much that it alone can hide a difference."""
    metric = {ranking.scenario: ranking.metric for ranking in usable}
    told = []
    for row in rows:
        low, high = row.spread_ms.get(metric[row.scenario], (1.0, 1.0))
        if high > FAR_APART * low:
            told.append(f"{known.title(row.backend)}'s from {number(low)} to {ms(high)} ({row.scenario})")
    return [f"trials lay far apart: {listed(told)}"] if told else []


def _left_out(rankings: Sequence[Ranking], known: _Known) -> list[str]:
    out: dict[str, dict[str, list[str]]] = {}
    for ranking in rankings:
        for backend, why in ranking.excluded.items():
            out.setdefault(backend, {}).setdefault(why.reason, []).append(ranking.scenario)
    if len(out) > TELL_WHY:
        return [
            f"not ranked everywhere, for the reasons given below: {listed([known.title(b) for b in out])}"
        ]
    told = [
        f"{known.title(backend)} ({'; '.join(f'{listed(where)}: {why}' for why, where in reasons.items())})"
        for backend, reasons in out.items()
    ]
    return [f"not ranked: {listed(told)}"] if told else []


def _objectives(objectives: Sequence[ObjectiveResult]) -> list[str]:
    judged = Counter[str](one.judgement for one in objectives)
    found = [how for how in ("missed", NOT_SHOWN) if judged[how]]
    ofs = (f" of {counted(len(objectives), 'objective')}", "")
    parts = [f"{judged[how]}{of} {how}" for of, how in zip(ofs, found, strict=False)]
    return [listed(parts)] if parts else []
