"""The dispatcher and its alarm, with real greenlets and spans of milliseconds."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gevent
import psutil
import pytest
from gevent.event import Event

from locustfiles.engine.alarm import GeventAlarm, TimerfdAlarm, make_alarm
from locustfiles.engine.pacing import (
    CALLS_PER_BREATH,
    WAKE_CREDIT_S,
    WAKE_SPACING_S,
    Arrival,
    Dispatcher,
)

SOON_S = 0.01
"""From an offer to its arrivals: everybody is parked by then."""


class Clock:
    """The monotonic clock, and as far ahead of it as a test likes."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class World:
    """A dispatcher with users that note what they are handed, and work until they are let go."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.dropped: list[Arrival] = []
        self.late: list[Arrival] = []
        self.dispatcher = Dispatcher(self.dropped.append, self.late.append, self.clock)
        self.tireless = False  # users need not be let go
        self.handed: list[tuple[str, int]] = []
        self.lags_s: list[float] = []
        self.free: dict[str, Event] = {}
        self.greenlets: dict[str, gevent.Greenlet[..., None]] = {}

    def park(self, *names: str) -> None:
        """Add users that park one after the other."""
        for name in names:
            self.free[name] = Event()
            self.greenlets[name] = gevent.spawn(self._use, name)
            gevent.sleep(0)

    def _use(self, name: str) -> None:
        self.dispatcher.users += 1
        try:
            while True:
                planned, index = self.dispatcher.wait()
                self.lags_s.append(self.clock() - planned)
                self.handed.append((name, index))
                if not self.tireless:
                    self.free[name].wait()
                    self.free[name].clear()
        finally:
            self.dispatcher.users -= 1

    def let_go(self, name: str) -> None:
        """End the call of a user, which parks again."""
        self.free[name].set()
        gevent.sleep(0)

    def offer(self, *indices: int, every_s: float = 0.0) -> float:
        """Offer arrivals from soon on; returns when the last of them is due."""
        begin = self.clock() + SOON_S
        self.dispatcher.offer((begin + k * every_s for k in range(len(indices))), indices)
        return begin + (len(indices) - 1) * every_s

    def wait(self, *indices: int, every_s: float = 0.0) -> None:
        """Offer arrivals and wait until all were handed out or dropped."""
        expected = len(self.handed) + len(self.dropped) + len(indices)
        self.offer(*indices, every_s=every_s)
        self.until(lambda: len(self.handed) + len(self.dropped) == expected)

    def until(self, condition: Callable[[], bool]) -> None:
        with gevent.Timeout(5):
            while not condition():
                gevent.sleep(0.001)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    gevent.killall(list(made.greenlets.values()))
    made.dispatcher.close()


class TestArrivals:
    def test_are_handed_out_in_their_order_and_on_time(self, world: World) -> None:
        world.park("a")
        for index in range(20):
            world.wait(index)
            world.let_go("a")
        assert [index for _, index in world.handed] == list(range(20))
        assert min(world.lags_s) >= 0  # never early
        assert statistics.median(world.lags_s) < 0.005

    def test_go_to_the_user_that_parked_last(self, world: World) -> None:
        world.park("a", "b", "c")
        world.wait(0, 1)
        assert world.handed == [("c", 0), ("b", 1)]
        world.let_go("c")
        world.wait(2, 3)
        assert world.handed[2:] == [("c", 2), ("a", 3)]

    def test_that_find_nobody_are_dropped_at_once_and_never_sent_late(self, world: World) -> None:
        world.park("a")
        world.wait(0, 1, 2)
        assert world.handed == [("a", 0)]
        assert [index for _, index in world.dropped] == [1, 2]
        world.let_go("a")
        gevent.sleep(0.02)
        assert world.handed == [("a", 0)]

    def test_find_a_user_again_when_it_has_come_back(self, world: World) -> None:
        world.park("a")
        for index in range(5):
            world.wait(index)
            world.let_go("a")
        assert world.handed == [("a", k) for k in range(5)]
        assert world.dropped == []

    def test_that_were_due_when_they_were_offered_are_handed_out_at_once(self, world: World) -> None:
        world.park("a")
        world.dispatcher.offer([world.clock() - 0.5], [0])
        world.until(lambda: bool(world.handed))
        assert 0.5 <= world.lags_s[0] < 1.0

    def test_are_stale_after_two_seconds_and_not_sent_in_a_burst(self, world: World) -> None:
        world.park("a", "b", "c")
        world.offer(0, 1)
        world.clock.ahead_s = 3.0  # as if the process had been stopped before they were due
        world.dispatcher.offer([world.clock() - 1.9], [2])
        world.until(lambda: len(world.late) == 2)
        assert [index for _, index in world.late] == [0, 1]
        assert world.handed == [("c", 2)]
        assert world.dropped == []

    def test_keep_their_planned_time_whenever_they_are_handed_out(self, world: World) -> None:
        due = world.offer(7)
        world.wait()
        world.until(lambda: bool(world.dropped))
        assert world.dropped == [(due, 7)]

    def test_are_counted_as_planned_when_their_time_has_come_the_warm_up_is_not(self, world: World) -> None:
        world.park("a")
        world.wait(-2, -1, 0, 1)
        assert world.dispatcher.planned == 2
        world.offer(2, every_s=1)
        assert world.dispatcher.planned == 2


class TestAWorkerThatIsBehind:
    def test_lets_users_whose_answer_is_there_come_back_before_it_asks_for_more(self, world: World) -> None:
        def brief() -> None:
            world.dispatcher.users += 1
            while True:
                world.handed.append(("brief", world.dispatcher.wait()[1]))
                gevent.sleep(0)  # the answer is there as soon as the loop runs

        for name in range(2 * CALLS_PER_BREATH):
            world.greenlets[str(name)] = gevent.spawn(brief)
        gevent.sleep(0)
        due = 4 * CALLS_PER_BREATH
        world.dispatcher.offer([world.clock() - 0.1] * due, range(due))
        world.until(lambda: len(world.handed) + len(world.dropped) == due)
        assert [index for _, index in world.handed] == list(range(due))


class TestWakes:
    """On a fake clock that goes on to whatever the alarm is set to."""

    @staticmethod
    def wakes(every_s: float, arrivals: int, monkeypatch: Any) -> list[float]:
        now = 0.0
        set_to: list[float] = []
        monkeypatch.setattr(TimerfdAlarm, "set", lambda _, at: set_to.append(at))
        dispatcher = Dispatcher(lambda _: None, lambda _: None, lambda: now)
        dispatcher.offer((1 + k * every_s for k in range(arrivals)), range(arrivals))
        wakes = []
        while dispatcher.next_due is not None:
            now = max(now, set_to[-1])
            wakes.append(now)
            dispatcher._ring()
        dispatcher.close()
        return wakes

    def test_come_with_every_arrival_at_a_moderate_rate(self, monkeypatch: Any) -> None:
        every_s = 1.1 * WAKE_SPACING_S
        assert self.wakes(every_s, 1000, monkeypatch) == [1 + k * every_s for k in range(1000)]

    def test_come_with_every_arrival_of_a_short_burst(self, monkeypatch: Any) -> None:
        burst = round(WAKE_CREDIT_S / WAKE_SPACING_S)
        every_s = WAKE_SPACING_S / 10
        assert self.wakes(every_s, burst, monkeypatch) == [1 + k * every_s for k in range(burst)]

    def test_are_apart_at_a_high_rate(self, monkeypatch: Any) -> None:
        wakes = self.wakes(WAKE_SPACING_S / 5, 1000, monkeypatch)[100:]
        gaps = [later - earlier for earlier, later in pairwise(wakes)]
        assert gaps == pytest.approx([WAKE_SPACING_S] * len(gaps))


class TestWithdrawal:
    def test_takes_back_what_is_planned_from_an_instant_on(self, world: World) -> None:
        world.park("a", "b", "c", "d")
        begin = world.clock() + SOON_S
        world.dispatcher.offer((begin + k / 100 for k in range(4)), range(4))
        assert world.dispatcher.withdraw(begin + 0.02) == 2
        gevent.sleep(SOON_S + 0.06)
        assert [index for _, index in world.handed] == [0, 1]
        assert world.dropped == []

    def test_of_everything_leaves_nothing_due(self, world: World) -> None:
        world.park("a")
        world.offer(0, 1, 2)
        assert world.dispatcher.withdraw(-math.inf) == 3
        assert world.dispatcher.next_due is None
        gevent.sleep(SOON_S * 2)
        assert (world.handed, world.dropped) == ([], [])

    def test_leaves_room_for_other_arrivals(self, world: World) -> None:
        world.park("a", "b")
        world.dispatcher.offer([world.clock() + 60], [0])
        world.dispatcher.withdraw(-math.inf)
        world.wait(1)
        assert world.handed == [("b", 1)]

    def test_of_nothing_returns_nothing(self, world: World) -> None:
        assert world.dispatcher.withdraw(0.0) == 0


class TestUsers:
    def test_are_in_flight_while_they_work(self, world: World) -> None:
        world.park("a", "b", "c")
        assert world.dispatcher.in_flight == 0
        world.wait(0, 1)
        assert world.dispatcher.in_flight == 2
        world.let_go("b")
        assert world.dispatcher.in_flight == 1

    def test_that_were_killed_are_handed_nothing(self, world: World) -> None:
        world.park("a", "b")
        world.greenlets["b"].kill()
        world.wait(0, 1)
        assert world.handed == [("a", 0)]
        assert [index for _, index in world.dropped] == [1]
        assert (world.dispatcher.users, world.dispatcher.in_flight) == (1, 1)

    def test_that_are_killed_as_an_arrival_falls_due_are_not_handed_it(self, world: World) -> None:
        world.park("a")
        world.dispatcher.offer([world.clock() - 0.001], [0])
        world.greenlets["a"].kill(block=False)
        world.until(lambda: bool(world.dropped))
        assert world.handed == []

    def test_that_were_dismissed_are_handed_nothing_although_they_live(self, world: World) -> None:
        world.park("a", "b")
        world.dispatcher.dismiss(world.greenlets["b"])
        world.wait(0, 1)
        assert world.handed == [("a", 0)]
        world.dispatcher.dismiss(world.greenlets["a"])  # it works, and comes back
        world.let_go("a")
        world.wait(2)
        assert world.handed == [("a", 0), ("a", 2)]

    def test_that_end_in_their_call_do_not_disturb_the_others(self, world: World) -> None:
        def one_call() -> None:
            world.handed.append(("mortal", world.dispatcher.wait()[1]))
            raise LookupError("as a task of the user's may")

        world.park("a")
        gevent.spawn(one_call)
        gevent.sleep(0)
        world.wait(0, 1)
        assert world.handed == [("mortal", 0), ("a", 1)]

    def test_are_handed_thousands_of_arrivals_each_exactly_once(self, world: World) -> None:
        world.tireless = True
        world.park(*(f"user {k}" for k in range(50)))
        world.wait(*range(5000), every_s=1e-5)
        assert [index for _, index in world.handed] == list(range(5000))


class TestClosedLoad:
    def test_makes_exactly_the_calls_that_were_asked_for(self, world: World) -> None:
        world.park("a", "b", "c")
        world.dispatcher.loop(10)
        for _ in range(100):
            gevent.sleep(0)
            for name in world.free:
                world.let_go(name)
        assert sorted(index for _, index in world.handed) == list(range(10))
        assert {name for name, _ in world.handed} == {"a", "b", "c"}
        assert (world.dispatcher.planned, world.dispatcher.looping) == (10, False)
        assert world.dispatcher.in_flight == 0

    def test_sends_every_free_user_at_once_and_again_when_its_call_is_over(self, world: World) -> None:
        world.park("a", "b")
        world.dispatcher.loop(math.inf)
        gevent.sleep(0)
        assert sorted(name for name, _ in world.handed) == ["a", "b"]
        world.let_go("a")
        assert [name for name, _ in world.handed][2:] == ["a"]

    def test_makes_no_more_calls_than_users_when_fewer_are_left(self, world: World) -> None:
        world.park("a", "b", "c")
        world.dispatcher.loop(2)
        gevent.sleep(0.01)
        assert len(world.handed) == 2

    def test_takes_in_users_that_come_later(self, world: World) -> None:
        world.dispatcher.loop(math.inf)
        gevent.sleep(0)
        world.park("late")
        assert world.handed == [("late", 0)]

    def test_ends_with_the_calls_that_are_under_way(self, world: World) -> None:
        world.park("a", "b")
        world.dispatcher.loop(math.inf)
        gevent.sleep(0)
        world.dispatcher.end_loop()
        world.let_go("a")
        assert len(world.handed) == 2
        assert world.dispatcher.in_flight == 1

    def test_plans_each_call_at_the_instant_at_which_it_is_free_to_go(self, world: World) -> None:
        world.park("a")
        world.dispatcher.loop(3)
        for _ in range(3):
            gevent.sleep(0.005)
            world.let_go("a")
        assert max(world.lags_s) < 0.005

    def test_neither_counts_nor_limits_the_calls_of_the_warm_up(self, world: World) -> None:
        world.park("a")
        counted_from = world.clock() + 0.02
        world.dispatcher.loop(3, counted_from)
        with gevent.Timeout(5):
            while world.dispatcher.looping:
                gevent.sleep(0.002)
                world.let_go("a")
        warm_up = [index for _, index in world.handed if index < 0]
        assert warm_up
        assert [index for _, index in world.handed[len(warm_up) :]] == [0, 1, 2]
        assert world.dispatcher.planned == 3

    def test_lets_everybody_else_run_when_calls_never_block(self, world: World) -> None:
        world.tireless = True
        world.park("a", "b")
        world.dispatcher.loop(math.inf)
        gevent.sleep(0.005)  # for ever, if the users locked the loop out
        world.dispatcher.end_loop()
        gevent.sleep(0)
        assert {name for name, _ in world.handed} == {"a", "b"}
        assert world.dispatcher.in_flight == 0

    def test_can_follow_upon_open_load(self, world: World) -> None:
        world.park("a")
        world.wait(0)
        world.let_go("a")
        world.dispatcher.loop(1)
        gevent.sleep(0)
        assert [name for name, _ in world.handed] == ["a", "a"]


alarms = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            TimerfdAlarm,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a timerfd"),
        ),
        GeventAlarm,
    ],
)
Kind = type[TimerfdAlarm] | type[GeventAlarm]


class TestAlarms:
    def ring_times(self, kind: Kind, *at: float, span_s: float = 0.05) -> list[float]:
        """When an alarm rang that was set to each of `at` seconds from now in turn."""
        rung: list[float] = []

        def ring() -> None:
            rung.append(time.monotonic())
            alarm.clear()

        alarm = kind(ring)
        begin = time.monotonic()
        for each in at:
            alarm.set(begin + each)
        gevent.sleep(span_s)
        alarm.close()
        return [t - begin for t in rung]

    @alarms
    def test_ring_once_and_not_early(self, kind: Kind) -> None:
        (rung_s,) = self.ring_times(kind, 0.02)
        early_s = 0.0 if kind is TimerfdAlarm else 0.001  # gevent counts from the time of its loop
        assert 0.02 - early_s <= rung_s < 0.1

    @alarms
    def test_ring_at_once_when_set_to_the_past(self, kind: Kind) -> None:
        for past in (-0.001, -5.0, -1e6):
            assert len(self.ring_times(kind, past, span_s=0.005)) == 1

    @alarms
    def test_ring_at_the_time_that_was_set_last(self, kind: Kind) -> None:
        assert len(self.ring_times(kind, 0.001, 0.01, 0.005, span_s=0.03)) == 1
        assert self.ring_times(kind, 0.001, 60.0, span_s=0.01) == []

    @alarms
    def test_are_silent_once_cleared_and_may_be_set_again(self, kind: Kind) -> None:
        rung: list[int] = []

        def ring() -> None:
            rung.append(1)
            alarm.clear()

        alarm = kind(ring)
        alarm.set(time.monotonic() + 0.001)
        alarm.clear()
        gevent.sleep(0.01)
        assert rung == []
        alarm.set(time.monotonic())
        gevent.sleep(0.01)
        alarm.close()
        assert rung == [1]

    @alarms
    def test_give_their_file_descriptors_back(self, kind: Kind) -> None:
        before = psutil.Process().num_fds()
        for _ in range(20):
            kind(lambda: None).close()
        gevent.sleep(0.001)  # gevent closes when its loop has let go of them
        assert psutil.Process().num_fds() <= before

    def test_are_precise_where_there_is_a_timerfd(self) -> None:
        alarm = make_alarm(lambda: None)
        assert alarm.precise == (sys.platform == "linux")
        alarm.close()


class TestAnIdleWorker:
    SCRIPT = """
        import sys, time
        import gevent, psutil
        from locustfiles.engine.pacing import Dispatcher

        dispatcher = Dispatcher(print, print)
        for _ in range(100):
            gevent.spawn(dispatcher.wait)
        gevent.sleep(0.05)
        dispatcher.offer([time.monotonic() - 0.01, time.monotonic() + 3600], [0, 1])
        gevent.sleep(0.05)
        before = psutil.Process().cpu_times()
        gevent.sleep(1.0)
        after = psutil.Process().cpu_times()
        print(after.user + after.system - before.user - before.system, len(dispatcher._parked))
    """

    def test_uses_no_cpu(self, root: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(self.SCRIPT)],
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        cores, parked = done.stdout.split()
        assert float(cores) < 0.05
        assert parked == "99"  # one was handed the arrival that was due
