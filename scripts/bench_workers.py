"""How many workers one master carries: a real master, and workers of which only the messages are real.

    python -m scripts.bench_workers 10 100 500 1000

Each worker says hello, answers pings and reports once a second what a worker at `--rate` requests a second
would, all from one process; so a machine of two cores can ask the master about a thousand. Printed for each
number of workers: the CPU that the master used while it merged them, its memory, and how many it took
for lost.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
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

    def __init__(self, number: int, port: int, rate: float) -> None:
        """Connect to the master on `port`."""
        self.name, self._state = f"simulated_{number}", "ready"
        self._client = zmqrpc.Client(HOST, port, self.name)
        self._rate, self._number, self._deal, self._start = rate, number, 0, 0.0
        self._recorder = Recorder()
        self._key = self._recorder.key(Outcome("POST", "small", None))
        self._random = np.random.default_rng(number)
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
                self._start = self._recorder.start = self._recorder.since = message.data["start"]
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
        count = round(self._rate)
        took_s = self._random.lognormal(-4.0, 0.5, count)
        if now - self._start > 1:
            for ended, took in zip(now - self._random.random(count), took_s, strict=True):
                self._recorder.record(ended - took, ended - took, ended, self._key, 500)
        tick = {
            "worker": self.name,
            "generation": self._deal,
            "time": time.time(),
            "plan_s": now - self._start,
            "increment": self._recorder.take().to_message(),
            "planned": count,
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
        fleet = [Worker(number, port, rate) for number in range(workers)]
        try:
            out = Path(scratch) / "out" / "generator.csv"
            while not out.exists() or out.read_bytes().count(b"\n") < 2 * workers:
                if master.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"The master ended: {log.read()[-2000:]}")
                gevent.sleep(0.5)
            before, began_s = process.cpu_times(), time.monotonic()
            gevent.sleep(seconds)
            after, span_s = process.cpu_times(), time.monotonic() - began_s
            cores = (after.user + after.system - before.user - before.system) / span_s
            memory_mb = process.memory_info().rss / 1e6
            log.seek(0)
            lost = log.read().count("is lost")
        finally:
            master.kill()
            master.wait()
            for worker in fleet:
                worker.end()
    return f"{workers:8d} {cores:14.2f} {memory_mb:10.0f} {lost:6d}"


def main() -> None:
    """Measure each number of workers that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workers", type=int, nargs="+")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second that each reports")
    parser.add_argument("--seconds", type=float, default=15.0)
    given = parser.parse_args()
    zmq.green.Context = zmq.green.Context.instance  # type: ignore[assignment,misc]  # not two threads for each
    print(f"{socket.gethostname()}, {os.cpu_count()} cores; each worker reports {given.rate:g} requests/s")
    print(f"{'workers':>8} {'master, cores':>14} {'master, MB':>10} {'lost':>6}")
    for workers in given.workers:
        print(measure(workers, given.rate, given.seconds), flush=True)


if __name__ == "__main__":
    main()
