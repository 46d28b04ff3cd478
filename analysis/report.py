"""Run folder in, ``report.html``, ``report.md`` and ``report.json`` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from analysis import baseline, figures, reading, view, view_cost, view_locust
from analysis.baseline import Baseline
from analysis.by_name import (
    ExceptionRow,
    FailureRow,
    RequestsRow,
    disagreements,
    exceptions_of_users,
    failures_by_name,
    requests_by_name,
)
from analysis.cost import Cost, Prices, costs, left_out
from analysis.happenings import Happening, happenings
from analysis.judging import ObjectiveResult, evaluate
from analysis.levels import Level, levels
from analysis.metrics import Cell, Row, TrialRow, cells, trial_row
from analysis.objectives import Objective, parse, refuse_idle
from analysis.pages import render_markdown, render_page, write_whole
from analysis.ranking import Ranking, preferred_metric, rank
from analysis.recommendation import Recommendation, recommend
from analysis.runfolder import NotARunFolder, Run, RunFacts, read_run
from analysis.settled import about_looks
from analysis.stability import FEWEST_REQUESTS, FEWEST_SECONDS, meant_to_be_steady
from analysis.validity import oddities
from analysis.words import counted

ENDED = ("complete", "recorded")
"""How a run is called that came to its end."""


@dataclass(frozen=True)
class Asked:
    """What a reader asks of a report beyond what the run itself asked: each replaces the run's own.

    ``baseline`` is the folder of the run to hold this one against; what is needed of it is kept in this
    one's.
    """

    objectives: tuple[str, ...] = ()
    baseline: Path | None = None
    price_cpu: float | None = None
    price_memory: float | None = None


class ReportPaths(BaseModel):
    """The files of a written report."""

    html: Path
    md: Path
    json_: Path = Field(alias="json")
    junit: Path


class Report(BaseModel):
    """A run's report; ``report.json`` is this without ``paths``.

    ``rows`` has one entry per backend and scenario, ``trials`` one per trial; ``requests``, ``failures`` and
    ``exceptions`` are what Locust counted by name. ``valid`` is whether every trial was made, ended by itself
    and is not invalid, those of a cell had the same load, and the folder still tells which trials there were
    and what was to hold. ``problems`` names what is missing or damaged in the run folder, ``baseline`` the
    run that objectives were held against, ``notes`` what a reader must know to read the numbers rightly.
    """

    model_config = ConfigDict(frozen=True)

    # grows when a reader of the old form would misread the new one
    schema_version: Literal[1] = Field(default=1, alias="schema")
    run: RunFacts
    recommendation: Recommendation
    valid: bool
    problems: list[str]
    notes: list[str]
    objectives: list[ObjectiveResult]
    baseline: str
    rankings: list[Ranking]
    rows: list[Row]
    trials: list[TrialRow]
    requests: list[RequestsRow]
    failures: list[FailureRow]
    exceptions: list[ExceptionRow]
    levels: list[Level]
    prices: Prices
    costs: list[Cost]
    events: list[Happening]
    paths: ReportPaths | None = Field(default=None, exclude=True)


@dataclass(frozen=True)
class _Analysis:
    """A report, and the cells that its plots are drawn from."""

    report: Report
    cells: list[Cell]
    baseline: Baseline | None


def build_report(run_dir: Path, asked: Asked = Asked()) -> Report:
    """Read a run folder and judge it, writing nothing.

    Raises
    ------
    analysis.runfolder.NotARunFolder
        A ``ValueError`` with a sentence for the user, if there is nothing to report on.
    analysis.objectives.NothingToJudge
        Another, if an objective that is asked for is about nothing in the run.
    """
    return _analyse(run_dir, asked).report


def write_report(run_dir: Path, asked: Asked = Asked()) -> Report:
    """Write ``report.html``, ``.md``, ``.json`` and ``junit.xml`` into the run folder, each wholly.

    Raises what :func:`build_report` raises, and ``OSError`` if the folder cannot be written.
    """
    from analysis.junit import junit

    analysis = _analyse(run_dir, asked)
    named = {kind: run_dir / f"report.{kind}" for kind in ("html", "md", "json")}
    paths = ReportPaths.model_validate(named | {"junit": run_dir / "junit.xml"})
    if analysis.baseline:
        kept = analysis.baseline.model_dump_json(by_alias=True, indent=1)
        write_whole(run_dir / baseline.FILE, f"{kept}\n")
    write_whole(paths.junit, junit(analysis.report))
    write_whole(paths.json_, analysis.report.model_dump_json(by_alias=True, indent=1) + "\n")
    write_whole(paths.md, render_markdown("report.md.j2", _shared(analysis.report)))
    write_whole(paths.html, _render_html(analysis))
    return analysis.report.model_copy(update={"paths": paths})


def _analyse(run_dir: Path, asked: Asked) -> _Analysis:
    run = read_run(run_dir)
    objectives, bad = _objectives(asked.objectives or run.facts.objectives)
    before = _baseline(run, asked, objectives)
    measured = cells(run)
    if asked.objectives:
        refuse_idle(objectives, [(cell.row.backend, cell.row.scenario) for cell in measured], bool(before))
    results = evaluate(objectives, measured, before)
    rankings = rank(measured, preferred_metric(objectives), run.facts.sequential)
    rows = [trial_row(trial) for trial in run.trials]
    prices = _prices(run.facts, asked)
    report = Report(
        run=run.facts,
        recommendation=recommend(rankings, measured, results),
        valid=_whole(run, bool(asked.objectives), bool(bad))
        and all(row.verdict != "invalid" for row in rows)
        and all(cell.row.verdict != "invalid" for cell in measured),
        problems=_problems(run, rows) + bad + (before.differs(run.facts) if before else []),
        notes=_notes(run, measured, rows),
        objectives=results,
        baseline=baseline.told(before) if before else "",
        rankings=rankings,
        rows=[cell.row for cell in measured],
        trials=rows,
        requests=requests_by_name(measured),
        failures=failures_by_name(run),
        exceptions=exceptions_of_users(run),
        levels=levels(measured),
        prices=prices,
        costs=costs(measured, results, run.facts, prices),
        events=happenings(run),
    )
    return _Analysis(report, measured, before)


def _whole(run: Run, asked: bool, unread: bool) -> bool:
    """Whether nothing is lost of what decides if the run passes.

    Of objectives that are ``asked`` for now, the folder need not tell; of its own, it must.
    """
    if not run.trials or run.lost_trials or unread:
        return False
    return asked or (not run.lost_gate and run.facts.status in ENDED)


def _prices(facts: RunFacts, asked: Asked) -> Prices:
    plan = facts.plan
    cpu = plan.price_cpu if asked.price_cpu is None else asked.price_cpu
    memory = plan.price_memory if asked.price_memory is None else asked.price_memory
    return Prices(cpu_hour=cpu, gib_hour=memory)


def _baseline(run: Run, asked: Asked, objectives: Sequence[Objective]) -> Baseline | None:
    """The run to hold this one against: the one that is asked for, else the one that is remembered."""
    if asked.baseline:
        return baseline.baseline_of(asked.baseline, objectives)
    kept = baseline.read_baseline(run.path, run.problems)
    if kept or not run.facts.plan.baseline:
        return kept
    try:
        return baseline.baseline_of(Path(run.facts.plan.baseline), objectives)
    except NotARunFolder as error:
        run.problems.append(f"There is no baseline: {error}")
        return None


def _objectives(expressions: Sequence[str]) -> tuple[list[Objective], list[str]]:
    good, bad = [], []
    for expression in expressions:
        try:
            good.append(parse(expression))
        except ValueError as error:
            bad.append(f"run.json: {error}")
    return good, bad


def _problems(run: Run, rows: list[TrialRow]) -> list[str]:
    """First what happened to the run and to whole trials, then what is wrong with files."""
    ended = run.facts.status in (*ENDED, "unknown")
    unended = [] if ended else [f"The run did not end by itself: its status is {run.facts.status}."]
    unmade = [
        f"{row.backend}/{row.scenario}/{row.trial} {row.reasons[0]}." for row in rows if row.status != "ok"
    ]
    odd = [sentence for trial in run.trials for sentence in (*oddities(trial), *disagreements(trial)[0])]
    return unended + unmade + run.problems + odd


def _notes(run: Run, measured: list[Cell], rows: list[TrialRow]) -> list[str]:
    loads = {cell.row.load for cell in measured}
    said = {
        "A single recorded trial: plan, machine and model are not written down in it.": run.facts.status
        == "recorded",
        "The weights are synthetic: the work per request is that of the real model, the classes it names "
        "mean nothing.": run.facts.model.weights == "synthetic",
        "Stand-ins play a server that is not installed; they are shown and never ranked.": any(
            cell.row.stand_in for cell in measured
        ),
        "Closed load (callers in a loop) slows down with the server, open load does not: the two are not "
        "compared.": len(loads) > 1,
        "One trial does not show how far trials lie apart; --trials 5 does.": any(
            cell.row.trials_planned == 1 for cell in measured
        ),
    }
    broke_off = [sentence for trial in run.trials for sentence in disagreements(trial)[1]]
    looked = [about_looks(run.facts.sequential)] if run.facts.sequential else []
    return looked + [note for note, holds in said.items() if holds] + _not_looked_at(run, rows) + broke_off


def _not_looked_at(run: Run, rows: list[TrialRow]) -> list[str]:
    short = sum(
        row.status == "ok" and row.warmup_cut_s is None and meant_to_be_steady(trial)
        for row, trial in zip(rows, run.trials, strict=True)
    )
    if not short:
        return []
    return [
        f"{short} of {counted(len(rows), 'trial')} had fewer than {FEWEST_SECONDS} seconds of "
        f"{FEWEST_REQUESTS} answers or more, and were not looked at for warm-up, drift and jumps."
    ]


def render_summary(report: Report) -> str:
    """What a CI job's page should show: the answer, the objectives, the headline numbers."""
    return render_markdown("summary.md.j2", _shared(report))


def _render_html(analysis: _Analysis) -> str:
    report = analysis.report
    series = figures.series_of(analysis.cells)
    drawn = {
        "figures": figures.by_scenario(analysis.cells, report.rankings, report.events),
        "rate_figures": figures.over_rates(report.levels, series),
    }
    titles = {row.backend: row.title for row in report.rows}
    return render_page("report.html.j2", series, titles, _shared(report) | drawn)


def _shared(report: Report) -> dict[str, object]:
    """What both templates show."""
    rows, run = report.rows, report.run
    titles = {row.backend: row.title for row in rows}
    held = sum(one.passed for one in report.objectives)
    first, _, rest = report.recommendation.sentences[0].partition(": ")
    return {
        "report": report,
        "answer": (first, rest),
        "carried": view_cost.carried(report.costs, report.levels, bool(report.objectives)),
        "run": run,
        "title": run.plan_name or "recorded trial",
        "when": view.moment(run.started),
        "objectives_held": f"{held} of {len(report.objectives)} held",
        "outcome": _outcome(report),
        "problems_counted": counted(len(report.problems), "problem"),
        "chips": _chips(report),
        "reasons": view.reasons(report.trials),
        "latency_runs": reading.latency_runs(rows, run),
        "latency_begins": reading.latency_begins(rows),
        "left_out": reading.left_out(report.trials),
        "repeat": view.repeat(run),
        "intervals_come_from": reading.intervals_come_from(report.rankings, rows, run),
        "headline": view.headline(rows, report.rankings),
        "objectives": view.objectives(report.objectives, rows),
        "unshown": view.unshown(report.objectives, titles),
        "latency": view.percentiles(rows, "latency_ms"),
        "service": view.percentiles(rows, "service_ms"),
        "uncertainty": view.uncertainty(rows),
        "differences": view.differences(report.rankings),
        "excluded": view.excluded(report.rankings, titles),
        "resources": view.resources(rows),
        "counts": view.counts(rows),
        "trials": view.trials(report.trials),
        "locust": view_locust.summed_up(report.failures, report.exceptions),
        "requests": view_locust.requests(report.requests, titles),
        "failures": view_locust.failures(report.failures, titles),
        "exceptions": view_locust.exceptions(report.exceptions, titles),
        "levels": view_cost.levels(report.levels),
        "costs": view_cost.costs(report.costs),
        "costs_without": view_cost.without(left_out(rows, report.objectives, report.costs), titles),
        "prices": view_cost.prices(report.prices),
        "events": view_cost.events(report.events, titles, of_note=True),
        "other_events": view_cost.events(report.events, titles, of_note=False),
        "fairness": view.fairness(run),
        "setting": view.setting(run),
    }


def _outcome(report: Report) -> str:
    """The exit status in words."""
    if not report.valid:
        return "not measured"
    if not report.objectives:
        return "measured"
    return "held" if all(one.passed for one in report.objectives) else "missed"


def _chips(report: Report) -> list[view.Entry]:
    """What a reader must see at once besides the recommendation."""
    trials, held = report.trials, sum(one.passed for one in report.objectives)
    good = sum(row.verdict == "valid" for row in trials)
    chips = [
        view.Entry(
            f"{good} of {counted(len(trials), 'trial')} valid",
            "good" if good == len(trials) and trials else "bad" if not report.valid else "warn",
        ),
        view.Entry(counted(sum(row.requests for row in trials), "request")),
    ]
    if report.objectives:
        look = "good" if held == len(report.objectives) else "bad"
        chips.append(view.Entry(f"{held} of {counted(len(report.objectives), 'objective')} held", look))
    if (looks := report.run.sequential) and looks.ended in ("settled", "ceiling"):
        after = (
            f"after {looks.looks[-1].after_trials if looks.looks else 0} of at most {looks.ceiling} trials"
        )
        settled = looks.ended == "settled"
        chips.append(view.Entry(f"{'' if settled else 'not '}settled {after}", "good" if settled else "warn"))
    if report.problems:
        chips.append(view.Entry(counted(len(report.problems), "problem"), "warn"))
    if report.run.model.weights:
        weights = report.run.model.weights
        chips.append(view.Entry(f"{weights} weights", "warn" if weights == "synthetic" else ""))
    return chips
