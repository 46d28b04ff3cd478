"""Real Locust processes against a real server of known latency."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from analysis.hlog import read_hlog
from locustfiles.engine.coordinator import SILENT_S
from scripts.server import free_port
from tests.load.processes import Locusts
from tests.waiting import until

pytestmark = pytest.mark.e2e

PLAIN_LOCUST = """
from locust import FastHttpUser, constant_throughput, task

class PlainUser(FastHttpUser):
    wait_time = constant_throughput(10)

    @task
    def predict(self):
        self.client.post("/predict", data=b"x" * 9000)
"""

OWN_LOCUSTFILE = """
from locust import FastHttpUser, task
from locustfiles.engine import ArrivalUser

class MyUser(ArrivalUser, FastHttpUser):
    @task
    def predict(self):
        self.client.post("/predict", data=b"x" * 9000)
"""

OWN_PROTOCOL = """
from locust import User, task
from locustfiles.engine import ArrivalUser

class MyUser(ArrivalUser, User):
    @task
    def call(self):
        pass
"""

OWN_SHAPE = """
from locust import LoadTestShape

class MyShape(LoadTestShape):
    def tick(self):
        return (10, 10) if self.get_run_time() < 60 else None
"""

END_AFTER_TEN = """
        from locust.exception import StopUser
        if self.arrival[1] >= 10:
            raise StopUser
"""

BROKEN_ENCODE = """
from tests.load import steady_user

class MyUser(steady_user.SteadyUser):
    @classmethod
    def encode(cls, image):
        return {}["image"]
"""

NESTED = """
    @task
    class Flow(TaskSet):
        @task
        def step(self):
            self.client.get("/")
"""


class WebForm:
    """A Locust with a web UI, and what its form sends."""

    def __init__(self, locusts: Locusts, *arguments: str) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        locusts.start("--web-host", "127.0.0.1", "--web-port", str(port), *arguments)
        until(self._is_there, "the web UI answers")

    def _is_there(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(self._url, timeout=5).close()
            return True
        return False

    def post(self, path: str, **fields: str) -> dict[str, Any]:
        form = urllib.parse.urlencode({"user_count": "10", "spawn_rate": "10"} | fields).encode()
        with urllib.request.urlopen(f"{self._url}/{path}", form, timeout=5) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


def when_recorded(locusts: Locusts, seconds: int) -> None:
    """Wait until the record shows that load was sent for `seconds`."""
    deadline = time.monotonic() + 60
    path = locusts.record / "latency.hlog"
    while time.monotonic() < deadline:
        if path.exists() and f"Tag=latency,{seconds}.000" in path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"no load for {seconds} s: {locusts.log()}")


def freeze(server: Any, for_s: float) -> None:
    server.stop()
    time.sleep(for_s)
    server.resume()


def within(value: float, theory: float, share: float) -> bool:
    return abs(value - theory) <= share * theory


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestAFrozenServerShows:
    """2 s of 20 s at 100/s: an arrival t after the freeze began waits 2 - t seconds.

    200 of 2,000 arrivals fall into it, evenly: the share slower than x is (2 - x) * 100 / 2000 for x in
    [0, 2], so the quantile q is at x = 2 - 20 (1 - q): p95 = 1.0 s and p99 = 1.8 s, plus a few ms of service.
    """

    def test_in_the_percentiles_of_the_summary(self, steady_server: Any, locusts: Locusts) -> None:
        def measure() -> dict[str, Any]:
            server = steady_server()
            process = locusts.start(
                *("--headless", "--host", server.url, "--record", str(locusts.record), "--processes", "2"),
                *("--shape", "constant", "--rate", "100", "--run-time", "20s", "--payload", "small"),
            )
            when_recorded(locusts, 5)
            freeze(server, 2.0)
            assert process.wait(60) == 0, locusts.log()
            return locusts.summary()

        def right(summary: dict[str, Any]) -> bool:
            latency = summary["latency_ms"]
            return within(latency["p95"], 1005, 0.02) and within(latency["p99"], 1805, 0.02)

        locusts.until(right, measure)

    def test_while_plain_locust_hides_it(self, steady_server: Any, locusts: Locusts, tmp_path: Path) -> None:
        server = steady_server()
        plain = tmp_path / "plain.py"
        plain.write_text(PLAIN_LOCUST)
        process = locusts.start(
            *("--headless", "--host", server.url, "--users", "10", "--spawn-rate", "10", "--run-time", "20s"),
            *("--csv", str(tmp_path / "plain")),
            locustfile=plain,
        )
        history = tmp_path / "plain_stats_history.csv"
        until(lambda: history.exists() and rows(history)[-1:], "Locust wrote its history")
        until(lambda: int(rows(history)[-1]["Total Request Count"]) >= 300, "the load was under way")
        freeze(server, 2.0)
        process.wait(60)
        total = rows(tmp_path / "plain_stats.csv")[-1]
        assert int(total["100%"]) >= 1800  # its users did meet the freeze
        assert int(total["95%"]) < 100
        assert int(total["99%"]) < 1000


class TestLatencyIsWhatTheoryGives:
    def test_for_a_server_that_stands_still_half_a_second_in_every_five(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        """At 400/s an arrival t after the stall began waits F - t (F = 0.5 s), for t uniform in [0, F].

        A stall of F in a period P makes the share (F - x) / P of all arrivals slower than x, so the
        quantile q is at x = F - (1 - q) P: p95 = 0.25 s, p99 = 0.45 s, p99.9 = 0.495 s.  To that comes
        the service time of a request that meets no stall, which is the median of all.  The backlog of a
        stall, 200 requests, takes this server a few milliseconds more: half of it waits before the
        request at p95, a tenth before that at p99.
        """

        def measure() -> dict[str, Any]:
            return locusts.run(
                steady_server("--delay", "0", "--stall-for", "0.5", "--stall-every", "5"),
                # The first stall opens the connections that the others find open.
                *("--rate", "400", "--warmup", "5s", "--run-time", "20s"),
                *("--payload", "small", "--processes", "2"),
            )

        def right(summary: dict[str, Any]) -> bool:
            latency, service_ms = summary["latency_ms"], summary["service_ms"]["p50"]
            return latency["p50"] - service_ms < 0.5 and all(  # dispatch lag is all that lies between
                within(latency[name], 1000 * (0.5 - (1 - quantile) * 5) + service_ms, 0.02)
                for name, quantile in (("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999))
            )

        locusts.until(right, measure)

    def test_for_a_server_that_slows_from_1_to_50_ms(self, steady_server: Any, locusts: Locusts) -> None:
        """Six tenths of the arrivals are answered in 1 ms and four tenths in 50 ms, plus what the server
        and the network take for any: every quantile above 0.6 is 49 ms above the median."""

        def measure() -> dict[str, Any]:
            return locusts.run(
                steady_server("--delay", "0.001", "--then", "0.05", "--after", "6"),
                *("--rate", "400", "--run-time", "10s", "--payload", "small", "--processes", "2"),
            )

        def right(summary: dict[str, Any]) -> bool:
            latency = summary["latency_ms"]
            return all(within(latency[name], latency["p50"] + 49, 0.02) for name in ("p90", "p95", "p99"))

        locusts.until(right, measure)


class TestEveryPlannedArrivalIsAccountedFor:
    def test_all_complete_against_a_fast_server(self, steady_server: Any, locusts: Locusts) -> None:
        summary = locusts.run(
            steady_server(), "--shape", "constant", "--rate", "200", "--run-time", "10s", "--payload", "small"
        )
        assert summary["counts"] == {
            "planned": 2000,
            "sent": 2000,
            "completed": 2000,
            "failed": 0,
            "dropped": 0,
        }

    def test_those_that_find_every_user_busy_are_dropped_and_fail(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        summary = locusts.run(
            *(steady_server("--delay", "0.5"), "--rate", "20", "--run-time", "5s", "--users", "5"), expect=1
        )
        # 5 users at 0.5 s each carry 10 of the 20 arrivals a second.
        assert summary["counts"]["planned"] == 100
        assert summary["counts"]["dropped"] == pytest.approx(50, abs=5)
        assert summary["saturated"]
        total = rows(locusts.record / "stats.csv")[-1]
        assert int(total["Request Count"]) == 100
        assert int(total["Failure Count"]) == summary["counts"]["dropped"]

    def test_poisson_step_and_spike_send_their_whole_plan(self, steady_server: Any, locusts: Locusts) -> None:
        summary = locusts.run(
            *(steady_server(), "--shape", "spike", "--rate", "20", "--peak-rate", "200"),
            *("--spike-at", "2s", "--spike-for", "1s", "--run-time", "5s", "--gaps", "even"),
        )
        assert summary["counts"]["completed"] == 4 * 20 + 200

    def test_a_number_of_arrivals_ends_the_run(self, steady_server: Any, locusts: Locusts) -> None:
        summary = locusts.run(steady_server(), "--rate", "100", "--arrivals", "150")
        assert summary["counts"]["completed"] == 150

    def test_a_closed_run_makes_just_as_many_calls_as_asked(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        summary = locusts.run(steady_server(), "--shape", "closed", "--users", "3", "--arrivals", "100")
        assert summary["counts"]["completed"] == 100
        assert summary["model"] == "closed"

    def test_the_warmup_is_left_out_of_every_record(self, steady_server: Any, locusts: Locusts) -> None:
        summary = locusts.run(
            steady_server(), "--rate", "50", "--run-time", "3s", "--warmup", "2s", "--payload", "small"
        )
        assert summary["counts"]["planned"] == 150
        assert int(rows(locusts.record / "stats.csv")[-1]["Request Count"]) == 150
        assert sum(int(row["planned"]) for row in rows(locusts.record / "generator.csv")) == 150


class TestARunThatStartsItselfInTheWebUi:
    """`--autostart`: Locust's own run-time counts from its start, ours from the first arrival."""

    @staticmethod
    def start(locusts: Locusts, url: str, *arguments: str) -> subprocess.Popen[bytes]:
        return locusts.start(
            *("--autostart", "--web-host", "127.0.0.1", "--web-port", str(free_port()), "--host", url),
            *("--rate", "50", "--run-time", "2s", "--payload", "small", "--record", str(locusts.record)),
            *arguments,
        )

    def test_sends_its_whole_plan_and_quits_when_it_may(self, steady_server: Any, locusts: Locusts) -> None:
        process = self.start(locusts, steady_server().url, "--autoquit", "0")
        assert process.wait(30) == 0, locusts.log()
        assert locusts.summary()["counts"]["completed"] == 100
        assert locusts.summary()["duration_s"] == 2
        assert "No run time limit set" not in locusts.log()

    def test_stays_when_nobody_said_that_it_may_quit(self, steady_server: Any, locusts: Locusts) -> None:
        process = self.start(locusts, steady_server().url)
        until((locusts.record / "summary.json").exists, "the summary is written")
        assert locusts.summary()["counts"]["completed"] == 100
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)

    def test_quits_when_it_could_not_be_made(self, locusts: Locusts) -> None:
        process = self.start(locusts, f"http://127.0.0.1:{free_port()}", "--autoquit", "0")
        assert process.wait(30) == 3, locusts.log()


class TestATaskThatNeverReturns:
    def test_ends_with_the_plan_and_counts_as_failed(
        self, steady_server: Any, locusts: Locusts, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.py"
        own.write_text(OWN_PROTOCOL.replace("pass", "import gevent; gevent.sleep(3600)"))
        summary = locusts.run(
            *(steady_server(), "--rate", "10", "--run-time", "1s", "--users", "4"),
            *("--request-timeout", "1s", "--stop-timeout", "1"),
            expect=1,
            locustfile=own,
        )
        assert summary["failures"] == {"unfinished: stopped before the answer": 4}
        assert (summary["counts"]["failed"], summary["counts"]["dropped"]) == (4, 6)
        assert any(reason.startswith("4 tasks had not ended") for reason in summary["reasons"])
        assert (summary["cut_off"], summary["verdict"], summary["saturated"]) == (4, "suspect", True)


class TestARunWithoutUsers:
    def test_that_could_start_blames_no_server(
        self, steady_server: Any, locusts: Locusts, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.py"
        own.write_text(OWN_LOCUSTFILE + "\n    def on_start(self):\n        raise LookupError('no token')\n")
        summary = locusts.run(
            *(steady_server(), "--rate", "20", "--run-time", "1s", "--users", "3"), expect=1, locustfile=own
        )
        assert summary["counts"]["dropped"] == 20
        assert not summary["saturated"]
        assert summary["reasons"][0].startswith("no user could start")

    def test_is_refused_by_the_web_form(self, steady_server: Any, locusts: Locusts) -> None:
        form = WebForm(locusts, "--host", steady_server().url)
        answer = form.post("swarm", user_count="0", run_time="1s")
        assert not answer["success"]
        assert "--users 0 leaves nobody to send" in answer["message"]


class TestTheWebForm:
    def test_takes_an_empty_run_time_for_none(self, steady_server: Any, locusts: Locusts) -> None:
        record = ("--record", str(locusts.record))
        form = WebForm(locusts, "--host", steady_server().url, "--run-time", "30s", *record)
        assert form.post("swarm", run_time="")["success"]
        when_recorded(locusts, 1)
        form.post("stop")
        until((locusts.record / "summary.json").exists, "the summary is written")
        assert locusts.summary()["shape"]["run_time_s"] is None

    def test_keeps_the_run_time_of_a_running_test_that_is_edited(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        form = WebForm(locusts, "--host", steady_server().url, "--record", str(locusts.record))
        assert form.post("swarm", run_time="30s")["success"]
        when_recorded(locusts, 1)
        assert form.post("swarm", rate="20")["success"]
        form.post("stop")
        until((locusts.record / "summary.json").exists, "the summary is written")
        shape = locusts.summary()["shape"]
        assert (shape["rate"], shape["run_time_s"]) == (20, 30)

    def test_refuses_what_the_shape_does_not_read_only_if_it_was_changed(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        spike = {"shape": "spike", "rate": "20", "spike_at": "3s"}
        options = [part for name, text in spike.items() for part in (f"--{name.replace('_', '-')}", text)]
        form = WebForm(locusts, "--host", steady_server().url, *options)
        answer = form.post("swarm", **spike | {"shape": "constant", "steps": "1:10s"})
        assert "--steps 1:10s does nothing with --shape constant" in answer["message"]
        assert form.post("swarm", **spike | {"shape": "constant", "steps": ""})["success"]


class TestUsersThatEndInMidRun:
    def test_leave_drops_that_are_not_the_servers(
        self, steady_server: Any, locusts: Locusts, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.py"
        own.write_text(OWN_PROTOCOL.replace("pass", END_AFTER_TEN))
        summary = locusts.run(
            *(steady_server(), "--rate", "20", "--run-time", "3s", "--users", "2"), expect=1, locustfile=own
        )
        assert summary["counts"]["failed"] == 2
        assert summary["counts"]["dropped"] >= 40
        assert (summary["verdict"], summary["saturated"]) == ("invalid", False)
        assert any("while up to 2 users were missing" in reason for reason in summary["reasons"])

    def test_end_a_number_of_calls_that_nobody_is_left_to_make(
        self, steady_server: Any, locusts: Locusts, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.py"
        own.write_text(OWN_PROTOCOL.replace("pass", END_AFTER_TEN))
        summary = locusts.run(
            *(steady_server(), "--shape", "closed", "--users", "2", "--arrivals", "1000"),
            locustfile=own,
        )
        assert summary["counts"]["planned"] == 12
        assert any("up to 2 callers were missing" in reason for reason in summary["reasons"])
        assert summary["verdict"] == "suspect"


class TestARecordCanBeReadByOthers:
    def test_the_interval_log_holds_each_request_once_per_tag(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        summary = locusts.run(steady_server(), "--rate", "100", "--run-time", "3s", "--processes", "2")
        for tag in ("latency", "service", "lag"):
            merged = HdrHistogram(1, 60_000_000, 3)
            reader = HistogramLogReader(str(locusts.record / "latency.hlog"), HdrHistogram(1, 60_000_000, 3))
            while (interval := reader.get_next_interval_histogram()) is not None:
                if interval.tag == tag:
                    merged.add(interval)
            assert merged.get_total_count() == 300
            p99_ms = merged.get_value_at_percentile(99) / 1000
            assert p99_ms == pytest.approx(summary[f"{tag}_ms"]["p99"], rel=0.002)

    def test_a_second_run_does_not_overwrite_the_first(self, steady_server: Any, locusts: Locusts) -> None:
        server = steady_server()
        for _ in range(2):
            locusts.run(server, "--rate", "50", "--arrivals", "10")
        assert (locusts.folder / "record-2" / "summary.json").exists()


class TestAnybodysLocustfile:
    def test_is_paced_by_deriving_from_one_class(
        self, steady_server: Any, locusts: Locusts, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.py"
        own.write_text(OWN_LOCUSTFILE)
        summary = locusts.run(steady_server(), "--rate", "100", "--run-time", "3s", locustfile=own)
        assert summary["counts"]["completed"] == 300

    @pytest.mark.parametrize("form", ["127.0.0.1:{}", "ws://127.0.0.1:{}/chat?room=1"])
    def test_may_call_a_host_that_is_no_url_of_ours(
        self, form: str, steady_server: Any, locusts: Locusts, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.py"
        own.write_text(OWN_PROTOCOL)
        arguments = ("--headless", "--record", str(locusts.record), "--rate", "20", "--run-time", "1s")
        served = locusts.start(*arguments, "--host", form.format(steady_server().port), locustfile=own)
        assert served.wait(30) == 0, locusts.log()
        assert locusts.summary()["counts"]["completed"] == 20
        refused = locusts.start(*arguments, "--host", form.format(free_port()), locustfile=own)
        assert refused.wait(30) == 3, locusts.log()

    def test_has_one_user_class_or_says_which(
        self, steady_server: Any, locusts: Locusts, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.py"
        own.write_text(OWN_LOCUSTFILE + "\n\nclass Other(MyUser):\n    weight = 3\n")
        arguments = ("--rate", "20", "--run-time", "1s")
        assert locusts.start("--headless", *arguments, locustfile=own).wait(30) == 2
        assert "a run has one user class, and here are MyUser, Other: name one" in locusts.log()
        summary = locusts.run(steady_server(), "Other", *arguments, locustfile=own)
        assert summary["counts"]["completed"] == 20

    def test_with_a_task_set_of_its_own_pace_is_refused(self, locusts: Locusts, tmp_path: Path) -> None:
        own = tmp_path / "own.py"
        own.write_text(OWN_LOCUSTFILE.replace("import ", "import TaskSet, ", 1) + NESTED)
        assert locusts.start("--headless", "--rate", "20", locustfile=own).wait(30) == 2
        assert "MyUser has a task set, Flow, which would run at its own pace" in locusts.log()

    def test_with_a_shape_of_locusts_own_is_refused(self, locusts: Locusts, tmp_path: Path) -> None:
        own = tmp_path / "own.py"
        own.write_text(OWN_LOCUSTFILE + OWN_SHAPE)
        assert locusts.start("--headless", "--rate", "20", locustfile=own).wait(30) == 2
        assert "MyShape is a LoadTestShape, which would set users and not arrivals" in locusts.log()
        assert "--shape step --steps" in locusts.log()


class TestFailures:
    def test_of_the_server_are_named_and_end_the_run_with_1(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        server = steady_server()
        timer = threading.Timer(5.0, server.process.kill)
        timer.start()
        summary = locusts.run(server, "--rate", "50", "--run-time", "6s", "--payload", "small", expect=1)
        timer.join()
        assert summary["failures"].keys() & {"connection refused", "connection closed before an answer"}

    def test_of_the_user_to_start_the_server_end_with_3(self, locusts: Locusts) -> None:
        process = locusts.start("--headless", "--host", f"http://127.0.0.1:{free_port()}", "--rate", "10")
        assert process.wait(30) == 3, locusts.log()
        assert "is not reachable (connection refused): start the server or correct --host" in locusts.log()

    @pytest.mark.parametrize(
        "processes", [pytest.param((), id="one"), pytest.param(("--processes", "2"), id="two")]
    )
    def test_of_ones_own_locustfile_to_prepare_end_with_2_and_say_where(
        self, processes: tuple[str, ...], steady_server: Any, locusts: Locusts, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.py"
        own.write_text(BROKEN_ENCODE)
        arguments = ("--headless", "--host", steady_server().url, "--run-time", "1s", *processes)
        assert locusts.start(*arguments, locustfile=own).wait(30) == 2, locusts.log()
        assert "MyUser cannot be prepared: KeyError: 'image'" in locusts.log()
        assert 'return {}["image"]' in locusts.log()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system to fill up")
    def test_of_a_full_disk_end_the_run_with_3_and_keep_what_is_written(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        locusts.record.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "none", str(locusts.record)]
        if subprocess.run(mount, check=False).returncode:
            pytest.skip("this sandbox mounts nothing")
        try:
            arguments = ("--headless", "--host", steady_server().url, "--record", str(locusts.record))
            process = locusts.start(*arguments, "--rate", "200", "--run-time", "60s", "--payload", "small")
            assert process.wait(60) == 3, locusts.log()
            assert "No space left on device" in locusts.log()
            assert "Tag=latency" in (locusts.record / "latency.hlog").read_text()
        finally:
            subprocess.run(["umount", str(locusts.record)], check=True)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            pytest.param(("--rate", "-5"), "'-5' is not an arrival rate", id="a negative rate"),
            pytest.param(("--users", "0"), "--users 0 leaves nobody to send", id="no users"),
            pytest.param(
                ("--steps", "1:10s"), "--steps 1:10s does nothing with --shape constant", id="unread"
            ),
            pytest.param(("--run-time", "0s"), "--run-time must be longer than 0 s", id="no time"),
        ],
    )
    def test_bad_options_end_with_2_and_a_sentence(
        self, options: tuple[str, ...], sentence: str, locusts: Locusts
    ) -> None:
        process = locusts.start("--headless", *options)
        assert process.wait(60) == 2
        assert sentence in locusts.log()


class TestWorkersComeAndGo:
    RATE = 400

    def master(
        self, locusts: Locusts, url: str, workers: int, run_time_s: int
    ) -> tuple[Any, tuple[str, ...]]:
        """A master that begins with so many workers, and what each of those is started with."""
        port = str(free_port())
        process = locusts.start(
            *("--headless", "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port),
            *("--expect-workers", str(workers), "--host", url, "--record", str(locusts.record)),
            *("--rate", str(self.RATE), "--run-time", f"{run_time_s}s", "--payload", "small"),
            *("--users", "400"),
        )
        return process, ("--worker", "--master-host", "127.0.0.1", "--master-port", port)

    def start(self, locusts: Locusts, url: str, workers: int, run_time_s: int) -> list[Any]:
        master, worker = self.master(locusts, url, workers, run_time_s)
        return [master] + [locusts.start(*worker) for _ in range(workers)]

    def test_the_others_carry_the_share_of_one_killed_and_one_stopped(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        server = steady_server()
        master, killed, stopped, *_ = self.start(locusts, server.url, workers=4, run_time_s=16)
        when_recorded(locusts, 2)
        killed_at = time.time()
        os.killpg(killed.pid, signal.SIGKILL)
        when_recorded(locusts, 7)
        os.killpg(stopped.pid, signal.SIGSTOP)
        assert master.wait(60) == 1, locusts.log()
        summary = locusts.summary()
        assert summary["counts"]["planned"] == 16 * self.RATE
        assert len(summary["lost_workers"]) == 2
        # The first second of the plan that begins three seconds after the kill is whole again.
        log = read_hlog(locusts.record / "latency.hlog", "log", [])
        assert log.start_epoch_s is not None
        whole = math.ceil(killed_at + 3 - log.start_epoch_s)
        latency = log.tag("latency")
        answered = latency.count[latency.start_s[latency.row] == whole].sum()
        assert answered == pytest.approx(self.RATE, rel=0.1)
        assert summary["verdict"] != "valid"
        assert any("was lost at" in reason for reason in summary["reasons"])

    def test_those_that_join_at_the_same_moment_all_get_a_share(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        """Locust overlooks a worker that connects while it gives users to another, or tells it too early."""
        server = steady_server()
        master, worker = self.master(locusts, server.url, workers=1, run_time_s=15)
        locusts.start(*worker)
        when_recorded(locusts, 1)
        for _ in range(3):
            locusts.start(*worker)
        assert master.wait(60) in (0, 1), locusts.log()  # 1 where this machine was late with some
        counts = locusts.summary()["counts"]
        assert counts["planned"] == 15 * self.RATE
        assert counts["failed"] == 0  # users that had to go failed none
        sent = [row["worker"] for row in rows(locusts.record / "generator.csv") if int(row["sent"])]
        assert len(set(sent)) == 4

    def test_one_that_leaves_while_another_takes_its_place_costs_no_count(
        self, steady_server: Any, locusts: Locusts
    ) -> None:
        server = steady_server()
        master, worker = self.master(locusts, server.url, workers=2, run_time_s=10)
        leaving, _ = locusts.start(*worker), locusts.start(*worker)
        when_recorded(locusts, 2)
        leaving.terminate()
        locusts.start(*worker)
        assert master.wait(60) in (0, 1), locusts.log()
        counts = locusts.summary()["counts"]
        assert counts["planned"] == 10 * self.RATE
        assert counts["planned"] == counts["completed"] + counts["failed"] + counts["dropped"]

    def test_one_that_is_done_long_before_the_others_is_not_lost(
        self, steady_server: Any, locusts: Locusts, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.py"
        slow_at_the_end = f"import gevent; gevent.sleep({2 * SILENT_S} * (self.arrival[1] == 19))"
        own.write_text(OWN_PROTOCOL.replace("pass", slow_at_the_end))
        summary = locusts.run(
            *(steady_server(), "--rate", "20", "--run-time", "1s", "--processes", "2"), locustfile=own
        )
        assert summary["counts"]["completed"] == 20
        assert summary["lost_workers"] == []

    def test_workers_end_when_their_master_is_killed(self, steady_server: Any, locusts: Locusts) -> None:
        server = steady_server()
        master, *workers = self.start(locusts, server.url, workers=2, run_time_s=60)
        when_recorded(locusts, 2)
        os.killpg(master.pid, signal.SIGKILL)
        for worker in workers:
            worker.wait(20)
        assert "Tag=lag" in (locusts.record / "latency.hlog").read_text()

    def test_ctrl_c_finishes_the_record(self, steady_server: Any, locusts: Locusts) -> None:
        server = steady_server()
        process = locusts.start(
            *("--headless", "--host", server.url, "--record", str(locusts.record), "--processes", "2"),
            *("--rate", "50", "--run-time", "60s", "--payload", "small"),
        )
        when_recorded(locusts, 2)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
        summary = locusts.summary()
        assert summary["counts"]["completed"] >= 100
        assert "the run was stopped before its planned end" in summary["reasons"]
