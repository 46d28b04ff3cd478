"""Objectives such as ``p95 < 200ms``, read from text.

An objective is ``[SCOPE:] METRIC OP VALUE[UNIT]``, or ``[SCOPE:] METRIC OP [FACTOR *] baseline``, which is
judged against what an earlier run measured in the same cell. The scope is a scenario, a backend or
``backend/scenario`` with ``*`` for any; without one it must hold in every cell.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from analysis.words import ms, per_s, percent

EXAMPLE = "p95 < 200ms"

Where = tuple[str, str]
"""A backend and a scenario."""

_TIMES = {"us": 0.001, "µs": 0.001, "ms": 1.0, "s": 1000.0}
_SHARES = {"%": 0.01, "": 1.0}
_RATES = {"/s": 1.0, "": 1.0}
_NAMED = {
    "mean": ("latency", _TIMES),
    "max": ("latency", _TIMES),
    "error_rate": ("share", _SHARES),
    "drop_rate": ("share", _SHARES),
    "throughput": ("rate", _RATES),
}
_NAMES = [*_NAMED, "p50", "p90", "p95", "p99", "p99.9"]
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FORM = re.compile(
    r"(?:(?P<scope>[^:<>]+):)?\s*(?P<metric>[^\s<>=:]+)\s*(?P<op><=|>=|<|>)\s*"
    r"(?:(?:(?P<factor>[0-9.]+)\s*\*\s*)?(?P<baseline>baseline)(?:\s*\*\s*(?P<after>[0-9.]+))?"
    r"|(?P<value>[0-9.]+)\s*(?P<unit>\S*))"
)


@dataclass(frozen=True)
class Objective:
    """What must hold. ``threshold`` is in ms, a fraction or 1/s; an empty ``scope`` means every cell.

    Where it is ``relative``, the threshold is so many times the baseline's value.
    """

    expression: str
    metric: str
    op: str
    threshold: float
    scope: str = ""
    relative: bool = False

    @property
    def kind(self) -> str:
        """``latency``, ``share`` or ``rate``."""
        return _NAMED[self.metric][0] if self.metric in _NAMED else "latency"

    @property
    def quantile(self) -> float | None:
        """0.95 of ``p95``; None of what is not a percentile."""
        return quantile_of(self.metric)

    def covers(self, backend: str, scenario: str) -> bool:
        """Whether the objective is about this cell."""
        if "/" in self.scope:
            its_backend, its_scenario = (part.strip() for part in self.scope.split("/", 1))
            return its_backend in ("*", backend) and its_scenario in ("*", scenario)
        return self.scope in ("", "*", scenario, backend)

    @property
    def is_ceiling(self) -> bool:
        """Whether values below the threshold hold it."""
        return self.op in ("<", "<=")

    def holds(self, value: float, threshold: float) -> bool:
        """Whether a value keeps the threshold, which may be another than its own."""
        return _OPERATORS[self.op](value, threshold)

    def show(self, value: float | None) -> str:
        """A value of this metric with its unit."""
        return {"latency": ms, "share": percent, "rate": per_s}[self.kind](value)


def quantile_of(metric: str) -> float | None:
    """0.95 of ``p95``; None of what is not a percentile."""
    return None if metric in _NAMED else float(metric[1:]) / 100


def parse(expression: str) -> Objective:
    """Read an objective.

    Raises
    ------
    ValueError
        With a sentence for the user that says what to write instead.
    """
    found = _FORM.fullmatch(expression.strip())
    if not found:
        raise ValueError(
            f"{expression!r} is not an objective: write METRIC < VALUE, such as {EXAMPLE!r}, "
            "'error_rate < 1%', 'throughput > 50/s', 'p99 < 1.2 * baseline', "
            f"or 'constant: {EXAMPLE}' for one scenario."
        )
    metric = _metric(found["metric"], expression)
    units = _NAMED[metric][1] if metric in _NAMED else _TIMES
    relative = found["baseline"] is not None
    return Objective(
        expression=expression.strip(),
        metric=metric,
        op=found["op"],
        threshold=_factor(found["factor"] or found["after"] or "1", found, expression)
        if relative
        else _threshold(found["value"], found["unit"], metric, units, expression),
        scope=(found["scope"] or "").strip(),
        relative=relative,
    )


def _factor(text: str, found: re.Match[str], expression: str) -> float:
    if found["factor"] and found["after"]:
        raise ValueError(f"{expression!r}: write one factor, such as '{found['metric']} < 1.2 * baseline'.")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{expression!r}: {text!r} is not a number; write 1.2 * baseline.") from None


def _metric(name: str, expression: str) -> str:
    if name in _NAMED:
        return name
    if re.fullmatch(r"p\d+(\.\d+)?", name) and 0 < float(name[1:]) < 100:
        return name
    near = get_close_matches(name.lower(), _NAMES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_NAMES)}."
    raise ValueError(f"{expression!r} names no metric that is measured ({name}): {hint}")


def _threshold(value: str, unit: str, metric: str, units: dict[str, float], expression: str) -> float:
    example = {"ms": "200ms", "%": "1%", "/s": "50/s"}[next(u for u in ("ms", "%", "/s") if u in units)]
    if unit not in units:
        what = f"the unit {unit!r} does not fit" if unit else "the value has no unit"
        raise ValueError(f"{expression!r}: {what}; write {metric} with a value such as {example}.")
    try:
        threshold = float(value) * units[unit]
    except ValueError:
        raise ValueError(
            f"{expression!r}: {value!r} is not a number; write {metric} with a value such as {example}."
        ) from None
    if units is _SHARES and not unit and threshold >= 1:
        raise ValueError(f"{expression!r}: without % the value is a fraction of 1; write {value}%.")
    return threshold


class NothingToJudge(ValueError):
    """An objective that can only be missed, whatever is measured; the message says what to write instead."""


def refuse_idle(objectives: Sequence[Objective], cells: Collection[Where], baseline: bool) -> None:
    """See that each objective is about one of these cells, and that there is a baseline where it wants one.

    Raises
    ------
    NothingToJudge
        One of them is not: a typo in its scope is no missed objective.
    """
    for objective in objectives:
        if not any(objective.covers(*cell) for cell in cells):
            raise NothingToJudge(f"{objective.expression!r}: {about_nothing(objective, cells)}.")
        if objective.relative and not baseline:
            raise NothingToJudge(
                f"{objective.expression!r} needs a run to be held against: write --baseline RUN."
            )


def about_nothing(objective: Objective, cells: Collection[Where]) -> str:
    """Say of an objective's scope that none of the cells is meant by it, and which may have been."""
    names = sorted({name for cell in cells for name in cell})
    known = ["/".join(cell) for cell in cells] if "/" in objective.scope else names
    near = get_close_matches(objective.scope, known, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? There" if near else "there"
    return f"nothing here is called {objective.scope!r}; {meant} are {', '.join(names)}"
