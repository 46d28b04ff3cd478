"""A sequential run's looks at itself, after every block of trials, until nothing is left to find out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import comb
from typing import TYPE_CHECKING, Any

from analysis.words import counted
from scripts.errors import UserError
from scripts.plan import CEILING, Plan
from scripts.project import Service

if TYPE_CHECKING:
    from scripts.run import RunRecord

_ENDS = {
    "": "going on",
    "settled": "settled",
    "ceiling": "not settled, but this was the last block",
    "nothing to compare": "stopping",
}


def first_facts(plan: Plan, services: Sequence[Service], target: str) -> dict[str, Any] | None:
    """Return what `run.json` says of a sequential run at its start; None of one that is not.

    Raises:
        UserError: there is nothing to compare, or too few trials to ever tell a difference.

    """
    from analysis.sequential import METHOD, fewest_trials

    if not plan.sequential:
        return None
    ranked = [service.key for service in services if not service.is_stand_in(target)]
    if len(ranked) < 2:
        measured = f"only {ranked[0]} is" if ranked else "no backend is"
        raise UserError(
            f"A sequential run compares backends, and {measured} to be measured and ranked: name two or "
            "more, such as --backends fastapi,bentoml, or leave --sequential out."
        )
    pairs = comb(len(ranked), 2) * len(plan.scenario)
    fewest = fewest_trials(pairs)
    if plan.trials < fewest:
        raise UserError(
            f"{counted(plan.trials, 'trial')} of each cannot settle {counted(pairs, 'pair')} of backends: "
            f"before {fewest} no difference can be told. Write for example --trials {CEILING}, the most."
        )
    return {
        "method": METHOD,
        "margin": plan.margin,
        "comparisons": pairs,
        "ceiling": plan.trials,
        "first_look": fewest,
        "looks": [],
        "ended": "",
    }


def enough(record: RunRecord, trials: int, given_up: Collection[str], show: Callable[[str], None]) -> bool:
    """Look at a sequential run after so many trials of each; return whether it is to stop before its ceiling.

    The look is written down, and the trials that will not be made are taken off the record. A look that was
    taken before, by the command that this one takes over from, is not taken again.
    """
    from analysis.settled import look_at, tell

    facts = record.head.get("sequential")
    if facts is None or trials < facts["first_look"]:
        return False
    if facts["looks"] and trials <= facts["looks"][-1]["after_trials"]:
        return False
    standings = look_at(record.folder, given_up)
    settled, told = sum(one.settled for one in standings), tell(standings)
    facts["looks"].append({"after_trials": trials, "settled": settled, "pairs": len(standings), "told": told})
    if settled == len(standings):
        facts["ended"] = "settled" if standings else "nothing to compare"
        record.trials = [trial for trial in record.trials if trial.trial <= trials]
    elif trials == facts["ceiling"]:
        facts["ended"] = "ceiling"
    record.save()
    show(lines(record)[-1])
    return bool(facts["ended"])


def lines(record: RunRecord) -> list[str]:
    """Return a line for each look at a run so far."""
    facts = record.head.get("sequential") or {"looks": [], "ended": ""}
    going_on = ["going on"] * len(facts["looks"])
    return [
        f"after {look['after_trials']} blocks: {look['told']}; {what}"
        for look, what in zip(facts["looks"], [*going_on[1:], _ENDS[facts["ended"]]], strict=False)
    ]
