"""Whether a sequential run may stop: is the question settled for each pair of backends in each scenario?

The question is the report's own, "which server?", asked of the one percentile that it ranks by; so what ends
a run is what its report shows. A pair is settled when one of the two is shown to be slower, when they are
shown to differ by less than the margin, or when one of them could not do the work (saturated, errors), which
takes no interval to tell. Looks are always-valid and share the 5 % over all pairs in all scenarios, see
:mod:`analysis.sequential`. Only the latest look counts: what was settled once and is not any more, with more
trials, keeps the run going.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from analysis.metrics import cells
from analysis.objectives import parse
from analysis.ranking import Pair, Ranking, preferred_metric, rank
from analysis.runfolder import Sequential, read_run
from analysis.words import counted, number, percent

TELL = 3
"""Up to so many pairs are told one by one."""


@dataclass(frozen=True)
class Standing:
    """What is known of one pair in one scenario, in a few words."""

    told: str
    settled: bool


def look_at(run_dir: Path, without: Collection[str] = ()) -> list[Standing]:
    """Look at a sequential run so far: a standing per pair that can be compared at all.

    Pairs with a backend of ``without``, one that is not tried any more, and with those that are never ranked
    are left out.

    Raises
    ------
    analysis.runfolder.NotARunFolder
        A ``ValueError`` with a sentence for the user, if there is nothing to look at.
    """
    run = read_run(run_dir)
    metric = preferred_metric([parse(objective) for objective in run.facts.objectives])
    rankings = rank(cells(run), metric, run.facts.sequential)
    return [one for ranking in rankings for one in _standings(ranking, metric, without, len(rankings) > 1)]


def _standings(ranking: Ranking, metric: str, without: Collection[str], several: bool) -> list[Standing]:
    where = f" in {ranking.scenario}" if several else ""
    never = {*without, *(backend for backend, why in ranking.excluded.items() if why.for_good)}
    compared = sorted({*(one.backend for one in ranking.ranked), *ranking.excluded} - never)
    found = []
    for one, other in combinations(compared, 2):
        told, settled = _pair(ranking, metric, one, other)
        found.append(Standing(told + where, settled))
    return found


def _pair(ranking: Ranking, metric: str, one: str, other: str) -> tuple[str, bool]:
    reasons = {name: ranking.excluded[name] for name in (one, other) if name in ranking.excluded}
    for name, why in reasons.items():
        if why.own_fault:
            return f"{name} not to be compared with {other if name == one else one} ({why.reason})", True
    pair = ranking.pair(one, other)
    if pair is None:
        return f"{one} and {other} open ({'; '.join(f'{n}: {w.reason}' for n, w in reasons.items())})", False
    if ranking.metric != metric:
        return f"{one} and {other} open (too few requests for {metric})", False
    return _compared(pair)


def _compared(pair: Pair) -> tuple[str, bool]:
    if pair.equivalent_within is not None:
        within = percent(pair.equivalent_within)
        return f"{pair.slower} equivalent to {pair.faster} within {within} ({_p(pair.p_equivalent)})", True
    if pair.shown:
        return f"{pair.slower} slower than {pair.faster} ({_p(pair.p)})", True
    return f"{pair.slower} against {pair.faster} open ({_p(pair.p)})", False


def _p(p: float | None) -> str:
    return "p not known" if p is None else "p < 0.001" if p < 0.001 else f"p = {number(p)}"


def tell(standings: Sequence[Standing]) -> str:
    """The standings in one line: each of a few, of many how many are settled and what is open."""
    if len(standings) <= TELL:
        return ", ".join(one.told for one in standings) or "nothing to compare"
    pending = [one.told for one in standings if not one.settled]
    shown = pending[:TELL] + ([f"{len(pending) - TELL} more"] if len(pending) > TELL else [])
    told = f"{len(standings) - len(pending)} of {counted(len(standings), 'pair')} settled"
    return f"{told}, {', '.join(shown)}" if shown else told


def about_looks(facts: Sequential) -> str:
    """What a reader of the report should know: how and how often the run was looked at, and why it ended."""
    told = [
        f"This run was sequential: it was looked at after every block of trials from {facts.first_look} of "
        f"each on ({facts.method} over {counted(facts.comparisons, 'pair')})."
    ]
    if not facts.looks:
        return f"{told[0]} It did not come to its first look."
    last, looks = facts.looks[-1], counted(len(facts.looks), "look")
    at_the_ceiling = last.after_trials >= facts.ceiling
    told.append(f"After {looks} and {last.after_trials} of at most {facts.ceiling} trials of each it ended:")
    told.append(
        {
            "settled": f"every pair was settled{'' if at_the_ceiling else ', so it stopped early'}.",
            "ceiling": f"not every pair was settled ({last.settled} of {last.pairs}).",
            "nothing to compare": "nothing was left to compare.",
            "": "it was stopped before it was settled.",
        }[facts.ended]
    )
    told.append(f"The last look: {last.told}.")
    told.append("Intervals of a single backend's percentiles are those of a fixed number of trials.")
    return " ".join(told)
