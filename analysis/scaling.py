"""Laws that throughput, latency and requests in flight obey: Little's, and the Universal Scalability Law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from analysis.histograms import Floats
from analysis.runfolder import Trial
from analysis.uncertainty import LEVEL, Spread, mean_error
from analysis.words import number

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

FEWEST_LEVELS = 6
SAME_RATE = 0.01
"""Rates that lie no further apart, as a share, are one."""
FITS_WITHIN = 0.1
"""Root mean square of the relative errors beyond which the law is not said to describe the server."""
BOUNDS = ([-math.inf, 0.0, 0.0], [math.inf, 1.0, 1.0])
"""Of the logarithm of what one request gets, of contention and of coherency."""
BEYOND = 3.0
"""How many times as far as measured the law is believed."""
LITTLE_HOLDS_WITHIN = 0.05
SURE = 0.999
"""The level at which a trial is called suspect: each one is asked, and most are sound."""


LittleVerdict = Literal["held", "suspect", "not shown"]


class Little(BaseModel):
    """Requests in flight as the generator counted them, against rate times service time.

    ``low`` and ``high`` are a 95 % interval of the former. ``held``: within 5 %; ``suspect``: shown to lie
    further apart, with 99.9 % as every trial is asked, so that one of the three was measured wrong; ``not
    shown``: too few samples to tell.
    """

    model_config = ConfigDict(frozen=True)

    in_flight: float
    expected: float
    low: float
    high: float
    verdict: LittleVerdict

    @property
    def difference(self) -> float | None:
        """How much more were counted than expected, as a share; None where nothing was expected."""
        return self.in_flight / self.expected - 1 if self.expected else None

    @property
    def reason(self) -> str:
        """Why the trial is suspect; empty where it is not."""
        if self.verdict != "suspect":
            return ""
        counted, expected = number(self.in_flight), number(self.expected)
        return f"Little's law does not hold: {counted} in flight, rate times service time is {expected}"


def little(trial: Trial) -> Little | None:
    """Check a trial's own measurement by Little's law [1]_; None where it does not tell requests in flight.

    The generator looks once a second how many users are busy. Such looks in step with evenly spaced arrivals
    see the same moment between two of them each time, which may be off by one request per worker.

    References
    ----------
    .. [1] J. D. C. Little, "A proof for the queuing formula L = lambda W", Operations Research 9 (1961).
    """
    table, summary = trial.generator, trial.summary
    if table is None or summary is None or summary.saturated:
        return None
    service = trial.log.tag("service").merged()
    if not service.total or summary.duration_s < FEWEST_LEVELS:
        return None
    workers = np.unique(table.texts["worker"])
    sums = [_levels(table["in_flight"][table.texts["worker"] == worker]) for worker in workers]
    seconds = min(len(one) for one in sums)
    if seconds < FEWEST_LEVELS:
        return None
    looks = np.sum([one[:seconds] for one in sums], axis=0)
    expected = service.total / summary.duration_s * (service.mean_ms() or 0.0) / 1000
    in_step = len(workers) if summary.shape.name != "poisson" else 0.0
    reach, far = (_reach(looks, expected, level) + in_step for level in (LEVEL, SURE))
    seen = float(looks.mean())
    low, high = max(0.0, seen - reach), seen + reach
    inside = abs(seen / expected - 1) <= LITTLE_HOLDS_WITHIN if expected else True
    apart = abs(seen - expected) > far + LITTLE_HOLDS_WITHIN * expected
    verdict: Literal["held", "suspect", "not shown"] = (
        "held" if inside else "suspect" if apart else "not shown"
    )
    return Little(in_flight=seen, expected=expected, low=low, high=high, verdict=verdict)


def _levels(column: Floats) -> Floats:
    """All looks but the last, at which the load had ended."""
    return column[:-1]


def _reach(looks: Floats, expected: float, level: float) -> float:
    """Half the interval of the mean of looks that depend on each other.

    No less than that of as many numbers by Poisson's law: where hardly one is in flight, looks that all met
    none agree by chance.
    """
    chance = Spread.even(math.sqrt(expected / len(looks)), math.inf)
    return max(mean_error(looks).half(level)[0], chance.half(level)[0])


class Usl(BaseModel):
    """The Universal Scalability Law's parameters with 95 % intervals.

    ``one_per_s`` is the throughput of a single request in flight, ``contention`` the share that is done one
    at a time, ``coherency`` the cost of each pair; ``peak_in_flight`` is where throughput is highest, None
    where it only levels off.
    """

    model_config = ConfigDict(frozen=True)

    one_per_s: tuple[float, float, float]
    contention: tuple[float, float, float]
    coherency: tuple[float, float, float]
    peak_in_flight: float | None
    relative_error: float


def fit_usl(points: Sequence[tuple[float, float]], planned_per_s: Sequence[float]) -> tuple[Usl | None, str]:
    """Fit throughput per second to requests in flight [1]_, or say why that is refused.

    ``points`` are pairs (in flight, per second), each measured at a planned rate. Levels are counted by the
    latter: replicates of a rate differ in flight by their noise alone. The intervals come from drawing the
    residuals again.

    References
    ----------
    .. [1] N. J. Gunther, Guerrilla Capacity Planning, 2007, chapters 4 to 6.
    """
    levels = _different(planned_per_s)
    if levels < FEWEST_LEVELS:
        return None, f"the Universal Scalability Law needs {FEWEST_LEVELS} levels, there are {levels}"
    n, x = (np.array(column) for column in zip(*points, strict=True))
    fitted = _usl(n, x)
    best = _parameters(fitted.x)
    error = float(np.sqrt(np.mean(fitted.fun**2)))
    if error > FITS_WITHIN:
        return None, f"the Universal Scalability Law does not fit: it is off by {error:.0%} on average"
    low, high = _between(fitted)
    one, contention, coherency = ((float(best[i]), float(low[i]), float(high[i])) for i in range(3))
    peak = math.sqrt((1 - best[1]) / best[2]) if low[2] > 0 and best[1] < 1 else math.inf
    return Usl(
        one_per_s=one,
        contention=contention,
        coherency=coherency,
        peak_in_flight=peak if peak < BEYOND * n.max() else None,
        relative_error=error,
    ), ""


def _different(rates: Sequence[float]) -> int:
    """How many rates there are, those counted once that are the same."""
    kept: list[float] = []
    for rate in sorted(rates):
        if not kept or rate > kept[-1] * (1 + SAME_RATE):
            kept.append(rate)
    return len(kept)


def _usl_per_s(n: Floats, parameters: Floats) -> Floats:
    one, contention, coherency = parameters
    return np.asarray(one * n / np.maximum(1e-9, 1 + contention * (n - 1) + coherency * n * (n - 1)))


def _usl(n: Floats, x: Floats) -> OptimizeResult:
    """The fit that minimises the squares of the relative errors; its first parameter is a logarithm."""
    from scipy.optimize import least_squares  # imported late: the command must start fast

    def residuals(parameters: Floats) -> Floats:
        return np.asarray(np.log(_usl_per_s(n, _parameters(parameters)) / x))

    start = [math.log(float(np.max(x / n))), 0.1, 0.001]
    return least_squares(residuals, start, bounds=BOUNDS, x_scale=[1.0, 0.1, 0.001])


def _parameters(fitted: Floats) -> Floats:
    return np.append(math.exp(fitted[0]), fitted[1:])


def _between(fitted: OptimizeResult) -> tuple[Floats, Floats]:
    """The 95 % interval of each parameter.

    The errors are those of all three parameters free, also where one lies at its bound: that it is there is
    known no better than where it would lie without, and the others depend on it.
    """
    free = len(fitted.fun) - len(fitted.x)
    variance = float(fitted.fun @ fitted.fun) / free
    errors = np.sqrt(variance * np.diag(np.linalg.pinv(fitted.jac.T @ fitted.jac)))
    half = np.array([Spread.even(float(error), free).half(LEVEL)[0] for error in errors])
    low, high = (np.clip(fitted.x + reach, *BOUNDS) for reach in (-half, half))
    return _parameters(low), _parameters(high)
