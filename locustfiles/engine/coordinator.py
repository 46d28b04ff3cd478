"""The master's side: deals the plan over the workers, merges what they report, and ends the trial.

One of these runs in the master, or in the only process.  Time is plan time in seconds from the start that
it sets; each worker is told that start on its own monotonic clock, from the offset that an exchange of
pings measured, so that clocks need not agree.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import STATE_RUNNING, MasterRunner

from locustfiles.engine import locust_stats
from locustfiles.engine.deal import Deal
from locustfiles.engine.options import NOT_MEASURED, LoadPlan
from locustfiles.engine.pacing import BREATH_S
from locustfiles.engine.record import TrialFolder
from locustfiles.engine.recorder import Increment
from locustfiles.engine.trial import Trial, Worker, log_summary

logger = logging.getLogger(__name__)

LEAD_S = 0.4
"""From a deal to its first arrival: every worker must have heard of it by then."""
SILENT_S = 2.0
"""A worker that reports every second and was not heard for so long is lost."""
IDLE_S = 1.0
"""A worker that has had no users for so long was overlooked."""
WATCH_INTERVAL_S = 0.1
HELLO_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 2.0


class Coordinator:
    """Runs one trial after another; what is known of one is in its `Trial`."""

    def __init__(
        self,
        environment: Environment,
        plan: Callable[[], LoadPlan],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`plan` reads the plan from Locust's options, which the web form changes; it raises ValueError."""
        self._environment = environment
        runner = environment.runner
        assert runner is not None
        self._runner = runner
        self._plan = plan
        self._clock = clock
        self._trial: Trial | None = None
        for message, listener in {
            "swarm_hello": self._on_hello,
            "swarm_pong": self._on_pong,
            "swarm_tick": self._on_tick,
        }.items():
            runner.register_message(message, listener)
        events = environment.events
        events.test_start.add_listener(self._on_test_start)
        events.spawning_complete.add_listener(self._on_spawning_complete)
        events.test_stopping.add_listener(self._on_test_stopping)
        events.test_stop.add_listener(self._on_test_stop)
        events.quitting.add_listener(self._on_quitting)

    # Locust's events.

    def _on_test_start(self, **_: Any) -> None:
        options = self._environment.parsed_options
        assert options is not None
        plan = self._plan()
        options.load_plan = plan.to_message()  # reaches the workers with Locust's own options
        folder = None
        if options.record:
            path = TrialFolder.unused(Path(options.record))
            if path != Path(options.record):
                logger.warning("%s holds a trial already: this one is recorded in %s", options.record, path)
            try:
                folder = TrialFolder(path, self._environment)
            except OSError as error:
                self._fail(f"cannot record in {path}: {error}", NOT_MEASURED)
        self._trial = Trial(plan, folder, self._clock)

    def _on_spawning_complete(self, **_: Any) -> None:
        trial = self._trial
        if trial is None or trial.finished:
            return
        if self._environment.web_ui is not None:
            # The run time counts from the first arrival and ends with the last answer, so we end the trial.
            self._environment.web_ui._cancel_run_time_timer()
        if not trial.launching:
            trial.launching = True
            gevent.spawn(self._drive, trial)
        elif trial.launched and (plan := self._plan()) != trial.plan:
            trial.plan = plan
            self._deal(trial, edited=True)

    def _on_test_stopping(self, **_: Any) -> None:
        if self._trial is not None and not self._trial.finished:
            self._trial.stopping = True

    def _on_test_stop(self, **_: Any) -> None:
        if self._trial is not None and not self._trial.finished:
            gevent.spawn(self._finish_when_flushed, self._trial)

    def _on_quitting(self, **_: Any) -> None:
        if self._trial is not None:
            self._trial.stopping |= not self._trial.finished
            self._finish(self._trial)
            with self._writing(self._trial):
                if self._trial.folder is not None:
                    self._trial.folder.close()
                    self._trial.folder = None

    # Messages from workers.

    def _on_hello(self, msg: Any, **_: Any) -> None:
        trial, data = self._trial, msg.data
        if trial is None or trial.finished:
            return
        if "problem" in data:
            self._fail(data["problem"], data["exit"])
            return
        name = f"{data['host']}:{data['pid']}"
        trial.workers[data["worker"]] = Worker(name, data["worker"], self._clock())
        self._ping(data["worker"])

    def _ping(self, client_id: str) -> None:
        self._runner.send_message("swarm_ping", {"sent": self._clock(), "epoch_sent": time.time()}, client_id)

    def _on_pong(self, msg: Any, **_: Any) -> None:
        trial, data, now = self._trial, msg.data, self._clock()
        worker = trial.workers.get(data["worker"]) if trial else None
        if trial is None or worker is None:
            return
        worker.pings += 1
        worker.seen = now
        if now - data["sent"] < worker.round_trip_s:
            worker.round_trip_s = now - data["sent"]
            worker.offset_s = data["monotonic"] - (data["sent"] + now) / 2
            worker.skew_ms = (data["epoch"] - (data["epoch_sent"] + time.time()) / 2) * 1000
        if not worker.synchronised:
            self._ping(worker.client_id)
        elif trial.launched:
            self._deal(trial)  # a worker that joined while the trial runs

    def _on_tick(self, msg: Any, **_: Any) -> None:
        trial, tick = self._trial, msg.data
        worker = trial.workers.get(tick["worker"]) if trial else None
        if trial is None or worker is None:
            return
        worker.seen = self._clock()
        if worker.lost:  # it was only away: what it did is counted as dropped, so it begins afresh
            worker.lost, worker.fresh = False, True
            self._deal(trial)
        if not worker.deals or tick["generation"] < worker.joined:
            return
        worker.note(tick)
        increment = Increment.from_message(tick["increment"])
        with self._writing(trial):
            trial.add(worker, tick, increment)
        trial.not_in_locust.merge_outcomes(increment)

    # One trial.

    def _drive(self, trial: Trial) -> None:
        """From spawned users to the end of the plan."""
        deadline = self._clock() + HELLO_TIMEOUT_S
        while self._clock() < deadline and not self._all_said_hello(trial):
            gevent.sleep(0.01)
        if trial.finished or trial.stopping:
            return
        if not trial.live():
            self._fail(
                f"no worker was ready to send {HELLO_TIMEOUT_S:.0f} s after its users: Locust's log says why",
                NOT_MEASURED,
            )
            return
        with self._writing(trial):
            lead_s = LEAD_S + trial.plan.warmup_s
            trial.launch(self._clock() + lead_s, time.time() + lead_s)
        self._deal(trial)
        next_write = self._clock()
        idle: dict[str, float] = {}
        while not (trial.finished or trial.stopping):
            gevent.sleep(WATCH_INTERVAL_S)
            self._look_for_lost(trial)
            self._look_for_idle(idle)
            if self._clock() >= next_write:
                self._bring_up_to_date(trial)
                next_write += 1.0
            if trial.all_done() and not trial.finished:
                self._finish(trial)
                gevent.spawn(self._end)

    def _bring_up_to_date(self, trial: Trial) -> None:
        """The log, Locust's statistics and its CSVs: each a millisecond, so arrivals get their turn between.

        A trial that ends meanwhile has brought them up to date itself, and closed its files.
        """
        for bring in (self._write_seconds, self._fill_locust, self._write_locust):
            if not trial.finished:
                bring(trial)
                gevent.sleep(BREATH_S)

    def _write_seconds(self, trial: Trial) -> None:
        with self._writing(trial):
            trial.write_seconds(everything=trial.finished)

    def _fill_locust(self, trial: Trial) -> None:
        stats, now = self._environment.stats, time.time()
        increment, trial.not_in_locust = trial.not_in_locust, Increment()
        locust_stats.fill(stats, increment.outcomes, now)
        locust_stats.fill_dropped(stats, increment.dropped - increment.late, now)
        locust_stats.fill_dropped(stats, increment.late, now, locust_stats.LATE)

    def _write_locust(self, trial: Trial) -> None:
        with self._writing(trial):
            if trial.folder is not None:
                trial.folder.write_locust()

    def _all_said_hello(self, trial: Trial) -> bool:
        expected = 1
        if isinstance(self._runner, MasterRunner):
            expected = len(self._runner.clients.running) + len(self._runner.clients.spawning)
        return sum(worker.synchronised for worker in trial.workers.values()) >= max(1, expected)

    def _deal(self, trial: Trial, edited: bool = False) -> None:
        """Deal the arrivals from a moment from now on over the workers that are there."""
        live = sorted(trial.live(), key=lambda worker: worker.client_id)
        since_s = -trial.plan.warmup_s if trial.generation == 0 else self._clock() + LEAD_S - trial.start
        trial.generation += 1
        if edited:
            trial.origin_s = max(0.0, since_s)
        for index, worker in enumerate(live):
            deal = Deal(trial.generation, index, len(live), since_s, trial.origin_s, trial.plan)
            afresh, worker.fresh, worker.done = worker.fresh, False, False
            if afresh:
                worker.joined, worker.accounted_s, worker.deals = trial.generation, since_s, []
            worker.deals.append(deal)
            message = {
                **deal.to_message(),
                "start": trial.start + worker.offset_s,
                "afresh": afresh,
            }
            self._runner.send_message("swarm_deal", message, worker.client_id)
        trial.latest_since_s = since_s

    def _look_for_lost(self, trial: Trial) -> None:
        if not isinstance(self._runner, MasterRunner):
            return
        lost = [w for w in trial.live() if self._clock() - w.seen > SILENT_S and (w.left or not w.done)]
        for worker in lost:
            worker.lost = True
        if not lost:
            return
        self._deal(trial)
        for worker in lost:
            dropped = trial.write_off(worker)
            logger.warning("Worker %s is lost; %d arrivals dropped with it", worker.name, dropped)
            locust_stats.fill_dropped(self._environment.stats, dropped, time.time(), locust_stats.LOST)

    def _look_for_idle(self, idle: dict[str, float]) -> None:
        """Have Locust give users to a worker that it overlooked: one that connected while others got theirs.

        `idle` says since when a worker has waited; it is asked for once.
        """
        runner, now = self._runner, self._clock()
        if not isinstance(runner, MasterRunner) or runner.state != STATE_RUNNING:
            return
        waiting = [worker.id for worker in runner.clients.ready]
        overdue = [one for one in waiting if now - idle.setdefault(one, now) > IDLE_S]
        if overdue:
            logger.info("Locust left %d workers without users: asking it once more", len(overdue))
            idle.update(dict.fromkeys(overdue, math.inf))
            gevent.spawn(runner.start, runner.target_user_count, runner.spawn_rate)

    def _finish_when_flushed(self, trial: Trial) -> None:
        """A trial that was stopped by hand: wait for the last reports, but not for ever."""
        deadline = self._clock() + FLUSH_TIMEOUT_S
        while self._clock() < deadline and not all(worker.done for worker in trial.live()):
            gevent.sleep(0.05)
        self._finish(trial)

    def _finish(self, trial: Trial) -> None:
        if trial.finished:
            return
        trial.finished = True
        locust_stats.fill_dropped(self._environment.stats, trial.settle(), time.time(), locust_stats.CUT_OFF)
        self._write_seconds(trial)
        self._fill_locust(trial)
        summary = trial.summary(self._environment)
        log_summary(summary)
        self._write_locust(trial)
        with self._writing(trial):
            if trial.folder is not None:
                trial.folder.finish(summary)

    @contextmanager
    def _writing(self, trial: Trial) -> Iterator[None]:
        """A record that cannot be written (full disk) ends the trial; what is written stays."""
        try:
            yield
        except OSError as error:
            folder, trial.folder = trial.folder, None
            if folder is not None:
                self._fail(f"cannot go on recording in {folder.path}: {error}", NOT_MEASURED)

    def _end(self) -> None:
        """The plan is over: end the process, or with a web UI the trial only; --autoquit ends that, too."""
        options, web_ui = self._environment.parsed_options, self._environment.web_ui
        if options is not None and options.headless:
            self._runner.quit()
            return
        self._runner.stop()
        if options is not None and options.autostart and options.autoquit not in (None, -1):
            gevent.sleep(options.autoquit)
            self._runner.quit()
            if web_ui is not None:
                web_ui.stop()

    def _fail(self, problem: str, exit_code: int) -> None:
        logger.error(problem)
        if self._trial is not None:
            self._trial.problem = problem
        self._environment.process_exit_code = exit_code
        gevent.spawn(self._end)
