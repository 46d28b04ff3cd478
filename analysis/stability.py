"""Whether a trial was steady: how long it warmed up, where its level jumped, whether it crept.

All three look at the median latency of each second, on the logarithm, under a rate that does not change.

* **Warm-up** by MSER-5 [1]_: cut off so much of the beginning that the mean of the rest is known best. A
  batch is a second, which has five requests or more. A cut in the second half means that the trial never
  became steady. It is shown, not applied: a run that needs it should have been given a longer ``warmup``.
  What it would cut is told where it lies above the rest by more than noise makes likely.
* **Change points** by penalised least squares over all segmentations (PELT [2]_, from ``ruptures``), such as
  garbage collection, throttling or a neighbour's work leave behind. The penalty is five times the logarithm
  of the seconds, in units of the long-run variance: of a queue that wanders, each wave would be a change
  otherwise. That variance comes from the differences between successive seconds, which a jump hardly touches.
* **Drift** by Theil and Sen's slope [3]_, its interval widened by the same long-run variance. What the
  server's memory does is told in the same way, since growing memory is the usual reason; but memory wanders
  for longer, between collections of garbage, so its long-run variance is that of the slowest cosines [4]_.

References
----------
.. [1] K. P. White, M. J. Cobb and S. C. Spratt, "A comparison of five steady-state truncation heuristics for
   simulation", Winter Simulation Conference 2000.
.. [2] R. Killick, P. Fearnhead and I. A. Eckley, "Optimal detection of changepoints with a linear
   computational cost", JASA 107 (2012).
.. [3] P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63 (1968).
.. [4] E. Lazarus, D. J. Lewis, J. H. Stock and M. W. Watson, "HAR inference: recommendations for practice",
   Journal of Business & Economic Statistics 36 (2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from analysis.histograms import Floats
from analysis.runfolder import Trial
from analysis.uncertainty import mean_error
from analysis.usage import usage
from analysis.words import ms, percent

FEWEST_SECONDS = 20
FEWEST_REQUESTS = 5
"""A second with fewer has no median to speak of."""
MOST_SECONDS = 600
STEADY = ("constant", "poisson", "closed")
"""Shapes under which a server has a level to keep."""
PENALTY = 5.0
SHORTEST_LEVEL_S = 4
CHANGE_MATTERS = 1.2
DRIFT_MATTERS = 0.05
"""Over the whole trial."""
WARM_UP_MATTERS = 1.1
SURE = 3.5
"""Standard errors: the cut is where the beginning stands out most, so that two would often be noise."""
LEVEL = 0.99
"""Of a drift's interval: it is looked for in every trial."""


@dataclass(frozen=True)
class Change:
    """The level jumped ``at_s`` after plan time 0; medians of what lies before and after, up to the next."""

    at_s: float
    before_ms: float
    after_ms: float


@dataclass(frozen=True)
class Drift:
    """Times as much per minute, with a 99 % interval."""

    per_minute: float
    low: float
    high: float


@dataclass(frozen=True)
class Stability:
    """What was found. ``warmup_s`` is None where the trial is too short, or has no level to keep.

    ``warmup_matters``: what MSER-5 would cut lies clearly above the rest.
    """

    warmup_s: int | None = None
    warmup_matters: bool = False
    steady: bool = True
    changes: list[Change] = field(default_factory=list)
    drift: Drift | None = None
    memory_drift: Drift | None = None

    @property
    def sentences(self) -> list[str]:
        """What a reader should know."""
        told = []
        if not self.steady:
            told.append("did not become steady: MSER-5 would cut more than half of it")
        elif self.warmup_matters:
            told.append(f"still warmed up for {self.warmup_s} s: give the plan a longer warmup")
        told += [
            f"its median went from {ms(one.before_ms)} to {ms(one.after_ms)} {one.at_s:.0f} s into it"
            for one in self.changes
        ]
        drifts = (("latency", self.drift), ("the server's memory", self.memory_drift))
        told += [
            f"{what} {_moved(one.per_minute)} by {percent(abs(one.per_minute - 1))} a minute"
            for what, one in drifts
            if one
        ]
        return told


def _moved(times: float) -> str:
    return "grew" if times > 1 else "fell"


def stability(trial: Trial) -> Stability:
    """Look at the seconds of a trial's plan; nothing is said of what is short or not meant to be steady."""
    if not meant_to_be_steady(trial):
        return Stability()
    at_s, level = _seconds(trial)
    if len(level) < FEWEST_SECONDS:
        return Stability()
    cut = warm_up(level)
    rest = level[cut:]
    variance, inflation = _noise(rest)
    excess = float(np.mean(level[:cut]) - np.mean(rest)) if cut else 0.0
    noise = math.sqrt(variance * inflation * (1 / max(1, cut) + 1 / len(rest)))
    changes = _changes(at_s, level, variance * inflation)
    return Stability(
        warmup_s=_cut_s(at_s, cut),
        warmup_matters=excess > max(math.log(WARM_UP_MATTERS), SURE * noise),
        steady=cut < len(level) // 2 or not changes,
        changes=changes,
        drift=None if changes else _drift(_line(at_s[cut:], rest), inflation),
        memory_drift=_memory_drift(trial),
    )


def warm_up_s(trial: Trial) -> int | None:
    """What :func:`stability` finds as ``warmup_s``, without looking for anything else."""
    at_s, level = _seconds(trial) if meant_to_be_steady(trial) else (np.empty(0), np.empty(0))
    return _cut_s(at_s, warm_up(level)) if len(level) >= FEWEST_SECONDS else None


def meant_to_be_steady(trial: Trial) -> bool:
    """Whether the trial's load has one level throughout."""
    return trial.summary is not None and trial.summary.shape.name in STEADY


def _seconds(trial: Trial) -> tuple[Floats, Floats]:
    """Seconds of the plan that have a median, and its logarithm, both (n,)."""
    duration_s = trial.summary.duration_s if trial.summary else 0.0
    log = trial.log.tag("latency").binned(math.ceil(duration_s / MOST_SECONDS))
    used = (log.start_s < duration_s) & (log.totals >= FEWEST_REQUESTS)
    return log.start_s[used], np.log(log.quantiles_ms(0.5)[used])


def _cut_s(at_s: Floats, cut: int) -> int:
    return int(at_s[cut]) if cut else 0


def warm_up(level: Floats) -> int:
    """MSER-5's cut: how many of the batches (n,) to leave out, at most half of them."""
    candidates = range(len(level) // 2 + 1)
    return int(np.argmin([level[cut:].var() / (len(level) - cut) for cut in candidates]))


def _noise(level: Floats) -> tuple[float, float]:
    """Variance of a second around its level, and how many times as much a long sum of them varies.

    From an autoregression of first order, whose successive differences correlate by ``(phi - 1) / 2``.
    """
    steps = np.diff(level)
    variance = float(steps @ steps) / len(steps)
    if not variance:
        return 0.0, 1.0
    successive = float(steps[1:] @ steps[:-1]) / len(steps) / variance
    correlation = min(max(1 + 2 * successive, 0.0), 0.8)
    return variance / (2 * (1 - correlation)), (1 + correlation) / (1 - correlation)


def _changes(at_s: Floats, level: Floats, long_run: float) -> list[Change]:
    """Jumps by a factor that matters."""
    from ruptures import KernelCPD  # imported late: it takes a while, and most commands do not need it

    if not long_run:
        return []
    search = KernelCPD(kernel="linear", min_size=SHORTEST_LEVEL_S, jump=1)
    ends = search.fit_predict(level[:, None], pen=PENALTY * math.log(len(level)) * long_run)
    medians = [float(np.exp(np.median(part))) for part in np.split(level, ends[:-1])]
    found = [
        Change(float(at_s[end]), before, after)
        for end, before, after in zip(ends[:-1], medians[:-1], medians[1:], strict=True)
    ]
    return [one for one in found if abs(math.log(one.after_ms / one.before_ms)) > math.log(CHANGE_MATTERS)]


@dataclass(frozen=True)
class _Line:
    """Theil and Sen's line through logarithms: its slope a minute with the interval of independent values.

    ``minutes`` is how long it is, ``rest`` what lies off it (n,).
    """

    slope: float
    low: float
    high: float
    minutes: float
    rest: Floats


def _line(at_s: Floats, level: Floats) -> _Line:
    from scipy.stats import theilslopes

    minutes = at_s / 60
    slope, start, low, high = (float(one) for one in theilslopes(level, minutes, LEVEL))
    return _Line(slope, low, high, float(minutes[-1] - minutes[0]), level - start - slope * minutes)


def _drift(line: _Line, inflation: float) -> Drift | None:
    """A trend of the logarithm that is shown and matters over the whole trial."""
    slope, widened = line.slope, math.sqrt(inflation)
    low, high = slope - (slope - line.low) * widened, slope + (line.high - slope) * widened
    whole = abs(slope) * line.minutes
    if low * high <= 0 or whole < DRIFT_MATTERS:
        return None
    return Drift(math.exp(slope), math.exp(low), math.exp(high))


def _memory_drift(trial: Trial) -> Drift | None:
    used = usage(trial)
    if used is None or len(used.second) < FEWEST_SECONDS or not np.all(used.memory_bytes > 0):
        return None
    return _drift_of_memory(used.second, np.log(used.memory_bytes))


def _drift_of_memory(at_s: Floats, level: Floats) -> Drift | None:
    line = _line(at_s, level)
    return _drift(line, _wandering(line.rest))


def _wandering(off_line: Floats) -> float:
    """How many times as wide, squared, a slope's interval is for values that depend on those long before.

    The slowest cosine is left out of the count: the line takes it. Few cosines know little: Student's t.
    """
    from scipy.special import ndtri, stdtrit

    rest = off_line - off_line.mean()
    if not rest.any():
        return 1.0
    slow = mean_error(rest)
    free = slow.free - 1
    long_run = len(rest) * slow.above**2 * slow.free / free
    heavier = stdtrit(free, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2)
    return max(1.0, float(long_run / rest.var() * heavier**2))
