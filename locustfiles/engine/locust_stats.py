"""Fills Locust's own statistics from increments, so that its web UI, console, CSVs and exit code stay right.

Locust's statistics take one request at a time, with response times rounded to two digits.  Here a second's
worth of requests goes in at once, with three digits.
"""

from __future__ import annotations

from collections.abc import Mapping

from locust.stats import RequestStats, StatsEntry, StatsError

from locustfiles.engine.recorder import NameIncrement, Outcome

DROPPED = Outcome("DROP", "arrival", "dropped: every user was busy")
LOST = Outcome("DROP", "arrival", "dropped: its worker was lost")


def fill(stats: RequestStats, outcomes: Mapping[Outcome, NameIncrement], now: float) -> None:
    """Add what a worker recorded; `now` in seconds since the epoch is the time it is booked at."""
    for outcome, increment in outcomes.items():
        if outcome.in_locust:
            for entry in (stats.get(outcome.name, outcome.method), stats.total):
                _extend(entry, outcome, increment, now)
            if outcome.error is not None:
                _note_error(stats, outcome, increment.requests, now)


def fill_dropped(stats: RequestStats, dropped: int, now: float, outcome: Outcome = DROPPED) -> None:
    """Dropped arrivals fail like requests, but have no response time."""
    if not dropped:
        return
    for entry in (stats.get(outcome.name, outcome.method), stats.total):
        _extend(entry, outcome, NameIncrement(requests=dropped), now)
        entry.num_none_requests += dropped
    _note_error(stats, outcome, dropped, now)


def _extend(entry: StatsEntry, outcome: Outcome, increment: NameIncrement, now: float) -> None:
    """Through Locust's own merge of a worker's report, which also keeps its sliding window."""
    other = StatsEntry(entry.stats, entry.name, entry.method)
    other.start_time = entry.start_time
    other.last_request_timestamp = now
    other.num_requests = increment.requests
    other.total_response_time = increment.total_ms  # type: ignore[assignment]  # Locust says int, stores floats
    other.response_times = increment.times_ms  # type: ignore[assignment]
    if increment.times_ms:
        other.min_response_time = increment.min_ms  # type: ignore[assignment]
        other.max_response_time = increment.max_ms  # type: ignore[assignment]
    other.total_content_length = int(increment.bytes)
    other.num_reqs_per_sec = {int(now): increment.requests}
    if outcome.error is not None:
        other.num_failures = increment.requests
        other.num_fail_per_sec = {int(now): increment.requests}
    entry.extend(other)


def _note_error(stats: RequestStats, outcome: Outcome, occurrences: int, now: float) -> None:
    key = StatsError.create_key(outcome.method, outcome.name, outcome.error)
    error = stats.errors.setdefault(key, StatsError(outcome.method, outcome.name, outcome.error, 0, now, now))
    error.occurrences += occurrences
    error.last_seen = now
