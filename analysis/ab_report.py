"""The page of an A/B comparison: what to do, what it rests on, and both variants' whole distributions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis import view
from analysis.ab import ABResult, Arm
from analysis.histograms import Histogram, all_values
from analysis.hlog import VARIANT
from analysis.pages import render_page, write_whole
from analysis.plots import Bar, distribution, side_by_side
from analysis.runfolder import RunFacts, Trial
from analysis.view import Entry, Grid, Group, text
from analysis.words import NONE, counted, ms, number, percent

SMALLEST_P = 0.0001
LOOKS = {
    "faster": "good",
    "fails less": "good",
    "equivalent": "good",
    "slower": "bad",
    "fails": "bad",
    "not valid": "bad",
    "not shown": "warn",
}


def write_ab_report(result: ABResult, trials: Sequence[Trial], facts: RunFacts, folder: Path) -> Path:
    """Write ``ab.html`` and ``ab.json`` into ``folder``, and return the page."""
    arms = (result.control, result.treatment)
    series = {arm.name: number for number, arm in enumerate(arms, 1)}
    latencies = {
        arm.name: all_values([trial.log.tag(VARIANT + arm.name) for trial in trials]) for arm in arms
    }
    context = {
        "title": f"{result.treatment.name} against {result.control.name}",
        "when": view.moment(facts.started),
        "run": facts,
        "result": result,
        "look": LOOKS.get(result.verdict, ""),
        "requests": counted(result.control.requests + result.treatment.requests, "request"),
        "rests_on": _rests_on(result),
        "arms": _arms(arms),
        "tests": _tests(result),
        "quantiles": _quantiles(result),
        "side_by_side": side_by_side("A/B", [_bar(arm, series, latencies[arm.name]) for arm in arms]),
        "distribution": distribution("A/B", [(a.name, series[a.name], latencies[a.name]) for a in arms]),
        "setting": view.setting(facts),
    }
    path = folder / "ab.html"
    write_whole(folder / "ab.json", result.model_dump_json(by_alias=True, indent=1) + "\n")
    write_whole(path, render_page("ab.html.j2", series, {name: name for name in series}, context))
    return path


def _rests_on(result: ABResult) -> str:
    total = result.control.requests + result.treatment.requests
    split = "fits the weights" if not result.split_is_wrong else "does not fit the weights"
    stop = ""
    if result.stop_after_s is not None:
        stop = f"; the always-valid test could have stopped after {result.stop_after_s:.0f} s"
    elif result.verdict in ("equivalent", "not shown"):
        stop = "; the always-valid test never had an answer"
    return (
        f"This rests on {counted(total, 'request')}, {percent(result.treatment.share)} of them to "
        f"{result.treatment.name}, which {split} (p {_p(result.split_p)}){stop}."
    )


def _p(value: float) -> str:
    return f"< {SMALLEST_P}" if value < SMALLEST_P else f"= {value:.2g}"


def level(confidence: float) -> str:
    """A level of confidence in words: 95 %, or 97.5 %."""
    return f"{100 * confidence:.3g} %"


def _arms(arms: Sequence[Arm]) -> Grid:
    names = list(dict.fromkeys(name for arm in arms for name in arm.quantiles_ms))
    lines = [
        [
            Entry(arm.name, of=arm.name),
            text(f"{arm.requests:,}"),
            text(percent(arm.wanted)),
            text(percent(arm.share)),
            text(f"{arm.failures:,}"),
            text(percent(arm.failing)),
            text(number(arm.mean_ms)),
            text(number(arm.sd_ms)),
            *(text(number(arm.quantiles_ms.get(name))) for name in names),
        ]
        for arm in arms
    ]
    columns = [
        "Variant",
        "Requests",
        "Wanted",
        "Share",
        "Failed",
        "Failing",
        "Mean ms",
        "SD ms",
        *(f"{name} ms" for name in names),
    ]
    return Grid(columns, [Group("", lines)])


def _tests(result: ABResult) -> Grid:
    """What each test says, and what it is good for."""
    times = result.fails_times
    between = f"{number(result.low_ms)} to {number(result.high_ms)} ms"
    again = " by dealing the requests again" if result.dealt_again else ""
    needed = NONE if result.needed_requests is None else f"{result.needed_requests:,}"
    rows = [
        ("Difference of the means", ms(result.difference_ms),
         f"Welch's t{again}, p {_p(result.t_p)}; {level(result.confidence)} interval {between}"),
        ("Odds of a failure", NONE if times is None else f"{number(times)} times", _odds(result)),
        ("A request to the treatment takes longer", percent(result.superiority),
         f"Mann-Whitney, p {_p(result.mann_whitney_p)}; 50 % is no difference"),
        ("Effect size", number(result.cohen_d), "Cohen's d: differences in standard deviations of a request"),
        ("Power", percent(result.power), f"to show a difference of {percent(result.margin)} of the mean"),
        ("Requests needed", needed, "of the smaller variant, for a power of 80 %"),
        ("Split", "wrong" if result.split_is_wrong else "as asked for",
         f"chi-square, p {_p(result.split_p)}; below 0.001 something chooses who goes where"),
    ]  # fmt: skip
    return Grid(["", "", ""], [Group("", [[text(part) for part in row] for row in rows])], words=3)


def _odds(result: ABResult) -> str:
    if not result.control.failures + result.treatment.failures:
        return "nothing failed"
    than = f"those of {result.control.name}" if result.control.failures else f"{result.control.name} has none"
    return (
        f"{than}; Fisher's exact test of more failures, p {_p(result.fails_p)}; with "
        f"{level(result.fails_confidence)} confidence at least {number(result.fails_low)} times; of fewer, "
        f"p {_p(result.fails_less_p)}"
    )


def _quantiles(result: ABResult) -> Grid:
    lines = [
        [
            text(one.name),
            text(number(result.control.quantiles_ms.get(one.name))),
            text(number(result.treatment.quantiles_ms.get(one.name))),
            text(f"{one.ratio:.3f}"),
            text(NONE if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}"),
        ]
        for one in result.quantiles
    ]
    columns = [
        "Percentile",
        f"{result.control.name} ms",
        f"{result.treatment.name} ms",
        "Times as long",
        "95 % interval",
    ]
    return Grid(columns, [Group("", lines)] if lines else [])


def _bar(arm: Arm, series: dict[str, int], latency: Histogram) -> Bar:
    p50, p95, p99 = (latency.carried_ms(q) for q in (0.5, 0.95, 0.99))
    return Bar(arm.name, series[arm.name], p50, p95, p99, None, True, latency.total)
