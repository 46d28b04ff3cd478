"""Whether the generator did what was planned: the verdict of a trial on its own validity.

The verdict is about the generator alone.  A server that cannot keep up is a finding (`saturated`), not a
fault of the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from locustfiles.engine.histogram import PERCENTILES

LAG_FLOOR_MS = 1.0
"""Dispatch lag below this distorts nothing that a network round trip would not."""
SUSPECT_SHARE, INVALID_SHARE = 0.10, 0.50
"""Share of the latency's p99 that dispatch lag may make up; the second also of what may be unmanned."""
BUNCHED_MS = 10.0
BUSY_CORES = 0.80
PAUSE_MS = 100.0

Percentiles = Mapping[str, float | None]


@dataclass(frozen=True)
class Evidence:
    """What the verdict rests on; times in ms, rates in 1/s, CPU in cores."""

    counts: Mapping[str, int]
    latency_ms: Percentiles
    lag_ms: Percentiles
    closed: bool
    mean_gap_ms: float | None
    cpu_cores_max: float
    pause_ms_max: float
    lost_dropped: int
    lost: Sequence[str] = ()
    late_dropped: int = 0
    unmanned_dropped: int = 0
    """Arrivals that found no free user while fewer were there than the load asks for."""
    missing: int = 0
    """The most users that were not there at a time."""
    precise: bool = True
    early_stop: bool = False
    cut_off: int = 0
    """Tasks that were given up long after the planned end."""
    backlog_grew: bool = False
    slowest_ms: float | None = None
    cap_fills_in_ms: float = 0.0
    """How long evenly spaced arrivals at the peak rate take to occupy every user."""
    users: int = 1
    """The most users that any worker reported."""

    @property
    def ended(self) -> int:
        """Arrivals that were sent and came to an end."""
        return self.counts["completed"] + self.counts["failed"]

    @property
    def busy(self) -> int:
        """Arrivals that found every user busy."""
        return self.counts["dropped"] - self.lost_dropped - self.late_dropped - self.unmanned_dropped

    @property
    def nobody_started(self) -> bool:
        """Whether arrivals found no free user since there never was one."""
        return not self.users and not self.ended and self.unmanned_dropped > 0


@dataclass
class Verdict:
    """`valid`, `suspect` or `invalid`, with a sentence for each reason; `saturated` is the server's."""

    verdict: str = "valid"
    reasons: list[str] = field(default_factory=list)
    saturated: bool = False

    def _add(self, verdict: str, reason: str) -> None:
        order = ("valid", "suspect", "invalid")
        self.verdict = max(self.verdict, verdict, key=order.index)
        self.reasons.append(reason)


def judge(e: Evidence) -> Verdict:
    """The verdict on a trial."""
    v = Verdict()
    if e.nobody_started:
        v._add("invalid", "no user could start, so nothing was sent: Locust's log says what on_start raised")
    elif not e.ended:
        v._add("invalid", "no request was answered, so there is nothing to measure")
    unaccounted = e.counts["planned"] - e.ended - e.counts["dropped"]
    if unaccounted:
        v._add("invalid", f"{unaccounted} arrivals are neither sent nor dropped: a fault in the recording")
    _judge_lag(e, v)
    if e.cpu_cores_max > BUSY_CORES:
        v._add(
            "suspect", f"a generator used {e.cpu_cores_max:.0%} of a core: it may have been the bottleneck"
        )
    if e.pause_ms_max > PAUSE_MS:
        v._add(
            "suspect", f"a generator stood still for {e.pause_ms_max:.0f} ms (scheduler, garbage collection)"
        )
    v.reasons.extend(e.lost)
    if e.lost:
        v._add("suspect", f"{e.lost_dropped} arrivals were dropped with the workers that were lost")
    if e.late_dropped:
        v._add(
            "suspect", f"{e.late_dropped} arrivals were dropped since a generator was too late to send them"
        )
    if not e.nobody_started:
        _judge_users(e, v)
    if e.early_stop:
        v._add("suspect", "the run was stopped before its planned end")
    if e.cut_off:
        v.saturated = True  # what never ended has no latency, like what was dropped
        v._add(
            "suspect",
            f"{e.cut_off} tasks had not ended long after the plan and count as failed; percentiles are lower "
            "bounds (a longer --request-timeout waits longer)",
        )
    if not e.precise:
        v._add("suspect", "this system has no timerfd: arrivals are up to a millisecond late")
    if not e.closed and not e.nobody_started:
        _judge_server(e, v)
    for name, q in PERCENTILES.items():
        needed = round(10 / (1 - q / 100))
        if 0 < e.ended < needed:
            v.reasons.append(f"{name} rests on {e.ended} requests; it takes {needed} to quote it")
    return v


def _judge_lag(e: Evidence, v: Verdict) -> None:
    lag, latency = e.lag_ms["p99"], e.latency_ms["p99"]
    if lag is None or latency is None or lag < LAG_FLOOR_MS:
        return
    share = lag / latency if latency else 1.0
    if share > SUSPECT_SHARE:
        v._add(
            "invalid" if share > INVALID_SHARE else "suspect",
            f"dispatch lag p99 is {lag:.2f} ms, {share:.0%} of the latency's p99: the generator was late",
        )
    elif e.mean_gap_ms is not None and lag > max(BUNCHED_MS, e.mean_gap_ms):
        v._add(
            "suspect",
            f"dispatch lag p99 is {lag:.2f} ms and the mean gap {e.mean_gap_ms:.2f} ms: arrivals bunched up",
        )


def _judge_users(e: Evidence, v: Verdict) -> None:
    """Whether the users that the load asks for were there: a server makes them busy, it does not end them."""
    why = "(ended, or never started: the locustfile and Locust's log say why)"
    if e.closed and e.missing:
        v._add("suspect", f"up to {e.missing} callers were missing {why}: fewer called than --users asks for")
    elif e.unmanned_dropped:
        mostly = e.unmanned_dropped > INVALID_SHARE * e.counts["planned"]
        v._add(
            "invalid" if mostly else "suspect",
            f"{e.unmanned_dropped} arrivals were dropped while up to {e.missing} users were missing {why}; "
            "percentiles are lower bounds",
        )


def _judge_server(e: Evidence, v: Verdict) -> None:
    """Whether the server kept up with open load."""
    if e.busy > 0 and e.slowest_ms is not None and e.slowest_ms < e.cap_fills_in_ms:
        v._add(
            "suspect",
            f"{e.busy} arrivals found every user busy though no answer took longer than {e.slowest_ms:.0f} ms"
            ": the arrivals came in bursts that the in-flight cap is too low for; raise --users",
        )
    elif e.busy > 0:
        v.saturated = True
        v.reasons.append(f"saturated: {e.busy} arrivals found every user busy; percentiles are lower bounds")
    elif e.backlog_grew:
        v.saturated = True
        v.reasons.append(
            "saturated: requests in flight kept growing, the server fell behind the planned rate"
        )
