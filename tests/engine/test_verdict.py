"""What is said of a trial: a row of evidence, and the verdict that it must get."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from locustfiles.engine.histogram import PERCENTILES
from locustfiles.engine.verdict import Evidence, judge


def times(p99: float | None) -> dict[str, float | None]:
    return {"mean": p99, **dict.fromkeys(PERCENTILES, p99), "max": p99}


def counts(
    completed: int = 20_000, failed: int = 0, dropped: int = 0, unaccounted: int = 0
) -> dict[str, int]:
    sent = completed + failed
    return {
        "planned": sent + dropped + unaccounted,
        "sent": sent,
        "completed": completed,
        "failed": failed,
        "dropped": dropped,
    }


GOOD = Evidence(
    counts=counts(),
    latency_ms=times(20.0),
    lag_ms=times(0.3),
    closed=False,
    mean_gap_ms=5.0,
    cpu_cores_max=0.4,
    pause_ms_max=30.0,
    lost_dropped=0,
)
LOST = ["worker a:1 was lost at 2026-01-01T00:00:30.000Z; 40 arrivals dropped"]

# name: what differs from a good trial, verdict, saturated, what its one reason says
TABLE: dict[str, tuple[dict[str, Any], str, bool, str | None]] = {
    "a good trial": ({}, "valid", False, None),
    "a few failures": ({"counts": counts(19_000, failed=1_000)}, "valid", False, None),
    "nothing but failures, which are the server's": (
        {"counts": counts(0, failed=20_000)},
        "valid",
        False,
        None,
    ),
    "nothing answered": (
        {"counts": counts(0), "latency_ms": times(None), "lag_ms": times(None)},
        "invalid",
        False,
        "no request was answered, so there is nothing to measure",
    ),
    "nobody there to send": (
        {
            **{"counts": counts(0, dropped=90), "unmanned_dropped": 90, "missing": 9, "users": 0},
            **{"latency_ms": times(None), "lag_ms": times(None)},
        },
        "invalid",
        False,
        "no user could start, so nothing was sent",
    ),
    "users that are gone at the end": (
        {"counts": counts(19_000, dropped=1_000), "unmanned_dropped": 1_000, "missing": 9},
        "suspect",
        False,
        "1000 arrivals were dropped while up to 9 users were missing (ended, or never started",
    ),
    "users that are gone most of the time": (
        {"counts": counts(11_000, dropped=11_001), "unmanned_dropped": 11_001, "missing": 9},
        "invalid",
        False,
        "11001 arrivals were dropped while up to 9 users were missing",
    ),
    "users that nothing missed": ({"missing": 9}, "valid", False, None),
    "callers that are gone": (
        {"missing": 9, "closed": True},
        "suspect",
        False,
        "up to 9 callers were missing (ended, or never started",
    ),
    "tasks that never returned": (
        {"counts": counts(19_996, failed=4), "cut_off": 4},
        "suspect",
        True,
        "4 tasks had not ended long after the plan and count as failed; percentiles are lower bounds",
    ),
    "arrivals that nobody knows of": (
        {"counts": counts(unaccounted=3)},
        "invalid",
        False,
        "3 arrivals are neither sent nor dropped: a fault in the recording",
    ),
    "more answers than arrivals": (
        {"counts": counts(unaccounted=-3)},
        "invalid",
        False,
        "-3 arrivals are neither sent nor dropped",
    ),
    # Lag against the latency that it would distort: over a tenth, over a half.
    "lag below a millisecond, though latency is as small": (
        {"lag_ms": times(0.9), "latency_ms": times(1.0)},
        "valid",
        False,
        None,
    ),
    "lag of a tenth of the latency": ({"lag_ms": times(2.0)}, "valid", False, None),
    "lag of more than a tenth": (
        {"lag_ms": times(2.4)},
        "suspect",
        False,
        "dispatch lag p99 is 2.40 ms, 12% of the latency's p99: the generator was late",
    ),
    "lag of half the latency": ({"lag_ms": times(10.0)}, "suspect", False, "50% of the latency's p99"),
    "lag of more than half": ({"lag_ms": times(10.1)}, "invalid", False, "the generator was late"),
    "lag without any latency": ({"lag_ms": times(2.0), "latency_ms": times(0.0)}, "invalid", False, "100%"),
    # Lag against the mean gap: arrivals bunched up, even if latency hides it.
    "lag of more than a gap, but not noticeable": (
        {"lag_ms": times(9.9), "latency_ms": times(1000.0)},
        "valid",
        False,
        None,
    ),
    "lag of more than a gap": (
        {"lag_ms": times(10.1), "latency_ms": times(1000.0)},
        "suspect",
        False,
        "and the mean gap 5.00 ms: arrivals bunched up",
    ),
    "lag of less than a long gap": (
        {"lag_ms": times(50.0), "latency_ms": times(1000.0), "mean_gap_ms": 100.0},
        "valid",
        False,
        None,
    ),
    "lag when there is no gap": (
        {"lag_ms": times(50.0), "latency_ms": times(1000.0), "mean_gap_ms": None, "closed": True},
        "valid",
        False,
        None,
    ),
    "a generator at its limit": ({"cpu_cores_max": 0.8}, "valid", False, None),
    "a generator beyond it": (
        {"cpu_cores_max": 0.87},
        "suspect",
        False,
        "a generator used 87% of a core: it may have been the bottleneck",
    ),
    "a short pause": ({"pause_ms_max": 100.0}, "valid", False, None),
    "a long pause": (
        {"pause_ms_max": 130.0},
        "suspect",
        False,
        "a generator stood still for 130 ms (scheduler, garbage collection)",
    ),
    "an early stop": ({"early_stop": True}, "suspect", False, "stopped before its planned end"),
    "no timerfd": ({"precise": False}, "suspect", False, "arrivals are up to a millisecond late"),
    # Drops and a growing backlog are the server's, and no fault of the measurement.
    "drops": (
        {"counts": counts(dropped=7)},
        "valid",
        True,
        "saturated: 7 arrivals found every user busy; percentiles are lower bounds",
    ),
    "bursts that a low in-flight cap has no room for, though the server is fast": (
        {"counts": counts(dropped=7), "slowest_ms": 8.0, "cap_fills_in_ms": 10.0},
        "suspect",
        False,
        "7 arrivals found every user busy though no answer took longer than 8 ms",
    ),
    "arrivals that the server's slowest answer held up": (
        {"counts": counts(dropped=7), "slowest_ms": 12.0, "cap_fills_in_ms": 10.0},
        "valid",
        True,
        "saturated: 7 arrivals",
    ),
    "a growing backlog": (
        {"backlog_grew": True},
        "valid",
        True,
        "saturated: requests in flight kept growing",
    ),
    "drops and a growing backlog": (
        {"counts": counts(dropped=7), "backlog_grew": True},
        "valid",
        True,
        "saturated: 7 arrivals",
    ),
    "a growing backlog in closed load": ({"backlog_grew": True, "closed": True}, "valid", False, None),
}


class TestTheVerdict:
    @pytest.mark.parametrize(
        ("differs", "verdict", "saturated", "reason"),
        [pytest.param(*r, id=name) for name, r in TABLE.items()],
    )
    def test_follows_from_the_evidence(
        self, differs: dict[str, Any], verdict: str, saturated: bool, reason: str | None
    ) -> None:
        judged = judge(dataclasses.replace(GOOD, **differs))
        assert (judged.verdict, judged.saturated) == (verdict, saturated)
        if reason is None:
            assert judged.reasons == []
        else:
            assert len(judged.reasons) == 1
            assert reason in judged.reasons[0]

    def test_is_the_worst_of_all_and_names_every_reason(self) -> None:
        judged = judge(
            dataclasses.replace(GOOD, lag_ms=times(15.0), cpu_cores_max=0.95, counts=counts(dropped=1))
        )
        assert (judged.verdict, judged.saturated) == ("invalid", True)
        assert [reason.split()[0] for reason in judged.reasons] == ["dispatch", "a", "saturated:"]

    def test_does_not_get_better_by_a_later_reason(self) -> None:
        judged = judge(dataclasses.replace(GOOD, counts=counts(unaccounted=1), early_stop=True))
        assert judged.verdict == "invalid"


class TestALateGenerator:
    def test_makes_a_trial_suspect_and_its_drops_are_not_the_servers(self) -> None:
        judged = judge(dataclasses.replace(GOOD, counts=counts(dropped=40), late_dropped=40))
        assert (judged.verdict, judged.saturated) == ("suspect", False)
        assert judged.reasons == ["40 arrivals were dropped since a generator was too late to send them"]


class TestLostWorkers:
    def test_make_a_trial_suspect_and_are_named_with_what_they_took(self) -> None:
        judged = judge(dataclasses.replace(GOOD, counts=counts(dropped=40), lost_dropped=40, lost=LOST))
        assert (judged.verdict, judged.saturated) == ("suspect", False)
        assert judged.reasons == [*LOST, "40 arrivals were dropped with the workers that were lost"]

    def test_do_not_hide_that_the_server_was_saturated(self) -> None:
        judged = judge(dataclasses.replace(GOOD, counts=counts(dropped=45), lost_dropped=40, lost=LOST))
        assert (judged.verdict, judged.saturated) == ("suspect", True)
        assert judged.reasons[-1].startswith("saturated: 5 arrivals")


class TestPercentilesThatRestOnTooFewRequests:
    @pytest.mark.parametrize(
        ("requests", "named"),
        [
            (10_000, []),
            (9_999, ["p99.9"]),
            (1_000, ["p99.9"]),
            (999, ["p99", "p99.9"]),
            (199, ["p95", "p99", "p99.9"]),
            (99, ["p90", "p95", "p99", "p99.9"]),
            (20, ["p90", "p95", "p99", "p99.9"]),
            (19, list(PERCENTILES)),
            (1, list(PERCENTILES)),
        ],
    )
    def test_are_named_by_the_rule_of_ten_over_one_minus_q(self, requests: int, named: list[str]) -> None:
        judged = judge(dataclasses.replace(GOOD, counts=counts(requests)))
        assert judged.verdict == "valid"
        assert [reason.split()[0] for reason in judged.reasons] == named

    def test_are_named_with_how_many_it_takes(self) -> None:
        judged = judge(dataclasses.replace(GOOD, counts=counts(5_000)))
        assert judged.reasons == ["p99.9 rests on 5000 requests; it takes 10000 to quote it"]

    def test_count_failures_too_since_they_have_a_latency(self) -> None:
        assert judge(dataclasses.replace(GOOD, counts=counts(9_000, failed=1_000))).reasons == []
