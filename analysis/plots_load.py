"""Plots over rates and over trials: throughput against latency, saturation, how far trials lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from markupsafe import Markup

from analysis.svg import (
    LEFT,
    RIGHT,
    WIDTH,
    Scale,
    drawing,
    element,
    latency_scale,
    legend,
    legend_height,
    line,
    marker,
    markup,
    of,
    round_top,
    x_axis,
    y_axis,
)
from analysis.words import brief, ms, per_s

BOTTOM = 200
SPREAD = 64.0
"""The pixels about the limit that the intervals of all backends share."""


@dataclass(frozen=True)
class Point:
    """A level of a backend, with ``words`` for pointing; not ``sure`` if its p95 is a lower bound."""

    offered_per_s: float
    answered_per_s: float
    p95_ms: float
    sure: bool
    words: str


@dataclass(frozen=True)
class Curve:
    """A backend's levels in the order of their rates."""

    title: str
    series: int
    points: Sequence[Point]


def throughput(heading: str, curves: Sequence[Curve]) -> Markup:
    """p95 latency over answers per second; a hollow mark is a lower bound."""
    points = [point for curve in curves for point in curve.points]
    words = "; ".join(
        f"{curve.title} up to {per_s(max(one.answered_per_s for one in curve.points))}" for curve in curves
    )
    svg = drawing(_height(curves), f"{heading}: latency against throughput. {words}.")
    x = Scale(0, round_top([point.answered_per_s for point in points]), LEFT, WIDTH - RIGHT)
    y = latency_scale([point.p95_ms for point in points], BOTTOM, 20)
    y_axis(svg, y, y.ticks(7), "p95 latency, ms")
    _rates(svg, x, "answers per second")
    for curve in curves:
        at = [(x(point.answered_per_s), y(point.p95_ms)) for point in curve.points]
        _drawn(svg, curve, at)
    _legend(svg, curves)
    return markup(svg)


def saturation(heading: str, curves: Sequence[Curve]) -> Markup:
    """Answers over arrivals per second: a curve leaves the dashed diagonal where a server is full."""
    points = [point for curve in curves for point in curve.points]
    svg = drawing(_height(curves), f"{heading}: answered against offered rate, {len(points)} levels.")
    top = round_top([max(point.offered_per_s, point.answered_per_s) for point in points])
    x, y = Scale(0, top, LEFT, WIDTH - RIGHT), Scale(0, top, BOTTOM, 20)
    y_axis(svg, y, y.ticks(5), "answers per second")
    _rates(svg, x, "planned arrivals per second")
    line(svg, [(x(0), y(0)), (x(top), y(top))], "line planned")
    for curve in curves:
        at = [(x(point.offered_per_s), y(point.answered_per_s)) for point in curve.points]
        _drawn(svg, curve, at)
    _legend(svg, curves)
    return markup(svg)


def _rates(svg: Element, x: Scale, words: str) -> None:
    ticks = x.ticks(6)
    x_axis(svg, x, ticks, [brief(tick) for tick in ticks], BOTTOM)
    element(svg, "text", "tick end", x=WIDTH - RIGHT, y=BOTTOM + 28).text = words


def _drawn(svg: Element, curve: Curve, at: Sequence[tuple[float, float]]) -> None:
    line(svg, at, f"line {of(curve.series)}")
    for point, (px, py) in zip(curve.points, at, strict=True):
        marker(svg, px, py, curve.series, f"{curve.title}: {point.words}")
        if not point.sure:
            element(svg, "circle", f"ring {of(curve.series)}", cx=px, cy=py, r=7)


def _height(curves: Sequence[Curve]) -> float:
    return BOTTOM + 46 + legend_height([(curve.title, curve.series) for curve in curves])


def _legend(svg: Element, curves: Sequence[Curve]) -> None:
    legend(svg, [(curve.title, curve.series) for curve in curves], BOTTOM + 50)


@dataclass(frozen=True)
class Limit:
    """A backend's trials of a capacity search: rate in 1/s, share of what is allowed, and words for pointing.

    ``between`` is the interval of the rate at which that share reaches 1.
    """

    title: str
    series: int
    points: Sequence[tuple[float, float, str]]
    between: tuple[float, float] | None


def against_limit(heading: str, limits: Sequence[Limit]) -> Markup:
    """What was measured as a share of what is allowed, over arrivals per second; 1 is the limit."""
    names = [(one.title, one.series) for one in limits]
    rates = [rate for one in limits for rate, *_ in one.points]
    shares = [share for one in limits for _, share, _ in one.points]
    svg = drawing(
        BOTTOM + 46 + legend_height(names), f"{heading}: {len(rates)} trials against the objectives."
    )
    x = Scale(0, round_top([*rates, *(one.between[1] for one in limits if one.between)]), LEFT, WIDTH - RIGHT)
    y = Scale(min(0.5, *shares) / 1.15, max(2.0, *shares) * 1.15, BOTTOM, 20, log=True)
    y_axis(svg, y, y.ticks(6), "of what is allowed")
    _rates(svg, x, "planned arrivals per second")
    line(svg, [(x.start, y(1)), (x.end, y(1))], "line planned")
    step = min(8.0, SPREAD / len(limits))
    for place, one in enumerate(limits):
        group = SubElement(svg, "g", {"class": of(one.series)})
        if one.between:
            low, high = (x(rate) for rate in one.between)
            _between(group, low, high, y(1) + (place - (len(limits) - 1) / 2) * step, step)
        for rate, share, words in one.points:
            marker(group, x(rate), y(share), one.series, f"{one.title}, {words}")
    legend(svg, names, BOTTOM + 50)
    return markup(svg)


def _between(group: Element, low: float, high: float, y: float, step: float) -> None:
    """An interval as a bar with end strokes, which leaves room for those above and below it."""
    half = step * 0.4
    element(group, "rect", "interval", x=low, y=y - half / 2, width=max(2.0, high - low), height=half)
    for end in (low, high):
        element(group, "line", "end", x1=end, x2=end, y1=y - half, y2=y + half)


@dataclass(frozen=True)
class Trials:
    """A backend's trials: number, place in the order of all, percentile in ms, and what to say behind it."""

    title: str
    series: int
    values_ms: Sequence[tuple[int, int, float, str]]


def apart(scenario: str, metric: str, rows: Sequence[Trials]) -> Markup:
    """Each trial's percentile over its place in the run, so that a drift of the machine shows."""
    values = [value for row in rows for _, _, value, _ in row.values_ms]
    last = max(order for row in rows for _, order, *_ in row.values_ms)
    ends = [(row.title, [value for _, _, value, _ in row.values_ms]) for row in rows]
    words = "; ".join(f"{title} {ms(min(own))} to {ms(max(own))}" for title, own in ends)
    names = [(row.title, row.series) for row in rows]
    svg = drawing(BOTTOM + 46 + legend_height(names), f"{scenario}: {metric} of each trial. {words}.")
    x = Scale(0.5, last + 0.5, LEFT, WIDTH - RIGHT)
    y = latency_scale(values, BOTTOM, 20)
    y_axis(svg, y, y.ticks(6), f"{metric} latency of a trial, ms")
    step = max(1, math.ceil(last / 12))
    ticks = list(range(1, last + 1, step))
    x_axis(svg, x, ticks, [str(tick) for tick in ticks], BOTTOM)
    element(svg, "text", "tick end", x=WIDTH - RIGHT, y=BOTTOM + 28).text = "place of the trial in the run"
    for row in rows:
        group = SubElement(svg, "g", {"class": of(row.series)})
        ordered = sorted(row.values_ms, key=lambda one: one[1])
        points = [(x(order), y(value)) for _, order, value, _ in ordered]
        line(group, points, f"line thin faint {of(row.series)}")
        for number, order, value, few in ordered:
            told = f"{row.title}, trial {number}: {metric} {ms(value)}{few}"
            marker(group, x(order), y(value), row.series, told)
    legend(svg, names, BOTTOM + 50)
    return markup(svg)
