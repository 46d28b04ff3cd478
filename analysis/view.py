"""The report's tables as text, once for HTML and Markdown alike: the templates only lay them out.

A percentile of a saturated server is written ``≥ 812``; one beyond which fewer than 10 requests lie is a
dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from analysis.cost import Cost
from analysis.histograms import carries, needed_for
from analysis.judging import NOT_SHOWN, ObjectiveResult
from analysis.metrics import QUANTILES, Measures, Row, TrialRow
from analysis.ranking import Pair, Ranking
from analysis.runfolder import RunFacts
from analysis.words import NONE, counted, listed, mebibytes, number, per_s, percent

HEADLINE = ["Backend", "Rank", "Arrivals", "p50 ms", "p95 ms", "95 % interval", "p99 ms", "Errors",
            "CPU cores", "Verdict"]  # fmt: skip
PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9", "max")


@dataclass(frozen=True)
class Entry:
    """A table's cell: its text, classes for its look (``dim good warn bad``) and a hint shown on pointing.

    The first cell of a row names in ``of`` the backend that the row is about, and the second one that it is
    compared with: the row is hidden with either. ``sub`` stands under the text.
    """

    text: str
    look: str = ""
    hint: str = ""
    of: str = ""
    sub: str = ""


@dataclass(frozen=True)
class Group:
    """Rows under a heading of their own."""

    heading: str
    rows: list[list[Entry]]


@dataclass(frozen=True)
class Grid:
    """A table; the first ``words`` columns are text, the others are numbers and stand to the right."""

    columns: list[str]
    groups: list[Group]
    words: int = 1


def text(value: str, look: str = "", hint: str = "") -> Entry:
    """A cell of plain text."""
    return Entry(value, look, hint)


def named(row: Row | Cost, full: bool = False) -> Entry:
    """The backend of a row; ``full``: also what a reader should know before choosing it."""
    known = [row.note, "a stand-in" if row.stand_in else "", f"{row.kind} payloads" * (row.kind != "image")]
    return Entry(row.title, of=row.backend, sub="; ".join(filter(None, known)) if full else "")


def quantile(measures: Measures, name: str, kind: str = "latency_ms") -> Entry:
    """A percentile as ``41.2`` or ``≥ 812``, or a dash where the sample is too small for it."""
    value = getattr(measures, kind).get(name)
    if name in measures.not_carried:
        needed = f"needs {needed_for(QUANTILES[name]):,} requests, there are {measures.requests:,}"
        return Entry(NONE, "dim", needed)
    if value is None:
        return Entry(NONE, "dim")
    if kind == "latency_ms" and measures.lower_bound:
        return Entry(f"≥ {number(value)}", hint="a lower bound: dropped arrivals have no latency")
    if kind == "latency_ms" and measures.binned:
        return Entry(f"≈ {number(value)}", hint="of Locust's buckets, up to a third off")
    return Entry(number(value))


def _highest(measures: Measures, kind: str) -> Entry:
    """The highest percentile up to p99 that the sample carries, named."""
    known = [name for name in ("p99", "p95", "p50") if name not in measures.not_carried]
    found = next((name for name in known if getattr(measures, kind).get(name) is not None), None)
    return Entry(f"{number(getattr(measures, kind)[found])} ({found})") if found else Entry(NONE, "dim")


def between(pair: tuple[float, float] | None) -> Entry:
    """An interval as ``39.1 to 44.0``."""
    return Entry(f"{number(pair[0])} to {number(pair[1])}") if pair else Entry(NONE, "dim")


def verdict(row: Row | TrialRow) -> Entry:
    """The verdict with its reasons as a hint."""
    saturated = row.saturated and row.verdict != "invalid"
    look = {"valid": "good", "suspect": "warn", "invalid": "bad"}[row.verdict]
    words = row.verdict if not saturated else "saturated" if row.verdict == "valid" else "suspect, saturated"
    return Entry(words, "warn" if saturated and look == "good" else look, "; ".join(row.reasons))


def errors(measures: Measures) -> Entry:
    """The error rate, and how much of it was dropped."""
    rate, dropped = measures.error_rate, measures.drop_rate
    if rate is None:
        return Entry(NONE, "dim")
    look = "bad" if rate > 0.01 else "warn" if rate else ""
    return Entry(percent(rate), look, f"of which dropped: {percent(dropped)}" if dropped else "")


def arrivals(measures: Measures) -> Entry:
    """Planned and achieved rate: ``20/s``, or ``20 → 17.4/s`` where it was not reached."""
    planned, achieved = measures.planned_per_s, measures.achieved_per_s
    if planned is None or achieved is None:
        return Entry(NONE, "dim")
    if achieved > 0.99 * planned:
        return Entry(per_s(planned))
    return Entry(f"{number(planned)} → {per_s(achieved)}", "warn", "planned and achieved")


def headline(rows: Sequence[Row], rankings: Sequence[Ranking]) -> Grid:
    """What a reader looks at first: a line per backend, grouped by scenario, best first."""
    ranks = {(r.scenario, one.backend): one.rank for r in rankings for one in r.ranked}

    def line(row: Row) -> list[Entry]:
        rank = ranks.get((row.scenario, row.backend))
        faint = " dim" if row.verdict == "invalid" else ""
        cells = [
            text(f"{rank}" if rank else NONE, "" if rank else "dim", "" if rank else "not ranked"),
            arrivals(row),
            quantile(row, "p50"),
            quantile(row, "p95"),
            between(row.interval_ms.get("p95")),
            quantile(row, "p99"),
            errors(row),
            text(number(row.cpu_cores_mean)),
            verdict(row),
        ]
        return [
            named(row, full=True),
            *(Entry(one.text, one.look + faint, one.hint) for one in cells[:-1]),
            cells[-1],
        ]

    def by_rank(row: Row) -> tuple[int, float]:
        return ranks.get((row.scenario, row.backend), len(rows)), row.latency_ms.get("p95") or math.inf

    return Grid(HEADLINE, _by_scenario(rows, line, by_rank))


def percentiles(rows: Sequence[Row], kind: str) -> Grid:
    """Mean, percentiles and maximum of latency or service time."""

    def line(row: Row) -> list[Entry]:
        mean = text(number(getattr(row, kind).get("mean")))
        return [
            named(row),
            text(f"{row.requests:,}"),
            mean,
            *(quantile(row, p, kind) for p in PERCENTILES),
        ]

    return Grid(["Backend", "Requests", "mean", *PERCENTILES], _by_scenario(rows, line))


def uncertainty(rows: Sequence[Row]) -> Grid:
    """Intervals of the percentiles, and how far the trials lay apart."""

    def line(row: Row) -> list[Entry]:
        spread = [_spread(row, name) for name in ("p50", "p95", "p99")]
        interval = [between(row.interval_ms.get(name)) for name in ("p50", "p95", "p99")]
        return [named(row), text(f"{row.trials} of {row.trials_planned}"), *interval, *spread]

    columns = ["p50", "p95", "p99"]
    return Grid(
        ["Backend", "Trials", *(f"{c} interval" for c in columns), *(f"{c} of trials" for c in columns)],
        _by_scenario(rows, line),
    )


def _spread(row: Row, name: str) -> Entry:
    """The lowest and the highest of the trials' own values, faint where a trial alone cannot carry one."""
    if row.trials < 2 or name not in row.spread_ms:
        return Entry(NONE, "dim")
    each, told = row.requests // row.trials, between(row.spread_ms[name])
    if carries(each, QUANTILES[name]):
        return told
    needed = needed_for(QUANTILES[name])
    return Entry(told.text, "dim", f"of trials of some {each:,} requests; one alone needs {needed:,}")


def resources(rows: Sequence[Row]) -> Grid:
    """CPU and memory of the server, and what a CPU-second brought."""

    def line(row: Row) -> list[Entry]:
        return [
            named(row),
            text(number(row.cpu_cores_mean)),
            text(number(row.cpu_cores_peak)),
            text(mebibytes(row.memory_bytes_mean)),
            text(mebibytes(row.memory_bytes_peak)),
            text(number(row.predictions_per_cpu_s)),
        ]

    columns = ["Backend", "CPU mean", "CPU peak", "Memory mean", "Memory peak", "Predictions per CPU-s"]
    return Grid(columns, _by_scenario(rows, line))


def counts(rows: Sequence[Row]) -> Grid:
    """Where each planned arrival went."""

    def line(row: Row) -> list[Entry]:
        values = (row.planned, row.sent, row.completed, row.failed, row.dropped)
        cells = [text(NONE if value is None else f"{value:,}") for value in values]
        rates = [text(number(row.planned_per_s)), text(number(row.achieved_per_s))]
        return [named(row), *cells, *rates, text(percent(row.error_rate)), text(percent(row.drop_rate))]

    names = [
        "Planned",
        "Sent",
        "Completed",
        "Failed",
        "Dropped",
        "Planned/s",
        "Achieved/s",
        "Errors",
        "Drops",
    ]
    return Grid(["Backend", *names], _by_scenario(rows, line))


def trials(rows: Sequence[TrialRow]) -> Grid:
    """Every trial, in the order in which they were made."""

    def line(row: TrialRow) -> list[Entry]:
        return [
            Entry(f"{row.backend}/{row.scenario}/{row.trial}", of=row.backend),
            Entry(row.status, "" if row.status == "ok" else "bad"),
            verdict(row),
            text(NONE if row.order is None else str(row.order)),
            *(quantile(row, name) for name in ("p50", "p95", "p99")),
            errors(row),
            _cut(row.warmup_cut_s),
            _highest(row, "lag_ms"),
            text(number(row.generator_cores_peak)),
        ]

    ordered = sorted(rows, key=lambda row: (row.order is None, row.order or 0))
    return Grid(
        [
            "Trial",
            "Status",
            "Verdict",
            "Order",
            "p50",
            "p95",
            "p99",
            "Errors",
            "Warm-up cut",
            "Lag ms",
            "Generator cores",
        ],
        [Group("", [line(row) for row in ordered])],
        words=3,
    )


def _cut(seconds: int | None) -> Entry:
    if seconds is None:
        return Entry(NONE, "dim", "too few seconds to tell, or a rate that changes")
    return Entry(f"{seconds} s", hint="what MSER-5 would leave out for a steady rest; it is not left out")


def differences(rankings: Sequence[Ranking]) -> Grid:
    """How many times as slow each slower backend was."""
    titles = {one.backend: one.title for ranking in rankings for one in ranking.ranked}
    groups = []
    for ranking in rankings:
        rows = [
            [
                Entry(titles[pair.slower], of=pair.slower),
                Entry(titles[pair.faster], of=pair.faster),
                _told(pair),
                text(f"{pair.ratio:.2f}"),
                text(f"{pair.low:.2f} to {pair.high:.2f}" if pair.high is not None else "not known"),
                text(pair.rests_on),
            ]
            for pair in ranking.pairs
        ]
        if rows:
            groups.append(Group(f"{ranking.scenario}, by {ranking.metric}", rows))
    return Grid(
        ["Backend", "Compared with", "Difference", "Times as slow", "Interval", "Rests on"], groups, words=3
    )


def _told(pair: Pair) -> Entry:
    if pair.equivalent_within is not None:
        return Entry(f"equivalent within {percent(pair.equivalent_within)}")
    return Entry("slower") if pair.shown else Entry("not shown", "dim")


def reasons(rows: Sequence[TrialRow]) -> Grid:
    """Why trials are not simply valid: each reason once, with the trials that it holds for."""
    held: dict[str, list[str]] = {}
    for row in rows:
        for reason in row.reasons:
            held.setdefault(reason, []).append(f"{row.backend}/{row.scenario}/{row.trial}")
    lines = [[text(reason), text(listed(names))] for reason, names in held.items()]
    return Grid(["What the verdicts rest on", "Trials"], [Group("", lines)] if lines else [], words=2)


def excluded(rankings: Sequence[Ranking], titles: dict[str, str]) -> Grid:
    """Who is not ranked, and why."""
    rows = [
        [Entry(titles[backend], of=backend), text(ranking.scenario), text(why.reason)]
        for ranking in rankings
        for backend, why in ranking.excluded.items()
    ]
    return Grid(["Backend", "Scenario", "Not ranked because"], [Group("", rows)] if rows else [], words=3)


def objectives(results: Sequence[ObjectiveResult], rows: Sequence[Row]) -> Grid:
    """A line per objective and scenario, a column per backend."""
    titles = {row.backend: row.title for row in rows}
    backends = [backend for backend in titles if any(one.backend == backend for one in results)]
    groups: dict[str, dict[str, dict[str, ObjectiveResult]]] = {}
    for one in results:
        groups.setdefault(one.scenario, {}).setdefault(one.expression, {})[one.backend] = one
    return Grid(
        ["Objective", *(titles[backend] for backend in backends)],
        [
            Group(scenario or "covers nothing that was measured", [
                [text(expression), *(_judged(judged.get(backend)) for backend in backends)]
                for expression, judged in expressions.items()
            ])
            for scenario, expressions in groups.items()
        ],
    )  # fmt: skip


def _judged(one: ObjectiveResult | None) -> Entry:
    if one is None:
        return Entry(NONE, "dim")
    return Entry(f"{one.shown} {one.judgement}", "good" if one.passed else "bad", one.note, sub=one.interval)


def unshown(results: Sequence[ObjectiveResult], titles: dict[str, str]) -> list[str]:
    """A sentence for each cell whose objectives were missed for want of evidence, not by their value."""
    held: dict[str, list[str]] = {}
    for one in results:
        if one.judgement == NOT_SHOWN:
            where = " in ".join(part for part in (titles.get(one.backend, ""), one.scenario) if part)
            held.setdefault(f"{where}: {one.note}" if where else one.note, []).append(one.expression)
    return [f"{told} ({', '.join(expressions)})." for told, expressions in held.items()]


def fairness(facts: RunFacts) -> Grid:
    """What was the same for every backend, and what could not be."""
    held = facts.fairness
    rows = [
        _held("Weights and images", facts.model.digest[:19] or None, "one export, by digest"),
        _held("Intra-op threads", held.threads),
        _held("Server workers", held.workers),
        _held("Server's own cores", _cores(held.server_cores)),
        _held("Generator's own cores", _cores(held.generator_cores)),
        *([text("Not held", "bad"), text(sentence)] for sentence in held.not_held),
        *(
            [text(f"{backend.title or name} differs"), text(sentence)]
            for name, backend in facts.backends.items()
            for sentence in backend.differs
        ),
    ]
    return Grid(["", ""], [Group("", rows)], words=2)


def setting(facts: RunFacts) -> Grid:
    """Machine, model, versions: what to have in hand to repeat the run."""
    machine, model = facts.machine, facts.model
    memory = mebibytes(machine.memory_bytes) if machine.memory_bytes else ""
    cores = counted(machine.cores, "core") if machine.cores else ""
    rows = [
        ("Machine", ", ".join(part for part in (machine.cpu, cores, memory) if part)),
        ("System", " ".join(part for part in (machine.os, machine.kernel) if part)),
        ("Target", facts.target),
        ("Model", " ".join(part for part in (model.architecture, model.digest) if part)),
        ("Weights", ": ".join(part for part in (model.weights, model.description) if part)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in facts.versions.items())),
        (
            "Backends",
            ", ".join(f"{b.title or name} {b.version}".strip() for name, b in facts.backends.items()),
        ),
        ("Started", moment(facts.started)),
        ("Ended", moment(facts.ended)),
        ("Seed", "" if facts.seed is None else str(facts.seed)),
    ]
    return Grid(["", ""], [Group("", [[text(name), text(value)] for name, value in rows if value])], words=2)


def repeat(facts: RunFacts) -> list[str]:
    """The commands that make the run again; of a run that took what was installed, with what that was."""
    words = facts.command.replace("\n", " ").split()
    if words[:2] != ["modelswarm", "run"] or not facts.backends or "--backends" in facts.command:
        return [facts.command] if facts.command else []
    names = list(facts.backends)
    setup = dict.fromkeys(name.partition("+")[0] for name in names)
    return [f"modelswarm setup {' '.join(setup)}", f"{facts.command} --backends {','.join(names)}"]


def moment(when: datetime | None) -> str:
    """A time as a person writes it, in UTC."""
    return "" if when is None else f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _held(name: str, value: object, how: str = "") -> list[Entry]:
    if value is None:
        return [text(name), text("not recorded", "dim")]
    return [text(name), text(f"{value} ({how})" if how else f"{value}")]


def _cores(cores: Sequence[int] | None) -> str | None:
    if not cores:
        return None if cores is None else "none of its own"
    return f"{'core' if len(cores) == 1 else 'cores'} {listed([str(core) for core in cores])}"


def _by_scenario(
    rows: Sequence[Row],
    line: Callable[[Row], list[Entry]],
    key: Callable[[Row], tuple[int, float]] | None = None,
) -> list[Group]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.scenario, []).append(row)
    return [
        Group(heading(mine), [line(row) for row in (sorted(mine, key=key) if key else mine)])
        for mine in groups.values()
    ]


def heading(rows: Sequence[Row]) -> str:
    """``poisson: open load, 2 trials of each``."""
    most = max(row.trials_planned for row in rows)
    return f"{rows[0].scenario}: {rows[0].load} load, {counted(most, 'trial')} of each"
