"""The report's plots, as SVG that stands in the page.

Drawn here rather than by matplotlib: colours are the page's own CSS variables, so one drawing is right in
light, in dark and on paper; text keeps its size on a phone; a second's values are read by pointing at it; and
sixty panels take a quarter of a second. A plot is a function of plain arrays, with a sentence for those who
cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from markupsafe import Markup

from analysis.histograms import MIN_BEYOND, Floats, Histogram, Ints, carries, needed_for
from analysis.svg import (
    LEFT,
    RIGHT,
    WIDTH,
    Scale,
    area,
    drawing,
    element,
    hover,
    known,
    latency_scale,
    legend,
    legend_height,
    line,
    marker,
    markup,
    of,
    round_top,
    stairs,
    unbroken,
    x_axis,
    y_axis,
)
from analysis.words import brief, counted, listed, mebibytes, ms

WIDEST_INTERVAL = 2.0
"""The side-by-side axis makes room for intervals up to so many times the largest value."""
PROBES = 48
"""Percentiles whose values can be read by pointing at the curves."""


@dataclass(frozen=True)
class Mark:
    """Something that happened ``at_s`` seconds into the plan; ``look`` is ``event``, ``bad``, ``change``."""

    at_s: float
    words: str
    look: str = "event"


@dataclass(frozen=True)
class Track:
    """Values of one cell over time, one entry per bin of ``width_s``; NaN where there is none.

    ``answers`` is how many there are in a bin, of all trials together.
    """

    title: str
    width_s: int
    at_s: Floats
    p50_ms: Floats
    p95_ms: Floats
    answers: Ints
    answered_per_s: Floats
    planned_per_s: Floats
    dropped_per_s: Floats
    cpu_cores: Floats
    memory_bytes: Floats
    generator_cores: Floats
    generator_bytes: Floats
    users: Floats
    locust_per_s: Floats
    locust_failed_per_s: Floats
    marks: Sequence[Mark] = ()


def over_time(track: Track, others: Sequence[Track], series: int) -> Markup:
    """Latency, rate, CPU, memory and events on one axis; ``others`` are the scenario's, for equal scales."""
    svg = drawing(300, f"{track.title}: latency, arrivals, CPU and memory over time. {_time_words(track)}")
    x = _time_axis(others)
    latency = latency_scale(_all(others, "p50_ms", "p95_ms"), 130, 20)
    _latency(svg, x, latency, track, series)
    rate = Scale(0, round_top(_all(others, "answered_per_s", "planned_per_s")), 178, 152)
    y_axis(svg, rate, [0, rate.high], "answers per s")
    line(svg, stairs(x, rate, track.at_s, track.planned_per_s, track.width_s), "line planned")
    line(svg, known(x, rate, _middle(track), track.answered_per_s), f"line {of(series)}")
    _red(svg, x, rate, track, track.dropped_per_s)
    cpu = Scale(0, round_top(_all(others, "cpu_cores", "generator_cores")), 226, 200)
    _used(svg, x, cpu, track, series, "CPU cores", track.cpu_cores, track.generator_cores)
    memory = Scale(0, round_top(_all(others, "memory_bytes", "generator_bytes") / 2**20), 274, 248)
    in_mib = track.memory_bytes / 2**20, track.generator_bytes / 2**20
    _used(svg, x, memory, track, series, "memory, MiB", *in_mib)
    x_axis(svg, x, x.ticks(6), [f"{tick:g} s" for tick in x.ticks(6)], 274)
    _hover(svg, x, track, 274)
    _marks(svg, x, track.marks, 274)  # after it, so that flags can be pointed at
    return markup(svg)


def _latency(svg: Element, x: Scale, y: Scale, track: Track, series: int) -> None:
    y_axis(svg, y, y.ticks(5), "latency, ms")
    upper, lower = (known(x, y, _middle(track), values) for values in (track.p95_ms, track.p50_ms))
    area(svg, upper, lower, f"band {of(series)}")
    for q, values, look in ((0.95, track.p95_ms, "line thin"), (0.5, track.p50_ms, "line")):
        enough = np.where(track.answers >= needed_for(q), values, np.nan)
        if not np.array_equal(enough, values, equal_nan=True):
            line(svg, known(x, y, _middle(track), values), f"{look} dotted {of(series)}")
        for points in unbroken(x, y, _middle(track), enough):
            line(svg, points, f"{look} {of(series)}")


def _used(
    svg: Element, x: Scale, y: Scale, track: Track, series: int, words: str, server: Floats, load: Floats
) -> None:
    """What the server used as an area, what the load generator used as a dashed line."""
    y_axis(svg, y, [0, y.high], words)
    used = known(x, y, _middle(track), server)
    area(svg, used, [(px, y.start) for px, _ in used], f"band {of(series)}")
    line(svg, used, f"line {of(series)}")
    line(svg, known(x, y, _middle(track), load), "line planned")


def _all(tracks: Sequence[Track], *columns: str) -> Floats:
    """All values of some columns, for a scale that holds for every track."""
    return np.concatenate([getattr(track, column) for track in tracks for column in columns])


def _middle(track: Track) -> Floats:
    return np.asarray(track.at_s + track.width_s / 2)


def _marks(svg: Element, x: Scale, marks: Sequence[Mark], bottom: float) -> None:
    """A line through all axes for each thing that happened, and a flag to point at."""
    for mark in marks:
        if not x.low <= mark.at_s <= x.high:
            continue
        px = x(mark.at_s)
        element(svg, "line", f"moment {mark.look}", x1=px, x2=px, y1=18, y2=bottom)
        flag = SubElement(
            svg,
            "polygon",
            {"class": f"flag {mark.look}", "points": f"{px - 4:.1f},11 {px + 4:.1f},11 {px:.1f},19"},
        )
        SubElement(flag, "title").text = f"{mark.at_s:.0f} s: {mark.words}"


def as_locust_saw_it(track: Track, others: Sequence[Track], series: int) -> Markup:
    """Requests/s, failures/s and users by Locust's own history, on the time axis of :func:`over_time`."""
    svg = drawing(166, f"{track.title}: requests per second and users over time, as Locust counted them.")
    x = _time_axis(others)
    rate = Scale(0, round_top(_all(others, "locust_per_s", "planned_per_s")), 80, 20)
    users = Scale(0, round_top(_all(others, "users")), 138, 104)
    y_axis(svg, rate, [0, rate.high], "requests per s")
    y_axis(svg, users, [0, users.high], "users")
    x_axis(svg, x, x.ticks(6), [f"{tick:g} s" for tick in x.ticks(6)], 138)
    line(svg, stairs(x, rate, track.at_s, track.planned_per_s, track.width_s), "line planned")
    line(svg, known(x, rate, _middle(track), track.locust_per_s), f"line {of(series)}")
    _red(svg, x, rate, track, track.locust_failed_per_s)
    line(svg, stairs(x, users, track.at_s, track.users, track.width_s), f"line {of(series)}")
    _hover(svg, x, track, 138)
    return markup(svg)


def distribution(scenario: str, curves: Sequence[tuple[str, int, Histogram]]) -> Markup:
    """Latency by percentile on HdrHistogram's axis, where 90, 99 and 99.9 % stand equally far apart.

    ``curves`` has title, series number and histogram of each backend. Beyond the last percentile that a
    sample carries its curve is dotted.
    """
    most = max(histogram.total for _, _, histogram in curves)
    x = Scale(0, max(1.5, math.log10(most)), LEFT, WIDTH - RIGHT)
    drawn = {series: _curve(histogram) for _, series, histogram in curves}
    y = latency_scale([v for points in drawn.values() for _, v in points], 200, 20, log=True)
    words = ", ".join(f"{title} {ms(h.carried_ms(0.95))}" for title, _, h in curves)
    names = [(title, series) for title, series, _ in curves]
    svg = drawing(246 + legend_height(names), f"{scenario}: latency by percentile. p95: {words}.")
    y_axis(svg, y, y.ticks(7), "latency, ms")
    marks = [(0.0, "0%"), (math.log10(2), "50%"), *((i, f"{100 - 10.0 ** (2 - i):g}%") for i in range(1, 7))]
    shown = [(at, text) for at, text in marks if at <= x.high]
    x_axis(svg, x, [at for at, _ in shown], [text for _, text in shown], 200)
    element(svg, "text", "tick end", x=WIDTH - RIGHT, y=228).text = "percentile"
    for title, series, histogram in curves:
        points = [(x(at), y(value)) for at, value in drawn[series]]
        carried = math.log10(max(1.0, histogram.total / MIN_BEYOND))
        solid = [p for p, (at, _) in zip(points, drawn[series], strict=True) if at <= carried]
        line(svg, points[max(0, len(solid) - 1) :], f"line dotted {of(series)}")
        line(svg, solid, f"line {of(series)}")
        value = histogram.carried_ms(0.95)
        if value is not None and x.high >= math.log10(20):
            marker(svg, x(math.log10(20)), y(value), series, f"{title}: p95 {ms(value)}")
    _probes(svg, x, curves)
    legend(svg, names, 250)
    return markup(svg)


def _probes(svg: Element, x: Scale, curves: Sequence[tuple[str, int, Histogram]]) -> None:
    """Columns that tell each backend's value at a percentile, where its sample carries one so far out."""
    step = x.high / PROBES
    for number in range(PROBES):
        at = (number + 0.5) * step
        told = [
            (series, f"{title} {ms(value)}")
            for title, series, histogram in curves
            if (value := histogram.carried_ms(1 - 10.0**-at)) is not None
        ]
        if told:
            percentile = f"{100 * (1 - 10.0**-at):.{max(1, math.ceil(at))}f} %"
            words = f"{percentile}: {', '.join(one for _, one in told)}"
            hover(svg, x(at - step / 2), x(at + step / 2), 14, 200, words, [series for series, _ in told])


@dataclass(frozen=True)
class Bar:
    """One backend's percentiles in the side-by-side plot, None where it has too few requests for one.

    ``interval`` is that of p95, ``sure`` if it is ranked; a ``lower_bound`` is marked by an arrow.
    """

    title: str
    series: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    interval: tuple[float, float] | None
    sure: bool
    requests: int
    lower_bound: bool = False

    @property
    def ends_ms(self) -> list[float]:
        """Where it begins and where it ends, if anywhere."""
        carried = [value for value in (self.p50_ms, self.p95_ms, self.p99_ms) if value is not None]
        return [carried[0], carried[-1]] if carried else []

    @property
    def words(self) -> str:
        """Its percentiles, and which of them it has too few requests for."""
        named = {"p50": self.p50_ms, "p95": self.p95_ms, "p99": self.p99_ms}
        bound = "at least " * self.lower_bound
        told = [f"{name} {bound}{ms(value)}" for name, value in named.items() if value is not None]
        lacking = [name for name, value in named.items() if value is None]
        few = [f"{counted(self.requests, 'request')}, too few for {listed(lacking)}"] if lacking else []
        return f"{self.title}: {', '.join(told + few)}"


def side_by_side(scenario: str, bars: Sequence[Bar]) -> Markup:
    """p50, p95 and p99 of each backend on one axis: a line from p50 to p99, p95 marked with its interval."""
    height = 34 + 36 * len(bars)
    svg = drawing(height, f"{scenario}, backends side by side. {'; '.join(bar.words for bar in bars)}.")
    measured = [value for bar in bars for value in bar.ends_ms]
    # An interval that is far wider than what was measured ends with the axis: it must not squeeze the rest.
    widest = WIDEST_INTERVAL * max(measured, default=1.0)
    wide = [min(bar.interval[1], widest) for bar in bars if bar.interval]
    x = latency_scale([*measured, *wide], 10, WIDTH - 26)
    bottom = height - 22
    ticks = x.ticks(5)  # with their units more would touch
    x_axis(svg, x, ticks, [f"{brief(tick)} ms" for tick in ticks], bottom)
    for tick in ticks:
        element(svg, "line", "grid", x1=x(tick), x2=x(tick), y1=4, y2=bottom)
    for row, bar in enumerate(bars):
        y = 28 + 36 * row
        faint = "" if bar.sure else " faint"
        group = SubElement(svg, "g", {"class": f"{of(bar.series)}{faint}"})
        element(group, "text", "label", x=10, y=y - 10).text = bar.title
        _bar(group, x, y, bar)
        hover(group, 2, WIDTH - 2, y - 22, y + 11, bar.words)
    return markup(svg)


def _bar(group: Element, x: Scale, y: float, bar: Bar) -> None:
    """As much of a bar as its requests carry."""
    if bar.ends_ms:
        first, last = (x(value) for value in bar.ends_ms)
        element(group, "line", "range", x1=first, x2=last, y1=y, y2=y)
        if bar.lower_bound:
            element(group, "text", "label", x=last + 6, y=y + 4).text = "\N{RIGHTWARDS ARROW}"
    if bar.p99_ms is not None:
        element(group, "line", "end", x1=x(bar.p99_ms), x2=x(bar.p99_ms), y1=y - 4, y2=y + 4)
    if bar.interval:
        low, high = (x(value) for value in bar.interval)
        element(group, "rect", "interval", x=low, y=y - 7, width=max(1, high - low), height=14)
    if bar.p50_ms is not None:
        element(group, "circle", "hollow", cx=x(bar.p50_ms), cy=y, r=3.5)
    if bar.p95_ms is not None:
        marker(group, x(bar.p95_ms), y, bar.series, "")


def _curve(histogram: Histogram) -> list[tuple[float, float]]:
    """Points (log10 of 1/(1-q), latency in ms), dense enough to look like the whole distribution."""
    last = math.log10(max(2, histogram.total))
    points = []
    for at in np.linspace(0, last, 160):
        value = histogram.quantile_ms(1 - 10.0**-at)
        if value is not None:
            points.append((float(at), value))
    return points


def _time_words(track: Track) -> str:
    needed = needed_for(0.95)
    carried = track.p95_ms[(track.answers >= needed) & np.isfinite(track.p95_ms)]
    if not len(carried):
        span = "second" if track.width_s == 1 else f"bin of {track.width_s} s"
        return f"No {span} has the {needed} answers that p95 needs."
    return f"Highest p95 of {track.width_s} s: {ms(float(carried.max()))}."


def _time_axis(tracks: Sequence[Track]) -> Scale:
    """One axis for all of a scenario's tracks."""
    end_s = max(float(one.at_s[-1]) + one.width_s for one in tracks if len(one.at_s))
    return Scale(0, end_s, LEFT, WIDTH - RIGHT)


def _red(svg: Element, x: Scale, y: Scale, track: Track, per_s: Floats) -> None:
    """A red column in each bin in which something was lost."""
    for at, lost in zip(track.at_s, per_s, strict=True):
        if lost > 0:
            top = min(y(lost), y.start - 2)  # one in thousands must still be seen
            width = max(1.0, x(at + track.width_s) - x(at))
            element(svg, "rect", "dropped", x=x(at), y=top, width=width, height=y.start - top)


def _hover(svg: Element, x: Scale, track: Track, bottom: float) -> None:
    """An invisible column per bin that tells all that is known of it, from every file."""
    for i, at in enumerate(track.at_s):
        p50, p95, answers = track.p50_ms[i], track.p95_ms[i], int(track.answers[i])
        few = "" if carries(answers, 0.95) else f" of only {counted(answers, 'answer')}"
        told = [f"p50 {ms(p50)}, p95 {ms(p95)}{few}" if math.isfinite(p95) else "no answer"]
        told += [
            f"{brief(values[i])} {unit}"
            for values, unit, zero in (
                (track.answered_per_s, "answers/s", True),
                (track.dropped_per_s, "dropped/s", False),
                (track.cpu_cores, "CPU cores", True),
                (track.generator_cores, "of the generator", True),
                (track.locust_per_s, "requests/s by Locust", True),
                (track.locust_failed_per_s, "failures/s by Locust", False),
                (track.users, "users", True),
            )
            if math.isfinite(values[i]) and (zero or values[i] > 0)
        ]
        if math.isfinite(track.memory_bytes[i]):
            told.append(mebibytes(track.memory_bytes[i]))
        told += [mark.words for mark in track.marks if at <= mark.at_s < at + track.width_s]
        span = f"{at:g} to {at + track.width_s:g} s"
        hover(svg, x(at), x(at + track.width_s), 14, bottom, f"{span}: {', '.join(told)}")
