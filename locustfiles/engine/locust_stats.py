"""Fills Locust's own statistics from increments, so that its web UI, console, CSVs and exit code stay right.

Locust's statistics take one request at a time, with response times rounded to two digits.  Here a second's
worth of requests goes in at once, in steps of 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping

from locust.stats import RequestStats, StatsEntry, StatsError

from locustfiles.engine.recorder import UNFINISHED, NameIncrement, Outcome

DROPPED = Outcome("DROP", "arrival", "dropped: every user was busy")
LATE = Outcome("DROP", "arrival", "dropped: the load generator was late")
CUT_OFF = Outcome("CUT OFF", "arrival", UNFINISHED)
LOST = Outcome("DROP", "arrival", "dropped: its worker was lost")


def fill(stats: RequestStats, outcomes: Mapping[Outcome, NameIncrement], now: float) -> None:
    """Add what a worker recorded; `now` in seconds since the epoch is the time it is booked at."""
    for outcome, increment in outcomes.items():
        if outcome.in_locust:
            latency = increment.latency
            timed = StatsEntry(stats, outcome.name, outcome.method)
            timed.total_response_time = increment.total_us / 1000  # type: ignore[assignment]  # Locust stores floats
            timed.response_times = increment.times_ms()  # type: ignore[assignment]  # as it does here
            timed.min_response_time = latency.smallest_us / 1000  # type: ignore[assignment]
            timed.max_response_time = latency.largest_us / 1000  # type: ignore[assignment]
            timed.total_content_length = int(increment.bytes)
            _book(stats, timed, outcome, increment.requests, now)


def fill_dropped(stats: RequestStats, dropped: int, now: float, outcome: Outcome = DROPPED) -> None:
    """Arrivals that were dropped, or cut off, fail like requests, but have no response time."""
    if dropped:
        untimed = StatsEntry(stats, outcome.name, outcome.method)
        untimed.num_none_requests = dropped
        _book(stats, untimed, outcome, dropped, now)


def _book(stats: RequestStats, new: StatsEntry, outcome: Outcome, requests: int, now: float) -> None:
    """Add `requests` that ended alike, through Locust's own merge, which also keeps its sliding window."""
    new.last_request_timestamp = now
    new.num_requests = requests
    new.num_reqs_per_sec = {int(now): requests}
    if outcome.error is not None:
        new.num_failures = requests
        new.num_fail_per_sec = {int(now): requests}
        key = StatsError.create_key(outcome.method, outcome.name, outcome.error)
        error = stats.errors.setdefault(
            key, StatsError(outcome.method, outcome.name, outcome.error, 0, now, now)
        )
        error.occurrences += requests
        error.last_seen = now
    for entry in (stats.get(outcome.name, outcome.method), stats.total):
        new.start_time = entry.start_time
        entry.extend(new)
