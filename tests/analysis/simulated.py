"""Latencies of servers whose true percentiles are known, as the analysis reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from analysis.histograms import Floats, Intervals, Ints, bucket_low_us

Latencies = Callable[[np.random.Generator, Ints, int], Floats]
"""Latencies in ms of requests that end in the given seconds (n,) of a trial of so many seconds."""


@dataclass(frozen=True)
class Kind:
    """A kind of server. Each of its trials settles at a level of its own, ``spread`` apart."""

    latencies: Latencies
    spread: float = 0.0

    def trial(self, rng: np.random.Generator, seconds: int, per_s: float, times: float = 1.0) -> Intervals:
        """A trial at Poisson arrivals; ``times`` as slow as the kind is."""
        second = np.repeat(np.arange(seconds), rng.poisson(per_s, seconds))
        level = times * math.exp(rng.normal(0, self.spread))
        return intervals(level * self.latencies(rng, second, seconds), second, seconds)

    def truth_ms(self, q: float) -> float:
        """The quantile of all requests of very many trials."""
        return float(np.quantile(_very_many_ms(self), q))


@lru_cache(maxsize=1)
def _very_many_ms(kind: Kind) -> Floats:
    """Latencies of a thousand trials, whose levels are at even steps of the normal law.

    A thousand that are drawn would leave an error of their own.
    """
    from scipy.special import ndtri

    rng = np.random.default_rng(12345)
    second = np.repeat(np.arange(100), 20)
    levels = np.exp(kind.spread * ndtri((np.arange(1000) + 0.5) / 1000))
    return np.array([level * kind.latencies(rng, second, 100) for level in levels])


def intervals(values_ms: Floats, second: Ints, seconds: int) -> Intervals:
    """Histograms per second of latencies (n,) that end in the given seconds (n,)."""
    buckets = len(bucket_low_us())
    bucket = np.searchsorted(bucket_low_us(), values_ms * 1000, side="right") - 1
    key, count = np.unique(second * buckets + bucket, return_counts=True)
    largest = np.zeros(seconds)
    np.maximum.at(largest, second, values_ms)
    return Intervals(np.arange(seconds, dtype=np.float64), largest, key // buckets, key % buckets, count)


def heavy_tailed(rng: np.random.Generator, second: Ints, seconds: int) -> Floats:
    """Pareto with a tail index of 2.5: its variance barely exists."""
    return 20 * (1 + rng.pareto(2.5, len(second)))


def bimodal(rng: np.random.Generator, second: Ints, seconds: int) -> Floats:
    """Seven in ten are answered from a cache, ten times as fast."""
    cached = rng.random(len(second)) < 0.7
    return np.where(cached, rng.lognormal(2.3, 0.1, len(second)), rng.lognormal(4.6, 0.2, len(second)))


def autocorrelated(correlation: float) -> Latencies:
    """A level that wanders from second to second, as queues do."""
    from scipy.signal import lfilter

    def latencies(rng: np.random.Generator, second: Ints, seconds: int) -> Floats:
        shocks = rng.normal(0, 0.1 * math.sqrt(1 - correlation**2), seconds + 50)
        level = lfilter([1.0], [1.0, -correlation], shocks)[50:]
        return 50 * np.exp(level[second] + rng.normal(0, 0.25, len(second)))

    return latencies
