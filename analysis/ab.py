"""Two variants behind one address: whether the new one is slower, and whether the split can be believed.

Each request is sent to either variant by chance, so requests are what is compared here, not trials: what the
machine does in a second, it does to both. Welch's t test is on the mean, which is what many requests cost;
where the means of arms of different sizes are still skewed, t's law is found by dealing the requests again
(:mod:`analysis.means`). Mann-Whitney's is on which of two requests is the slower one; percentiles have the
intervals of :mod:`analysis.uncertainty`. First of all the split itself is checked: where the shares are not
those that were asked for, something chooses who goes where, and no difference means anything [1]_.

**Failures** are compared by Fisher's exact test of "the treatment fails no more often". Where anything
failed, it and Welch's test share the 5 % by Holm's correction, and each has the interval of the level at
which it was tested, so that interval and verdict say the same. Where more than 1 % of either variant's
requests failed, no verdict rests on latency, since errors answer fast: Fisher's tests of more and of fewer
failures share the 5 %, and where neither shows a difference nothing is decided.

**A saturated run** made the requests for both variants wait alike, and its dropped arrivals have no latency:
what is shown to be worse under overload is worse, but nothing else is concluded from it.

**Stopping early** looks at the differences between the variants' means in successive blocks of seconds, by
the always-valid test of :mod:`analysis.sequential`, so that it may be looked at after every block.

References
----------
.. [1] A. Fabijan et al., "Diagnosing sample ratio mismatch in online controlled experiments", KDD 2019,
   doi:10.1145/3292500.3330722: p < 0.001 is a mismatch.
.. [2] R. Kohavi, D. Tang and Y. Xu, Trustworthy Online Controlled Experiments, 2020, chapters 3, 17 and 21.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from analysis.histograms import Floats, Histogram, Intervals, all_values, bucket_middle_ms, carries
from analysis.hlog import VARIANT
from analysis.means import SKEWED, MeanDifference, Sample, mean_difference, samples
from analysis.ranking import MAX_ERROR_RATE
from analysis.runfolder import Trial
from analysis.sequential import Look
from analysis.uncertainty import contrast, estimates
from analysis.validity import trial_verdict
from analysis.words import counted, ms, percent

ALPHA = 0.05
POWER = 0.8
MISMATCH = 0.001
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
BLOCK_S = 5
MOST_VALUES = 5_000_000
MOST_EXACT = 5_000
"""Failures up to which the odds have an exact interval: of very many it takes minutes, and is the same."""


class Part(BaseModel):
    """A part of the result."""

    model_config = ConfigDict(frozen=True)


class Arm(Part):
    """One variant. ``share`` is its part of all requests, ``wanted`` what was asked for.

    Latencies are of all its requests; ``failures`` are those with a wrong answer, of which an answer told the
    variant.
    """

    name: str
    wanted: float
    share: float
    requests: int
    failures: int
    mean_ms: float
    sd_ms: float
    quantiles_ms: dict[str, float]

    @property
    def failing(self) -> float:
        """The share of its requests that failed."""
        return self.failures / self.requests


class QuantileDifference(Part):
    """How many times as long the treatment's quantile is, with a 95 % interval where it is known."""

    name: str
    ratio: float
    low: float | None
    high: float | None


class ABResult(Part):
    """A treatment against a control.

    ``difference_ms`` is the treatment's mean less the control's, with Welch's interval at ``confidence``, the
    level at which it was tested; ``dealt_again`` is whether the law of its t is not Student's;
    ``superiority`` the probability that a request to the treatment takes longer than one to the control.
    ``power`` is that of this number of requests to show a difference of the margin, ``needed_requests`` of
    the smaller arm's for four in five. ``fails_p`` is Fisher's, of "the treatment fails no more often",
    ``fails_less_p`` that of "it fails no less often"; ``fails_times`` how many times the control's its odds
    of a failure are (None where the control has none), of which ``fails_low`` is the lower bound at
    ``fails_confidence``. ``stop_after_s`` is when the always-valid test first had an answer; None where no
    verdict rests on latency. ``notes`` say what a reader should know of the trials.
    """

    # grows when a reader of the old form would misread the new one
    schema_version: Literal[1] = Field(default=1, alias="schema")
    control: Arm
    treatment: Arm
    margin: float
    difference_ms: float
    low_ms: float
    high_ms: float
    confidence: float
    t_p: float
    mann_whitney_p: float
    superiority: float
    cohen_d: float
    quantiles: list[QuantileDifference]
    power: float
    needed_requests: int | None
    fails_p: float
    fails_less_p: float
    fails_times: float | None
    fails_low: float
    fails_confidence: float
    split_p: float
    split_is_wrong: bool
    dealt_again: bool
    stop_after_s: float | None
    saturated: bool
    notes: list[str]
    verdict: str
    recommendation: str


def variants_of(trials: Sequence[Trial]) -> list[str]:
    """The names of the variants that the trials' logs tell apart."""
    return sorted(
        {tag.removeprefix(VARIANT) for one in trials for tag in one.log.tags if tag.startswith(VARIANT)}
    )


def notes_on(trials: Sequence[Trial]) -> list[str]:
    """A sentence on each trial that is not valid, saturated, or does not tell its failures."""
    return [f"{trial.name} {what}." for trial in trials for what in _told_of(trial)]


def _told_of(trial: Trial) -> Iterator[str]:
    verdict, reasons = trial_verdict(trial)
    why = "; ".join(reason for reason in reasons if not reason.startswith("saturated"))
    if verdict == "invalid":
        yield f"is not valid and was left out: {'; '.join(reasons)}"
        return
    if why:
        yield f"is {verdict}: {why}"
    if _saturated([trial]):
        yield f"was saturated: {_lost([trial])}"
    if trial.locust.total is None:
        yield "has no stats.csv that can be read, so its failures are not known"


def _saturated(trials: Sequence[Trial]) -> bool:
    return any(trial.summary.saturated for trial in trials if trial.summary)


def _lost(trials: Sequence[Trial]) -> str:
    """How much the percentiles of saturated trials lack."""
    counts = [trial.summary.counts for trial in trials if trial.summary]
    dropped, planned = sum(one.dropped for one in counts), sum(one.planned for one in counts)
    if not dropped:
        return "it fell behind the planned rate"
    return f"{percent(dropped / planned)} of the arrivals were dropped, and have no latency"


def compare_variants(
    trials: Sequence[Trial],
    weights: Mapping[str, float],
    control: str,
    margin: float = 0.05,
    notes: Sequence[str] = (),
) -> ABResult:
    """Compare the two variants of the trials; ``weights`` has the share that each was to get.

    ``notes`` are kept with the result, of trials that were left out too: those of :func:`notes_on`.

    Raises
    ------
    ValueError
        With a sentence for the user, where there are not two variants with requests, or others than named.
    """
    found = variants_of(trials)
    if not found:
        raise ValueError("no answer named a variant: record with --variant-by, such as header:X-Variant.")
    if len(found) != 2 or set(found) != set(weights) or control not in found:
        raise ValueError(
            f"an A/B comparison needs two variants; the answers named {', '.join(found)}, the "
            f"weights name {', '.join(sorted(weights))}, the control is {control}."
        )
    treatment = next(name for name in found if name != control)
    logs = {name: [trial.log.tag(VARIANT + name) for trial in trials] for name in (control, treatment)}
    latencies = {name: all_values(parts) for name, parts in logs.items()}
    for name, some in latencies.items():
        if some.total < 2:
            raise ValueError(f"variant {name} answered fewer than two requests: run for longer.")
    failures = {name: min(_failures(trials, name), latencies[name].total) for name in found}
    lost = _lost(trials) if _saturated(trials) else ""
    return _result(logs, latencies, failures, _untold(trials), weights, margin, lost, notes)


def _failures(trials: Sequence[Trial], name: str) -> int:
    """Locust names requests after their variant."""
    lines = [line for trial in trials for line in trial.locust.requests if line.name == name]
    return sum(line.failures for line in lines)


def _untold(trials: Sequence[Trial]) -> int:
    """Failures of which nothing tells whose they were: only Locust's own file has them by variant."""
    return sum(one.summary.counts.failed for one in trials if one.summary and one.locust.total is None)


def _result(
    logs: Mapping[str, Sequence[Intervals]],
    latencies: Mapping[str, Histogram],
    failures: Mapping[str, int],
    untold: int,
    weights: Mapping[str, float],
    margin: float,
    lost: str,
    notes: Sequence[str],
) -> ABResult:
    """The result for ``control`` and ``treatment``, in this order the names of ``latencies``."""
    from scipy.stats import chisquare, mannwhitneyu  # imported late: the command must start fast

    control, treatment = latencies
    counts = {name: latency.total for name, latency in latencies.items()}
    first, second = samples(latencies[control], latencies[treatment])
    both = {control: first, treatment: second}
    arms = {name: _arm(name, latencies[name], both[name], failures[name], weights, counts) for name in both}
    means = mean_difference(first, second, np.random.default_rng(0))  # the same page from the same run
    tests = _tests(means, [[failures[n], counts[n] - failures[n]] for n in (treatment, control)])
    ranked = [_values(latencies[name]) for name in (treatment, control)]
    ranks = mannwhitneyu(*ranked, method="asymptotic")
    expected = [sum(counts.values()) * arms[name].wanted for name in counts]
    split_p = float(chisquare(list(counts.values()), expected).pvalue)
    wrong, mean_ms = split_p < MISMATCH, first.mean_ms
    spread = math.sqrt((first.variance + second.variance) / 2)
    size = margin * mean_ms / spread if spread else math.inf
    power, needed = _design(first.total, second.total, size, tests.level)
    verdict = "not valid" if untold else _judged(tests, margin * mean_ms, wrong, lost)
    latency_tells = verdict != "not valid" and not tests.failing
    return ABResult(
        control=arms[control],
        treatment=arms[treatment],
        margin=margin,
        difference_ms=means.ms,
        low_ms=tests.low_ms,
        high_ms=tests.high_ms,
        confidence=1 - tests.level,
        t_p=tests.t_p,
        mann_whitney_p=float(ranks.pvalue),
        superiority=float(ranks.statistic) / math.prod(map(len, ranked)),
        cohen_d=means.ms / spread if spread else 0.0,
        quantiles=_quantiles(logs[control], logs[treatment]),
        power=power,
        needed_requests=needed,
        fails_p=tests.fails_p,
        fails_less_p=tests.fails_less_p,
        fails_times=tests.fails_times,
        fails_low=tests.fails_low,
        fails_confidence=1 - tests.fails_level,
        split_p=split_p,
        split_is_wrong=wrong,
        dealt_again=means.dealt is not None,
        stop_after_s=_stop_after_s(logs[control], logs[treatment], means.skewness) if latency_tells else None,
        saturated=bool(lost),
        notes=list(notes),
        verdict=verdict,
        recommendation=_undecided(arms[control], arms[treatment], wrong, untold, lost)
        if verdict == "not valid"
        else _recommend(verdict, arms[control], arms[treatment], means.ms, margin, needed),
    )


@dataclass(frozen=True)
class _Tests:
    """Welch's test of the means and Fisher's of the failures, each at the level that it is tested at.

    ``failing`` is whether a variant failed so often that the means are not tested.
    """

    t_p: float
    level: float
    low_ms: float
    high_ms: float
    failing: bool
    fails_p: float
    fails_less_p: float
    fails_level: float
    fails_times: float | None
    fails_low: float


def _tests(means: MeanDifference, failed: Sequence[Sequence[int]]) -> _Tests:
    """Both tests; ``failed`` has failed and other requests, the treatment's first."""
    fails_p = _fails_p(failed, "greater")
    failing = any(row[0] > MAX_ERROR_RATE * sum(row) for row in failed)
    level, fails_level = (
        (ALPHA, ALPHA / 2) if failing else _levels(means.p, fails_p, any(row[0] for row in failed))
    )
    low_ms, high_ms = means.interval_ms(1 - level)
    times, low = _fails_times(failed, fails_level)
    return _Tests(
        t_p=means.p,
        level=level,
        low_ms=low_ms,
        high_ms=high_ms,
        failing=failing,
        fails_p=fails_p,
        fails_less_p=_fails_p(failed, "less"),
        fails_level=fails_level,
        fails_times=times,
        fails_low=low,
    )


def _judged(tests: _Tests, margin_ms: float, wrong: bool, lost: str) -> str:
    """The verdict: failures weigh more than latency, and a wrong split makes both say nothing."""
    if wrong:
        return "not valid"
    if tests.fails_p <= tests.fails_level:
        return "fails"
    if tests.failing:
        return "fails less" if tests.fails_less_p <= tests.fails_level and not lost else "not valid"
    verdict = _verdict(tests.low_ms, tests.high_ms, margin_ms)
    return "not valid" if lost and verdict != "slower" else verdict


def _levels(t_p: float, fails_p: float, failed: bool) -> tuple[float, float]:
    """At which levels Holm's correction tests the means and the failures, of which either may be the first.

    A test that cannot reject has no share: where nothing failed, the means have all 5 %.
    """
    if not failed:
        return ALPHA, ALPHA
    half = ALPHA / 2
    return ALPHA if fails_p <= half else half, ALPHA if t_p <= half else half


def _fails_p(failed: Sequence[Sequence[int]], alternative: Literal["greater", "less"]) -> float:
    from scipy.stats import fisher_exact

    return float(fisher_exact(failed, alternative=alternative).pvalue)


def _fails_times(failed: Sequence[Sequence[int]], level: float) -> tuple[float | None, float]:
    """How many times the control's odds of a failure the treatment's are, and the lower bound of that.

    The exact bound is above 1 where Fisher's test rejects, and only there.
    """
    from scipy.stats.contingency import odds_ratio

    many = sum(row[0] for row in failed) > MOST_EXACT and all(min(row) for row in failed)
    odds = odds_ratio(failed, kind="sample" if many else "conditional")
    low = float(odds.confidence_interval(1 - level, alternative="greater").low)
    times = float(odds.statistic)
    return times if math.isfinite(times) else None, low if math.isfinite(low) else 0.0


def _values(merged: Histogram) -> Floats:
    """All latencies in ms, each at the middle of its bucket; of very many, an even share, for their ranks."""
    used = np.flatnonzero(merged.counts)
    counts = merged.counts[used]
    if merged.total > MOST_VALUES:
        counts = np.round(counts * (MOST_VALUES / merged.total)).astype(np.int64)
    return np.repeat(bucket_middle_ms(used), counts)


def _arm(
    name: str,
    merged: Histogram,
    sample: Sample,
    failures: int,
    weights: Mapping[str, float],
    counts: Mapping[str, int],
) -> Arm:
    quantiles = {
        label: merged.quantile_ms(q) or 0.0 for label, q in QUANTILES.items() if carries(merged.total, q)
    }
    return Arm(
        name=name,
        wanted=weights[name] / sum(weights.values()),
        share=counts[name] / sum(counts.values()),
        requests=merged.total,
        failures=failures,
        mean_ms=sample.mean_ms,
        sd_ms=math.sqrt(sample.variance),
        quantiles_ms=quantiles,
    )


def _quantiles(control: Sequence[Intervals], treatment: Sequence[Intervals]) -> list[QuantileDifference]:
    sides = [[part for part in side if len(part.row)] for side in (control, treatment)]
    fewest = min(all_values(side).total for side in sides)
    names = [name for name, q in QUANTILES.items() if carries(fewest, q)]
    known = [estimates(side, [QUANTILES[name] for name in names]) for side in sides]
    found = []
    for name, first, second in zip(names, *known, strict=True):
        interval = contrast(first, second, None).interval()
        low, high = (math.exp(one) for one in interval) if interval else (None, None)
        ratio = second.merged_ms / first.merged_ms
        found.append(QuantileDifference(name=name, ratio=ratio, low=low, high=high))
    return found


def _design(first: int, second: int, size: float, level: float) -> tuple[float, int | None]:
    """Power to show an effect of that size, and the smaller arm's requests for four in five."""
    from statsmodels.stats.power import NormalIndPower

    solver, ratio = NormalIndPower(), max(first, second) / min(first, second)
    power = float(solver.power(size, min(first, second), level, ratio=ratio))
    if not 0 < size < math.inf:
        return power, None
    needed = solver.solve_power(size, alpha=level, power=POWER, ratio=ratio)
    return power, math.ceil(float(needed)) if math.isfinite(float(needed)) else None


def _stop_after_s(
    control: Sequence[Intervals], treatment: Sequence[Intervals], skewness: float
) -> float | None:
    """When the always-valid test of the blocks' differences first excluded that there is none.

    It takes means for normal, so it does not look before they are: skewness shrinks with the root of their
    number.
    """
    pairs = zip(control, treatment, strict=True)
    differences = np.concatenate([_block_differences(*pair) for pair in pairs])
    normal = math.ceil(len(differences) * (skewness / SKEWED) ** 2)
    for seen in range(max(2, normal), len(differences) + 1):
        look = Look.of_pairs(differences[:seen])
        if look and look.p_differs() <= ALPHA:
            return float(seen * BLOCK_S)
    return None


def _block_differences(first: Intervals, second: Intervals) -> Floats:
    """Treatment less control of the means in ms, for each block of seconds in which both answered."""
    means = [_block_means(part) for part in (first, second)]
    shortest = min(len(one) for one in means)
    differences = means[1][:shortest] - means[0][:shortest]
    return np.asarray(differences[np.isfinite(differences)])


def _block_means(part: Intervals) -> Floats:
    binned = part.binned(BLOCK_S)
    sums = np.bincount(binned.row, binned.count * bucket_middle_ms(binned.bucket), len(binned.start_s))
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / np.where(binned.totals > 0, binned.totals, np.nan))


def _verdict(low_ms: float, high_ms: float, margin_ms: float) -> str:
    if -margin_ms < low_ms and high_ms < margin_ms:
        return "equivalent"
    if low_ms > 0 or high_ms < 0:
        return "slower" if low_ms > 0 else "faster"
    return "not shown"


def _undecided(control: Arm, treatment: Arm, wrong: bool, untold: int, lost: str) -> str:
    if wrong:
        return (
            f"Decide nothing: {treatment.name} got {percent(treatment.share)} of the requests, not "
            f"{percent(treatment.wanted)}. Find out what chooses who goes where."
        )
    if untold:
        return (
            f"Decide nothing: {counted(untold, 'request')} failed, and without stats.csv nothing tells which "
            "variant's they were. Record it again."
        )
    if lost:
        return f"Decide nothing: the server was saturated; {lost}. Measure again at a rate that it can carry."
    return (
        f"Decide nothing: {_failed(treatment, control)}, which shows no difference, and latencies are not "
        "compared where so many fail: errors answer fast. Measure again where they do not."
    )


def _failed(first: Arm, second: Arm) -> str:
    """How often either fails, in words."""
    return (
        f"{percent(first.failing)} of the requests to {first.name} failed, and {percent(second.failing)} of "
        f"those to {second.name}"
    )


def _recommend(
    verdict: str, control: Arm, treatment: Arm, difference_ms: float, margin: float, needed: int | None
) -> str:
    by = f"{ms(abs(difference_ms))} ({percent(abs(difference_ms) / control.mean_ms)} of the mean)"
    if verdict == "fails":
        return (
            f"Keep {control.name}: {percent(treatment.failing)} of the requests to {treatment.name} failed, "
            f"but {percent(control.failing)} of those to {control.name}."
        )
    if verdict == "fails less":
        return (
            f"Take {treatment.name}: {percent(treatment.failing)} of its requests failed, but "
            f"{percent(control.failing)} of those to {control.name}. Latencies are not compared where so "
            "many fail: errors answer fast."
        )
    if verdict == "slower":
        return f"Keep {control.name}: {treatment.name} is slower by {by}."
    if verdict == "faster":
        return f"Take {treatment.name}: it is faster by {by}."
    if verdict == "equivalent":
        return f"Either will do: {treatment.name} differs by less than {percent(margin)} of the mean."
    more = (
        f" A difference of {percent(margin)} needs {needed:,} requests of the smaller arm." if needed else ""
    )
    return f"Go on: no difference was shown, nor that there is none.{more}"
