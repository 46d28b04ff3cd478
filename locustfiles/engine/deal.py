"""Who sends which arrivals: a deal, and the part of a plan that it gives to one worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from locustfiles.engine.arrivals import Cursor, Floats, Ints
from locustfiles.engine.options import LoadPlan

CLOCK_ROUNDING_S = 1e-8
"""A planned time that went through a clock and back, (start + t) - start, is off by the clock's last bit."""


@dataclass(frozen=True)
class Deal:
    """From plan time `since_s` on, worker `index` of `count` sends the arrivals k with k mod count = index.

    `origin_s` is the plan time at which the plan's own clock is 0: later than 0 when the load was edited
    while it ran.  Times are plan times in seconds; the warm-up is before 0.
    """

    generation: int
    index: int
    count: int
    since_s: float
    origin_s: float
    plan: LoadPlan

    @property
    def end_s(self) -> float:
        """The plan time at which the load ends; infinite when only a count or the user ends it."""
        return self.origin_s + self.plan.run_time_s

    def share_of(self, calls: float) -> float:
        """This worker's share of a number of calls (closed load)."""
        return calls if math.isinf(calls) else (calls - self.index + self.count - 1) // self.count

    def dealt_between(self, since_s: float, until_s: float) -> int:
        """How many arrivals of the record it gives this worker in [since_s, until_s): lost with it."""
        if self.plan.closed:
            return 0
        rest = replace(self, since_s=max(self.since_s, since_s - CLOCK_ROUNDING_S))
        _, indices = Share(rest).until(until_s)
        return int(np.count_nonzero(indices >= 0))

    def to_message(self) -> dict[str, Any]:
        """The deal as plain values for Locust's msgpack."""
        return {**vars(self), "plan": self.plan.to_message()}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Deal:
        """The deal that `to_message` wrote; fields that it does not know are left out."""
        names = cls.__dataclass_fields__
        values = {name: value for name, value in message.items() if name in names}
        return cls(**{**values, "plan": LoadPlan.from_message(message["plan"])})


class Share:
    """One worker's arrivals of a deal, window by window, warm-up first with negative indices."""

    def __init__(self, deal: Deal) -> None:
        self._deal = deal
        self._warmup = Cursor(deal.plan.warmup(), deal.since_s + deal.plan.warmup_s)
        self._measured = Cursor(deal.plan.arrivals(), deal.since_s - deal.origin_s)

    def until(self, plan_s: float) -> tuple[Floats, Ints]:
        """Plan times and indices (n,) of the arrivals before `plan_s` that no earlier call returned."""
        deal = self._deal
        found: list[tuple[Floats, Ints]] = []
        for cursor, zero, sign in (
            (self._warmup, -deal.plan.warmup_s, -1),
            (self._measured, deal.origin_s, 1),
        ):
            indices, times = cursor.until(plan_s - zero)
            mine = indices % deal.count == deal.index
            signed = indices[mine] if sign > 0 else -1 - indices[mine]
            found.append((times[mine] + zero, signed))
        times, indices = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return times, indices

    @property
    def exhausted(self) -> bool:
        """Whether no arrival is left."""
        return self._measured.exhausted
