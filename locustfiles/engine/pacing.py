"""Hands planned arrivals to waiting users, on time, without one greenlet per arrival.

A user that has nothing to do parks: its greenlet switches to gevent's hub and leaves its name on a stack.
The dispatcher wakes in the hub (it is no greenlet itself) when the next arrival is due and switches
straight to the user that parked last, whose connection is the warmest.  An arrival that finds nobody
parked is dropped and counted: delaying it would be coordinated omission by another name.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

import gevent
import greenlet
from gevent import get_hub

from locustfiles.engine.alarm import make_alarm

Clock = Callable[[], float]
Arrival = tuple[float, int]
"""Planned time on the monotonic clock in seconds, and index in the plan; warm-up has negative indices."""

CALLS_PER_BREATH = 64
"""The loop gets to run once in so many calls.

In closed load, calls that never block would lock it out.  In open load, whoever is behind reads answers
between sends, so that users with a warm connection come back: opening one costs several requests' time,
and a pause of 20 ms at 20,000/s would have hundreds opened, which is the next pause.
"""
BREATH_S = 0.002
"""Between two pieces of bookkeeping that cost a millisecond each: who also sends gets to send."""
WAKE_SPACING_S = 250e-6
"""Wakes are so far apart on average, at least: waking costs a virtual machine more than sending a request."""
WAKE_CREDIT_S = 2e-3
"""What was not woken for so long may be made up for: bursts of random arrivals at low rates are on time."""


class Dispatcher:
    """The pending arrivals of one worker and its parked users.

    `on_drop` is called with each arrival that found no free user, and `on_late` with those that are older
    than `stale_s` when the process gets to run at last: stopped for so long, it must not send them in a
    burst, and that is not the server's fault.
    """

    def __init__(
        self,
        on_drop: Callable[[Arrival], None],
        on_late: Callable[[Arrival], None],
        clock: Clock = time.monotonic,
        stale_s: float = 2.0,
    ) -> None:
        self._stale_s = stale_s
        self._clock = clock
        self._on_drop = on_drop
        self._on_late = on_late
        # Two queues of plain numbers: a tuple per pending arrival would have the garbage collector look at
        # each, tens of milliseconds a second at 20,000/s.
        self._due: deque[float] = deque()
        self._indices: deque[int] = deque()
        self._parked: dict[greenlet.greenlet, None] = {}  # a dict is a stack with removal in O(1)
        self._alarm = make_alarm(self._ring)
        self._next_wake = -math.inf
        self._looping = False
        self._calls_left: float = 0
        self._counted_from = -math.inf
        self._warm_up_calls = 0
        self._calls_in_a_row = 0
        self.precise = self._alarm.precise
        self.users = 0
        self.planned = 0  # arrivals whose time has come, warm-up left out

    @property
    def in_flight(self) -> int:
        """Users that work on an arrival now."""
        return self.users - len(self._parked)

    @property
    def next_due(self) -> float | None:
        """The planned time of the first arrival that was not handed out yet; None when there is none."""
        return self._due[0] if self._due else None

    def offer(self, planned: Iterable[float], indices: Iterable[int]) -> None:
        """Append arrivals (n,): their planned times in order, later than those offered before."""
        self._due.extend(planned)
        self._indices.extend(indices)
        self._set_alarm()

    def withdraw(self, since: float) -> int:
        """Take back the pending arrivals planned at `since` or later; returns how many."""
        before = len(self._due)
        while self._due and self._due[-1] >= since:
            self._due.pop()
            self._indices.pop()
        self._set_alarm()
        return before - len(self._due)

    def loop(self, calls: float, counted_from: float = -math.inf) -> None:
        """Closed load from now on: every user that is free goes at once, until `calls` were made.

        Calls before the instant `counted_from` are the warm-up: as many as there is time for.
        """
        self._looping, self._calls_left, self._counted_from = True, calls, counted_from
        get_hub().loop.run_callback(self._wake_all)  # only the hub gets control back when a user blocks

    def _wake_all(self) -> None:
        for user in list(self._parked):
            if self.looping and user in self._parked:
                del self._parked[user]
                user.switch(self._next_call())

    def end_loop(self) -> None:
        """Closed load ends: users park when their call is over."""
        self._looping = False

    @property
    def looping(self) -> bool:
        """Whether closed load is on and calls are left."""
        return self._looping and self._calls_left > 0

    def wait(self) -> Arrival:
        """The calling greenlet's next arrival; blocks until there is one."""
        if self.looping:
            self._calls_in_a_row += 1
            if self._calls_in_a_row % CALLS_PER_BREATH == 0:
                gevent.sleep(0)
        if self.looping:
            return self._next_call()
        me = greenlet.getcurrent()
        self._parked[me] = None
        try:
            arrival: Arrival = get_hub().switch()
        except BaseException:
            self._parked.pop(me, None)
            raise
        return arrival

    def dismiss(self, user: greenlet.greenlet) -> None:
        """Hand nothing more to a user that is about to be ended; it may be parked, or not.

        gevent kills at the loop's next turn, and an arrival that came before would die with its user.
        """
        self._parked.pop(user, None)

    def _next_call(self) -> Arrival:
        now = self._clock()
        if now < self._counted_from:
            self._warm_up_calls += 1
            return now, -self._warm_up_calls
        self._calls_left -= 1
        self.planned += 1
        return now, self.planned - 1

    def _set_alarm(self, not_before: float = -math.inf) -> None:
        if self._due:
            self._alarm.set(max(self._due[0], not_before))
        else:
            self._alarm.clear()

    def _ring(self) -> None:
        """Hand out what is due, and leave what falls due meanwhile to the next ring."""
        now = self._clock()
        due, indices, parked = self._due, self._indices, self._parked
        self._next_wake = max(self._next_wake, now - WAKE_CREDIT_S) + WAKE_SPACING_S
        for _ in range(CALLS_PER_BREATH):
            if not due or due[0] > now:
                self._set_alarm(self._next_wake)
                return
            arrival = due.popleft(), indices.popleft()
            if arrival[1] >= 0:
                self.planned += 1
            if now - arrival[0] > self._stale_s:
                self._on_late(arrival)
            elif parked:
                parked.popitem()[0].switch(arrival)
            else:
                self._on_drop(arrival)
        self._set_alarm()

    def close(self) -> None:
        """Stop the alarm and give its file descriptor back."""
        self._due.clear()
        self._indices.clear()
        self._alarm.close()
