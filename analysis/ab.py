"""Two variants behind one address: whether the new one is slower, and whether the split can be believed.

Each request is sent to either variant by chance, so requests are what is compared here, not trials: what the
machine does in a second, it does to both. Welch's t test is on the mean, which is what many requests cost;
Mann-Whitney's on which of two requests is the slower one; percentiles have the intervals of
:mod:`analysis.uncertainty`. First of all the split itself is checked: where the shares are not those that
were asked for, something chooses who goes where, and no difference means anything [1]_.

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
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from analysis.histograms import Floats, Intervals, all_values, bucket_middle_ms, carries
from analysis.hlog import VARIANT
from analysis.runfolder import Trial
from analysis.sequential import Look
from analysis.uncertainty import contrast, estimates
from analysis.words import ms, percent

ALPHA = 0.05
POWER = 0.8
MISMATCH = 0.001
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
BLOCK_S = 5
MOST_VALUES = 5_000_000


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


class QuantileDifference(Part):
    """How many times as long the treatment's quantile is, with a 95 % interval where it is known."""

    name: str
    ratio: float
    low: float | None
    high: float | None


class ABResult(Part):
    """A treatment against a control.

    ``difference_ms`` is the treatment's mean less the control's, with Welch's interval; ``superiority`` the
    probability that a request to the treatment takes longer than one to the control. ``power`` is that of
    this number of requests to show a difference of the margin, ``needed_requests`` of the smaller arm's for
    four in five. ``fails_p`` is Fisher's, of "the treatment fails no more often".
    ``stop_after_s`` is when the always-valid test first had an answer.
    """

    control: Arm
    treatment: Arm
    margin: float
    difference_ms: float
    low_ms: float
    high_ms: float
    t_p: float
    mann_whitney_p: float
    superiority: float
    cohen_d: float
    quantiles: list[QuantileDifference]
    power: float
    needed_requests: int | None
    fails_p: float
    split_p: float
    split_is_wrong: bool
    stop_after_s: float | None
    verdict: str
    recommendation: str


def variants_of(trials: Sequence[Trial]) -> list[str]:
    """The names of the variants that the trials' logs tell apart."""
    return sorted(
        {tag.removeprefix(VARIANT) for one in trials for tag in one.log.tags if tag.startswith(VARIANT)}
    )


def compare_variants(
    trials: Sequence[Trial], weights: Mapping[str, float], control: str, margin: float = 0.05
) -> ABResult:
    """Compare the two variants of the trials; ``weights`` has the share that each was to get.

    Raises
    ------
    ValueError
        With a sentence for the user, where there are not two variants with requests, or others than named.
    """
    found = variants_of(trials)
    if len(found) != 2 or set(found) != set(weights) or control not in found:
        raise ValueError(
            f"an A/B comparison needs two variants; the answers named {', '.join(found) or 'none'}, the "
            f"weights name {', '.join(sorted(weights))}, the control is {control}."
        )
    treatment = next(name for name in found if name != control)
    logs = {name: [trial.log.tag(VARIANT + name) for trial in trials] for name in (control, treatment)}
    values = {name: _values(parts) for name, parts in logs.items()}
    for name, some in values.items():
        if len(some) < 2:
            raise ValueError(f"variant {name} answered fewer than two requests: run for longer.")
    failures = {name: _failures(trials, name) for name in found}
    return _result(logs, values, failures, weights, control, treatment, margin)


def _failures(trials: Sequence[Trial], name: str) -> int:
    """Locust names requests after their variant."""
    lines = [line for trial in trials for line in trial.locust.requests if line.name == name]
    return sum(line.failures for line in lines)


def _result(
    logs: Mapping[str, Sequence[Intervals]],
    values: Mapping[str, Floats],
    failures: Mapping[str, int],
    weights: Mapping[str, float],
    control: str,
    treatment: str,
    margin: float,
) -> ABResult:
    from scipy.stats import (  # imported late: the command must start fast
        chisquare,
        fisher_exact,
        mannwhitneyu,
        ttest_ind,
    )

    first, second = values[control], values[treatment]
    counts = {name: all_values(logs[name]).total for name in (control, treatment)}
    total, asked = sum(counts.values()), sum(weights.values())
    arms = {
        name: _arm(name, logs[name], values[name], failures[name], (weights[name] / asked, count / total))
        for name, count in counts.items()
    }
    welch = ttest_ind(second, first, equal_var=False)
    between = welch.confidence_interval(1 - ALPHA)
    ranks = mannwhitneyu(second, first, method="asymptotic")
    expected = [total * arms[name].wanted for name in (control, treatment)]
    split_p = float(chisquare(list(counts.values()), expected).pvalue)
    spread = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    difference = float(second.mean() - first.mean())
    power, needed = _design(len(first), len(second), margin * first.mean() / spread if spread else math.inf)
    stop_after = _stop_after_s(logs[control], logs[treatment])
    failed = [[failures[name], counts[name] - failures[name]] for name in (treatment, control)]
    fails_p = float(fisher_exact(failed, alternative="greater").pvalue)
    wrong = split_p < MISMATCH
    verdict = _verdict(wrong, float(between.low), float(between.high), margin * float(first.mean()))
    verdict = "fails" if fails_p < ALPHA and not wrong else verdict
    return ABResult(
        control=arms[control],
        treatment=arms[treatment],
        margin=margin,
        difference_ms=difference,
        low_ms=float(between.low),
        high_ms=float(between.high),
        t_p=float(welch.pvalue),
        mann_whitney_p=float(ranks.pvalue),
        superiority=float(ranks.statistic) / len(first) / len(second),
        cohen_d=difference / spread if spread else 0.0,
        quantiles=_quantiles(logs[control], logs[treatment]),
        power=power,
        needed_requests=needed,
        fails_p=fails_p,
        split_p=split_p,
        split_is_wrong=wrong,
        stop_after_s=stop_after,
        verdict=verdict,
        recommendation=_recommend(verdict, arms[control], arms[treatment], difference, margin, needed),
    )


def _values(parts: Sequence[Intervals]) -> Floats:
    """All latencies in ms, each at the middle of its bucket; of very many, an even share."""
    merged = all_values(parts)
    used = np.flatnonzero(merged.counts)
    counts = merged.counts[used]
    if merged.total > MOST_VALUES:
        counts = np.round(counts * (MOST_VALUES / merged.total)).astype(np.int64)
    return np.repeat(bucket_middle_ms(used), counts)


def _arm(
    name: str, parts: Sequence[Intervals], values: Floats, failures: int, shares: tuple[float, float]
) -> Arm:
    merged = all_values(parts)
    quantiles = {
        label: merged.quantile_ms(q) or 0.0 for label, q in QUANTILES.items() if carries(merged.total, q)
    }
    return Arm(
        name=name,
        wanted=shares[0],
        share=shares[1],
        requests=merged.total,
        failures=failures,
        mean_ms=float(values.mean()),
        sd_ms=float(values.std(ddof=1)),
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


def _design(first: int, second: int, size: float) -> tuple[float, int | None]:
    """Power to show an effect of that size, and the smaller arm's requests for four in five."""
    from statsmodels.stats.power import NormalIndPower

    solver, ratio = NormalIndPower(), max(first, second) / min(first, second)
    power = float(solver.power(size, min(first, second), ALPHA, ratio=ratio))
    if not 0 < size < math.inf:
        return power, None
    needed = solver.solve_power(size, alpha=ALPHA, power=POWER, ratio=ratio)
    return power, math.ceil(float(needed)) if math.isfinite(float(needed)) else None


def _stop_after_s(control: Sequence[Intervals], treatment: Sequence[Intervals]) -> float | None:
    """When the always-valid test of the blocks' differences first excluded that there is none."""
    pairs = zip(control, treatment, strict=True)
    differences = np.concatenate([_block_differences(*pair) for pair in pairs])
    for seen in range(2, len(differences) + 1):
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


def _verdict(wrong: bool, low_ms: float, high_ms: float, margin_ms: float) -> str:
    if wrong:
        return "not valid"
    if -margin_ms < low_ms and high_ms < margin_ms:
        return "equivalent"
    if low_ms > 0 or high_ms < 0:
        return "slower" if low_ms > 0 else "faster"
    return "not shown"


def _recommend(
    verdict: str, control: Arm, treatment: Arm, difference_ms: float, margin: float, needed: int | None
) -> str:
    by = f"{ms(abs(difference_ms))} ({percent(abs(difference_ms) / control.mean_ms)} of the mean)"
    if verdict == "not valid":
        return (
            f"Decide nothing: {treatment.name} got {percent(treatment.share)} of the requests, not "
            f"{percent(treatment.wanted)}. Find out what chooses who goes where."
        )
    if verdict == "fails":
        share = percent(treatment.failures / treatment.requests)
        return (
            f"Keep {control.name}: {share} of the requests to {treatment.name} failed, which is more often."
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
