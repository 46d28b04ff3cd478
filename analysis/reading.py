"""How the numbers are to be read: sentences that depend on the kind of load and on how often one looked."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.metrics import Row, TrialRow
from analysis.ranking import Ranking
from analysis.runfolder import RunFacts
from analysis.words import counted, listed

BEGINS = {
    "open": "from the planned arrival",
    "closed": "from the moment of sending",
    "imported": "from the moment of sending",
}
WHY = {
    "open": "so a stalled server shows",
    "closed": "and callers wait for a stalled server: each sees a stall only once",
    "imported": "as {tool} tells no planned times",
}


def latency_begins(rows: Sequence[Row]) -> str:
    """From when latency is counted: ``from the planned arrival``."""
    begins: dict[str, list[str]] = {}
    for load in dict.fromkeys(row.load for row in rows):
        begins.setdefault(BEGINS[load], []).append(load)
    if len(begins) < 2:
        return "".join(begins)
    return " and ".join(f"{begin} ({listed(loads)} load)" for begin, loads in begins.items())


def latency_runs(rows: Sequence[Row], facts: RunFacts) -> str:
    """From when latency is counted under each kind of load of the run, and what that means; a sentence."""
    loads = list(dict.fromkeys(row.load for row in rows))
    tool = facts.imported.tool if facts.imported else "its tool"
    under = [f"under {load} load " if len(loads) > 1 else "" for load in loads]
    told = [
        f"{where}latency runs {BEGINS[load]}, {WHY[load].format(tool=tool)}"
        for where, load in zip(under, loads, strict=True)
    ]
    sentence = "; ".join(told)
    return f"{sentence[:1].upper()}{sentence[1:]}." if told else ""


def left_out(trials: Sequence[TrialRow]) -> list[str]:
    """A sentence per backend and scenario of which trials were made and are not valid, with the reasons."""
    made: dict[tuple[str, str], list[TrialRow]] = {}
    for one in trials:
        if one.status == "ok":
            made.setdefault((one.backend, one.scenario), []).append(one)
    told = []
    for (backend, scenario), rows in made.items():
        out = [row for row in rows if row.verdict == "invalid"]
        reasons = dict.fromkeys(reason for row in out for reason in row.reasons)
        which = f"{len(out)} of {counted(len(rows), 'trial')} not valid, and left out"
        told += [f"{backend} in {scenario}: {which}: {'; '.join(reasons)}."] if out else []
    return told


def intervals_come_from(rankings: Sequence[Ranking], rows: Sequence[Row], facts: RunFacts) -> str:
    """Over what the intervals of differences hold together, and what they rest on; nothing without any."""
    if not any(ranking.pairs for ranking in rankings):
        return ""
    if facts.sequential:
        pairs = counted(facts.sequential.comparisons, "pair")
        return (
            "Times as slow, with always-valid intervals: they hold together at 95 % over "
            f"{pairs} in all scenarios, however often the run was looked at. They come from the spread "
            "between trials."
        )
    together = "Times as slow, with intervals that hold together at 95 % over all pairs in all scenarios."
    within = "how much the seconds of a trial vary, and how they depend on each other"
    if all(row.trials < 2 for row in rows):
        return f"{together} With one trial of each they come from {within}."
    return (
        f"{together} They come from the spread between trials; where that is smaller than the noise within "
        f"({within}), which happens by chance, from both together."
    )
