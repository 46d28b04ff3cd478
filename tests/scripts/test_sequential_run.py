"""A run that stops as soon as its question is settled: the loop is real, the trials are made up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from analysis.report import build_report
from scripts import run
from scripts.cluster import attach
from scripts.cluster.lease import Holder, Taken, me, ours
from scripts.errors import UserError
from scripts.looks import first_facts
from scripts.plan import CEILING, Plan, Step, read_plan
from scripts.progress import Progress
from scripts.project import Project, Service
from scripts.reporting import status_of
from scripts.run import Lineup, RunRecord, begin_run, make_run
from scripts.session import show_order
from scripts.stop import Interrupted, Stop
from scripts.target import NeverReady, Unfetched
from scripts.trial import Bench, TrialRecord, utc_now
from tests.analysis.folders import TrialSpec, steady, write_trial
from tests.scripts.echo import EchoProject, echo_project

PLAN = """
sequential = true
trials = 8
[[scenario]]
name = "steady"
rate = 50
run_time = "20s"
"""
SPREAD = 0.02


class NoTarget:
    """A target on which nothing is started."""

    name = "local"

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {"fairness": {"not_held": []}}

    @contextmanager
    def opened(self, folder: Path) -> Iterator[None]:
        yield

    def note(self, text: str) -> None:
        pass


class Made:
    """Makes up trials: log-normal latencies around a backend's median, whose trials lie 2 % apart."""

    def __init__(self, medians_ms: dict[str, float]) -> None:
        self.medians_ms = medians_ms
        self.paths: list[str] = []
        self.before: Callable[[Step], None] = lambda step: None

    def __call__(
        self, bench: Bench, step: Step, service: Service, record: TrialRecord, tell: Callable[[str], None]
    ) -> None:
        try:
            self.before(step)
            self.paths.append(step.path)
            seed = [sum(map(ord, step.path))]
            median_ms = self.medians_ms[step.backend] * np.exp(np.random.default_rng(seed).normal(0, SPREAD))
            write_trial(
                bench.folder,
                TrialSpec(steady(median_ms, seed=seed[0]), step.backend, step.scenario.name, step.trial),
            )
            record.status = "ok"
        except Interrupted:
            record.status, record.error = "interrupted", "stopped by the user"
            raise
        except NeverReady as error:
            record.status, record.error = "failed", str(error)
            raise
        finally:
            record.ended = utc_now()

    @property
    def blocks(self) -> int:
        """How many blocks were begun."""
        return max(int(path.rpartition("/")[2]) for path in self.paths)


@pytest.fixture(scope="module")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoProject]:
    """A project with three backends."""
    with echo_project(tmp_path_factory.mktemp("sequential")) as made:
        made.add("echo_y")
        made.add("echo_z")
        yield made


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """What makes the trials up."""
    maker = Made({"echo_x": 40.0, "echo_y": 40.0, "echo_z": 60.0})
    monkeypatch.setattr(run, "make_trial", maker)
    return maker


class Runs:
    """Begins runs of the project, and goes on with them."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.heard = StringIO()

    def plan(self, text: str = PLAN, **changes: Any) -> Plan:
        file = self.folder / "plan.toml"
        file.write_text(text)
        return read_plan(str(file), changes)

    def begin(self, *backends: str, **changes: Any) -> RunRecord:
        self.services = self.project.select(backends)
        lineup = Lineup(self.project, self.plan(**changes), self.services)
        return begin_run(lineup, NoTarget(), self.folder / "results")

    def make(self, record: RunRecord) -> RunRecord:
        plan = Plan.model_validate(record.head["plan"])
        progress = Progress(Console(file=self.heard, width=300))
        make_run(Lineup(self.project, plan, self.services), NoTarget(), record, Stop(), progress)
        return record

    def again(self, record: RunRecord) -> RunRecord:
        """The record as another command finds it."""
        return RunRecord.read(record.folder, (record.folder / "run.json").read_text())

    def said(self) -> list[str]:
        return [line for line in self.heard.getvalue().splitlines() if line.startswith("after ")]


@pytest.fixture
def runs(echoes: EchoProject, tmp_path: Path) -> Runs:
    return Runs(Project(echoes.root), tmp_path)


def looks(record: RunRecord) -> list[int]:
    """After how many trials of each the run was looked at."""
    written = json.loads((record.folder / "run.json").read_text())
    return [look["after_trials"] for look in written["sequential"]["looks"]]


class TestARunStops:
    def test_after_the_first_block_that_settles_it(self, runs: Runs, made: Made) -> None:
        record = runs.make(runs.begin("echo_x", "echo_z"))
        assert (made.blocks, len(made.paths)) == (3, 6)
        assert looks(record) == [3]
        assert record.head["sequential"]["ended"] == "settled"
        assert runs.said() == ["after 3 blocks: echo_z slower than echo_x (p = 0.0215); settled"]

    def test_not_before_each_pair_is_settled(self, runs: Runs, made: Made) -> None:
        """echo_x and echo_y are the same, which takes longer to show than that echo_z is slower."""
        record = runs.make(runs.begin("echo_x", "echo_y", "echo_z", trials=40))
        assert made.blocks > 4
        assert looks(record) == list(range(4, made.blocks + 1))
        first, *_, last = runs.said()
        assert "echo_z slower than echo_x" in first
        assert "open (p = " in first
        assert first.endswith("; going on")
        assert " equivalent to " in last
        assert last.endswith("; settled")

    def test_only_after_whole_blocks(self, runs: Runs, made: Made) -> None:
        runs.make(runs.begin("echo_x", "echo_z"))
        made_of = {
            backend: sum(path.startswith(backend) for path in made.paths) for backend in made.medians_ms
        }
        assert made_of == {"echo_x": 3, "echo_y": 0, "echo_z": 3}

    def test_as_a_whole_valid_run_that_says_how_it_ended(self, runs: Runs, made: Made) -> None:
        record = runs.make(runs.begin("echo_x", "echo_z"))
        assert record.head["status"] == "complete"
        report = build_report(record.folder)
        assert (report.valid, status_of(report), len(report.trials)) == (True, 0, 6)
        assert "After 1 look and 3 of at most 8 trials of each it ended: every pair" in report.notes[0]
        assert report.recommendation.backend == "echo_x"

    def test_when_nothing_is_left_to_compare(self, runs: Runs, made: Made) -> None:
        def broken(step: Step) -> None:
            if step.backend == "echo_z":
                raise NeverReady("it died")

        made.before = broken
        record = runs.make(runs.begin("echo_x", "echo_z"))
        assert made.blocks == 3
        assert record.head["sequential"]["ended"] == "nothing to compare"
        assert runs.said() == ["after 3 blocks: nothing to compare; stopping"]
        assert status_of(build_report(record.folder)) == 3

    def test_with_1_when_an_objective_was_missed(self, runs: Runs, made: Made) -> None:
        record = runs.make(runs.begin("echo_x", "echo_z", objectives=["p95 < 1ms"]))
        assert made.blocks == 3
        assert status_of(build_report(record.folder)) == 1


class TestARunThatIsNotSettled:
    def test_ends_at_the_ceiling(self, runs: Runs, made: Made) -> None:
        made.medians_ms["echo_y"] = 42.0
        record = runs.make(runs.begin("echo_x", "echo_y", trials=4))
        assert made.blocks == 4
        assert looks(record) == [3, 4]
        assert record.head["sequential"]["ended"] == "ceiling"
        assert runs.said()[-1].endswith("; not settled, but this was the last block")
        report = build_report(record.folder)
        assert (report.valid, status_of(report), len(report.trials)) == (True, 0, 8)
        assert "not every pair was settled (0 of 1)" in report.notes[0]

    def test_when_it_is_not_sequential_makes_every_trial_and_looks_at_nothing(
        self, runs: Runs, made: Made
    ) -> None:
        record = runs.make(runs.begin("echo_x", "echo_z", sequential=False))
        assert made.blocks == 8
        assert record.head["sequential"] is None
        assert runs.said() == []


class TestARunThatIsTakenOver:
    """As `attach` does it: the record is read from `run.json`, and the loop makes what is left to be made."""

    @pytest.fixture
    def interrupted(self, runs: Runs, made: Made) -> RunRecord:
        """A run that was stopped within its sixth block, after the looks at the fourth and fifth."""

        def stop(step: Step) -> None:
            if step.order == 17:
                raise Interrupted

        made.before = stop
        record = runs.make(runs.begin("echo_x", "echo_y", "echo_z", trials=40))
        assert (record.head["status"], looks(record)) == ("interrupted", [4, 5])
        made.before = lambda step: None
        again = runs.again(record)
        again.trials[16].ended, again.trials[16].status = None, "pending"
        return again

    def test_counts_its_looks_as_one_that_was_not(
        self, runs: Runs, made: Made, interrupted: RunRecord
    ) -> None:
        record = runs.make(interrupted)
        once = runs.make(runs.begin("echo_x", "echo_y", "echo_z", trials=40))
        assert record.head["sequential"] == once.head["sequential"]
        assert looks(record) == list(range(4, made.blocks + 1))

    def test_looks_at_a_block_that_ended_without_a_look(self, runs: Runs, made: Made) -> None:
        whole = runs.make(runs.begin("echo_x", "echo_z"))
        unlooked = runs.begin("echo_x", "echo_z")
        for path in made.paths:
            shutil.copytree(whole.folder / path, unlooked.folder / path)
        unlooked.trials[:6] = whole.trials
        made.paths.clear()
        record = runs.make(unlooked)
        assert made.paths == []
        assert looks(record) == [3]

    def test_is_left_alone_when_it_has_ended(self, runs: Runs, made: Made) -> None:
        record = runs.again(runs.make(runs.begin("echo_x", "echo_z")))
        assert record.head["ended"] is not None
        assert [trial.status for trial in record.trials] == ["ok"] * 6


class TestARunThatAnotherProcessDrives:
    def test_is_followed_to_its_early_end_with_a_line_for_each_look(
        self, runs: Runs, made: Made, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ends while its seventh trial is waited for, which is never made."""
        driven = runs.begin("echo_x", "echo_z")
        begun = driven.head["plan"]
        stop, alive = Stop(), [True]

        def sleep(seconds: float) -> None:  # the other process does everything meanwhile
            runs.make(runs.again(driven))
            alive[0] = False

        monkeypatch.setattr(stop, "sleep", sleep)
        holder = Holder(driven.folder.name, me(), ours(), 0, str(driven.folder), True, 0.0)
        monkeypatch.setattr(attach, "_holder", lambda *_: holder)
        monkeypatch.setattr(attach, "driven", lambda *_: True)
        monkeypatch.setattr(attach, "lives", lambda _: alive[0])
        heard = StringIO()
        progress = Progress(Console(file=heard, width=300))
        followed = runs.again(driven)
        assert attach.follow(followed, Plan.model_validate(begun), None, progress, stop)
        said = [line for line in heard.getvalue().splitlines() if line.startswith("after ")]
        assert said == ["after 3 blocks: echo_z slower than echo_x (p = 0.0215); settled"]
        assert "[7/16]" not in heard.getvalue()

    def test_into_another_folder_is_not_watched_here(
        self, runs: Runs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copied = runs.begin("echo_x", "echo_z")
        holder = Holder(copied.folder.name, me(), ours(), 0, "/elsewhere", True, 0.0)
        monkeypatch.setattr(attach, "_holder", lambda *_: holder)
        monkeypatch.setattr(attach, "driven", lambda *_: True)
        plan, progress = Plan.model_validate(copied.head["plan"]), Progress(Console())
        with pytest.raises(Taken, match=f"used by the run {copied.folder.name} of {me()}"):
            attach.follow(copied, plan, SimpleNamespace(namespace="room"), progress, Stop())  # type: ignore[arg-type]

    def test_is_followed_in_vain_where_nobody_renews_the_lease(
        self, runs: Runs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its pid is another process's by now."""
        left = runs.begin("echo_x", "echo_z")
        holder = Holder(left.folder.name, me(), ours(), os.getppid(), str(left.folder), True, 0.0)
        monkeypatch.setattr(attach, "_holder", lambda *_: holder)
        monkeypatch.setattr(attach, "driven", lambda *_: False)
        plan, progress = Plan.model_validate(left.head["plan"]), Progress(Console())
        assert not attach.follow(left, plan, None, progress, Stop())  # type: ignore[arg-type]


class TestATrialWhoseRecordIsStillInTheCluster:
    @pytest.fixture
    def unfetched(self, runs: Runs, made: Made) -> RunRecord:
        record = runs.make(runs.begin("echo_x", sequential=False, trials=1))
        (trial,) = record.trials
        trial.status, trial.error, trial.unfetched = "failed", "its record could not be fetched: …", True
        record.head["ended"] = "2026-11-21T18:00:00Z"
        record.save()
        return runs.again(record)

    def test_is_a_good_one_once_it_is_here(self, runs: Runs, unfetched: RunRecord) -> None:
        (trial,) = runs.make(unfetched).trials
        assert (trial.status, trial.error, trial.unfetched) == ("ok", None, False)

    def test_stays_to_be_fetched_while_it_is_not(self, runs: Runs, unfetched: RunRecord) -> None:
        (unfetched.folder / unfetched.trials[0].path / "summary.json").unlink()
        (trial,) = runs.make(unfetched).trials
        assert (trial.status, trial.unfetched) == ("failed", True)

    def test_of_another_machine_is_no_good_one_here(self, runs: Runs, unfetched: RunRecord) -> None:
        (trial,) = unfetched.trials
        (unfetched.folder / trial.path / "summary.json").unlink()
        trial.status, trial.unfetched = "ok", False
        runs.make(unfetched)
        assert (trial.status, trial.unfetched) == ("failed", True)

    def test_does_not_hide_that_the_user_stopped_the_run(
        self, runs: Runs, made: Made, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(step: Step) -> None:
            raise Interrupted

        @contextmanager
        def opened(self: NoTarget, folder: Path) -> Iterator[None]:
            try:
                yield
            finally:
                raise Unfetched("the cluster keeps it")

        monkeypatch.setattr(NoTarget, "opened", opened)
        monkeypatch.setattr(Stop, "asked", True)
        made.before = interrupted
        record = runs.begin("echo_x", sequential=False, trials=1)
        with pytest.raises(Unfetched, match="the cluster keeps it"):
            runs.make(record)
        assert record.head["status"] == "interrupted"

    def test_does_not_let_the_run_pass_for_one_that_has_ended(self, runs: Runs, unfetched: RunRecord) -> None:
        assert not attach._has_ended(unfetched)
        assert attach._has_ended(runs.make(unfetched))


class TestTheRecord:
    def test_names_what_a_variants_options_make_unequal(self, runs: Runs) -> None:
        record = runs.begin("echo_x", "echo_y+fault=slow")
        assert record.head["fairness"]["not_held"] == ["Echo X (fault=slow) was made to do wrong: slow."]

    @pytest.mark.parametrize(("target", "stand_in"), [("local", False), ("kind", True)])
    def test_says_of_a_stand_in_that_it_is_one_where_it_is(
        self, runs: Runs, target: str, stand_in: bool
    ) -> None:
        [service] = runs.project.select(["echo_x"])
        facts = replace(service.facts, stand_in=True, stand_in_unless="sh")  # as on PATH as the real program
        place = NoTarget()
        place.name = target
        plan = runs.plan(sequential=False)
        lineup = Lineup(runs.project, plan, [replace(service, facts=facts)])
        record = begin_run(lineup, place, runs.folder / "results")
        assert record.head["backends"]["echo_x"]["stand_in"] is stand_in

    def test_of_a_sequential_run_counts_no_stand_in_where_it_is_one(self, runs: Runs) -> None:
        first, second = runs.project.select(["echo_x", "echo_y"])
        facts = replace(second.facts, stand_in=True, stand_in_unless="sh")
        services = [first, replace(second, facts=facts)]
        assert first_facts(runs.plan(), services, "local") is not None
        with pytest.raises(UserError, match="only echo_x is"):
            first_facts(runs.plan(), services, "kind")


class TestWhatIsRefused:
    def refusal(self, runs: Runs, *backends: str, **changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            first_facts(runs.plan(**changes), runs.project.select(backends), "local")
        assert caught.value.exit_code == 2
        return str(caught.value)

    def test_is_one_backend(self, runs: Runs) -> None:
        assert "only echo_x is to be measured and ranked: name two or more" in self.refusal(runs, "echo_x")

    def test_is_fewer_trials_than_can_tell_anything(self, runs: Runs) -> None:
        assert self.refusal(runs, "echo_x", "echo_y", trials=2) == (
            "2 trials of each cannot settle 1 pair of backends: before 3 no difference can be told. "
            "Write for example --trials 20, the most."
        )

    def test_is_fewer_trials_than_so_many_pairs_take(self, runs: Runs) -> None:
        assert "3 trials of each cannot settle 3 pairs of backends: before 4" in self.refusal(
            runs, "echo_x", "echo_y", "echo_z", trials=3
        )

    def test_is_refused_by_the_command_before_anything_is_made(self, echoes: EchoProject) -> None:
        plan = echoes.plan(PLAN)
        done = echoes.call("run", plan, "--backends", "echo_x", "--sequential", "--target", "local")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("modelswarm: A sequential run compares backends, and only echo_x is")
        assert not (echoes.root / "results").exists()

    def test_is_a_margin_for_a_run_that_is_not_sequential(self, echoes: EchoProject) -> None:
        plan = echoes.plan(PLAN)
        done = echoes.call("run", plan, "--no-sequential", "--margin", "3%", "--target", "local")
        assert done.returncode == 2
        assert "add --sequential" in done.stderr


class TestThePlan:
    FIXED = PLAN.replace("sequential = true\n", "")

    def test_may_say_that_it_is_sequential_and_how_many_trials_are_the_most(self, runs: Runs) -> None:
        assert (runs.plan().sequential, runs.plan().trials) == (True, 8)

    def test_that_does_not_say_how_many_has_a_ceiling(self, runs: Runs) -> None:
        assert runs.plan(PLAN.replace("trials = 8\n", "")).trials == CEILING

    def test_of_a_fixed_number_of_trials_has_the_same_ceiling_when_it_is_made_sequential(
        self, runs: Runs
    ) -> None:
        assert runs.plan(self.FIXED, sequential=True).trials == CEILING
        assert runs.plan(self.FIXED, sequential=True, trials=5).trials == 5

    def test_that_is_only_printed_says_that_its_time_is_the_most(self, runs: Runs) -> None:
        services = runs.project.select(["echo_x", "echo_y"])
        show_order(runs.plan(), services, Console(file=runs.heard, width=300))
        show_order(runs.plan(sequential=False), services, Console(file=runs.heard, width=300))
        most, exact = [line for line in runs.heard.getvalue().splitlines() if " trials, " in line]
        assert most.startswith("At most 16 trials, at most about ")
        assert exact.startswith("16 trials, about ")

    def test_has_a_margin(self, runs: Runs) -> None:
        assert runs.plan("margin = 0.1\n" + PLAN).margin == 0.1
        with pytest.raises(UserError, match="margin = 5: write less than 1"):
            runs.plan("margin = 5\n" + PLAN)
