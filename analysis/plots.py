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
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from markupsafe import Markup

from analysis.histograms import MIN_BEYOND, Floats, Histogram
from analysis.words import brief, ms

WIDTH = 380
LEFT, RIGHT = 46, 12
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` onto pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value, never outside of the axis."""
        low, high, at = (math.log(max(v, 1e-9)) if self.log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.0
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """About so many round values on the axis: 1, 2 or 5 times a power of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [s * 10.0**p for p in powers for s in steps if self.low <= s * 10.0**p <= self.high]
                if len(found) <= about:
                    break
            return found if len(found) > 1 else [self.low, self.high]
        rough = max((self.high - self.low) / about, 1e-9)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def latency_scale(values_ms: Sequence[float], start: float, end: float, log: bool | None = None) -> Scale:
    """An axis for latencies: from zero, or logarithmic where the largest is over 30 times the smallest."""
    positive = [value for value in values_ms if math.isfinite(value) and value > 0]
    low, high = min(positive, default=1.0), max(positive, default=1.0)
    if log is None:
        log = high > 30 * low
    return Scale(low / 1.15, high * 1.15, start, end, True) if log else Scale(0, high * 1.08, start, end)


@dataclass(frozen=True)
class Track:
    """Values of one cell over time, one entry per bin of ``width_s``; NaN where there is none."""

    title: str
    width_s: int
    at_s: Floats
    p50_ms: Floats
    p95_ms: Floats
    answered_per_s: Floats
    planned_per_s: Floats
    dropped_per_s: Floats
    cpu_cores: Floats
    users: Floats
    locust_per_s: Floats
    locust_failed_per_s: Floats


def over_time(track: Track, others: Sequence[Track], series: int) -> Markup:
    """Latency, rate and CPU over time on one axis; ``others`` are the scenario's tracks, for equal scales."""
    svg = _svg(252, f"{track.title}: latency, arrivals and CPU over time. {_time_words(track)}")
    x = _time_axis(others)
    latency = latency_scale(np.concatenate([[*o.p50_ms, *o.p95_ms] for o in others]).tolist(), 130, 20)
    rate = Scale(0, _top([v for o in others for v in (*o.answered_per_s, *o.planned_per_s)]), 178, 152)
    cpu = Scale(0, _top([v for o in others for v in o.cpu_cores]), 226, 200)
    _y_axis(svg, latency, latency.ticks(5), "latency, ms")
    _y_axis(svg, rate, [0, rate.high], "answers per s")
    _y_axis(svg, cpu, [0, cpu.high], "CPU cores")
    _x_axis(svg, x, x.ticks(6), [f"{tick:g} s" for tick in x.ticks(6)], 226)
    middle = track.at_s + track.width_s / 2
    upper, lower = _known(x, latency, middle, track.p95_ms), _known(x, latency, middle, track.p50_ms)
    _area(svg, upper, lower, f"band s{series}")
    _line(svg, upper, f"line thin s{series}")
    _line(svg, lower, f"line s{series}")
    _line(svg, _steps(x, rate, track.at_s, track.planned_per_s, track.width_s), "line planned")
    _line(svg, _known(x, rate, middle, track.answered_per_s), f"line s{series}")
    _red(svg, x, rate, track, track.dropped_per_s)
    used = _known(x, cpu, middle, track.cpu_cores)
    _area(svg, used, [(px, cpu.start) for px, _ in used], f"band s{series}")
    _line(svg, used, f"line s{series}")
    _hover(svg, x, track, 212)
    return _markup(svg)


def as_locust_saw_it(track: Track, others: Sequence[Track], series: int) -> Markup:
    """Requests/s, failures/s and users by Locust's own history, on the time axis of :func:`over_time`."""
    svg = _svg(166, f"{track.title}: requests per second and users over time, as Locust counted them.")
    x = _time_axis(others)
    every = [v for o in others for v in (*o.locust_per_s, *o.planned_per_s)]
    rate, users = (
        Scale(0, _top(every), 80, 20),
        Scale(0, _top([v for o in others for v in o.users]), 138, 104),
    )
    _y_axis(svg, rate, [0, rate.high], "requests per s")
    _y_axis(svg, users, [0, users.high], "users")
    _x_axis(svg, x, x.ticks(6), [f"{tick:g} s" for tick in x.ticks(6)], 138)
    middle = track.at_s + track.width_s / 2
    _line(svg, _steps(x, rate, track.at_s, track.planned_per_s, track.width_s), "line planned")
    _line(svg, _known(x, rate, middle, track.locust_per_s), f"line s{series}")
    _red(svg, x, rate, track, track.locust_failed_per_s)
    _line(svg, _steps(x, users, track.at_s, track.users, track.width_s), f"line s{series}")
    _hover(svg, x, track, 124)
    return _markup(svg)


def distribution(scenario: str, curves: Sequence[tuple[str, int, Histogram]]) -> Markup:
    """Latency by percentile on HdrHistogram's axis, where 90, 99 and 99.9 % stand equally far apart.

    ``curves`` has title, series number and histogram of each backend. Beyond the last percentile that a
    sample carries its curve is dotted.
    """
    height = 250
    most = max(histogram.total for _, _, histogram in curves)
    x = Scale(0, max(1.5, math.log10(most)), LEFT, WIDTH - RIGHT)
    drawn = {title: _curve(histogram) for title, _, histogram in curves}
    y = latency_scale([v for points in drawn.values() for _, v in points], 200, 20, log=True)
    words = ", ".join(f"{title} {ms(h.quantile_ms(0.95))}" for title, _, h in curves)
    svg = _svg(height, f"{scenario}: latency by percentile. p95: {words}.")
    _y_axis(svg, y, y.ticks(7), "latency, ms")
    marks = [(0.0, "0"), (math.log10(2), "50%"), *((i, f"{100 - 10.0 ** (2 - i):g}%") for i in range(1, 7))]
    shown = [(at, text) for at, text in marks if at <= x.high]
    _x_axis(svg, x, [at for at, _ in shown], [text for _, text in shown], 200)
    for title, series, histogram in curves:
        points = [(x(at), y(value)) for at, value in drawn[title]]
        carried = math.log10(max(1.0, histogram.total / MIN_BEYOND))
        solid = [p for p, (at, _) in zip(points, drawn[title], strict=True) if at <= carried]
        _line(svg, points[max(0, len(solid) - 1) :], f"line dotted s{series}")
        _line(svg, solid, f"line s{series}")
        value = histogram.quantile_ms(0.95)
        if value is not None and x.high >= math.log10(20):
            _marker(svg, x(math.log10(20)), y(value), series, f"{title}: p95 {ms(value)}")
    _legend(svg, [(title, series) for title, series, _ in curves], 240)
    return _markup(svg)


@dataclass(frozen=True)
class Bar:
    """One backend's percentiles in the side-by-side plot; ``interval`` is that of p95, ``sure`` if ranked."""

    title: str
    series: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    interval: tuple[float, float] | None
    sure: bool


def side_by_side(scenario: str, bars: Sequence[Bar]) -> Markup:
    """p50, p95 and p99 of each backend on one axis: a line from p50 to p99, p95 marked with its interval."""
    height = 34 + 36 * len(bars)
    words = "; ".join(f"{b.title}: p50 {ms(b.p50_ms)}, p95 {ms(b.p95_ms)}, p99 {ms(b.p99_ms)}" for b in bars)
    svg = _svg(height, f"{scenario}, backends side by side. {words}.")
    # An interval that is wider than the axis ends with it: it must not squeeze what was measured.
    x = latency_scale([v for bar in bars for v in (bar.p50_ms, bar.p99_ms)], 10, WIDTH - 26)
    bottom = height - 22
    ticks = x.ticks(5)  # with their units more would touch
    _x_axis(svg, x, ticks, [f"{brief(tick)} ms" for tick in ticks], bottom)
    for tick in ticks:
        _element(svg, "line", "grid", x1=x(tick), x2=x(tick), y1=4, y2=bottom)
    for row, bar in enumerate(bars):
        y = 28 + 36 * row
        faint = "" if bar.sure else " faint"
        group = SubElement(svg, "g", {"class": f"s{bar.series}{faint}"})
        SubElement(
            group, "title"
        ).text = f"{bar.title}: p50 {ms(bar.p50_ms)}, p95 {ms(bar.p95_ms)}, p99 {ms(bar.p99_ms)}"
        _element(group, "text", "label", x=10, y=y - 10).text = bar.title
        _element(group, "line", f"range s{bar.series}", x1=x(bar.p50_ms), x2=x(bar.p99_ms), y1=y, y2=y)
        _element(group, "line", f"end s{bar.series}", x1=x(bar.p99_ms), x2=x(bar.p99_ms), y1=y - 4, y2=y + 4)
        if bar.interval:
            low, high = (x(value) for value in bar.interval)
            _element(
                group, "rect", f"interval s{bar.series}", x=low, y=y - 7, width=max(1, high - low), height=14
            )
        _element(group, "circle", f"hollow s{bar.series}", cx=x(bar.p50_ms), cy=y, r=3.5)
        _marker(group, x(bar.p95_ms), y, bar.series, "")
    return _markup(svg)


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
    worst = float(np.nanmax(track.p95_ms)) if np.any(np.isfinite(track.p95_ms)) else None
    return f"Highest p95 of {track.width_s} s: {ms(worst)}."


def _time_axis(tracks: Sequence[Track]) -> Scale:
    """One axis for all of a scenario's tracks."""
    end_s = max(float(one.at_s[-1]) + one.width_s for one in tracks if len(one.at_s))
    return Scale(0, end_s, LEFT, WIDTH - RIGHT)


def _top(values: Sequence[float]) -> float:
    """A round number that no value exceeds, for an axis with two labels."""
    highest = max((v for v in values if math.isfinite(v)), default=0.0)
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(s * power for s in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if s * power >= highest * 0.999)


def _svg(height: float, words: str) -> Element:
    svg = Element("svg", {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": words})
    SubElement(svg, "title").text = words
    return svg


def _element(parent: Element, tag: str, css: str, **attributes: float) -> Element:
    numbers = {name: f"{value:.1f}" for name, value in attributes.items()}
    return SubElement(parent, tag, {"class": css, **numbers})


def _y_axis(svg: Element, scale: Scale, ticks: Sequence[float], words: str) -> None:
    for tick in ticks:
        _element(svg, "line", "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=scale(tick), y2=scale(tick))
        _element(svg, "text", "tick end", x=LEFT - 5, y=scale(tick) + 3.5).text = brief(tick)
    _element(svg, "text", "tick", x=LEFT, y=scale.end - 7).text = words


def _x_axis(svg: Element, scale: Scale, ticks: Sequence[float], labels: Sequence[str], y: float) -> None:
    _element(svg, "line", "axis", x1=scale.start, x2=scale.end, y1=y, y2=y)
    for tick, label in zip(ticks, labels, strict=True):
        _element(svg, "line", "axis", x1=scale(tick), x2=scale(tick), y1=y, y2=y + 3)
        _element(svg, "text", "tick middle", x=scale(tick), y=y + 14).text = label


def _line(svg: Element, points: Points, css: str) -> None:
    if len(points) > 1:
        SubElement(svg, "polyline", {"class": css, "points": _points(points)})


def _area(svg: Element, upper: Points, lower: Points, css: str) -> None:
    if len(upper) > 1:
        SubElement(svg, "polygon", {"class": css, "points": _points([*upper, *reversed(lower)])})


def _points(points: Points) -> str:
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in points)


def _known(x: Scale, y: Scale, at: Floats, values: Floats) -> list[tuple[float, float]]:
    return [(x(t), y(v)) for t, v in zip(at, values, strict=True) if math.isfinite(v)]


def _steps(x: Scale, y: Scale, at: Floats, values: Floats, width_s: int) -> list[tuple[float, float]]:
    """A stairs line: the planned rate is constant within a bin."""
    return [
        (x(t + shift), y(v))
        for t, v in zip(at, values, strict=True)
        if math.isfinite(v)
        for shift in (0, width_s)
    ]


def _marker(parent: Element, px: float, py: float, series: int, words: str) -> None:
    """A backend's own mark: its shape tells it apart where its colour does not."""
    shapes = (
        [(math.cos(a) * 4.6, math.sin(a) * 4.6) for a in np.linspace(0, 2 * math.pi, 17)],
        [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        [(0, -5.2), (4.8, 3.8), (-4.8, 3.8)],
        [(0, -5.6), (5.6, 0), (0, 5.6), (-5.6, 0)],
        [(0, 5.2), (4.8, -3.8), (-4.8, -3.8)],
    )
    shape = shapes[(series - 1) % len(shapes)]
    points = [(px + dx, py + dy) for dx, dy in shape]
    mark = SubElement(parent, "polygon", {"class": f"mark s{series}", "points": _points(points)})
    if words:
        SubElement(mark, "title").text = words


def _legend(svg: Element, names: Sequence[tuple[str, int]], y: float) -> None:
    px = float(LEFT)
    for title, series in names:
        _marker(svg, px, y - 4, series, "")
        _element(svg, "text", "label", x=px + 9, y=y).text = title
        px += 26 + 6.4 * len(title)


def _red(svg: Element, x: Scale, y: Scale, track: Track, per_s: Floats) -> None:
    """A red column in each bin in which something was lost."""
    for at, lost in zip(track.at_s, per_s, strict=True):
        if lost > 0:
            top = min(y(lost), y.start - 2)  # one in thousands must still be seen
            width = max(1.0, x(at + track.width_s) - x(at))
            _element(svg, "rect", "dropped", x=x(at), y=top, width=width, height=y.start - top)


def _hover(svg: Element, x: Scale, track: Track, height: float) -> None:
    """An invisible column per bin that tells all that is known of it, from every file."""
    for i, at in enumerate(track.at_s):
        p50, p95 = track.p50_ms[i], track.p95_ms[i]
        known = [f"p50 {ms(p50)}, p95 {ms(p95)}" if math.isfinite(p95) else "no answer"]
        known += [
            f"{brief(values[i])} {unit}"
            for values, unit, zero in (
                (track.answered_per_s, "answers/s", True),
                (track.dropped_per_s, "dropped/s", False),
                (track.cpu_cores, "CPU cores", True),
                (track.locust_per_s, "requests/s by Locust", True),
                (track.locust_failed_per_s, "failures/s by Locust", False),
                (track.users, "users", True),
            )
            if math.isfinite(values[i]) and (zero or values[i] > 0)
        ]
        left, right = x(at), x(at + track.width_s)
        column = _element(svg, "rect", "hover", x=left, y=14, width=right - left, height=height)
        SubElement(column, "title").text = f"{at:g} to {at + track.width_s:g} s: " + ", ".join(known)


def _markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))  # ElementTree has escaped every text
