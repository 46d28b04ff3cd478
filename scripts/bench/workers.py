"""How many workers one master carries: a real master, and workers of which all or only the messages are real.

    python -m scripts.bench.workers --real 10 20 40
    python -m scripts.bench.workers 100 500 1000

With `--real` each worker is a Locust process that sends `--rate` requests a second to nginx. Without, it says
hello, answers pings and reports once a second what such a worker would, all from one process; so a machine of
two cores can ask the master about a thousand. Printed for each number of workers: the requests that they
reported, the reports that the master merged, the CPU that it used for that, its memory, and how many workers
it took for lost.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gevent
import gevent.monkey

gevent.monkey.patch_all()

import numpy as np  # noqa: E402  # Locust wants its patches first
import psutil  # noqa: E402  # after the patches
import zmq.green  # noqa: E402  # after the patches
from locust import __version__ as locust_version  # noqa: E402  # after the patches
from locust.rpc import Message, zmqrpc  # noqa: E402  # after the patches

from locustfiles.engine.recorder import Outcome, Recorder  # noqa: E402  # after the patches
from scripts.bench.generators import OURS, make_payload, nginx  # noqa: E402  # after the patches
from scripts.cores import usable_cores  # noqa: E402  # after the patches
from scripts.server import HOST, free_port  # noqa: E402  # after the patches

ROOT = Path(__file__).resolve().parents[2]
START_PATIENCE_S = 120.0


class Simulated:
    """The messages of one worker."""

    def __init__(self, number: int, port: int, increment: Mapping[str, Any], planned: int) -> None:
        """Connect to the master on `port`; every report carries `increment`."""
        self.name, self._state = f"simulated_{number}", "ready"
        self._client = zmqrpc.Client(HOST, port, self.name)
        self._number, self._deal, self._start = number, 0, 0.0
        self._increment, self._planned = increment, planned
        self._greenlets = [gevent.spawn(self._listen), gevent.spawn(self._live)]
        self._send("client_ready", locust_version)

    def _send(self, kind: str, data: Any) -> None:
        self._client.send(Message(kind, data, self.name))

    def _listen(self) -> None:
        while True:
            message = self._client.recv()
            if message.type == "spawn":
                counts = message.data["user_classes_count"]
                self._state = "running"
                self._send("spawning", None)
                total = sum(counts.values())
                self._send("spawning_complete", {"user_classes_count": counts, "user_count": total})
                if not self._deal:
                    self._send("swarm_hello", {"worker": self.name, "host": "simulated", "pid": self._number})
            elif message.type == "swarm_ping":
                now = {"monotonic": time.monotonic(), "epoch": time.time()}
                self._send("swarm_pong", {"worker": self.name, **message.data, **now})
            elif message.type == "swarm_deal":
                self._deal = message.data["generation"]
                self._start = message.data["start"]
            elif message.type == "quit":
                return

    def _live(self) -> None:
        gevent.sleep(self._number % 100 / 100)  # not all at the same instant
        while True:
            beat = {"state": self._state, "current_cpu_usage": 10, "current_memory_usage": 1}
            self._send("heartbeat", beat)
            if self._deal:
                self._report()
            gevent.sleep(1.0)

    def _report(self) -> None:
        now = time.monotonic()
        (entry,) = self._increment["seconds"].values()
        increment = {**self._increment, "seconds": {max(0, int(now - self._start)): entry}}
        tick = {
            "worker": self.name,
            "generation": self._deal,
            "time": time.time(),
            "plan_s": now - self._start,
            "increment": increment,
            "planned": self._planned,
            "accounted_s": now - self._start,
            "in_flight": 1,
            "users": 1,
            "cpu_cores": 0.1,
            "interval_s": 1.0,
            "rss_bytes": 1,
            "pause_s": 0.0,
            "precise": True,
            "done": False,
        }
        self._send("swarm_tick", tick)

    def end(self) -> None:
        """Fall silent."""
        gevent.killall(self._greenlets)
        self._client.close()


def one_report(rate: float) -> dict[str, Any]:
    """Return what a worker records in a second at so many requests a second, as its report has it."""
    recorder, random = Recorder(), np.random.default_rng(1)
    recorder.start = recorder.since = 0.0
    key = recorder.key(Outcome("POST", "small", None))
    for took_s in random.lognormal(-4.0, 0.5, round(rate)):
        recorder.record(0.0, 0.0, float(took_s), key, 500)
    return recorder.take().to_message()


class Real:
    """A Locust process that is one worker."""

    def __init__(self, locust: Sequence[str], port: int, environ: Mapping[str, str]) -> None:
        """Start `locust`, a command with its locustfile, and connect it to the master on `port`."""
        command, quiet = [*locust, "--worker", "--master-port", str(port)], subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environ)

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def measure(workers: int, given: argparse.Namespace, folder: Path, url: str) -> str:
    """Return a line of the table."""
    port, record, said = free_port(), folder / f"record-{workers}", folder / "log"
    locust = [sys.executable, "-m", "locust", "-f", str(folder / "user.py")]
    command = [*locust, "--headless", "--master", "--master-bind-host", HOST]
    command += ["--master-bind-port", str(port), "--users", str(10 * workers)]
    command += ["--expect-workers", str(workers), "--rate", str(given.rate * workers), "--run-time", "600s"]
    command += ["--record", str(record), "--only-summary", "--host", url]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "MODELSWARM_MODEL_DIR": str(folder / "model")}
    fleet: list[Real | Simulated] = []
    with said.open("w") as log:
        master = subprocess.Popen(command, stdout=log, stderr=log, env=environ, cwd=folder)
        try:
            increment = one_report(given.rate)
            for number in range(workers):
                if given.real:
                    fleet.append(Real(locust, port, environ))
                else:
                    fleet.append(Simulated(number, port, increment, round(given.rate)))
            deadline = time.monotonic() + START_PATIENCE_S
            while len(_reports(record)) < 2 * workers:
                if master.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"The master did not get going: {said.read_text()[-2000:]}")
                gevent.sleep(0.5)
            seen = _watch(psutil.Process(master.pid), record, given.seconds)
            return f"{workers:8d} {seen} {said.read_text().count('is lost'):5d}"
        finally:
            master.kill()
            master.wait()
            for worker in fleet:
                worker.end()


def _watch(master: psutil.Process, record: Path, seconds: float) -> str:
    """What the workers reported, and what that cost the master, over some seconds."""
    before, began_s, known = master.cpu_times(), time.monotonic(), len(_reports(record))
    gevent.sleep(seconds)
    after, span_s = master.cpu_times(), time.monotonic() - began_s
    reports = _reports(record)[known:]
    requests = sum(int(report["completed"]) for report in reports)
    cores = (after.user + after.system - before.user - before.system) / span_s
    memory_mb = master.memory_info().rss / 1e6
    return f"{requests / span_s:11.0f} {len(reports) / span_s:10.0f} {cores:14.3f} {memory_mb:10.0f} "


def _reports(record: Path) -> list[dict[str, str]]:
    """The lines of generator.csv: one for each report of a worker."""
    with contextlib.suppress(FileNotFoundError), (record / "generator.csv").open(newline="") as file:
        return list(csv.DictReader(file))
    return []


def main() -> None:
    """Measure each number of workers that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workers", type=int, nargs="+")
    parser.add_argument("--real", action="store_true", help="whole workers that send to nginx")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second of each")
    parser.add_argument("--seconds", type=float, default=15.0)
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    zmq.green.Context.instance().set(zmq.MAX_SOCKETS, 8192)
    zmq.green.Context = zmq.green.Context.instance  # type: ignore[assignment,misc]  # not two threads for each
    print(f"{socket.gethostname()}, {os.cpu_count()} cores; {given.rate:g} requests/s and worker")
    titles = f"{'workers':>8} {'requests/s':>11} {'reports/s':>10}"
    print(f"{titles} {'master, cores':>14} {'master, MB':>10} {'lost':>5}")
    with tempfile.TemporaryDirectory() as scratch, nginx(Path(scratch), usable_cores() or (0,)) as (url, _):
        folder = Path(scratch)
        make_payload(folder)
        (folder / "user.py").write_text(OURS)
        for workers in given.workers:
            print(measure(workers, given, folder, url), flush=True)


if __name__ == "__main__":
    main()
