"""A report, or a comparison, as JUnit XML, the form in which CI systems list what held and what did not.

A suite per scenario: a test for each trial (an error if it was not measured) and one for each objective in
each backend (a failure if it was missed or not shown to hold). Where none of them tells why the run as a
whole is not valid, a test of its own does: JUnit is red wherever the exit status is not 0. The elements are
those of Jenkins' JUnit schema.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from analysis.compare import Comparison
from analysis.judging import ObjectiveResult
from analysis.metrics import TrialRow
from analysis.report import Report

# XML 1.0 has no way to write these, not even escaped.
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
NOWHERE = "objectives"
"""The suite of objectives that cover nothing which was measured."""
RUN = "run"
"""The suite of what holds for the run as a whole."""


def junit(report: Report) -> str:
    """The report as JUnit XML."""
    root = Element("testsuites", name=_clean(f"modelswarm {report.run.plan_name}".strip()))
    measured = [trial.scenario for trial in report.trials]
    for scenario in dict.fromkeys([*measured, *(one.scenario for one in report.objectives)]):
        trials = [trial for trial in report.trials if trial.scenario == scenario]
        results = [one for one in report.objectives if one.scenario == scenario]
        _suite(root, scenario or NOWHERE, trials, results)
    if not report.valid and root.find(".//error") is None:
        _not_whole(root, report)
    return _written(root)


def comparison_junit(comparison: Comparison) -> str:
    """A comparison as JUnit XML: a test per metric of each cell, which fails where it got worse."""
    root = Element("testsuites", name="modelswarm compare")
    for scenario in dict.fromkeys(row.scenario for row in comparison.rows):
        suite = SubElement(root, "testsuite", name=_clean(scenario))
        for row in (row for row in comparison.rows if row.scenario == scenario):
            case = _case(suite, scenario, row.backend, f"{row.metric} did not get worse", None)
            if row.regression:
                _told(case, "failure", row.verdict, row.sentence)
            elif row.verdict == "not comparable":
                SubElement(case, "skipped", message=_clean(row.note))
            else:
                SubElement(case, "system-out").text = _clean(f"{row.verdict}: {row.sentence}")
        _count(suite)
    if comparison.outcome == "not measured":
        suite = SubElement(root, "testsuite", name=RUN)
        told = "; ".join([*comparison.answer, *comparison.problems])
        _told(_case(suite, RUN, "", "the comparison is whole", None), "error", "not whole", told)
        _count(suite)
    return _written(root)


def _written(root: Element) -> str:
    _count(root)
    indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tostring(root, encoding="unicode")}\n'


def _not_whole(root: Element, report: Report) -> None:
    """An error of the run's own, where no trial's and no objective's says that it was not measured."""
    suite = SubElement(root, "testsuite", name=RUN)
    bad = [row for row in report.rows if row.verdict == "invalid"]
    cells = [f"{row.backend}/{row.scenario}: {'; '.join(row.reasons)}" for row in bad]
    told = "; ".join([*report.problems, *cells]) or "it lists no trials"
    _told(_case(suite, RUN, "", "the run is whole", None), "error", "not whole", told)
    _count(suite)


def _suite(root: Element, name: str, trials: Sequence[TrialRow], results: Sequence[ObjectiveResult]) -> None:
    suite = SubElement(root, "testsuite", name=_clean(name))
    started = min((trial.started for trial in trials if trial.started), default=None)
    if started:
        suite.set("timestamp", f"{started:%Y-%m-%dT%H:%M:%S}")
    for trial in trials:
        case = _case(suite, name, trial.backend, f"trial {trial.trial} was measured", trial.duration_s)
        told = "; ".join(trial.reasons)
        if trial.verdict == "invalid":
            _told(case, "error", "not measured", told)
        elif told:
            SubElement(case, "system-out").text = _clean(told)
    for one in results:
        _judged(_case(suite, name, one.backend, one.expression, None), one)
    _count(suite)


def _judged(case: Element, one: ObjectiveResult) -> None:
    what = f"{one.expression}: {one.told}{f' ({one.note})' if one.note else ''}"
    if one.passed:
        SubElement(case, "system-out").text = _clean(what)
    elif one.backend and one.value is None and "no valid measurement" in one.note:
        _told(case, "error", "not measured", what)
    else:
        _told(case, "failure", one.judgement, what)


def _case(suite: Element, scenario: str, backend: str, name: str, duration_s: float | None) -> Element:
    where = ".".join(part.replace(".", "_") for part in (scenario, backend) if part)
    time = f"{duration_s or 0:.3f}"
    return SubElement(suite, "testcase", classname=_clean(where), name=_clean(name), time=time)


def _told(case: Element, tag: str, kind: str, words: str) -> None:
    SubElement(case, tag, type=kind, message=_clean(words)).text = _clean(words)


def _count(parent: Element) -> None:
    """Set the sums that a reader of JUnit expects on a suite."""
    cases = list(parent.iter("testcase"))
    parent.set("tests", str(len(cases)))
    for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        parent.set(name, str(sum(case.find(tag) is not None for case in cases)))
    parent.set("time", f"{sum(float(case.get('time', 0)) for case in cases):.3f}")


def _clean(text: str) -> str:
    return _IMPOSSIBLE.sub("\N{REPLACEMENT CHARACTER}", text)
