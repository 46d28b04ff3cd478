"""Whole runs in kind, through the command: measured as on this machine, and what can go wrong there."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from scripts.cluster import images, kind
from scripts.cluster.ui import asks_for_login
from scripts.cluster.web_password import USER, web_password
from scripts.project import Project
from scripts.server import free_port
from tests.kind.echo_project import NAMESPACE, EchoInKind, make_project
from tests.logins import answer, log_in, sees
from tests.projects import ROOT
from tests.waiting import until

pytestmark = pytest.mark.kind

PATIENCE_S = 240
PLAN = """
warmup = "2s"
warmup_requests = 5
backends = ["echo"]

[[scenario]]
name = "{name}"
rate = {rate}
run_time = "{seconds}s"
"""
READ_CPU = (
    "import os, time; v1 = '/sys/fs/cgroup/cpuacct/cpuacct.usage'; "
    "cpu = int(open(v1).read()) / 1e9 if os.path.exists(v1) else "
    "int(open('/sys/fs/cgroup/cpu.stat').readline().split()[1]) / 1e6; print(time.time(), cpu)"
)
NODE_OF = "jsonpath={.items[0].spec.nodeName}"
STOP_SERVER = (
    "import os, signal, time; "
    "(pid,) = [int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid() and "
    "b'/app/server.py' in open(f'/proc/{p}/cmdline', 'rb').read()]; "
    "os.kill(pid, signal.SIGSTOP); time.sleep(2); os.kill(pid, signal.SIGCONT)"
)


@dataclass
class Done:
    """A run that has ended: what the command said, and what the test saw of it meanwhile."""

    project: EchoInKind
    folder: Path
    status: int
    output: str
    seen: dict[str, Any] = field(default_factory=dict)

    def trial(self, path: str) -> dict[str, Any]:
        record = json.loads((self.folder / "run.json").read_text())
        (found,) = [trial for trial in record["trials"] if trial["path"] == path]
        return dict(found)

    def summary(self, path: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / path / "summary.json").read_text()))

    def rows(self, path: str) -> list[dict[str, str]]:
        return list(csv.DictReader((self.folder / path).open()))


def runs_of(project: EchoInKind, scenario: str) -> list[Path]:
    """The runs that have trials of a scenario."""
    files = (project.root / "results").glob("*/run.json")
    return [file.parent for file in files if f"/{scenario}/" in file.read_text()]


def seconds_of_load(project: EchoInKind, path: str) -> int:
    """How many seconds of a trial's load this machine knows of."""
    with contextlib.suppress(OSError, ValueError):
        rows = csv.DictReader((project.run_folder() / path / "generator.csv").open())
        return len({int(float(row["time"])) for row in rows if int(row["planned"])})
    return 0


@contextlib.contextmanager
def running(
    project: EchoInKind, name: str, rate: int, seconds: int, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """A run, ended in order if the test fails."""
    process = project.run(project.plan(PLAN.format(name=name, rate=rate, seconds=seconds)), *arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)


@contextlib.contextmanager
def under_load(
    project: EchoInKind, name: str, rate: int, seconds: int, after_s: int
) -> Iterator[subprocess.Popen[str]]:
    """A run of the echo server that has loaded it for so many seconds."""
    with running(project, name, rate, seconds) as process:
        await_load(project, process, f"echo/{name}/1", after_s)
        yield process


def await_load(project: EchoInKind, process: subprocess.Popen[str], path: str, after_s: int) -> None:
    def loaded() -> bool:
        return seconds_of_load(project, path) >= after_s or process.poll() is not None

    until(loaded, f"there were {after_s} s of load", PATIENCE_S)


def finish(project: EchoInKind, process: subprocess.Popen[str], seen: dict[str, Any] | None = None) -> Done:
    output, _ = process.communicate(timeout=600)
    return Done(project, project.run_folder(), process.returncode, output, seen or {})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoInKind]:
    """The project; the cluster is removed at the end if it was made here."""
    if reason := kind.unusable(Project(ROOT)):
        pytest.skip(f"kind cannot be used: {reason}")
    there = kind.exists()
    project = make_project(tmp_path_factory.mktemp("echo"))
    project.add("echo")
    try:
        yield project
    finally:
        project.end()
        made_here = images.find_images(Project(project.root))
        images.remove([image for image in made_here if image.name != images.LOAD_SIDE])
        if not there and not os.environ.get("KEEP_CLUSTER"):
            subprocess.run(["kind", "delete", "cluster", "--name", kind.CLUSTER], check=False)
        else:
            project.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")


def cgroup_s(project: EchoInKind) -> tuple[float, float]:
    """The time and the CPU seconds of the server's container, by its own cgroup."""
    words = project.kubectl("exec", "deployment/echo", "-c", "server", "--", "python", "-c", READ_CPU)
    at_s, cpu_s = map(float, words.split())
    return at_s, cpu_s


@pytest.fixture(scope="module")
def steady(made: EchoInKind) -> Done:
    """Half a minute of even load, during which the server's own cgroup is read twice."""
    with under_load(made, "steady", rate=100, seconds=30, after_s=3) as process:
        first = cgroup_s(made)
        second = made.run("plan.toml")
        refusal, _ = second.communicate(timeout=120)
        await_load(made, process, "echo/steady/1", 25)
        seen = {"cgroup": (first, cgroup_s(made)), "refusal": (second.returncode, refusal)}
        return finish(made, process, seen)


class TestARunInKind:
    def test_measures_as_on_this_machine(self, steady: Done) -> None:
        assert steady.status in (0, 3), steady.output  # 3: the machine was too busy for a valid verdict
        trial = steady.trial("echo/steady/1")
        assert (trial["status"], trial["error"]) == ("ok", None)
        assert trial["parity"] == {"checked": 3, "wrong": 0}
        counts = steady.summary("echo/steady/1")["counts"]
        assert counts["planned"] == 3000
        assert counts["completed"] + counts["failed"] + counts["dropped"] == 3000
        assert counts["completed"] > 2900

    def test_has_cpu_and_memory_of_servers_and_generators_in_the_folder(self, steady: Done) -> None:
        rows = steady.rows("echo/steady/1/pods.csv")
        assert {row["component"] for row in rows} == {"server", "generator"}
        assert len({row["pod"] for row in rows if row["component"] == "generator"}) == 3
        server = [row for row in rows if row["component"] == "server"]
        assert len(server) >= 20
        assert all(int(row["memory_bytes"]) > 1_000_000 and row["ready"] == "1" for row in server)

    def test_has_logs_and_events_in_the_folder(self, steady: Done) -> None:
        folder = steady.folder / "echo" / "steady" / "1"
        assert "the echo server listens" in (folder / "server.log").read_text()
        assert "locust-worker" in (folder / "locust.log").read_text()
        assert "Scheduled" in {row["reason"] for row in steady.rows("echo/steady/1/events.csv")}
        assert (steady.folder / "report.html").exists()

    def test_has_the_cpu_that_the_containers_own_cgroup_counted(self, steady: Done) -> None:
        (begin_s, before), (end_s, after) = steady.seen["cgroup"]
        rows = [row for row in steady.rows("echo/steady/1/pods.csv") if row["container"] == "server"]
        times = [float(row["time"]) for row in rows]
        spans = [
            (b, a, float(row["cpu_cores"])) for b, a, row in zip(times, times[1:], rows[1:], strict=False)
        ]
        inside = [(a - b, cores) for b, a, cores in spans if b >= begin_s and a <= end_s]
        assert sum(span for span, _ in inside) > 15
        mean = sum(span * cores for span, cores in inside) / sum(span for span, _ in inside)
        assert mean == pytest.approx((after - before) / (end_s - begin_s), rel=0.1)

    def test_keeps_others_out_of_its_namespace_and_says_who_it_is(self, steady: Done) -> None:
        status, output = steady.seen["refusal"]
        assert status == 3
        assert f"The namespace {NAMESPACE} is used by the run {steady.folder.name} of" in output

    def test_leaves_nothing_in_the_namespace(self, steady: Done) -> None:
        kinds = "pods,deployments,jobs,services,persistentvolumeclaims,leases,poddisruptionbudgets"
        assert steady.project.kubectl("get", kinds, "-o", "name") == ""
        left = steady.project.kubectl("get", "configmaps", "-o", "name").split()
        assert left == ["configmap/kube-root-ca.crt"]


class TestAServerThatIsStoppedForTwoSecondsInItsPod:
    def test_shows_in_the_percentiles_as_theory_says(self, made: EchoInKind) -> None:
        with under_load(made, "freeze", rate=100, seconds=20, after_s=6) as process:
            made.kubectl("exec", "deployment/echo", "-c", "server", "--", "python", "-c", STOP_SERVER)
            done = finish(made, process)
        assert done.trial("echo/freeze/1")["status"] == "ok", done.output
        latency = done.summary("echo/freeze/1")["latency_ms"]
        # 2,000 arrivals; one that comes t seconds into the stop waits 2 - t seconds.
        assert latency["p95"] == pytest.approx(1005, rel=0.05)
        assert latency["p99"] == pytest.approx(1805, rel=0.05)


class TestAWorkerPodThatIsDeletedInTheMiddleOfATrial:
    def test_leaves_no_gap_and_is_counted_and_told(self, made: EchoInKind) -> None:
        with under_load(made, "lost", rate=50, seconds=25, after_s=6) as process:
            label = "app.kubernetes.io/name=locust-worker"
            pod, *_ = made.kubectl("get", "pods", "-l", label, "-o", "name").split()
            made.kubectl("delete", pod, "--grace-period=0", "--force")
            done = finish(made, process)
        assert done.trial("echo/lost/1")["status"] == "ok", done.output
        summary = done.summary("echo/lost/1")
        counts = summary["counts"]
        assert counts["planned"] == 1250
        assert counts["completed"] + counts["failed"] + counts["dropped"] == 1250
        assert [worker["worker"] for worker in summary["lost_workers"]]
        assert any("lost" in reason for reason in summary["reasons"])
        assert longest_silence_s(done.rows("echo/lost/1/generator.csv")) <= 5


def sending(folder: Path) -> int:
    """How many workers sent something in the newest second that this machine knows of."""
    with contextlib.suppress(OSError, ValueError):
        rows = [row for row in csv.DictReader((folder / "generator.csv").open()) if int(row["planned"])]
        newest = max(int(float(row["time"])) for row in rows) - 1  # the last one may still be coming
        return len({row["worker"] for row in rows if int(float(row["time"])) == newest})
    return 0


class TestWorkersThatAreScaledByHandInTheMiddleOfATrial:
    def test_are_dealt_the_plan_again_and_everything_is_counted(self, made: EchoInKind) -> None:
        def scale(workers: int) -> None:
            made.kubectl("scale", "deployment/locust-worker", f"--replicas={workers}")
            folder = made.run_folder() / "echo" / "scaled" / "1"
            until(lambda: sending(folder) == workers, f"{workers} workers send", PATIENCE_S)

        with under_load(made, "scaled", rate=50, seconds=90, after_s=4) as process:
            scale(4)
            scale(1)
            done = finish(made, process)
        assert done.trial("echo/scaled/1")["status"] == "ok", done.output
        counts = done.summary("echo/scaled/1")["counts"]
        assert counts["planned"] == 4500
        assert counts["completed"] + counts["failed"] + counts["dropped"] == 4500
        rows = done.rows("echo/scaled/1/generator.csv")
        assert len({row["worker"] for row in rows}) >= 4
        assert longest_silence_s(rows) <= 5


def longest_silence_s(rows: list[dict[str, str]]) -> float:
    """The longest time between two seconds in which anything was completed."""
    by_second = sorted((int(float(row["time"])), int(row["completed"])) for row in rows)
    busy = [at for at, group in groupby(by_second, key=lambda row: row[0]) if sum(n for _, n in group)]
    return max(after - before for before, after in pairwise(busy))


def send_signal(name: str, node: str, program: str) -> None:
    command = f"kill -{name} $(pidof {program})"
    subprocess.run(["docker", "exec", node, "sh", "-c", command], check=True, capture_output=True)


class TestAnApiServerThatIsAwayForHalfAMinute:
    def test_in_the_middle_of_a_trial_is_waited_for(self, made: EchoInKind) -> None:
        with under_load(made, "away", rate=20, seconds=45, after_s=4) as process:
            node = f"{kind.CLUSTER}-control-plane"
            send_signal("STOP", node, "kube-apiserver")
            try:
                threading.Event().wait(30)
            finally:
                send_signal("CONT", node, "kube-apiserver")
            done = finish(made, process)
        assert done.trial("echo/away/1")["status"] == "ok", done.output
        assert done.summary("echo/away/1")["counts"]["planned"] == 900


class TestANodeThatFallsSilent:
    def test_ends_the_trial_with_its_name_and_the_others_go_on(self, made: EchoInKind) -> None:
        made.add("next")
        with running(made, "silent", 20, 90, "--backends", "echo,next") as process:
            until(lambda: len(runs_of(made, "silent")) == 1, "the run has begun", PATIENCE_S)
            first, second = (trial["path"] for trial in made.run_json()["trials"])
            await_load(made, process, first, 4)
            server = first.partition("/")[0]
            node = made.kubectl("get", "pods", "-l", f"app.kubernetes.io/name={server}", "-o", NODE_OF)
            send_signal("STOP", node, "kubelet")
            try:
                until(lambda: made.run_json()["trials"][0]["ended"], "the trial has ended", PATIENCE_S)
            finally:
                send_signal("CONT", node, "kubelet")
            done = finish(made, process)
        error = done.trial(first)["error"]
        assert error.startswith(f"server pod {server}-")
        assert f"is on the node {node}, which is not ready" in error
        assert done.trial(second)["status"] == "ok", done.output
        assert done.status == 3
        assert (done.folder / "report.html").exists()


class TestADetachedRun:
    def test_whose_client_is_killed_is_completed_by_attach(self, made: EchoInKind) -> None:
        plan = made.plan(PLAN.format(name="far", rate=50, seconds=20))
        started = made.run(plan, "--trials", "2", "--detach")
        output, _ = started.communicate(timeout=300)
        assert started.returncode == 0, output
        folder = made.run_folder()
        assert f"modelswarm attach {folder.name}" in output
        driver = int(output.partition("(process ")[2].partition(")")[0])
        until(lambda: seconds_of_load(made, "echo/far/1") >= 4, "the first trial is under way", PATIENCE_S)
        os.kill(driver, signal.SIGKILL)
        (folder / "echo" / "far" / "1" / "generator.csv").unlink()
        attached = made.start("attach", folder.name)
        done = finish(made, attached)
        record = done.project.run_json()
        assert record["status"] == "complete", done.output
        assert [trial["status"] for trial in record["trials"]] == ["ok", "ok"]
        assert record["resumed"][0]["under_way"] == ["echo/far/1"]
        for number in (1, 2):
            summary = done.summary(f"echo/far/{number}")
            assert summary["counts"]["planned"] == 1000
            completed = sum(int(row["completed"]) for row in done.rows(f"echo/far/{number}/generator.csv"))
            assert completed == summary["counts"]["completed"]


class TestBackendsThatFailInACluster:
    @pytest.fixture(scope="class")
    def failed(self, made: EchoInKind) -> Done:
        made.add("absent", image="modelswarm/nowhere:9.9")
        made.add("waiting", fault="never_ready")
        made.add("greedy", fault="greedy", memory="64Mi")
        plan = made.plan(PLAN.format(name="short", rate=20, seconds=5))
        names = "absent,waiting,greedy,echo"
        return finish(made, made.run(plan, "--backends", names))

    def test_do_not_stop_the_others_and_end_the_run_with_3(self, failed: Done) -> None:
        assert failed.trial("echo/short/1")["status"] == "ok", failed.output
        assert failed.status == 3

    def test_for_want_of_an_image_name_the_pod_and_the_image(self, failed: Done) -> None:
        error = failed.trial("absent/short/1")["error"]
        assert error.startswith("server pod absent-")
        assert "its image modelswarm/nowhere:9.9 cannot be pulled (ImagePullBackOff)" in error

    def test_by_never_getting_ready_quote_the_probe_and_the_log(self, failed: Done) -> None:
        error = failed.trial("waiting/short/1")["error"]
        assert "was not ready within 65 s (Readiness probe failed: HTTP probe failed" in error
        assert error.endswith("its log ends: the waiting server listens")
        assert "the waiting server listens" in (failed.folder / "waiting/short/1/server.log").read_text()

    def test_for_want_of_memory_name_the_limit(self, failed: Done) -> None:
        error = failed.trial("greedy/short/1")["error"]
        assert "was killed for its memory (OOMKilled, limit 64Mi)" in error


class TestStoppingARunInKind:
    def test_with_ctrl_c_fetches_what_there_is_and_leaves_nothing(self, made: EchoInKind) -> None:
        path = "echo/stopped/1"
        with under_load(made, "stopped", rate=20, seconds=60, after_s=4) as process:
            process.send_signal(signal.SIGINT)
            done = finish(made, process)
        assert done.status == 3, done.output
        assert done.trial(path)["status"] == "interrupted"
        counts = done.summary(path)["counts"]
        assert 0 < counts["planned"] == counts["completed"] + counts["failed"] + counts["dropped"]
        assert made.kubectl("get", "pods,leases", "-o", "name") == ""


class TestTheWebUiInKind:
    def test_refuses_who_has_not_logged_in(self, made: EchoInKind) -> None:
        port = free_port()
        where = ("--target", "kind", "--namespace", NAMESPACE, "--port", str(port))
        process, url = made.start("ui", "--backend", "echo", *where), f"http://127.0.0.1:{port}"

        def there() -> bool:
            assert process.poll() is None, process.communicate()[0]
            return asks_for_login(port)

        try:
            until(there, "the web UI asks for the login", 2 * PATIENCE_S)
            assert answer(url, "GET", "/") == (302, "/login")
            assert answer(url, "POST", "/swarm") == (302, "/login")
            assert not sees(log_in(url, USER, "wrong"), url)
            assert sees(log_in(url, USER, web_password(Project(made.root))), url)
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert made.kubectl("get", "deployments,secrets,leases", "-o", "name") == ""
