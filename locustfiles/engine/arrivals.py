"""When requests are to be sent: pure functions from a shape to planned times.

A shape says how fast arrivals come, an arrival process says how they are spread.  Symbols:

    t      s      plan time, 0 at the first second that is measured
    r(t)   1/s    arrival rate at t
    Λ(t)   1      its integral from 0 to t, the number of arrivals expected before t

Arrivals live on an axis of their own, "operational time" u = Λ(t), on which their rate is 1.  Evenly
spaced arrivals sit at u = 0, 1, 2, …; Poisson arrivals at the running sum of exponential gaps of mean 1.
Planned times are then t = Λ⁻¹(u).  For Poisson arrivals this time change is exact also where r varies
(Çinlar, *Introduction to Stochastic Processes*, 1975, ch. 4.7; Lewis & Shedler 1979 give thinning as the
alternative, which throws draws away).

Arrival k has the same time whoever computes it, so workers deal by index and need not talk about times.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BLOCK = 16_384
"""Arrivals drawn at a time: large enough for numpy, small enough that a slow shape costs no memory."""

COUNTED = 1_000_000
"""Arrivals that are soon counted: 20 ms."""

ROUNDING_S = 1e-9
"""An arrival this close to the end belongs to the next second: k/rate is rarely exact in binary."""
ROUNDING = 1e-12
"""Likewise for an arrival this close, in relation, to a change of the rate: sums of rate x time round too."""

EPOCH_S = 1e9
"""A recording that begins later than this holds seconds (or milliseconds) since 1970: this is 2001."""


class Shape(Protocol):
    """An arrival rate over plan time."""

    @property
    def peak_per_s(self) -> float:
        """The highest rate that the shape reaches, in arrivals per second."""
        ...

    def rate(self, t: float) -> float:
        """r(t), in arrivals per second; t in seconds, not negative."""
        ...

    def integral(self, t: float) -> float:
        """Λ(t), the arrivals expected in [0, t)."""
        ...

    def inverse(self, u: Floats) -> Floats:
        """Λ⁻¹(u): the plan times in seconds of operational times u; inf beyond Λ(∞)."""
        ...


@dataclass(frozen=True)
class PiecewiseRate:
    """Rates that hold (or, in a ramp, change linearly) between breakpoints; the last one holds for ever.

        r ^      ________ rates_per_s[i+1]
          |     /
          |____/          rates_per_s[i]
          +----+---------> t
            starts_s[i]

    `starts_s` (n,) ascending from 0; `rates_per_s` (n,) at the starts; `linear` joins neighbours by a line.
    """

    starts_s: tuple[float, ...]
    rates_per_s: tuple[float, ...]
    linear: bool = False
    _u: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        t = np.asarray(self.starts_s)
        r = np.asarray(self.rates_per_s)
        if len(t) != len(r) or len(t) == 0 or t[0] != 0 or not (np.diff(t) > 0).all():
            raise ValueError("a rate needs ascending starts from 0, and a rate for each")
        if not (np.isfinite(t).all() and np.isfinite(r).all() and (r >= 0).all()):
            raise ValueError("starts and rates must be finite, and no rate negative")
        mean = (r[:-1] + r[1:]) / 2 if self.linear else r[:-1]
        u = np.concatenate([[0.0], np.cumsum(mean * np.diff(t))])
        object.__setattr__(self, "_u", tuple(float(x) for x in u))

    @property
    def peak_per_s(self) -> float:
        """The highest rate."""
        return max(self.rates_per_s)

    def _piece(self, t: float) -> tuple[int, float]:
        i = int(np.searchsorted(self.starts_s, t, side="right")) - 1
        return i, self._slope(i)

    def _slope(self, i: int) -> float:
        if not self.linear or i + 1 >= len(self.starts_s):
            return 0.0
        return (self.rates_per_s[i + 1] - self.rates_per_s[i]) / (self.starts_s[i + 1] - self.starts_s[i])

    def rate(self, t: float) -> float:
        """r(t)."""
        i, slope = self._piece(t)
        return self.rates_per_s[i] + slope * (t - self.starts_s[i])

    def integral(self, t: float) -> float:
        """Λ(t)."""
        i, slope = self._piece(t)
        dt = t - self.starts_s[i]
        return self._u[i] + dt * (self.rates_per_s[i] + slope * dt / 2)

    def inverse(self, u: Floats) -> Floats:
        """Λ⁻¹(u); on a ramp the positive root of slope/2·dt² + r·dt = u - u_i, in its stable form.

        Where the rate is 0 for a while, the arrival due there comes when it rises again, or never.
        """
        knots = np.asarray(self._u)
        i = np.searchsorted(knots * (1 - ROUNDING), u, side="right") - 1
        r = np.asarray(self.rates_per_s)[i]
        slope = np.asarray([self._slope(k) for k in range(len(knots))])[i]
        du = np.maximum(u - knots[i], 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(np.maximum(r * r + 2 * slope * du, 0.0))
            dt = np.where(slope == 0, du / r, 2 * du / (r + root))
        never = np.where(slope == 0, np.inf, 0.0)  # 0/0: no rate for ever, or the foot of a ramp
        return np.asarray(np.asarray(self.starts_s)[i] + np.where(np.isnan(dt), never, dt))


@dataclass(frozen=True)
class RecordedTimes:
    """Arrivals at the times of a recording: u = k is the k-th of `times_s` (n,), ascending, in seconds."""

    times_s: tuple[float, ...]
    _times: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_times", np.asarray(self.times_s, dtype=np.float64))

    @property
    def peak_per_s(self) -> float:
        """The most arrivals in any one second of the recording."""
        _, counts = np.unique(np.floor(self._times), return_counts=True)
        return float(counts.max(initial=0))

    def rate(self, t: float) -> float:
        """Arrivals in the second that begins at t: a recording has no rate at an instant."""
        return self.integral(t + 1) - self.integral(t)

    def integral(self, t: float) -> float:
        """The recorded arrivals before t."""
        return float(np.searchsorted(self._times, t, side="left"))

    def inverse(self, u: Floats) -> Floats:
        """The recorded time of arrival u (rounded down); inf after the last."""
        k = u.astype(np.int64)
        times = np.full(len(k), np.inf)
        times[k < len(self._times)] = self._times[k[k < len(self._times)]]
        return times


def constant(rate_per_s: float) -> PiecewiseRate:
    """`rate_per_s` for ever."""
    return PiecewiseRate((0.0,), (rate_per_s,))


def steps(levels: Sequence[tuple[float, float]]) -> PiecewiseRate:
    """Levels of (rate in 1/s, length in s), one after the other; the last one stays."""
    starts = np.concatenate([[0.0], np.cumsum([length for _, length in levels[:-1]])])
    return PiecewiseRate(tuple(float(s) for s in starts), tuple(rate for rate, _ in levels))


def spike(base_per_s: float, peak_per_s: float, at_s: float, for_s: float) -> PiecewiseRate:
    """`base_per_s`, but `peak_per_s` from `at_s` for `for_s` seconds."""
    if at_s == 0:
        return PiecewiseRate((0.0, for_s), (peak_per_s, base_per_s))
    return PiecewiseRate((0.0, at_s, at_s + for_s), (base_per_s, peak_per_s, base_per_s))


def ramp(from_per_s: float, to_per_s: float, over_s: float) -> PiecewiseRate:
    """A line from one rate to another over `over_s` seconds; the last rate stays."""
    return PiecewiseRate((0.0, over_s), (from_per_s, to_per_s), linear=True)


def replay(path: Path) -> RecordedTimes:
    """Arrival times from the first column of a CSV, in seconds; a header line is allowed.

    Raises ValueError with a sentence for the user when the file cannot be read, or its times are not
    finite, not ascending, negative or missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets begin with a BOM
            reader = csv.reader(file)
            rows = [(reader.line_num, row[0]) for row in reader if row]
    except OSError as error:
        raise ValueError(f"cannot read the replay file {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"the replay file {path} is not a CSV in UTF-8: {error}") from error
    if rows and _number(rows[0][1]) is None:
        rows = rows[1:]
    times: list[float] = []
    for line, text in rows:
        time = _number(text)
        if time is None or not math.isfinite(time):
            raise ValueError(f"{path}, line {line}: {text!r} is not a time in seconds, such as 1.25")
        if time < (times[-1] if times else 0.0):
            raise ValueError(
                f"{path}, line {line}: {text} comes after {times[-1] if times else 0}: "
                "sort the times and let them start at 0 or later"
            )
        times.append(time)
    if not times:
        raise ValueError(f"{path} holds no times: give one time in seconds a line")
    if times[0] >= EPOCH_S:
        raise ValueError(
            f"{path} begins at {times[0]:.0f} s, which looks like a date: times count from the start of the "
            "run, so subtract the first from all"
        )
    return RecordedTimes(tuple(times))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class Arrivals:
    """The arrivals of one plan: shape, spread and seed, and where they end.

    `poisson` spreads them as a Poisson process, otherwise they are evenly spaced on operational time.
    `end_s` and `limit` end the plan by time and by count; both may be infinite.
    """

    shape: Shape
    poisson: bool = False
    seed: int = 0
    end_s: float = math.inf
    limit: float = math.inf

    def blocks(self, since_s: float = 0.0) -> Iterable[tuple[int, Floats]]:
        """(index of the first, planned times) in order, at most `BLOCK` at a time, drawn when asked for.

        Blocks that are over before `since_s` are left out.  To pass them costs nothing when arrivals are
        evenly spaced, and their exponential draws otherwise: 30 ms for an hour at 1,000/s.
        """
        if since_s >= self.end_s:
            return
        passed = self.shape.integral(max(0.0, since_s)) * (1 - ROUNDING)
        rng = np.random.default_rng(self.seed)
        first, u0 = 0 if self.poisson else int(passed // BLOCK) * BLOCK, 0.0
        while first < self.limit:
            if self.poisson:
                u = u0 + np.cumsum(rng.standard_exponential(BLOCK))
                u0 = float(u[-1])
                if u0 < passed:
                    first += BLOCK
                    continue
            else:
                u = np.arange(first, first + BLOCK, dtype=np.float64)
            times = self.shape.inverse(u)
            times = times[: int(min(BLOCK, self.limit - first))]
            inside = times[times < self.end_s - ROUNDING_S]
            if len(inside):
                yield first, inside
            if len(inside) < BLOCK:
                return
            first += BLOCK

    def last_s(self) -> float:
        """When the last arrival is due, in seconds; only for plans that end, and 0 if there is none.

        Where there are more than `COUNTED` it is not counted but estimated, from the rate alone: a Poisson
        process is late by more than five standard deviations once in some million seeds.
        """
        late = 5 * math.sqrt(self.limit) if self.poisson and math.isfinite(self.limit) else 0.0
        if self.limit > COUNTED:
            (due,) = self.shape.inverse(np.array([self.limit + late]))
            if min(due, self.end_s) < math.inf:
                return float(min(due, self.end_s))
        last = 0.0
        for _, times in self.blocks():
            last = float(times[-1])
        return last

    def times(self) -> Floats:
        """All planned times (n,), in seconds; only for plans that end."""
        return np.concatenate([np.empty(0), *(times for _, times in self.blocks())])


class Cursor:
    """Walks the arrivals of a plan from `since_s` on once, window by window; windows must not go back."""

    def __init__(self, arrivals: Arrivals, since_s: float = 0.0) -> None:
        self._blocks = iter(arrivals.blocks(since_s))
        self._times: Floats = np.empty(0)
        self._first = 0  # index of the first arrival in _times
        self._done = False
        self.until(since_s)

    def until(self, t: float) -> tuple[Ints, Floats]:
        """Indices and planned times (n,) of the arrivals before t that no earlier call returned."""
        taken: list[Floats] = []
        start = self._first
        while not self._done:
            cut = int(np.searchsorted(self._times, t, side="left"))
            taken.append(self._times[:cut])
            self._first += cut
            self._times = self._times[cut:]
            if len(self._times):
                break
            block = next(self._blocks, None)
            if block is None:
                self._done = True
            else:
                self._first, self._times = block
        times = np.concatenate([np.empty(0), *taken])
        return np.arange(start, start + len(times)), times

    @property
    def exhausted(self) -> bool:
        """Whether no arrival is left."""
        return self._done
