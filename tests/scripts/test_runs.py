"""Whole runs: the command, real server processes, real load."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from urllib.request import urlopen

import pytest

from scripts.server import free_port, port_is_free
from tests.scripts.echo import SHORT_PLAN, EchoProject, echo_project
from tests.waiting import until

pytestmark = pytest.mark.e2e

LONG_PLAN = SHORT_PLAN.replace('run_time = "3s"', 'run_time = "60s"')


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoProject]:
    """A project with one framework that was added to it."""
    with echo_project(tmp_path_factory.mktemp("added")) as project:
        yield project


@pytest.fixture(scope="module")
def run(added: EchoProject) -> CompletedProcess[str]:
    """A run of it, with an objective that nothing can hold."""
    return added.call("run", added.plan(SHORT_PLAN), "--objective", "max < 0.01ms")


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoProject]:
    """A project with a good backend and one for each way to fail."""
    with echo_project(tmp_path_factory.mktemp("failing")) as project:
        project.add("killed", "dies_after:30")
        project.add("wrong", "wrong_answers")
        project.add("stubborn", "stubborn", stop_timeout_s=1)
        project.add("waiting", "never_ready", ready_timeout_s=2)
        project.add("broken", "dies_at_once")
        yield project


@pytest.fixture(scope="module")
def failed_run(failing: EchoProject) -> CompletedProcess[str]:
    """A run of all of them."""
    return failing.call("run", failing.plan(SHORT_PLAN))


@pytest.fixture(scope="module")
def trials(failing: EchoProject, failed_run: CompletedProcess[str]) -> dict[str, dict]:
    """What became of each backend."""
    return {trial["backend"]: trial for trial in failing.run_json()["trials"]}


class TestAFrameworkAddedAsAFolderAndAFile:
    def test_is_listed(self, added: EchoProject) -> None:
        listed = json.loads(added.call("list", "--json").stdout)
        assert [(each["name"], each["version"], each["installed"]) for each in listed] == [
            ("echo_x", "1.0", True)
        ]

    def test_is_measured(self, added: EchoProject, run: CompletedProcess[str]) -> None:
        assert run.stderr == ""
        record = added.run_json()
        (trial,) = record["trials"]
        assert (trial["status"], trial["error"], trial["parity"]) == ("ok", None, {"checked": 3, "wrong": 0})
        assert record["status"] == "complete"
        assert record["backends"]["echo_x"]["title"] == "Echo X"
        summary = json.loads((added.run_folder() / trial["path"] / "summary.json").read_text())
        assert summary["counts"] == {"planned": 60, "sent": 60, "completed": 60, "failed": 0, "dropped": 0}

    def test_has_its_cpu_and_memory_sampled_each_second(
        self, added: EchoProject, run: CompletedProcess[str]
    ) -> None:
        file = added.run_folder() / "echo_x" / "steady" / "1" / "pods.csv"
        rows = list(csv.DictReader(file.open()))
        assert len(rows) >= 4
        assert max(float(row["cpu_cores"]) for row in rows) > 0
        assert all(int(row["memory_bytes"]) > 5_000_000 for row in rows)

    def test_is_in_the_report(self, added: EchoProject, run: CompletedProcess[str]) -> None:
        folder = added.run_folder()
        assert "Echo X" in (folder / "report.html").read_text()
        assert str(folder / "report.html") in run.stdout
        report = json.loads(added.call("report", "latest", "--json").stdout)
        assert [(row["backend"], row["completed"]) for row in report["rows"]] == [("echo_x", 60)]

    def test_can_be_compared_with_itself(self, added: EchoProject, run: CompletedProcess[str]) -> None:
        compared = added.call("compare", "latest", "latest", "--json")
        assert json.loads(compared.stdout)["regressions"] == []

    def test_that_misses_an_objective_ends_with_1_or_with_3_when_the_generator_was_late(
        self, added: EchoProject, run: CompletedProcess[str]
    ) -> None:
        report = json.loads((added.run_folder() / "report.json").read_text())
        assert not report["objectives"][0]["passed"]
        assert run.returncode == (1 if report["valid"] else 3)

    def test_leaves_no_process(self, added: EchoProject, run: CompletedProcess[str]) -> None:
        assert added.left_behind() == []


class TestAFrameworkAgainstItself:
    PLAN = (
        """
backends = ["echo_x", "echo_x+protocol=other", {backend = "echo_x", options = {fault = "wrong_answers"}}]
"""
        + SHORT_PLAN
    )

    def test_is_measured_as_so_many_backends(self, echo: EchoProject) -> None:
        done = echo.call("run", echo.plan(self.PLAN))
        assert done.stderr == ""
        record = echo.run_json()
        assert {key: each["title"] for key, each in record["backends"].items()} == {
            "echo_x": "Echo X",
            "echo_x+protocol=other": "Echo X (other)",
            "echo_x+fault=wrong_answers": "Echo X (fault=wrong_answers)",
        }
        assert record["backends"]["echo_x+protocol=other"]["protocol"] == "other"
        assert record["backends"]["echo_x+fault=wrong_answers"]["options"] == {"fault": "wrong_answers"}
        trials = {trial["backend"]: trial for trial in record["trials"]}
        assert {key: trial["status"] for key, trial in trials.items()} == {
            "echo_x": "ok",
            "echo_x+protocol=other": "ok",
            "echo_x+fault=wrong_answers": "failed",
        }
        assert "are answered wrong" in trials["echo_x+fault=wrong_answers"]["error"]
        summary = echo.run_folder() / "echo_x+protocol=other" / "steady" / "1" / "summary.json"
        assert json.loads(summary.read_text())["counts"]["completed"] == 60
        assert "Echo X (other)" in (echo.run_folder() / "report.html").read_text()


class TestBackendsThatFail:
    def test_do_not_stop_the_others(self, trials: dict[str, dict]) -> None:
        assert trials["echo_x"]["status"] == "ok"
        assert len(trials) == 6

    def test_end_the_run_with_3(self, failed_run: CompletedProcess[str]) -> None:
        assert failed_run.returncode == 3
        assert failed_run.stderr == ""

    def test_are_named_in_the_report_with_what_happened(
        self, failing: EchoProject, failed_run: CompletedProcess[str], trials: dict[str, dict]
    ) -> None:
        report = (failing.run_folder() / "report.md").read_text()
        for name in ("killed", "wrong", "waiting", "broken"):
            assert trials[name]["status"] == "failed"
            assert f"{name}/steady/1" in report
        assert "exited with signal 9" in report

    def test_by_a_kill_9_in_the_middle_of_the_load_say_so(self, trials: dict[str, dict]) -> None:
        assert trials["killed"]["error"].startswith("server exited with signal 9")
        assert trials["killed"]["error"].endswith("s after the load was started")

    def test_by_wrong_answers_are_not_measured(self, trials: dict[str, dict]) -> None:
        assert "3 of 3 test images are answered wrong: small.jpg: answered" in trials["wrong"]["error"]
        assert trials["wrong"]["parity"] == {"checked": 3, "wrong": 3}

    def test_by_never_getting_ready_say_what_was_last_seen(self, trials: dict[str, dict]) -> None:
        assert trials["waiting"]["error"] == (
            "not ready within 2 s (GET /health answers 503); its log is empty"
        )

    def test_by_ending_at_once_quote_their_log(self, trials: dict[str, dict]) -> None:
        assert trials["broken"]["error"] == (
            "server exited with status 1 before it was ready; its log ends: the model file is damaged"
        )

    def test_by_ignoring_sigterm_are_killed_with_their_children(self, trials: dict[str, dict]) -> None:
        assert trials["stubborn"]["status"] == "ok"
        assert len(trials["stubborn"]["killed"]) == 2

    def test_leave_no_process(self, failing: EchoProject, failed_run: CompletedProcess[str]) -> None:
        assert failing.left_behind() == []


class TestABackendOfThePlanThatCannotBeMeasured:
    PLAN = 'backends = ["absent", "echo_x"]\ntrials = 2\n' + SHORT_PLAN

    def test_fails_by_name_and_the_others_go_on(self, echo: EchoProject) -> None:
        echo.add("absent")
        (echo.root / "services" / "absent" / "requirements.txt").write_text("")
        done = echo.call("run", echo.plan(self.PLAN))
        reason = "its environment is missing: run `modelswarm setup absent`"
        assert f"absent is left out: {reason}" in done.stdout
        trials = echo.run_json()["trials"]
        assert {(one["backend"], one["status"], one["error"]) for one in trials} == {
            ("absent", "failed", reason),
            ("echo_x", "ok", None),
        }
        assert "its environment is missing" in (echo.run_folder() / "report.md").read_text()
        assert done.returncode == echo.call("report", "latest").returncode == 3


class TestABackendThatNeverGetsReady:
    def test_is_given_up_after_two_trials(self, echo: EchoProject) -> None:
        echo.add("broken", "dies_at_once")
        done = echo.call("run", echo.plan(SHORT_PLAN), "--backends", "broken", "--trials", "4")
        errors = [trial["error"] for trial in echo.run_json()["trials"]]
        assert ["exited with status 1" in error for error in errors] == [True, True, False, False]
        assert errors[2:] == ["not tried: broken did not become ready 2 times in a row"] * 2
        assert done.returncode == 3


class TestStoppingARun:
    def under_load(self, echo: EchoProject) -> Callable[[], bool]:
        def loaded() -> bool:
            files = list((echo.root / "results").glob("*/echo_x/steady/1/generator.csv"))
            return bool(files) and len(files[0].read_text().splitlines()) > 4

        return loaded

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_in_the_middle_of_the_load_finishes_the_folder_and_leaves_no_process(
        self, echo: EchoProject, number: signal.Signals
    ) -> None:
        process = echo.start("run", echo.plan(LONG_PLAN), "--trials", "2")
        until(self.under_load(echo), "the load is on")
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 3, errors
        record = echo.run_json()
        assert record["status"] == "interrupted"
        assert [trial["status"] for trial in record["trials"]] == ["interrupted", "pending"]
        folder = echo.run_folder()
        assert f"What was measured until then is in {folder}." in output
        summary = json.loads((folder / "echo_x" / "steady" / "1" / "summary.json").read_text())
        counts = summary["counts"]
        assert 0 < counts["planned"] == counts["completed"] + counts["failed"] + counts["dropped"]
        assert (folder / "report.html").exists()
        assert echo.left_behind() == []

    def test_while_a_server_starts_leaves_no_process(self, echo: EchoProject) -> None:
        echo.add("waiting", "never_ready")
        process = echo.start("run", echo.plan(SHORT_PLAN), "--backends", "waiting")
        until(echo.left_behind, "the server is started")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 3
        assert echo.run_json()["trials"][0]["status"] == "interrupted"
        assert echo.left_behind() == []

    def test_with_kill_9_leaves_no_process_and_a_readable_run(self, echo: EchoProject) -> None:
        scratch = echo.root / "tmp"
        scratch.mkdir()
        process = echo.start("run", echo.plan(LONG_PLAN), TMPDIR=str(scratch))
        until(self.under_load(echo), "the load is on")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        until(lambda: not echo.left_behind(), "everything has ended")
        until(lambda: not list(scratch.iterdir()), "the scratch folder is gone")
        assert echo.run_json()["status"] == "running"
        report = echo.call("report", "latest")
        assert report.returncode == 3
        assert "steady/1 was still running" in (echo.run_folder() / "report.md").read_text()


class TestAPortThatIsTaken:
    def test_is_found_before_anything_starts(self, echo: EchoProject) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            echo.add("insisting", ports=[port])
            done = echo.call("run", echo.plan(SHORT_PLAN))
        assert done.returncode == 3
        assert f"In use already: port {port} (needed by insisting)" in done.stderr
        assert "or leave the backend out with --backends." in done.stderr
        assert not (echo.root / "results").exists()

    def test_by_the_web_ui_gets_another_proposed(self, echo: EchoProject) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            done = echo.call("ui", "--target", "local", "--port", str(taken.getsockname()[1]))
        assert done.returncode == 3
        proposed = re.search(r"\(needed by Locust's web UI\)\..*or name another: --port (\d+)\.", done.stderr)
        assert proposed
        assert port_is_free(int(proposed[1]))


class TestTheWebUi:
    def test_is_not_announced_before_the_server_is_ready(self, echo: EchoProject) -> None:
        echo.add("slow", "never_ready", ready_timeout_s=1)
        done = echo.call("ui", "--backend", "slow", "--port", str(free_port()))
        assert done.returncode == 3
        assert "slow is not ready after 1 s: GET /health answers 503" in done.stderr
        assert "is the web UI" not in done.stdout
        assert echo.left_behind() == []

    def test_is_not_announced_for_a_server_that_ends_at_once(self, echo: EchoProject) -> None:
        echo.add("broken", "dies_at_once")
        done = echo.call("ui", "--backend", "broken", "--port", str(free_port()))
        assert done.returncode == 3
        assert "broken exited with status 1; its log ends: the model file is damaged" in done.stderr
        assert "is the web UI" not in done.stdout

    def test_answers_when_it_is_announced_and_ends_with_its_server(self, echo: EchoProject) -> None:
        port = free_port()
        process = echo.start("ui", "--port", str(port))
        assert process.stdout is not None
        while f"http://localhost:{port} is the web UI" not in (line := process.stdout.readline()):
            assert line, "it ended without a word of its web UI"
        with urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert b"Locust" in page.read()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0
        assert echo.left_behind() == []
