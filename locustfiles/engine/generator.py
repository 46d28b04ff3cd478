"""The worker's side: sends its share of the plan and reports once a second.

One of these runs in every Locust process that has users: each worker, or the only process.  It speaks to
the `Coordinator` in messages of Locust's own connection, also when both live in one process.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gevent
import psutil
from locust.env import Environment
from locust.runners import STATE_INIT, LocalRunner, WorkerRunner

from locustfiles.engine.client import name_of, without_login
from locustfiles.engine.deal import Deal, Share
from locustfiles.engine.options import BAD_INPUT, NOT_MEASURED, LoadPlan
from locustfiles.engine.pacing import BREATH_S, Dispatcher
from locustfiles.engine.recorder import Increment, Recorder
from locustfiles.engine.users import ArrivalUser, Pacing

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 1.0
HORIZON_S = 1.0
"""How far ahead arrivals are handed to the dispatcher; a new deal takes the rest back."""
FILL_INTERVAL_S = 0.25
HEARTBEAT_INTERVAL_S = 0.02
MASTER_SILENT_S = 5.0
RESUMED_S = 1.0
PATIENCE_S = 5.0
"""So much longer than a request may take are the last tasks waited for: one may never return."""
CONNECT_TIMEOUT_S = 5.0


@dataclass
class Usage:
    """CPU of this process between two looks, and its memory."""

    process: psutil.Process
    cpu_s: float = 0.0
    at: float = 0.0

    def look(self, now: float) -> tuple[float, int]:
        """Cores used since the last look, and resident bytes."""
        times = self.process.cpu_times()
        cpu_s = times.user + times.system
        cores = (cpu_s - self.cpu_s) / max(now - self.at, 1e-9)
        self.cpu_s, self.at = cpu_s, now
        return cores, self.process.memory_info().rss


class Generator:
    """Makes the load of one process. All times are seconds of `clock`, a monotonic clock."""

    def __init__(self, environment: Environment, clock: Callable[[], float] = time.monotonic) -> None:
        self._environment = environment
        runner = environment.runner
        assert isinstance(runner, LocalRunner | WorkerRunner)
        self._runner = runner
        self._client_id = runner.client_id
        self._clock = clock
        self._usage = Usage(psutil.Process())
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._dispatcher: Dispatcher | None = None
        self._closing = False
        for message, listener in {"swarm_ping": self._on_ping, "swarm_deal": self._on_deal}.items():
            runner.register_message(message, listener)
        environment.events.test_start.add_listener(self._on_test_start)
        environment.events.test_stopping.add_listener(self._on_test_stopping)
        environment.events.test_stop.add_listener(self._on_test_stop)
        if isinstance(runner, WorkerRunner) and runner.worker_state != STATE_INIT:
            self._on_test_start()  # it joined a test under way, and heard of it before anybody listened

    # A test begins: prepare everything that costs time, then say hello.

    def _on_test_start(self, **_: Any) -> None:
        self._close()
        self._recorder = Recorder()
        self._dispatcher = Dispatcher(self._recorder.drop, self._recorder.drop_late, self._clock)
        self._deal: Deal | None = None
        self._share: Share | None = None
        self._start = math.inf
        self._filled_s = 0.0
        self._sent_all_s = math.inf
        self._closing = self._stopped = self._looped = False
        self._pause_s = self._last_beat = self._resumed = 0.0
        self._reported_planned = 0
        self._looks: deque[dict[str, Any]] = deque()
        options = vars(self._environment.parsed_options)
        plan = LoadPlan.from_message(options["load_plan"])
        problem = self._prepare(plan) or {}
        self._usage.look(self._clock())
        self._last_beat = self._clock()
        self._greenlets = [gevent.spawn(self._heartbeat), gevent.spawn(self._work)]
        self._send("swarm_hello", {"host": socket.gethostname(), "pid": os.getpid(), **problem})

    def _prepare(self, plan: LoadPlan) -> dict[str, Any] | None:
        """Let the user classes encode their requests, and try the host.

        Returns what failed as a sentence with the exit status that it asks for, or None.
        """
        assert self._dispatcher is not None
        pacing = Pacing(plan, self._dispatcher, self._recorder, self._clock)
        for user_class in self._runner.user_classes:
            if not issubclass(user_class, ArrivalUser):  # the master refuses it, or did not pick it
                continue
            if self._environment.host:
                user_class.host = self._environment.host
            host = without_login(user_class.host or "")
            try:
                user_class.prepare(pacing, self._environment)
                user_class.try_host(CONNECT_TIMEOUT_S)
            except ssl.SSLCertVerificationError as error:
                why = f"{name_of(error)}; write the name that is in it, or set SSL_CERT_FILE to its authority"
                return {"problem": f"{host}: {why}", "exit": BAD_INPUT}
            except ValueError as error:
                return {"problem": str(error), "exit": BAD_INPUT}
            except OSError as error:
                why = f"is not reachable ({name_of(error)}): start the server or correct --host"
                return {"problem": f"{host} {why}", "exit": NOT_MEASURED}
            except Exception as error:  # in somebody's own `encode`, say: no hello would come, ever
                logger.exception("%s cannot be prepared", user_class.__name__)
                return {
                    "problem": f"{user_class.__name__} cannot be prepared: {name_of(error)}",
                    "exit": BAD_INPUT,
                }
        return None

    def _send(self, kind: str, data: Mapping[str, Any]) -> None:
        self._runner.send_message(kind, {"worker": self._client_id, **data})

    # Messages from the coordinator.

    def _on_ping(self, msg: Any, **_: Any) -> None:
        self._send("swarm_pong", {**msg.data, "monotonic": self._clock(), "epoch": time.time()})

    def _on_deal(self, msg: Any, **_: Any) -> None:
        deal = Deal.from_message(msg.data)
        if self._dispatcher is None or self._closing:  # who has left claims nothing: the master counts it
            return
        if self._deal is not None and deal.generation <= self._deal.generation:
            return
        if self._deal is None or msg.data["afresh"]:
            self._begin(msg.data["start"], deal)
        else:
            # Heard late, a deal holds from now on: what came before was sent by the old one.
            deal = replace(deal, since_s=max(deal.since_s, self._now_s()))
            self._fill(deal.since_s)
            self._dispatcher.withdraw(self._start + deal.since_s)
        self._deal, self._share, self._filled_s = deal, Share(deal), deal.since_s
        if not deal.plan.closed:
            self._fill(self._now_s() + HORIZON_S)

    def _begin(self, start: float, deal: Deal) -> None:
        """Take part from this deal on; what came before it is warm-up, or was counted without us."""
        assert self._dispatcher is not None
        self._dispatcher.withdraw(-math.inf)
        self._recorder.take()
        self._start = self._recorder.start = start
        self._recorder.since = start + max(0.0, deal.since_s)
        self._reported_planned = self._dispatcher.planned
        self._pause_s = 0.0
        # Thousands of users live as long as the test: collecting garbage must not visit them every time.
        gc.collect()
        gc.freeze()

    def _now_s(self) -> float:
        return self._clock() - self._start

    def _fill(self, until_s: float) -> None:
        """Hand the dispatcher this worker's arrivals before plan time `until_s`."""
        if self._share is None or self._dispatcher is None or until_s <= self._filled_s:
            return
        times, indices = self._share.until(until_s)
        self._dispatcher.offer((self._start + times).tolist(), indices.tolist())
        self._filled_s = until_s

    # The loop of a test.

    def _heartbeat(self) -> None:
        """Notice pauses of this process, whatever they come from: garbage, the scheduler, a stop signal."""
        while True:
            gevent.sleep(HEARTBEAT_INTERVAL_S)
            now = self._clock()
            pause_s = now - self._last_beat - HEARTBEAT_INTERVAL_S
            self._pause_s = max(self._pause_s, pause_s)
            if pause_s > RESUMED_S:
                self._resumed = time.time()
            self._last_beat = now

    def _work(self) -> None:
        next_report = self._clock()
        while not self._stopped:
            now = self._clock()
            if self._deal is not None and not self._closing:
                if self._deal.plan.closed:
                    self._drive_closed(self._deal)
                else:
                    self._fill(self._now_s() + HORIZON_S)
            if self._master_is_gone():
                logger.error("The master has been silent for %.0f s: this worker stops", MASTER_SILENT_S)
                gevent.spawn(self._runner.quit)
                return
            done = self._is_done()
            if now >= next_report or done:
                for step in (partial(self._look, done), self._encode, self._report):
                    if not done:
                        gevent.sleep(BREATH_S)  # each takes a millisecond, and arrivals are due between
                    step()
                next_report = self._next_report(now)
            if done:
                self._stopped = True
                return
            gevent.sleep(min(FILL_INTERVAL_S, max(0.0, min(next_report, self._next_edge()) - self._clock())))

    def _next_edge(self) -> float:
        """When closed load next begins or ends; arrivals need no such help."""
        if self._deal is None or not self._deal.plan.closed:
            return math.inf
        edges = (-self._deal.plan.warmup_s, self._deal.end_s)
        return self._start + min((edge for edge in edges if edge > self._now_s()), default=math.inf)

    def _next_report(self, now: float) -> float:
        """Every second, and the workers of one machine not all at the same instant."""
        deal = self._deal
        offset = deal.index / deal.count if deal is not None else 0.0
        return math.floor(now / REPORT_INTERVAL_S - offset + 1) * REPORT_INTERVAL_S + offset

    def _drive_closed(self, deal: Deal) -> None:
        """Closed load has no arrivals to fill in: start the loop and end it."""
        assert self._dispatcher is not None
        now_s = self._now_s()
        if now_s >= deal.end_s:
            self._dispatcher.end_loop()
        elif now_s >= -deal.plan.warmup_s and not self._looped:
            self._looped = True
            self._dispatcher.loop(deal.share_of(deal.plan.limit), self._recorder.since)

    def _is_done(self) -> bool:
        """Whether every arrival of the plan has come and ended, or had its time to end."""
        deal, dispatcher = self._deal, self._dispatcher
        if deal is None or dispatcher is None or self._share is None:
            return False
        now_s = self._now_s()
        if deal.plan.closed:
            callers = dispatcher.looping and self._runner.user_count  # who has ended calls no more
            sent_all = now_s >= deal.end_s or (self._looped and not callers)
        else:
            over = now_s >= deal.end_s if math.isfinite(deal.end_s) else True
            sent_all = over and self._share.exhausted and dispatcher.next_due is None
        self._sent_all_s = min(self._sent_all_s, now_s) if sent_all else math.inf
        waited_s = now_s - self._sent_all_s
        return sent_all and (not dispatcher.in_flight or waited_s > deal.plan.request_timeout_s + PATIENCE_S)

    def _master_is_gone(self) -> bool:
        if not isinstance(self._runner, WorkerRunner) or not self._runner.last_heartbeat_timestamp:
            return False
        # While this process stood still it could not hear the master: that silence does not count.
        return time.time() - max(self._runner.last_heartbeat_timestamp, self._resumed) > MASTER_SILENT_S

    def _look(self, done: bool, left: bool = False) -> None:
        """Note what happened since the last look, for the next report.

        Who is `done` reports no more: because all of its share is, or because it has `left` the rest.
        """
        assert self._dispatcher is not None
        now = self._clock()
        interval_s = now - self._usage.at
        cores, rss = self._usage.look(now)
        pause_s, self._pause_s = self._pause_s, 0.0
        planned, self._reported_planned = (
            self._dispatcher.planned - self._reported_planned,
            self._dispatcher.planned,
        )
        due = self._dispatcher.next_due
        self._looks.append(
            {
                "generation": self._deal.generation if self._deal else 0,
                "time": time.time(),
                "plan_s": now - self._start if self._deal else -math.inf,
                "increment": self._recorder.take(),
                "planned": planned,
                "accounted_s": self._filled_s if due is None else due - self._start,
                "in_flight": self._dispatcher.in_flight,
                "users": self._dispatcher.users,
                "missing": self._missing(),
                "cpu_cores": cores,
                "interval_s": interval_s,
                "rss_bytes": rss,
                "pause_s": pause_s,
                "precise": self._dispatcher.precise,
                "done": done,
                "left": left,
            }
        )

    def _missing(self) -> int:
        """Users that the load asks for and that are not there: they ended, or never started.

        Arrivals need one at least, also where there are fewer users than workers.
        """
        if self._dispatcher is None or self._deal is None or self._closing:
            return 0
        wanted = max(self._runner.target_user_count, 0 if self._deal.plan.closed else 1)
        return max(0, wanted - self._dispatcher.users)

    def _encode(self) -> None:
        """Make plain values of what was looked at."""
        for look in self._looks:
            if isinstance(look["increment"], Increment):
                look["increment"] = look["increment"].to_message()

    def _report(self) -> None:
        """Send what was looked at and not sent yet, in order."""
        self._encode()
        while self._looks:
            self._send("swarm_tick", self._looks.popleft())

    # The end of a test.

    def _on_test_stopping(self, **_: Any) -> None:
        """Send nothing more; users that are busy may finish."""
        self._closing = True
        if self._dispatcher is not None:
            if (due := self._dispatcher.next_due) is not None:
                self._filled_s = due - self._start  # from here on the master must count or deal again
            self._dispatcher.end_loop()
            self._dispatcher.withdraw(-math.inf)

    def _on_test_stop(self, **_: Any) -> None:
        if self._dispatcher is not None and not self._stopped:
            self._stopped = True
            self._look(done=True, left=True)
            self._report()
        self._close()
        if isinstance(self._runner, WorkerRunner):
            # Every user has ended; Locust would wait for the time-out once more before it can start again.
            self._environment.stop_timeout = 0.0

    def _close(self) -> None:
        gevent.killall(self._greenlets, block=False)
        self._greenlets = []
        gc.unfreeze()
        if self._dispatcher is not None:
            self._dispatcher.close()
            self._dispatcher = None
