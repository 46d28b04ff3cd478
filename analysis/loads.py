"""Whether trials were under the same load: only then is what they measured merged, ranked or compared."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.runfolder import Summary, Trial
from analysis.words import listed, number, per_s

SAME_LOAD = ("name", "gaps", "rate", "peak_rate", "levels", "spike_at", "spike_for", "payload", "limit")
"""The engine's options that must agree for two trials to have had the same load; seeds may differ."""
SAME_RATE_WITHIN = 1.1
"""Of imported trials nothing tells what was asked for, only what came out, which varies by chance."""


def load_of(trials: Sequence[Trial]) -> tuple[str, ...]:
    """What identifies the load of trials: each that there is, once."""
    loads = {tuple(_asked(trial.summary).values()) for trial in trials if trial.summary}
    return tuple(sorted(" ".join(load) for load in loads))


def unlike(trials: Sequence[Trial]) -> str:
    """What differs between the loads of trials, such as ``rate 10 and 50``; empty where they are the same."""
    asked = [_asked(trial.summary) for trial in trials if trial.summary]
    values = {name: sorted({one[name].strip("'") for one in asked}) for name in ("load", "users", *SAME_LOAD)}
    found = [f"{name} {listed(some)}" for name, some in values.items() if len(some) > 1]
    rates = sorted(rate for trial in trials if (rate := imported_per_s(trial)))
    if not found and rates and not same_rate(rates[0], rates[-1]):
        found = [f"{per_s(rates[0])} and {per_s(rates[-1])}"]
    return "; ".join(found)


def imported_per_s(trial: Trial) -> float | None:
    """The arrival rate of an imported trial that tells when it was; None of any other."""
    summary = trial.summary
    if summary is None or summary.load != "imported" or summary.started is None:
        return None
    return summary.counts.planned / summary.duration_s


def same_rate(one_per_s: float, other_per_s: float) -> bool:
    """Whether two rates may be called the same."""
    slower, faster = sorted((one_per_s, other_per_s))
    return faster <= slower * SAME_RATE_WITHIN


def describe_load(trials: Sequence[Trial]) -> str:
    """The load of trials in a few words, such as ``open constant, 50 arrivals/s``."""
    known = [trial.summary for trial in trials if trial.summary]
    if not known:
        return "not known"
    words = " ".join(dict.fromkeys(filter(None, (known[0].load, known[0].shape.name))))
    planned = sum(one.counts.planned for one in known) / sum(one.duration_s for one in known)
    return f"{words}, {number(planned)} arrivals/s"


def _asked(summary: Summary) -> dict[str, str]:
    """What a trial was asked for, by the name of the option."""
    options = {option: repr(getattr(summary.shape, option, None)) for option in SAME_LOAD}
    return {"load": summary.load, "users": repr(summary.users), **options}
