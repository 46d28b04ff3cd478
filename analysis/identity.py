"""What a run is besides its numbers: machine, cores, model, plan. Where it differs, a reader must know."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.runfolder import Backend, Fairness, PlanFacts, Run, RunFacts
from analysis.words import counted


def differs(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    """What was not the same in all runs of two sides, a sentence for each."""
    old, now = _identities(base), _identities(new)
    found = []
    for name in old:
        before, after = ("; ".join(side[name]) or "not known" for side in (old, now))
        if before != after or len(old[name]) > 1 or len(now[name]) > 1:
            found.append(f"{name}: {before}, now {after}.")
    return found


def identity(facts: RunFacts) -> dict[str, str]:
    """What identifies a run, by its name; empty where it does not tell."""
    machine, held = facts.machine, facts.fairness
    cores = f"{machine.cores} cores" if machine.cores else ""
    return {
        "Machine": ", ".join(filter(None, [machine.cpu, cores])),
        "Cores": _cores(held),
        "System": f"{machine.os} {machine.kernel}".strip(),
        "Target": facts.target,
        "Model": facts.model.digest,
        "Plan": facts.plan_name,
        "Warm-up": _warm_up(facts.plan),
        "Intra-op threads": str(held.threads or ""),
        "Server workers": str(held.workers or ""),
        "Backends": ", ".join(f"{name} {_server(one)}" for name, one in sorted(facts.backends.items())),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items())),
    }


def _cores(held: Fairness) -> str:
    """How many the server had, and whether the generator kept off them: it takes from a server's speed."""
    if held.server_cores is None:
        return ""
    if not held.server_cores:
        return "not pinned"
    told = f"{counted(len(held.server_cores), 'core')} for the server"
    if held.generator_cores is None:
        return told
    shared = {*held.generator_cores} & {*held.server_cores}
    return f"{told}, {'shared with the generator' if shared else 'the generator on others'}"


def _identities(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What identifies a side, each thing once."""
    each = [identity(run.facts) for run in runs]
    return {name: sorted({one[name] for one in each} - {""}) for name in each[0]}


def _warm_up(plan: PlanFacts) -> str:
    """What a plan of the same name may have had edited, although it shapes what was measured."""
    first = f"{counted(plan.warmup_requests, 'request')} first" if plan.warmup_requests else ""
    return ", ".join(filter(None, [plan.warmup, first]))


def _server(backend: Backend) -> str:
    return f"{backend.version} (stand-in)" if backend.stand_in else backend.version
