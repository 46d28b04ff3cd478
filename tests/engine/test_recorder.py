"""What is kept of each arrival, on clock times that the tests make up."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest

from locustfiles.engine.histogram import HIGHEST_US
from locustfiles.engine.recorder import (
    OTHER_FAILURE,
    OUTCOMES,
    TAGS,
    Increment,
    NameIncrement,
    Outcome,
    Recorder,
    Second,
    to_percent_steps,
)

RIGHT = Outcome("POST", "small", None)
WRONG = Outcome("POST", "small", "wrong answer")
START = 5_000.0
"""Plan time 0 on the made-up monotonic clock."""


def begun(since_s: float = 0.0) -> Recorder:
    """A recorder that counts what is planned from plan time `since_s` on."""
    recorder = Recorder()
    recorder.start, recorder.since = START, START + since_s
    return recorder


def note(
    recorder: Recorder,
    planned_s: float,
    lag_s: float = 0.0,
    service_s: float = 0.001,
    outcome: Outcome = RIGHT,
    length: int = 10,
) -> None:
    """Record an arrival, given in plan time and the spans that it took."""
    planned = START + planned_s
    sent = planned + lag_s
    recorder.record(planned, sent, sent + service_s, recorder.key(outcome), length)


def percentiles(increment: Increment, tag: str) -> dict[str, float | None]:
    total = Second()
    for second in increment.seconds.values():
        total.merge(second)
    return total.histograms[tag].percentiles_ms()


def count_of(increment: Increment, tag: str = "latency") -> int:
    return sum(second.histograms[tag].count for second in increment.seconds.values())


def as_plain(increment: Increment) -> dict[str, Any]:
    """All that an increment holds, in values that can be compared."""
    return {
        "seconds": {
            s: {
                tag: (list(h.hdr.counts), h.hdr.min_value, h.hdr.max_value, h.clamped)
                for tag, h in e.histograms.items()
            }
            for s, e in increment.seconds.items()
        },
        "outcomes": {
            outcome: (list(e.latency.hdr.counts), e.total_us, e.bytes)
            for outcome, e in increment.outcomes.items()
        },
        "dropped": (increment.dropped, increment.late),
    }


class TestSpans:
    def test_are_latency_from_the_plan_service_from_the_send_and_lag_between(self) -> None:
        recorder = begun()
        note(recorder, 1.0, lag_s=0.250, service_s=0.500)
        increment = recorder.take()
        assert {tag: percentiles(increment, tag)["max"] for tag in TAGS} == {
            "latency": 750.0,
            "service": 500.0,
            "lag": 250.0,
        }

    def test_are_kept_for_failures_too(self) -> None:
        recorder = begun()
        note(recorder, 1.0, service_s=0.5, outcome=WRONG)
        assert percentiles(recorder.take(), "latency")["max"] == 500.0

    def test_are_exact_to_the_microsecond_where_histograms_are(self) -> None:
        recorder = begun()
        for k in range(100):
            note(recorder, k * 0.01, lag_s=k * 1e-6, service_s=(1000 + k) * 1e-6)
        increment = recorder.take()
        lags = increment.seconds[0].histograms["lag"]
        assert [lags.hdr.counts[k] for k in range(100)] == [1] * 100
        assert increment.seconds[0].histograms["service"].hdr.min_value == 1000

    def test_beyond_a_minute_are_clamped_and_counted(self) -> None:
        recorder = begun()
        note(recorder, 0.0, lag_s=1.0, service_s=100.0)
        note(recorder, 0.0, service_s=0.1)
        second = recorder.take().seconds[101]
        assert {tag: second.histograms[tag].clamped for tag in TAGS} == {"latency": 1, "service": 1, "lag": 0}
        assert second.histograms["latency"].hdr.max_value == HIGHEST_US

    def test_that_a_clock_makes_negative_count_as_nothing(self) -> None:
        recorder = begun()
        note(recorder, 1.0, lag_s=-1e-9)
        assert percentiles(recorder.take(), "lag")["max"] == 0.0


class TestSeconds:
    def test_are_those_in_which_requests_ended(self) -> None:
        recorder = begun()
        for planned_s, service_s in ((0.0, 0.5), (0.9, 0.05), (0.9, 0.2), (0.5, 2.6), (3.0, 0.0)):
            note(recorder, planned_s, service_s=service_s)
        seconds = recorder.take().seconds
        assert {s: e.histograms["latency"].count for s, e in seconds.items()} == {0: 2, 1: 1, 3: 2}

    def test_keep_a_slow_answer_in_its_own_second(self) -> None:
        recorder = begun()
        note(recorder, 0.0, service_s=5.0)
        note(recorder, 0.0, service_s=0.001)
        seconds = recorder.take().seconds
        assert seconds[0].histograms["latency"].hdr.max_value == 1000
        assert seconds[5].histograms["latency"].hdr.min_value == 5_000_000

    def test_hold_all_three_spans_of_a_request_together(self) -> None:
        recorder = begun()
        note(recorder, 0.0, lag_s=1.5, service_s=1.0)
        seconds = recorder.take().seconds
        assert {tag: seconds[2].histograms[tag].count for tag in TAGS} == dict.fromkeys(TAGS, 1)


class TestWhatIsLeftOut:
    def test_is_everything_before_the_trial_begins(self) -> None:
        recorder = Recorder()
        recorder.record(1.0, 1.0, 2.0, recorder.key(RIGHT), 1)
        recorder.drop((1.0, 0))
        increment = recorder.take()
        assert (count_of(increment), increment.completed, increment.dropped) == (0, 0, 0)

    def test_is_the_warm_up_even_when_it_is_answered_later(self) -> None:
        recorder = begun()
        note(recorder, -0.5, service_s=2.0)
        note(recorder, -1e-6)
        note(recorder, 0.0)
        recorder.drop((START - 0.25, -3))
        recorder.drop((START, 0))
        increment = recorder.take()
        assert (count_of(increment), increment.completed, increment.dropped) == (1, 1, 1)

    def test_is_what_was_planned_before_a_worker_joined(self) -> None:
        recorder = begun(since_s=10.0)
        for planned_s in (0.0, 9.999, 10.0, 11.0):
            note(recorder, planned_s)
            recorder.drop((START + planned_s, 0))
        increment = recorder.take()
        assert (sorted(increment.seconds), increment.completed, increment.dropped) == ([10, 11], 2, 2)

    def test_is_left_out_also_in_the_middle_of_a_batch(self) -> None:
        recorder = begun()
        for k in range(-Recorder.BATCH // 2, 2 * Recorder.BATCH):
            note(recorder, k / 1000)
        assert recorder.take().completed == 2 * Recorder.BATCH


class TestCounts:
    def test_are_by_outcome(self) -> None:
        recorder = begun()
        other = Outcome("POST", "large", "timeout after 30 s")
        for outcome, times in ((RIGHT, 5), (WRONG, 3), (other, 2)):
            for k in range(times):
                note(recorder, k, outcome=outcome, service_s=0.002, length=7)
        increment = recorder.take()
        assert {o: (e.requests, e.bytes, e.total_us) for o, e in increment.outcomes.items()} == {
            RIGHT: (5, 35, 10_000),
            WRONG: (3, 21, 6_000),
            other: (2, 14, 4_000),
        }
        assert (increment.completed, increment.failed, increment.dropped) == (5, 5, 0)

    def test_of_drops_are_kept_apart_from_failures(self) -> None:
        recorder = begun()
        for _ in range(4):
            recorder.drop((START + 1.0, 1))
        increment = recorder.take()
        assert (increment.dropped, increment.failed, count_of(increment)) == (4, 0, 0)

    def test_of_late_arrivals_are_a_part_of_the_drops(self) -> None:
        recorder = begun()
        recorder.drop((START, 0))
        for planned_s in (-1.0, 1.0, 2.0):
            recorder.drop_late((START + planned_s, 1))
        increment = recorder.take()
        assert (increment.dropped, increment.late) == (3, 2)

    def test_begin_anew_after_each_report(self) -> None:
        recorder = begun()
        note(recorder, 0.0)
        recorder.drop((START, 0))
        recorder.take()
        note(recorder, 0.0, outcome=WRONG)
        increment = recorder.take()
        assert (increment.completed, increment.failed, increment.dropped) == (0, 1, 0)
        assert recorder.take().seconds == {}

    @pytest.mark.parametrize("n", [1, Recorder.BATCH - 1, Recorder.BATCH, Recorder.BATCH + 1, 5000])
    def test_lose_nothing_around_the_end_of_a_batch(self, n: int) -> None:
        recorder = begun()
        for k in range(n):
            note(recorder, k / 100, service_s=1e-4 + k * 1e-6, outcome=RIGHT if k % 3 else WRONG)
        increment = recorder.take()
        assert {tag: count_of(increment, tag) for tag in TAGS} == dict.fromkeys(TAGS, n)
        assert increment.completed + increment.failed == n
        assert increment.failed == math.ceil(n / 3)

    def test_tell_users_whose_client_reports_to_locust_itself_from_others(self) -> None:
        recorder = begun()
        own = Outcome("task", "MyUser", None, in_locust=False)
        note(recorder, 0.0, outcome=own)
        assert list(recorder.take().outcomes) == [own]


class TestIncrements:
    def busy(self, seed: int, report_every: int = 3000) -> list[Increment]:
        """The increments of 3,000 requests over three seconds, a tenth of them wrong."""
        rng = np.random.default_rng(seed)
        recorder, increments = begun(), []
        recorder.drop((START, 0))
        recorder.drop_late((START, 1))
        spans = zip(rng.uniform(0, 3, 3000), rng.exponential(0.05, 3000), rng.random(3000), strict=True)
        for k, (planned_s, service_s, luck) in enumerate(spans, 1):
            note(recorder, planned_s, 2e-4, service_s, WRONG if luck < 0.1 else RIGHT)
            if k % report_every == 0:
                increments.append(recorder.take())
        return [*increments, recorder.take()]

    def test_are_carried_by_a_message_without_loss(self) -> None:
        sent = self.busy(1)[0]
        received = Increment.from_message(
            msgpack.unpackb(msgpack.packb(sent.to_message()), strict_map_key=False)
        )
        assert as_plain(received) == as_plain(sent)
        assert (received.completed, received.failed) == (sent.completed, sent.failed)

    def test_are_carried_when_there_is_nothing_to_tell(self) -> None:
        sent = Recorder().take()
        received = Increment.from_message(
            msgpack.unpackb(msgpack.packb(sent.to_message()), strict_map_key=False)
        )
        assert as_plain(received) == as_plain(sent) == {"seconds": {}, "outcomes": {}, "dropped": (0, 0)}

    def test_of_many_reports_add_up_to_one_of_all(self) -> None:
        whole, many = self.busy(2)[0], self.busy(2, report_every=170)
        merged = Increment()
        for increment in many:
            merged.merge_outcomes(increment)
            for second, entry in increment.seconds.items():
                merged.seconds.setdefault(second, Second()).merge(entry)
        assert len(many) > 17
        assert as_plain(merged) == as_plain(whole)
        assert (merged.completed, merged.failed) == (whole.completed, whole.failed)

    def test_need_room_for_the_distribution_not_for_the_requests(self) -> None:
        recorder = begun()

        def second_of_load(requests: int) -> int:
            for k in range(requests):
                note(recorder, k % 1000 / 1000, service_s=0.001 * (1 + k % 50))
            return len(msgpack.packb(recorder.take().to_message()))

        few, many = second_of_load(2_000), second_of_load(40_000)
        assert many < 1.1 * few

    def test_fold_failures_that_all_read_differently_into_one(self) -> None:
        recorder = begun()
        for n in range(OUTCOMES + 50):
            note(recorder, 0.001 * n, outcome=Outcome("POST", "small", f"no such id {n}"))
        increment = recorder.take()
        assert increment.failed == OUTCOMES + 50
        assert len(increment.outcomes) == OUTCOMES + 1
        assert increment.outcomes[Outcome("POST", "small", OTHER_FAILURE)].requests == 50

    def test_know_successes_apart_however_many_failures_there_are(self) -> None:
        recorder = begun()
        for n in range(OUTCOMES + 1):
            recorder.key(Outcome("POST", "small", f"no such id {n}"))
        note(recorder, 0.5, outcome=Outcome("POST", "late comer", None))
        assert recorder.take().completed == 1

    def test_leave_no_memory_behind(self) -> None:
        recorder = begun()

        def report_of(requests: int) -> None:
            for k in range(requests):
                note(recorder, k % 1000 / 1000, service_s=0.001 * (1 + k % 50))
            recorder.take()

        report_of(3_000)
        tracemalloc.start()
        try:
            report_of(3_000)
            first, _ = tracemalloc.get_traced_memory()
            for _ in range(10):
                report_of(3_000)
            last, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert last - first < 20_000
        assert peak < 4_000_000


class TestLocustsTableOfTimes:
    def test_has_times_within_a_percent_and_every_request(self) -> None:
        entry = NameIncrement()
        us = np.random.default_rng(1).lognormal(10, 1, 20_000).astype(np.int64)
        entry.latency.add(us)
        times_ms = entry.times_ms()
        assert sum(times_ms.values()) == 20_000
        table = np.repeat(list(times_ms), list(times_ms.values()))
        assert np.sort(table) == pytest.approx(np.sort(us) / 1000, rel=0.011)

    def test_stays_small_whatever_the_spread(self) -> None:
        steps = to_percent_steps(np.geomspace(0.001, 60_000, 100_000))
        assert len(np.unique(steps)) < 2000

    def test_has_a_place_for_no_time_at_all(self) -> None:
        assert np.isfinite(to_percent_steps(np.array([0.0]))).all()
