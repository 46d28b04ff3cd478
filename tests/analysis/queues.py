"""M/M/c, Poisson arrivals at c servers with exponential service times: what theory says, and a simulation.

Closed forms from D. Gross et al., Fundamentals of Queueing Theory, 4th ed., 2008, section 2.3.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from analysis.histograms import Floats


@dataclass(frozen=True)
class Mmc:
    """``servers`` that each serve ``per_s`` requests a second."""

    servers: int
    per_s: float

    def waiting(self, rate_per_s: float) -> float:
        """Erlang's C: the probability that a request must wait."""
        load = rate_per_s / self.per_s
        last = load**self.servers / math.factorial(self.servers) / (1 - load / self.servers)
        return last / (sum(load**k / math.factorial(k) for k in range(self.servers)) + last)

    def mean_ms(self, rate_per_s: float) -> float:
        """Mean of waiting and service together."""
        left = self.servers * self.per_s - rate_per_s
        return 1000 * (self.waiting(rate_per_s) / left + 1 / self.per_s)

    def slower_than(self, seconds: float, rate_per_s: float) -> float:
        """The share of requests that take longer."""
        left = self.servers * self.per_s - rate_per_s
        wait, rest = self.waiting(rate_per_s), left - self.per_s
        alone = math.exp(-self.per_s * seconds)
        if abs(rest) < 1e-9:
            return alone * (1 + wait * self.per_s * seconds)
        return alone + wait * self.per_s / rest * (alone - math.exp(-left * seconds))

    def quantile_ms(self, q: float, rate_per_s: float) -> float:
        """The time that a share ``q`` does not exceed."""
        return 1000 * float(brentq(lambda t: self.slower_than(t, rate_per_s) - (1 - q), 0, 1000))

    def capacity_per_s(self, q: float, allowed_ms: float) -> float:
        """The highest rate at which the quantile is not more than allowed."""
        most = self.servers * self.per_s
        return float(brentq(lambda r: self.quantile_ms(q, r) - allowed_ms, 1e-6 * most, 0.9999 * most))

    def simulate_ms(
        self, rng: np.random.Generator, rate_per_s: float, seconds: float
    ) -> tuple[Floats, Floats]:
        """Latencies (n,) in ms, in a steady state, and when each ended (n,) in seconds."""
        warm_s = 5.0
        n = rng.poisson(rate_per_s * (seconds + warm_s))
        arrived = np.sort(rng.uniform(-warm_s, seconds, n))
        ended = self.ended(rng, arrived)
        counted = arrived >= 0
        return 1000 * (ended - arrived)[counted], ended[counted]

    def ended(self, rng: np.random.Generator, arrived: Floats) -> Floats:
        """When each of these arrivals (n,), in order, is answered by servers that were idle before."""
        service = rng.exponential(1 / self.per_s, len(arrived))
        free = [-math.inf] * self.servers
        ended = np.empty(len(arrived))
        for i in range(len(arrived)):
            begun = max(arrived[i], heapq.heappop(free))
            ended[i] = begun + service[i]
            heapq.heappush(free, ended[i])
        return ended
