"""The search for the highest rate that holds an objective: rounds of trials, each a run of its own."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from analysis.capacity import (
    Capacity,
    Level,
    at_rate,
    ladder,
    level_of,
    propose,
    refuse,
    requests_needed,
    summarise,
)
from analysis.capacity_report import write_capacity_report
from analysis.cost import Prices, cost_of
from analysis.objectives import Objective, parse
from analysis.runfolder import Run, RunFacts, Trial, read_run
from analysis.words import NONE, listed, number, per_s
from scripts.engine_options import seconds
from scripts.errors import MISSED, OK, UNMEASURED, CannotRun, UserError
from scripts.plan import MOST_SEED, Plan, Scenario
from scripts.progress import Progress
from scripts.project import Project, Service
from scripts.reporting import plain_table
from scripts.run import Lineup, begin_run, make_run
from scripts.stop import Stop
from scripts.target import Target

FILE = "capacity.json"
CEILING_S = 10
MOST_ROUNDS = 15

Open = Callable[[Plan, Sequence[Service]], Target]
"""Where a round of trials of these frameworks is made."""
LEAST_S = 5


@dataclass(frozen=True)
class Search:
    """What to search for, and how long each trial takes."""

    objectives: tuple[Objective, ...]
    trial_s: int
    warmup: str = "3s"
    seed: int = 1
    threads: int = 1
    callers: int = 8
    prices: Prices = field(default_factory=Prices)

    def ceiling(self) -> Plan:
        """Return a plan that asks how much the server does for callers in a loop."""
        options = {"shape": "closed", "users": str(self.callers), "run_time": f"{CEILING_S}s"}
        return self._plan([Scenario(name="ceiling", options=options)])

    def round(self, rates: Sequence[float], number: int) -> Plan:
        """Return a plan with a trial at each of these rates; a rate named twice has other arrivals."""
        scenarios = []
        needed = requests_needed(self.objectives)
        expected = needed + 4 * math.sqrt(needed)  # random arrivals may be fewer, by their square root
        for rate in sorted(set(rates)):
            run_s = max(self.trial_s, math.ceil(expected / rate))
            options = {"shape": "poisson", "rate": f"{rate:g}", "run_time": f"{run_s}s"}
            scenarios.append(Scenario(name=f"at-{rate:g}", options=options))
        return self._plan(scenarios, self.seed + number, len(rates) // len(scenarios))

    def _plan(self, scenarios: Sequence[Scenario], seed: int = 1, trials: int = 1) -> Plan:
        return Plan(
            name="capacity",
            seed=seed,
            trials=trials,
            threads=self.threads,
            warmup=self.warmup,
            warmup_requests=10,
            scenario=tuple(scenarios),
        )


def trial_seconds(text: str) -> int:
    """Return how long a trial's load lasts, in whole seconds: 30 for `30s`.

    Raises:
        UserError: it is no time span, or too short.

    """
    try:
        span_s = seconds(text)
    except ValueError as error:
        raise UserError(f"--trial-time: {error}.") from error
    if span_s < LEAST_S:
        raise UserError(f"--trial-time {text} is too short: write {LEAST_S}s or more.")
    return math.ceil(span_s)


def wanted(expressions: Sequence[str], trial_s: int, seed: int, threads: int, callers: int) -> Search:
    """Return what the command line asks for.

    Raises:
        UserError: an objective cannot be read, no rate can be searched for it, or the seed is no plan's.

    """
    try:
        objectives = tuple(parse(part) for text in expressions for part in text.split(","))
        refuse(objectives)
    except ValueError as error:
        raise UserError(f"--slo: {error}") from error
    most = MOST_SEED - MOST_ROUNDS  # each round has a seed of its own
    if not 0 <= seed <= most:
        raise UserError(f"--seed {seed} cannot be used: write a number from 0 to {most}.")
    return Search(objectives, trial_s, seed=seed, threads=threads, callers=callers)


def find_capacities(
    project: Project,
    services: Sequence[Service],
    search: Search,
    open_target: Open,
    folder: Path,
    stop: Stop,
    console: Console,
) -> list[Capacity]:
    """Search for the capacity of each framework; `folder` gets the runs, `capacity.json` and a page.

    What was found is written after each framework, so that an interrupted search keeps it.
    """
    found: list[Capacity] = []
    facts: list[RunFacts] = []
    for service in services:
        if stop.asked:
            break
        try:
            one, its_facts = _capacity(
                project, service, search, open_target, folder / service.key, stop, console
            )
        except CannotRun as error:
            console.print(f"[yellow]![/] {escape(f'{service.key}: {error}')}")
            continue
        found.append(one)
        facts.append(its_facts)
        _save(folder, found)
        write_capacity_report(found, folder, shlex.join(["modelswarm", *sys.argv[1:]]), facts)
    return found


def _save(folder: Path, found: Sequence[Capacity]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": 1, "capacities": [one.model_dump(mode="json") for one in found]}
    temporary = folder / f".{FILE}"
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    os.replace(temporary, folder / FILE)


def _capacity(
    project: Project,
    service: Service,
    search: Search,
    open_target: Open,
    folder: Path,
    stop: Stop,
    console: Console,
) -> tuple[Capacity, RunFacts]:
    def made(plan: Plan) -> Run:
        lineup, target = Lineup(project, plan, [service]), open_target(plan, [service])
        record = begin_run(lineup, target, folder)
        make_run(lineup, target, record, stop, Progress(console))
        return read_run(record.folder)

    first = made(search.ceiling())
    ceiling_per_s = _throughput(first)
    levels: list[Level] = []
    made_at: list[tuple[Level, Trial]] = []
    notes: list[str] = []
    rates = ladder(ceiling_per_s)
    for number_of_round in range(1, MOST_ROUNDS + 1):
        if not rates or stop.asked:
            break
        run = made(search.round(rates, number_of_round))
        judged = [(level, one) for one in run.trials if (level := level_of(one, search.objectives))]
        fresh = [level for level, _ in judged]
        made_at += judged
        notes += _why_not(run, len(fresh))
        if not fresh:
            notes.append("The search ended where a whole round of trials could not be used.")
            break
        levels += fresh
        rates = propose(levels)
    else:
        notes.append(f"The search was ended after {MOST_ROUNDS} rounds.")
    if not levels:
        raise CannotRun(f"no trial could be used: {listed(notes)}")
    title = service.facts.title
    found = summarise(service.key, title, search.objectives, levels, ceiling_per_s, notes)
    facts = run.facts.model_copy(update={"started": first.facts.started, "seed": search.seed})
    return with_cost(found, made_at, run, search.prices), facts


def with_cost(found: Capacity, made_at: Sequence[tuple[Level, Trial]], run: Run, prices: Prices) -> Capacity:
    """Return what was found with the cost at the rate that it shows; ``run`` is any run of the search."""
    if found.shown_per_s is None:
        return found
    there = [trial for level, trial in made_at if at_rate(level, found.shown_per_s)]
    return found.model_copy(update={"cost": cost_of(replace(run, trials=there), prices)})


def _throughput(run: Run) -> float:
    """Return what callers in a loop got out of the server a second.

    Raises:
        CannotRun: nothing was measured.

    """
    (trial,) = run.trials
    if trial.entry.status != "ok" or trial.summary is None or not trial.summary.counts.completed:
        raise CannotRun(f"its ceiling could not be measured: {trial.entry.error or 'nothing was answered'}")
    return trial.summary.counts.completed / trial.summary.duration_s


def _why_not(run: Run, used: int) -> list[str]:
    if used == len(run.trials):
        return []
    return [f"{len(run.trials) - used} of {len(run.trials)} trials in {run.path.name} could not be used."]


def show(found: Sequence[Capacity], folder: Path, console: Console) -> None:
    """Print what a search found."""
    columns = ("backend", "capacity", "95 % interval", "held in replicates", "knee", "ceiling", "trials")
    table = plain_table(*columns)
    for one in found:
        between = NONE
        if one.low_per_s is not None and one.high_per_s is not None:
            between = f"{number(one.low_per_s)} to {number(one.high_per_s)}/s"
        capacity = f"≥ {per_s(one.at_least_per_s)}" if one.at_least_per_s else one.per_s
        rates = (capacity, between, one.shown_per_s, one.knee_per_s, one.ceiling_per_s)
        shown = [rate if isinstance(rate, str) else per_s(rate) for rate in rates]
        table.add_row(escape(one.backend), *shown, str(len(one.levels)))
    console.print(table)
    for one in found:
        for sentence in [_usl(one), *one.notes]:
            console.print(escape(f"{one.backend}: {sentence}"))
    if found:
        console.print(escape(str(folder / "capacity.html")), soft_wrap=True)


def _usl(one: Capacity) -> str:
    if one.usl is None:
        return f"{one.usl_refused}."
    (share, low, high), peak = one.usl.contention, one.usl.peak_in_flight
    text = f"Universal Scalability Law: contention {share:.3f} ({low:.3f} to {high:.3f}), "
    share, low, high = one.usl.coherency
    text += f"coherency {share:.4f} ({low:.4f} to {high:.4f})"
    return text + (f", highest throughput with {number(peak)} in flight." if peak else ".")


def status_of(found: Sequence[Capacity], asked: int) -> int:
    """Return 3 when a framework could not be measured, 1 when one was shown to hold at no rate, else 0.

    A framework that missed at no rate has missed nothing, although nobody knows how much it carries.
    """
    if len(found) < asked:
        return UNMEASURED
    return OK if all(one.shown_per_s or one.at_least_per_s for one in found) else MISSED
