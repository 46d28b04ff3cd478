"""One trial on the master's side: its workers, what they reported, and the summary that it comes to."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from locust.env import Environment

from locustfiles.engine.client import without_login
from locustfiles.engine.deal import Deal
from locustfiles.engine.options import LoadPlan
from locustfiles.engine.record import TrialFolder
from locustfiles.engine.recorder import TAGS, UNFINISHED, Increment, Second
from locustfiles.engine.variants import TAG, UNKNOWN
from locustfiles.engine.verdict import Evidence, Verdict, judge

logger = logging.getLogger(__name__)

PINGS = 5
CPU_WINDOW = 5


@dataclass
class Worker:
    """What the coordinator knows of one worker; `offset_s` is its monotonic clock minus ours."""

    name: str
    client_id: str
    seen: float
    offset_s: float = 0.0
    round_trip_s: float = math.inf
    skew_ms: float = 0.0
    pings: int = 0
    deals: list[Deal] = field(default_factory=list)  # the latest, and those before it that are still open
    fresh: bool = True
    joined: int = 0  # the generation of the deal with which it began; what it did before does not count
    lost: bool = False
    done: bool = False  # it reports no more
    left: bool = False  # and it had not sent all of its share
    accounted_s: float = -math.inf
    plan_s: float = -math.inf
    in_flight: int = 0
    users_max: int = 0
    missing_max: int = 0  # users that were not there while load was made
    outstanding: int = 0  # arrivals of the record that it reported as planned, and no end of yet
    cpu_s: float = 0.0
    cpu_max: float = 0.0
    rss_max: int = 0
    pause_max_s: float = 0.0
    precise: bool = True
    wall_s: float = 0.0
    recent_cpu: deque[float] = field(default_factory=lambda: deque(maxlen=CPU_WINDOW))

    @property
    def synchronised(self) -> bool:
        """Whether enough pings have come back to know its clock."""
        return self.pings >= PINGS

    def note(self, tick: Mapping[str, Any]) -> None:
        """Keep what a report says of the worker itself."""
        self.accounted_s, self.plan_s = tick["accounted_s"], tick["plan_s"]
        while len(self.deals) > 1 and self.deals[1].since_s <= self.accounted_s:
            del self.deals[0]
        self.in_flight, self.done, self.left = tick["in_flight"], tick["done"], tick["left"]
        self.users_max = max(self.users_max, tick["users"])
        self.precise = tick["precise"]
        self.rss_max = max(self.rss_max, tick["rss_bytes"])
        if self.plan_s < 0:
            return
        self.missing_max = max(self.missing_max, tick["missing"])
        self.pause_max_s = max(self.pause_max_s, tick["pause_s"])
        self.wall_s += tick["interval_s"]
        self.cpu_s += tick["cpu_cores"] * tick["interval_s"]
        if tick["interval_s"] > 0.5:  # the last report covers too short a time to tell a rate from
            self.recent_cpu.append(tick["cpu_cores"])
            self.cpu_max = max(self.cpu_max, statistics.fmean(self.recent_cpu))


class Trial:
    """One trial: its workers and what they reported."""

    def __init__(self, plan: LoadPlan, folder: TrialFolder | None, clock: Callable[[], float]) -> None:
        self.plan = plan
        self.folder = folder
        self._clock = clock
        self.workers: dict[str, Worker] = {}
        self.launching = self.launched = self.stopping = self.finished = False
        self.problem: str | None = None
        self.start = self.start_epoch = 0.0
        self.origin_s = self.latest_since_s = 0.0
        self.generation = 0
        self.counts: Counter[str] = Counter(planned=0, sent=0, completed=0, failed=0, dropped=0)
        self.failures: Counter[str] = Counter()
        self.total = Second()
        self.late = 0  # of those dropped, the ones that a worker was too late to send
        self.unmanned = 0  # of those dropped, the ones that came while users were missing
        self.cut_off = 0  # of those failed, the ones that had not ended when the trial did
        self.lost: list[dict[str, Any]] = []
        self.in_flight_by_second: dict[int, int] = {}
        self.median_by_second: dict[int, float] = {}
        self.ended_by_second: dict[int, int] = {}
        self.not_in_locust = Increment()  # what Locust's statistics have not heard of
        self._open: dict[int, Second] = {}

    def launch(self, start: float, start_epoch: float) -> None:
        """Set plan time 0."""
        self.start, self.start_epoch, self.launched = start, start_epoch, True
        if self.folder is not None:
            self.folder.start(start_epoch)

    def live(self) -> list[Worker]:
        """The workers that can send."""
        return [w for w in self.workers.values() if not w.lost and w.synchronised]

    def all_done(self) -> bool:
        """Whether every live worker has sent and received everything."""
        live = self.live()
        return bool(live) and all(worker.done for worker in live)

    def add(self, worker: Worker, tick: Mapping[str, Any], increment: Increment) -> None:
        """Book a worker's report."""
        completed, failed, dropped = increment.completed, increment.failed, increment.dropped
        self.counts.update(
            planned=tick["planned"],
            sent=completed + failed,
            completed=completed,
            failed=failed,
            dropped=dropped,
        )
        self.late += increment.late
        if tick["missing"]:
            self.unmanned += dropped - increment.late
        worker.outstanding += tick["planned"] - completed - failed - dropped
        for outcome, ended in increment.outcomes.items():
            if outcome.error is not None:
                self.failures[outcome.error] += ended.requests
        lag = Second()
        for second, entry in increment.seconds.items():
            lag.merge(entry)
            self._open.setdefault(second, Second()).merge(entry)
        self._add_variants(max(0, math.floor(worker.plan_s)), increment)
        if worker.plan_s >= 0:
            second = math.floor(worker.plan_s)
            self.in_flight_by_second[second] = self.in_flight_by_second.get(second, 0) + worker.in_flight
        if self.folder is not None and worker.plan_s >= 0:
            self.folder.write_generator(
                {
                    "time": round(tick["time"], 3),
                    "worker": worker.name,
                    "planned": tick["planned"],
                    "sent": tick["planned"] - dropped,
                    "dropped": dropped,
                    "in_flight": worker.in_flight,
                    "cpu_cores": round(tick["cpu_cores"], 4),
                    "lag_p99_ms": lag.histograms["lag"].percentiles_ms()["p99"],
                    "completed": completed,
                    "failed": failed,
                    "rss_bytes": tick["rss_bytes"],
                }
            )

    def _add_variants(self, second: int, increment: Increment) -> None:
        """Book each variant's latencies under the second of the report, which is up to a second late."""
        if not self.plan.variant_by:
            return
        for outcome, ended in increment.outcomes.items():
            if outcome.name != UNKNOWN:
                entry = self._open.setdefault(second, Second())
                entry.merge(Second({TAG + outcome.name: ended.latency}))

    def write_seconds(self, everything: bool = False) -> None:
        """Write the seconds that no worker will add to any more."""
        reported = math.inf if everything else min((w.plan_s for w in self.live()), default=-math.inf)
        for second in sorted(s for s in self._open if s + 1 <= reported):
            entry = self._open.pop(second)
            self.total.merge(entry)
            median = entry.histograms["latency"].percentiles_ms()["p50"]
            if median is not None:
                self.median_by_second[second] = median
                self.ended_by_second[second] = entry.histograms["latency"].count
            if self.folder is not None:
                self.folder.write_second(second, entry)

    def write_off(self, worker: Worker) -> int:
        """Count as dropped what a lost worker had been dealt or had in flight and did not report."""
        ends_s = [*(deal.since_s for deal in worker.deals[1:]), self.latest_since_s]
        missed = sum(
            deal.dealt_between(worker.accounted_s, end_s)
            for deal, end_s in zip(worker.deals, ends_s, strict=False)
        )
        dropped = missed + worker.outstanding
        self.counts.update(planned=missed, dropped=dropped)
        self.lost.append({"worker": worker.name, "time": _utc(time.time()), "dropped": dropped})
        worker.in_flight = worker.outstanding = 0
        return dropped

    def settle(self) -> int:
        """Count as failed what workers still had in flight when the trial ended; returns how many.

        At the planned end no more than they said they had: anything else is a fault in the recording.
        """
        before = self.cut_off
        for worker in self.workers.values():
            cut = worker.outstanding if self.stopping else min(worker.outstanding, worker.in_flight)
            if cut > 0:
                self.cut_off += cut
                self.counts.update(sent=cut, failed=cut)
                self.failures[UNFINISHED] += cut
                worker.outstanding -= cut
        return self.cut_off - before

    def _planned_span_s(self) -> float:
        """How long the plan lasts: its run time or, when a count ends it, the time that took."""
        end_s = self.origin_s + self.plan.run_time_s
        return end_s if math.isfinite(end_s) and not self.stopping else max(self._elapsed_s(), 1e-9)

    def _elapsed_s(self) -> float:
        return max((w.plan_s for w in self.workers.values()), default=0.0)

    def _backlog_grew(self) -> bool:
        """Whether requests in flight at the end are far more than rate x latency asks for (Little's law).

        Half a second of arrivals at least: less is a moment's hiccup, not a server that falls behind.
        """
        seconds = sorted(self.median_by_second)
        if len(seconds) < 4 or self.plan.closed or not self.in_flight_by_second:
            return False
        calm_s = statistics.median(self.median_by_second[s] for s in seconds[: len(seconds) // 4]) / 1000
        end_s = self._planned_span_s()
        last = max((s for s in self.in_flight_by_second if s < end_s), default=0)
        rate = self.plan.arrivals().shape.rate(max(0.0, last - self.origin_s))
        in_flight = self.in_flight_by_second.get(last, 0)
        return in_flight > max(10, 0.5 * rate, 3 * rate * calm_s)

    def share_in_plan(self) -> float:
        """The share of the answers that came before the plan's end.

        A saturated server works on after it, on arrivals that waited: those are no part of the rate that it
        answered at.
        """
        span_s, ended = self._planned_span_s(), sum(self.ended_by_second.values())
        within = sum(n * min(1.0, max(0.0, span_s - second)) for second, n in self.ended_by_second.items())
        return within / ended if ended else 1.0

    def summary(self, environment: Environment) -> dict[str, Any]:
        """What summary.json holds."""
        percentiles = {tag: self.total.histograms[tag].percentiles_ms() for tag in TAGS}
        # An early stop leaves users that were cut off; what is in flight then is recorded as failed.
        users = environment.runner.target_user_count if environment.runner else 0
        verdict = self._judge(percentiles, users)
        span_s = self._planned_span_s()
        elapsed_s = max(span_s, (max(self.median_by_second, default=-1) + 1) if self.stopping else span_s)
        counted = self.counts["completed"] * (self.share_in_plan() if verdict.saturated else 1.0)
        workers = list(self.workers.values())
        host = environment.host or getattr(environment.user_classes[0], "host", None)
        return {
            "schema": 1,
            "backend_user": ", ".join(c.__name__ for c in environment.user_classes),
            "host": without_login(host) if host else None,
            "model": "closed" if self.plan.closed else "open",
            "shape": {
                "name": self.plan.shape,
                **self.plan.to_message(),
                "replay_times": len(self.plan.replay_times),
            },
            "started": _utc(self.start_epoch) if self.launched else None,
            "duration_s": round(span_s, 3),
            "users": users,
            "counts": dict(self.counts),
            **{f"{tag}_ms": percentiles[tag] for tag in TAGS},
            "rate": {
                "planned": round(self.counts["planned"] / span_s, 4),
                "achieved": round(counted / elapsed_s, 4),
            },
            "verdict": verdict.verdict,
            "reasons": verdict.reasons,
            "saturated": verdict.saturated,
            "cut_off": self.cut_off,
            "failures": dict(self.failures.most_common()),
            "workers": [w.name for w in workers],
            "lost_workers": self.lost,
            "clock_skew_ms": {w.name: round(w.skew_ms, 3) for w in workers},
            "generator": {
                "cpu_cores_max": round(max((w.cpu_max for w in workers), default=0.0), 4),
                "cpu_cores_mean": round(sum(w.cpu_s / w.wall_s for w in workers if w.wall_s), 4),
                "rss_bytes_max": sum(w.rss_max for w in workers),
                "pause_ms_max": round(max((w.pause_max_s for w in workers), default=0.0) * 1000, 3),
            },
            "clamped": self.total.histograms["latency"].clamped,
        }

    def _judge(self, percentiles: Mapping[str, Mapping[str, float | None]], users: int) -> Verdict:
        planned = self.counts["planned"]
        peak_per_s = 0.0 if self.plan.closed else self.plan.arrivals().shape.peak_per_s
        workers = self.workers.values()
        verdict = judge(
            Evidence(
                counts=self.counts,
                latency_ms=percentiles["latency"],
                lag_ms=percentiles["lag"],
                closed=self.plan.closed,
                mean_gap_ms=1000 * self._planned_span_s() / planned if planned else None,
                cpu_cores_max=max((w.cpu_max for w in workers), default=0.0),
                pause_ms_max=1000 * max((w.pause_max_s for w in workers), default=0.0),
                lost_dropped=sum(entry["dropped"] for entry in self.lost),
                lost=[
                    f"worker {lost['worker']} was lost at {lost['time']}; {lost['dropped']} arrivals dropped"
                    for lost in self.lost
                ],
                precise=all(w.precise for w in workers),
                late_dropped=self.late,
                unmanned_dropped=self.unmanned,
                missing=sum(w.missing_max for w in workers),
                users=max((w.users_max for w in workers), default=0),
                cut_off=0 if self.stopping else self.cut_off,
                early_stop=self.stopping and math.isfinite(self.plan.run_time_s),
                backlog_grew=self._backlog_grew(),
                slowest_ms=percentiles["service"]["max"],
                cap_fills_in_ms=1000 * users / peak_per_s if peak_per_s else 0.0,
            )
        )
        if self.problem:
            verdict.verdict = "invalid"
            verdict.reasons.insert(0, self.problem)
        return verdict


def _utc(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def log_summary(summary: Mapping[str, Any]) -> None:
    """The trial in a few lines on the console."""
    counts, latency, lag = summary["counts"], summary["latency_ms"], summary["lag_ms"]
    logger.info(
        "planned %(planned)d = completed %(completed)d + failed %(failed)d + dropped %(dropped)d", counts
    )
    if latency["p50"] is not None:
        logger.info(
            "latency from the planned arrival: p50 %.2f  p95 %.2f  p99 %.2f  p99.9 %.2f  max %.2f ms;"
            "  dispatch lag p99 %.2f ms",
            *(latency[name] for name in ("p50", "p95", "p99", "p99.9", "max")),
            lag["p99"],
        )
    saturated = ", saturated" if summary["saturated"] else ""
    logger.info(
        "verdict: %s%s%s", summary["verdict"], saturated, "".join(f"\n  - {r}" for r in summary["reasons"])
    )
