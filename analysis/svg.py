"""Scales, axes, lines and marks: what every plot of the report is put together from, as SVG elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from markupsafe import Markup

from analysis.histograms import Floats
from analysis.words import brief

WIDTH = 380
LEFT, RIGHT = 46, 12
COLOURS = 8  # that report.css has
LEGEND_LINE = 17
Points = Sequence[tuple[float, float]]


def of(series: int) -> str:
    """The classes of a backend's elements: its colour, and its own name by which a reader can hide it."""
    return f"s{(series - 1) % COLOURS + 1} b{series}"


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
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = (math.log(max(one, 1e-9)) for one in (low, high, at))
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


def latency_scale(
    values_ms: Sequence[float] | Floats, start: float, end: float, log: bool | None = None
) -> Scale:
    """An axis for latencies: from zero, or logarithmic where the largest is over 30 times the smallest."""
    values = np.asarray(values_ms, dtype=np.float64)
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    if log is None:
        log = high > 30 * low
    return Scale(low / 1.15, high * 1.15, start, end, True) if log else Scale(0, high * 1.08, start, end)


def round_top(values: Sequence[float] | Floats) -> float:
    """A round number that no value exceeds, for an axis with two labels."""
    every = np.asarray(values, dtype=np.float64)
    highest = float(every[np.isfinite(every)].max(initial=0.0))
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(s * power for s in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if s * power >= highest * 0.999)


def drawing(height: float, words: str) -> Element:
    """An empty drawing, with words for those who cannot see it."""
    svg = Element("svg", {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": words})
    SubElement(svg, "title").text = words
    return svg


def element(parent: Element, tag: str, css: str, **attributes: float) -> Element:
    """Add an element whose attributes are pixels."""
    numbers = {name: f"{value:.1f}" for name, value in attributes.items()}
    return SubElement(parent, tag, {"class": css, **numbers})


def y_axis(svg: Element, scale: Scale, ticks: Sequence[float], words: str) -> None:
    """Add a vertical axis with lines across, and what it measures above it."""
    for tick in ticks:
        element(svg, "line", "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=scale(tick), y2=scale(tick))
        element(svg, "text", "tick end", x=LEFT - 5, y=scale(tick) + 3.5).text = brief(tick)
    # Not above the plot itself, where flags of events stand.
    element(svg, "text", "tick", x=2, y=scale.end - 7).text = words


def x_axis(svg: Element, scale: Scale, ticks: Sequence[float], labels: Sequence[str], y: float) -> None:
    """Add a horizontal axis at ``y``."""
    element(svg, "line", "axis", x1=scale.start, x2=scale.end, y1=y, y2=y)
    for tick, label in zip(ticks, labels, strict=True):
        element(svg, "line", "axis", x1=scale(tick), x2=scale(tick), y1=y, y2=y + 3)
        element(svg, "text", "tick middle", x=scale(tick), y=y + 14).text = label


def line(svg: Element, points: Points, css: str) -> None:
    """Add a line, if there are two points."""
    if len(points) > 1:
        SubElement(svg, "polyline", {"class": css, "points": _points(points)})


def area(svg: Element, upper: Points, lower: Points, css: str) -> None:
    """Add the area between two lines."""
    if len(upper) > 1:
        SubElement(svg, "polygon", {"class": css, "points": _points([*upper, *reversed(lower)])})


def _points(points: Points) -> str:
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in points)


def known(x: Scale, y: Scale, at: Floats, values: Floats) -> list[tuple[float, float]]:
    """The pixels of those values that are known."""
    return [(x(t), y(v)) for t, v in zip(at, values, strict=True) if math.isfinite(v)]


def unbroken(x: Scale, y: Scale, at: Floats, values: Floats) -> list[list[tuple[float, float]]]:
    """The pixels of each run of known values."""
    ends = np.flatnonzero(np.diff(np.isfinite(values))) + 1
    return [known(x, y, *part) for part in zip(np.split(at, ends), np.split(values, ends), strict=True)]


def stairs(x: Scale, y: Scale, at: Floats, values: Floats, width_s: int) -> list[tuple[float, float]]:
    """A stairs line: the planned rate is constant within a bin."""
    return [
        (x(t + shift), y(v))
        for t, v in zip(at, values, strict=True)
        if math.isfinite(v)
        for shift in (0, width_s)
    ]


def _turned(points: Points) -> list[tuple[float, float]]:
    """A shape turned by a quarter to the right."""
    return [(-dy, dx) for dx, dy in points]


_UP = [(0.0, -5.2), (4.8, 3.8), (-4.8, 3.8)]
_RIGHT = _turned(_UP)
_DOWN = _turned(_RIGHT)
_LEFT = _turned(_DOWN)
_PLUS = [
    (px * side, py * side)
    for side in (1, -1)
    for px, py in ((-1.9, -5.4), (1.9, -5.4), (1.9, -1.9), (5.4, -1.9), (5.4, 1.9), (1.9, 1.9))
]
_HALF = math.sqrt(0.5)
_CROSS = [((px - py) * _HALF, (px + py) * _HALF) for px, py in _PLUS]
_STAR = [
    (math.sin(i * math.pi / 5) * r, -math.cos(i * math.pi / 5) * r) for i, r in enumerate([6.4, 2.6] * 5)
]
_HOURGLASS = [(-4.6, -5.0), (4.6, -5.0), (1.5, 0.0), (4.6, 5.0), (-4.6, 5.0), (-1.5, 0.0)]
SHAPES: Sequence[Points] = (
    [(math.cos(a) * 4.6, math.sin(a) * 4.6) for a in np.linspace(0, 2 * math.pi, 17)],
    [(-4, -4), (4, -4), (4, 4), (-4, 4)],
    _UP,
    [(0, -5.6), (5.6, 0), (0, 5.6), (-5.6, 0)],
    _DOWN,
    _PLUS,
    _CROSS,
    _STAR,
    _LEFT,
    _HOURGLASS,
    _RIGHT,
    _turned(_HOURGLASS),
)
"""All filled: a hollow mark is p50, a ringed one a lower bound. With eight colours they make 24 looks."""


def marker(parent: Element, px: float, py: float, series: int, words: str) -> None:
    """A backend's own mark: its shape tells it apart where its colour does not."""
    points = [(px + dx, py + dy) for dx, dy in SHAPES[(series - 1) % len(SHAPES)]]
    mark = SubElement(parent, "polygon", {"class": f"mark {of(series)}", "points": _points(points)})
    if words:
        SubElement(mark, "title").text = words


def legend_lines(names: Sequence[tuple[str, int]]) -> list[list[tuple[str, int, float]]]:
    """Title, series and left edge of each entry, in lines that fit."""
    lines: list[list[tuple[str, int, float]]] = [[]]
    px = float(LEFT)
    for title, series in names:
        width = 26 + 6.4 * len(title)
        if lines[-1] and px + width > WIDTH:
            lines.append([])
            px = float(LEFT)
        lines[-1].append((title, series, px))
        px += width
    return lines


def legend_height(names: Sequence[tuple[str, int]]) -> int:
    """The pixels that :func:`legend` takes."""
    return LEGEND_LINE * len(legend_lines(names))


def legend(svg: Element, names: Sequence[tuple[str, int]], y: float) -> None:
    """Add the names with their marks, the first line of them at ``y``."""
    for number, entries in enumerate(legend_lines(names)):
        for title, series, px in entries:
            at = y + LEGEND_LINE * number
            marker(svg, px, at - 4, series, "")
            element(svg, "text", f"label b{series}", x=px + 9, y=at).text = title


def hover(
    svg: Element,
    left: float,
    right: float,
    top: float,
    bottom: float,
    words: str,
    series: Sequence[int] = (),
) -> None:
    """Add an invisible column that tells something when it is pointed at; the page's script reads it too.

    With ``series``, whose values stand in this order behind the colon, it leaves out what is hidden.
    """
    column = element(svg, "rect", "hover", x=left, y=top, width=right - left, height=bottom - top)
    if series:
        column.set("data-of", " ".join(map(str, series)))
    SubElement(column, "title").text = words


def markup(svg: Element) -> Markup:
    """The drawing as text for the page."""
    return Markup(tostring(svg, encoding="unicode"))  # ElementTree has escaped every text
