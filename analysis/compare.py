"""Two runs side by side: what got slower, what got faster, and what was not shown to differ.

Compared is what both runs measured validly under the same load, cell by cell. Percentiles are those of the
merged histograms, the intervals of their differences come from :mod:`analysis.uncertainty` and hold together
over the percentiles of a cell. A *regression* is a percentile shown to be slower and by more than
``TOLERANCE``, an error rate that rose, or a server that kept up before and no longer does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from analysis.metrics import Cell, cells
from analysis.ranking import load_of
from analysis.runfolder import Run, RunFacts, read_run
from analysis.uncertainty import differences
from analysis.words import ms, percent

METRICS = ("p50", "p95", "p99")
TOLERANCE = 0.05
"""How much slower a percentile may get: machines drift by this much from one day to the next."""
ERROR_RATE_MAY_RISE = 0.01
SIGNIFICANT = 0.05

Verdict = Literal["slower", "faster", "not shown", "worse", "not comparable"]


class ComparisonRow(BaseModel):
    """One metric of one cell in both runs; latencies in ms, ``ratio`` = new / base with a 95 % interval."""

    model_config = ConfigDict(frozen=True)

    backend: str
    scenario: str
    metric: str
    base: float | None
    new: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Verdict
    regression: bool = False
    note: str = ""


class Comparison(BaseModel):
    """What came out. ``differs`` has a sentence per thing that was not the same in both runs."""

    model_config = ConfigDict(frozen=True)

    base: Path
    new: Path
    differs: list[str]
    rows: list[ComparisonRow]
    problems: list[str]

    @property
    def regressions(self) -> list[str]:
        """A sentence per regression; empty where none was shown."""
        return [_sentence(row) for row in self.rows if row.regression]

    @property
    def compared(self) -> bool:
        """Whether anything could be compared at all."""
        return any(row.verdict != "not comparable" for row in self.rows)

    def to_json(self) -> str:
        """The comparison as JSON, with its regressions spelled out."""
        content: dict[str, Any] = {"schema": 1, **self.model_dump(mode="json")}
        return json.dumps(content | {"regressions": self.regressions}, indent=1, allow_nan=False)


def compare(base: Path, new: Path) -> Comparison:
    """Compare two run folders.

    Raises
    ------
    analysis.runfolder.NotARunFolder
        A ``ValueError`` with a sentence for the user, if either is not a run folder.
    """
    runs = read_run(base), read_run(new)
    before, after = (
        {(cell.row.scenario, cell.row.backend): cell for cell in cells(run)} for run in runs
    )
    rows: list[ComparisonRow] = []
    for key in dict.fromkeys([*before, *after]):
        rows.extend(_compare_cells(key, before.get(key), after.get(key)))
    named = zip(("base", "new"), runs, strict=True)
    problems = [f"{name}: {problem}" for name, run in named for problem in run.problems]
    return Comparison(base=base, new=new, differs=_differs(*runs), rows=rows, problems=problems)


def _compare_cells(key: tuple[str, str], before: Cell | None, after: Cell | None) -> list[ComparisonRow]:
    scenario, backend = key
    reason = _not_comparable(before, after)
    if reason or before is None or after is None:
        return [
            ComparisonRow(
                backend=backend,
                scenario=scenario,
                metric="p95",
                base=before.row.latency_ms.get("p95") if before else None,
                new=after.row.latency_ms.get("p95") if after else None,
                verdict="not comparable",
                note=reason,
            )
        ]
    if after.row.saturated:
        return [_saturated(before, after), _errors(before, after)]
    return [*_latencies(before, after), _errors(before, after)]


def _not_comparable(before: Cell | None, after: Cell | None) -> str:
    for name, cell in (("base", before), ("new", after)):
        if cell is None:
            return f"the {name} run does not have it"
        if cell.row.verdict == "invalid":
            return f"not valid in the {name} run: {'; '.join(cell.row.reasons) or 'nothing was measured'}"
    assert before is not None
    assert after is not None
    if load_of(before) != load_of(after):
        return "the load was not the same"
    return "saturated in the base run: its percentiles are lower bounds" if before.row.saturated else ""


def _latencies(before: Cell, after: Cell) -> list[ComparisonRow]:
    names = [name for name in METRICS if name in before.estimates and name in after.estimates]
    rows = []
    for name in names:
        one = differences([before.estimates[name], after.estimates[name]], comparisons=len(names))[0, 1]
        verdict: Verdict = "not shown"
        if one.shown:
            verdict = "slower" if one.ratio > 1 else "faster"
        rows.append(
            ComparisonRow(
                backend=after.row.backend,
                scenario=after.row.scenario,
                metric=name,
                base=before.row.latency_ms[name],
                new=after.row.latency_ms[name],
                ratio=one.ratio,
                low=one.low,
                high=one.high if math.isfinite(one.high) else None,
                verdict=verdict,
                regression=verdict == "slower" and one.ratio > 1 + TOLERANCE,
                note=f"rests on {one.rests_on}",
            )
        )
    return rows


def _saturated(before: Cell, after: Cell) -> ComparisonRow:
    return ComparisonRow(
        backend=after.row.backend,
        scenario=after.row.scenario,
        metric="p95",
        base=before.row.latency_ms.get("p95"),
        new=after.row.latency_ms.get("p95"),
        verdict="worse",
        regression=True,
        note="the server no longer keeps up with this load; the new value is a lower bound",
    )


def _errors(before: Cell, after: Cell) -> ComparisonRow:
    """Errors come in bursts, so beside Fisher's exact test the rate must rise by a whole percentage point."""
    from scipy.stats import fisher_exact  # imported late: the command must start fast

    old, now = before.row, after.row
    worse = False
    if old.planned and now.planned and old.error_rate is not None and now.error_rate is not None:
        lost = [round((row.error_rate or 0) * (row.planned or 0)) for row in (old, now)]
        table = [[lost[1], now.planned - lost[1]], [lost[0], old.planned - lost[0]]]
        rose = now.error_rate - old.error_rate > ERROR_RATE_MAY_RISE
        worse = rose and fisher_exact(table, alternative="greater").pvalue < SIGNIFICANT
    return ComparisonRow(
        backend=now.backend,
        scenario=now.scenario,
        metric="error_rate",
        base=old.error_rate,
        new=now.error_rate,
        verdict="worse" if worse else "not shown",
        regression=worse,
    )


def _sentence(row: ComparisonRow) -> str:
    show = percent if row.metric == "error_rate" else ms
    text = f"{row.backend} in {row.scenario}: {row.metric} went from {show(row.base)} to {show(row.new)}"
    if row.ratio is not None and row.low is not None:
        high = f" to {row.high:.2f}" if row.high is not None else " or more"
        text += f", {row.ratio:.2f} times as slow (95 % interval {row.low:.2f}{high})"
    return f"{text}; {row.note}." if row.note and row.ratio is None else f"{text}."


def _differs(base: Run, new: Run) -> list[str]:
    """What was not the same in both runs, for the reader to weigh."""
    pairs = [(name, *values) for name, values in _identities(base.facts, new.facts).items()]
    return [
        f"{name}: {old or 'not known'}, now {now or 'not known'}." for name, old, now in pairs if old != now
    ]


def _identities(*facts: RunFacts) -> dict[str, Sequence[str]]:
    return {
        "Machine": [f"{one.machine.cpu}, {one.machine.cores} cores".strip(", ") for one in facts],
        "System": [f"{one.machine.os} {one.machine.kernel}".strip() for one in facts],
        "Target": [one.target for one in facts],
        "Model": [one.model.digest for one in facts],
        "Intra-op threads": [str(one.fairness.threads or "") for one in facts],
        "Server workers": [str(one.fairness.workers or "") for one in facts],
        "Backends": [", ".join(f"{n} {b.version}" for n, b in sorted(one.backends.items())) for one in facts],
        "Versions": [", ".join(f"{n} {v}" for n, v in sorted(one.versions.items())) for one in facts],
    }
