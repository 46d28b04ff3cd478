"""How many workers one master carries: a real master, and workers of which only the messages are real.

    python -m scripts.bench_workers 10 100 500 1000

Each worker says hello, answers pings and reports once a second what a worker at `--rate` requests a second
would, all from one process; so a machine of two cores can ask the master about a thousand. Printed for each
number of workers: the reports that it merged, the CPU that it used for that, its memory, and how many workers
it took for lost.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gevent
import gevent.monkey

gevent.monkey.patch_all()

import numpy as np  # noqa: E402  # Locust wants its patches first
import psutil  # noqa: E402
import zmq.green  # noqa: E402
from locust import __version__ as locust_version  # noqa: E402
from locust.rpc import Message, zmqrpc  # noqa: E402

from locustfiles.engine.recorder import Outcome, Recorder  # noqa: E402
from scripts.server import HOST, free_port  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
USER = (
    "from locustfiles.engine import ArrivalUser\nfrom locust import task\n\n\nclass Nobody(ArrivalUser):\n"
    + ("    @task\n    def nothing(self):\n        pass\n")
)


class Worker:
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


def measure(workers: int, rate: float, seconds: float) -> str:
    """Return a line of the table."""
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "user.py").write_text(USER)
        command = [sys.executable, "-m", "locust", "-f", f"{scratch}/user.py", "--headless", "--master"]
        command += ["--master-bind-host", HOST, "--master-bind-port", str(port), "--users", str(workers)]
        command += ["--expect-workers", str(workers), "--rate", str(rate * workers), "--run-time", "600s"]
        command += ["--record", f"{scratch}/out", "--only-summary"]
        log = (Path(scratch) / "log").open("w+")
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        master = subprocess.Popen(command, stdout=log, stderr=log, env=environ, cwd=scratch)
        process = psutil.Process(master.pid)
        increment = one_report(rate)
        fleet = [Worker(number, port, increment, round(rate)) for number in range(workers)]
        try:
            out = Path(scratch) / "out" / "generator.csv"
            while not out.exists() or _rows(out) < 2 * workers:
                if master.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"The master ended: {log.read()[-2000:]}")
                gevent.sleep(0.5)
            before, began_s, rows = process.cpu_times(), time.monotonic(), _rows(out)
            gevent.sleep(seconds)
            after, span_s = process.cpu_times(), time.monotonic() - began_s
            reports = (_rows(out) - rows) / span_s
            cores = (after.user + after.system - before.user - before.system) / span_s
            memory_mb = process.memory_info().rss / 1e6
            log.seek(0)
            lost = log.read().count("is lost")
        finally:
            master.kill()
            master.wait()
            for worker in fleet:
                worker.end()
    return f"{workers:8d} {reports:10.0f} {cores:14.3f} {memory_mb:10.0f} {lost:6d}"


def _rows(file: Path) -> int:
    return file.read_bytes().count(b"\n")


def main() -> None:
    """Measure each number of workers that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workers", type=int, nargs="+")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second that each reports")
    parser.add_argument("--seconds", type=float, default=15.0)
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    zmq.green.Context.instance().set(zmq.MAX_SOCKETS, 8192)
    zmq.green.Context = zmq.green.Context.instance  # type: ignore[assignment,misc]  # not two threads for each
    print(f"{socket.gethostname()}, {os.cpu_count()} cores; each worker reports {given.rate:g} requests/s")
    print(f"{'workers':>8} {'reports/s':>10} {'master, cores':>14} {'master, MB':>10} {'lost':>6}")
    for workers in given.workers:
        print(measure(workers, given.rate, given.seconds), flush=True)


if __name__ == "__main__":
    main()
